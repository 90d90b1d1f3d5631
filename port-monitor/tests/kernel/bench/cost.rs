//! What a monitor costs for each connection, and what it loses.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Bench, Row, each, figure, promptness,
    tool::{Account, Running, Sink, Subject, Tool},
};
use crate::{bpf, flood};

/// Connections that are not measured, and those that are.
const WARM_UP: u64 = 20;
pub(super) const CONNECTIONS: u64 = 2_000;
/// Those of each of two threads on two processors.
const PARALLEL: u64 = 4_010;
/// How long the kernel has to clean up after whoever was there before.
pub(super) const SETTLE: Duration = Duration::from_secs(2);
/// In a second, paced.
pub(super) const RATE: u32 = 1_000;
/// How long idle tools are looked at.
const IDLE_S: u64 = 20;

/// Two events of each connection, as the others show them.
pub(super) const BEGINNINGS: &str = "connect,accept";
const FLOOR: Tool = Tool::C("floor", "/bench/floor.bpf.o");
const TABLE: Tool = Tool::Ours(&["--events", BEGINNINGS]);
const JSON: Tool = Tool::Ours(&["--output", "json", "--events", BEGINNINGS]);

/// Everybody, in turn.
const SUBJECTS: [Subject; 17] = [
    Subject::new("none", Tool::Nobody),
    Subject::new("C floor", FLOOR),
    Subject::new("table to /dev/null", TABLE).to_null(),
    Subject::new("table to a file", TABLE),
    Subject::new("JSON to a file", JSON),
    Subject::new("JSON, all events", Tool::Ours(&["--output", "json"])),
    Subject::new("default run", Tool::Ours(&[])),
    Subject::new("violations only", Tool::Ours(&VIOLATIONS)),
    Subject::new(
        "kprobe",
        Tool::Ours(&["--backend", "kprobe", "--events", BEGINNINGS]),
    ),
    Subject::new(
        "tracepoint",
        Tool::Ours(&["--backend", "tracepoint", "--events", BEGINNINGS]),
    ),
    Subject::new("none again", Tool::Nobody),
    Subject::new("tcptracer", Tool::Other(&["/bin/tcptracer"])),
    Subject::new("tcpconnect", Tool::Other(&["/bin/tcpconnect"])),
    Subject::new("tcplife", Tool::Other(&["/bin/tcplife"])),
    Subject::new(
        "bpftrace tcpconnect",
        Tool::Other(&["/bin/bpftrace", "/bench/tcpconnect.bt"]),
    ),
    Subject::new(
        "bpftrace tcpaccept",
        Tool::Other(&["/bin/bpftrace", "/bench/tcpaccept.bt"]),
    ),
    Subject::new(
        "bpftrace tcplife",
        Tool::Other(&["/bin/bpftrace", "/bench/tcplife.bt"]),
    ),
];

/// A policy that nothing here violates.
const VIOLATIONS: [&str; 5] = [
    "--policy",
    "/tmp/bench-policy.toml",
    "--violations",
    "--events",
    BEGINNINGS,
];
const POLICY: &str = "version = 1\n[[rule]]\nname = \"telnet\"\ndirection = \"out\"\nport = \
                      23\naction = \"deny\"\n";

/// Who takes part where little is measured: what goals of costs for each connection are about.
const QUICK: [&str; 5] = [
    "none",
    "JSON, all events",
    "default run",
    "tcptracer",
    "tcplife",
];

/// Costs by the connection, by the event, and of the start.
pub(super) fn measure_quickly(bench: &Bench) -> Result<()> {
    let load = flood::Args::of_one_thread(CONNECTIONS);
    for run in 0..bench.runs {
        let empty_ns = time_of_nothing(bench)?;
        for name in QUICK {
            let subject = named(name)?;
            at_full_speed(bench, subject, row("flood", subject, run), &load)?;
            if subject.is_somebody() {
                events(bench, subject, row("events", subject, run), empty_ns)?;
            }
        }
        promptness::starts(bench, run, &["default run", "tcptracer"])?;
    }
    Ok(())
}

