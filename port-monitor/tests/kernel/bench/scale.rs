//! What many open connections, filters and rules cost.

use std::{
    fmt::Write as _,
    fs,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::{
    net::{accept, connect, listen, sockopt},
    process::{Resource, Rlimit, setrlimit},
};

use super::{
    Bench, Row,
    cost::{BEGINNINGS, CONNECTIONS, RATE, RunTime, mib, run_times, time_of_nothing},
    each, figure,
    tool::{Subject, Tool},
};
use crate::{
    flood,
    socket::{V4, any_port, bind, local, open},
};

/// Connections to one port: fewer than the kernel has ports for clients.
const EACH: usize = 10_000;
/// How many are open.
const OPEN: [(&str, usize); 3] = [
    ("1,000 open", 1_000),
    ("10,000 open", 10_000),
    ("100,000 open", 100_000),
];
/// Room for both ends of all of them.
const WATCH: Tool = Tool::Ours(&["--output", "json", "--max-connections", "262144"]);

/// How many rules and filters there are.
const COUNTS: [(&str, u16); 4] = [("1", 1), ("10", 10), ("100", 100), ("1,000", 1_000)];
/// No listener gets one of these.
const FIRST_PORT: u16 = 20_000;

/// Lets this process have all of its connections open.
pub(super) fn raise_limit() -> Result<()> {
    let many = Rlimit {
        current: Some(1 << 20),
        maximum: Some(1 << 20),
    };
    setrlimit(Resource::Nofile, many).context("raise the limit of open files")
}

pub(super) fn measure(bench: &Bench) -> Result<()> {
    raise_limit()?;
    let mut held = Vec::new();
    for (name, count) in OPEN {
        hold(&mut held, count)?;
        for run in 0..bench.runs {
            let row = Row {
                group: "open connections",
                subject: name,
                run,
            };
            beside(bench, row)?;
        }
    }
    drop(held);
    for run in 0..bench.runs {
        let empty_ns = time_of_nothing(bench)?;
        for (name, count) in COUNTS {
            rules(bench, run, (name, count), empty_ns)?;
            filters(bench, run, (name, count), empty_ns)?;
        }
    }
    Ok(())
}

/// Both ends of a connection.
pub(super) type Pair = (OwnedFd, OwnedFd);

/// Opens connections until there are so many.
pub(super) fn hold(held: &mut Vec<Pair>, count: usize) -> Result<()> {
    while held.len() < count {
        let listener = open(V4)?;
        bind(&listener, any_port(V4))?;
        listen(&listener, 1)?;
        let at = local(&listener)?;
        for _ in 0..EACH.min(count - held.len()) {
            let client = open(V4)?;
            sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
            connect(&client, &at).context("connect")?;
            held.push((client, accept(&listener).context("accept")?));
        }
    }
    Ok(())
}

/// A monitor that starts beside open connections, and then sees others.
fn beside(bench: &Bench, row: Row<'_>) -> Result<()> {
    let subject = Subject::new("JSON, all events", WATCH);
    let begin = Instant::now();
    let running = subject.start(bench)?.context("nobody")?;
    let until_idle = begin.elapsed();
    let start_ns = running.cpu_ns()?;
    row.tell("start to idle", "ms", until_idle.as_secs_f64() * 1_000.0)?;
    row.tell("CPU of the start", "instructions", figure(start_ns))?;
    flood::connect(&flood::Args::of_one_thread(CONNECTIONS).at_rate(RATE))?;
    running.idle()?;
    let cpu_ns = running.cpu_ns()? - start_ns;
    row.tell(
        "tool CPU per connection",
        "instructions",
        each(cpu_ns, CONNECTIONS),
    )?;
    let (peak, maps) = running.memory()?;
    row.tell("peak RSS", "MiB", mib(peak))?;
    row.tell("RSS less the ring", "MiB", mib(peak - maps))?;
    running.stop().map(drop)
}

/// Events that are judged, by the number of rules.
fn rules(bench: &Bench, run: u32, (name, count): (&str, u16), empty_ns: u64) -> Result<()> {
    const PATH: &str = "/tmp/bench-rules.toml";
    const ARGS: &[&str] = &["--output", "json", "--events", BEGINNINGS, "--policy", PATH];
    let mut policy = "version = 1\n".to_owned();
    for port in (FIRST_PORT..).take(count.into()) {
        write!(
            policy,
            "[[rule]]\nname = \"r{port}\"\ndirection = \"out\"\naction = \"deny\"\nport = {port}\n"
        )?;
    }
    fs::write(PATH, policy)?;
    let row = Row {
        group: "rules",
        subject: name,
        run,
    };
    by_event(
        bench,
        &Subject::new("JSON to a file", Tool::Ours(ARGS)),
        row,
        empty_ns,
    )
}

/// Events that are kept back, by the number of ports that are asked for.
fn filters(bench: &Bench, run: u32, (name, count): (&str, u16), empty_ns: u64) -> Result<()> {
    // Every other one: neighbours would be one range.
    let ports = (FIRST_PORT..).step_by(2).take(count.into());
    let ports: Vec<String> = ports.map(|port| port.to_string()).collect();
    // A subject's arguments live for ever; these are a few kilobytes.
    let ports: &'static str = ports.join(",").leak();
    let args: &'static [&'static str] =
        vec!["--output", "json", "--events", BEGINNINGS, "--port", ports].leak();
    let row = Row {
        group: "filters",
        subject: name,
        run,
    };
    by_event(
        bench,
        &Subject::new("JSON to a file", Tool::Ours(args)),
        row,
        empty_ns,
    )
}

/// Two events a connection.
fn by_event(bench: &Bench, subject: &Subject, row: Row<'_>, empty_ns: u64) -> Result<()> {
    let net = RunTime::sum(&run_times(bench, subject)?).net_ns(empty_ns);
    row.tell(
        "BPF time per event",
        "instructions",
        each(net, 2 * CONNECTIONS),
    )
}