/// Costs by the connection, by the event, and while little or nothing happens.
pub(super) fn measure(bench: &Bench) -> Result<()> {
    std::fs::write("/tmp/bench-policy.toml", POLICY)?;
    let v4 = flood::Args::of_one_thread(CONNECTIONS);
    for run in 0..bench.runs {
        for subject in &SUBJECTS {
            at_full_speed(bench, subject, row("flood", subject, run), &v4)?;
        }
    }
    let v6 = v4.over_ipv6();
    for run in 0..bench.runs {
        for name in [
            "none",
            "C floor",
            "table to a file",
            "tcptracer",
            "tcpconnect",
        ] {
            let subject = named(name)?;
            at_full_speed(bench, subject, row("flood, IPv6", subject, run), &v6)?;
        }
    }
    for run in 0..bench.runs {
        let empty_ns = time_of_nothing(bench)?;
        for subject in SUBJECTS.iter().filter(|subject| subject.is_somebody()) {
            events(bench, subject, row("events", subject, run), empty_ns)?;
        }
    }
    for run in 0..bench.runs {
        for name in [
            "C floor",
            "table to a file",
            "JSON to a file",
            "tcptracer",
            "tcpconnect",
            "tcplife",
        ] {
            let subject = named(name)?;
            slowly(bench, subject, run)?;
        }
    }
    Ok(())
}

/// What is lost where the connections and their reader run at the same time.
pub(super) fn measure_losses(bench: &Bench) -> Result<()> {
    let load = flood::Args::of_one_thread(2 * PARALLEL).of_threads(2);
    for run in 0..bench.runs {
        for name in ["none", "table to a file", "JSON to a file"] {
            let subject = named(name)?;
            let row = row("two processors", subject, run);
            at_full_speed(bench, subject, row, &load)?;
        }
    }
    Ok(())
}

/// Who has this name.
pub(super) fn named(name: &str) -> Result<&'static Subject> {
    let subject = SUBJECTS.iter().find(|subject| subject.name == name);
    subject.with_context(|| format!("nobody is {name}"))
}

fn row<'a>(group: &'a str, subject: &'a Subject, run: u32) -> Row<'a> {
    Row {
        group,
        subject: subject.name,
        run,
    }
}

/// As many connections as there can be.
fn at_full_speed(bench: &Bench, subject: &Subject, row: Row<'_>, load: &flood::Args) -> Result<()> {
    thread::sleep(SETTLE);
    let running = subject.start(bench)?;
    flood::connect(&flood::Args::of_one_thread(WARM_UP))?;
    if let Some(running) = &running {
        running.idle()?;
    }
    let cpu = || running.as_ref().map_or(Ok(0), Running::cpu_ns);
    let before = cpu()?;
    let begin = Instant::now();
    let connections = flood::connect(load)?;
    let elapsed = u64::try_from(begin.elapsed().as_nanos())?;
    let at_end = cpu()?;
    let Some(tool) = &running else {
        return row.tell("per connection", "instructions", each(elapsed, connections));
    };
    tool.idle()?;
    let after = cpu()?;
    // What it does after the last connection it would else have done meanwhile.
    let all = elapsed + (after - at_end);
    row.tell("per connection", "instructions", each(all, connections))?;
    row.tell(
        "tool CPU per connection",
        "instructions",
        each(after - before, connections),
    )?;
    memory(tool, &row)?;
    let text = running.map_or(Ok(String::new()), Running::stop)?;
    lines(subject, &row, &text, (after - before, connections))
}

fn memory(tool: &Running, row: &Row<'_>) -> Result<()> {
    let (peak, maps) = tool.memory()?;
    row.tell("peak RSS", "MiB", mib(peak))?;
    row.tell("RSS less the ring", "MiB", mib(peak - maps))
}

pub(super) fn mib(bytes: u64) -> f64 {
    figure(bytes) / 1_048_576.0
}

/// What it wrote of `connections`, which took it `cpu_ns`.
fn lines(
    subject: &Subject,
    row: &Row<'_>,
    text: &str,
    (cpu_ns, connections): (u64, u64),
) -> Result<()> {
    if subject.sink == Sink::Null || subject.name == "C floor" {
        return Ok(());
    }
    let all = connections + WARM_UP;
    let lines = if let Tool::Ours(_) = subject.tool {
        let account = Account::of(text)?;
        row.tell("lost", "events", figure(account.lost))?;
        account.shown
    } else {
        // All but a header.
        text.lines()
            .filter(|line| line.contains("127.0.0.1") || line.contains("::1"))
            .count() as u64
    };
    row.tell("lines per connection", "", each(lines, all))?;
    if lines > 0 {
        let per_connection = each(cpu_ns, connections);
        row.tell(
            "tool CPU per line",
            "instructions",
            per_connection / each(lines, all),
        )?;
    }
    Ok(())
}

/// What the kernel's clock adds to each run of a program.
pub(super) fn time_of_nothing(bench: &Bench) -> Result<u64> {
    let subject = Subject::new("nothing", Tool::C("empty", "/bench/floor.bpf.o"));
    let RunTime { time_ns, runs, .. } = RunTime::sum(&run_times(bench, &subject)?);
    Ok(time_ns / runs)
}

/// The time programs run, by the kernel's own measure.
fn events(bench: &Bench, subject: &Subject, row: Row<'_>, empty_ns: u64) -> Result<()> {
    let programs = run_times(bench, subject)?;
    let total = RunTime::sum(&programs);
    row.tell(
        "program runs per connection",
        "",
        each(total.runs, CONNECTIONS),
    )?;
    row.tell(
        "BPF time per connection",
        "instructions",
        each(total.net_ns(empty_ns), CONNECTIONS),
    )?;
    row.tell(
        "BPF time per event",
        "instructions",
        each(total.net_ns(empty_ns), 2 * CONNECTIONS),
    )?;
    if subject.name == DETAILED {
        for program in &programs {
            let row = Row {
                group: "programs, JSON, all events",
                subject: &program.name,
                ..row
            };
            row.tell("runs per connection", "", each(program.runs, CONNECTIONS))?;
            row.tell(
                "time of a run",
                "instructions",
                each(program.net_ns(empty_ns), program.runs),
            )?;
        }
    }
    Ok(())
}

/// Whose programs are told one by one.
const DETAILED: &str = "JSON, all events";

/// How long a program ran during the connections, and how often.
#[derive(Clone, Debug, Default)]
pub(super) struct RunTime {
    name: String,
    time_ns: u64,
    pub(super) runs: u64,
}

impl RunTime {
    /// Of all of them.
    pub(super) fn sum(programs: &[Self]) -> Self {
        let mut sum = Self::default();
        for program in programs {
            sum.time_ns += program.time_ns;
            sum.runs += program.runs;
        }
        sum
    }

    /// Without what the kernel's clock adds to each run.
    pub(super) fn net_ns(&self, empty_ns: u64) -> u64 {
        self.time_ns.saturating_sub(self.runs * empty_ns)
    }
}

/// The programs that ran during the connections.
pub(super) fn run_times(bench: &Bench, subject: &Subject) -> Result<Vec<RunTime>> {
    let Some(running) = subject.start(bench)? else {
        return Ok(Vec::new());
    };
    let measuring = bpf::measure()?;
    flood::connect(&flood::Args::of_one_thread(WARM_UP))?;
    let before = running.programs()?;
    flood::connect(&flood::Args::of_one_thread(CONNECTIONS))?;
    let after = running.programs()?;
    drop(measuring);
    running.stop()?;
    let programs = before.iter().zip(&after).map(|(before, after)| RunTime {
        name: after.name.clone(),
        time_ns: after.run_time_ns - before.run_time_ns,
        runs: after.runs - before.runs,
    });
    let programs: Vec<_> = programs.filter(|program| program.runs > 0).collect();
    ensure!(!programs.is_empty(), "{}: no program ran", subject.name);
    Ok(programs)
}

/// A thousand connections a second, and none at all.
fn slowly(bench: &Bench, subject: &Subject, run: u32) -> Result<()> {
    let Some(running) = subject.start(bench)? else {
        return Ok(());
    };
    let before = running.cpu_ns()?;
    thread::sleep(Duration::from_secs(IDLE_S));
    let idle = running.cpu_ns()? - before;
    row("idle", subject, run).tell("per second", "instructions", each(idle, IDLE_S))?;
    let before = running.cpu_ns()?;
    flood::connect(&flood::Args::of_one_thread(CONNECTIONS).at_rate(RATE))?;
    running.idle()?;
    let cpu = running.cpu_ns()? - before;
    let row = row("paced", subject, run);
    row.tell(
        "tool CPU per connection",
        "instructions",
        each(cpu, CONNECTIONS),
    )?;
    running.stop().map(drop)
}
