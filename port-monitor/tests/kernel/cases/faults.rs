//! Calls to the kernel that fail on purpose, and tables that are full: whatever happens to
//! an event, it is told once or counted, and the account adds up.

use std::{
    collections::BTreeMap,
    env,
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{self, Command},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    backend::Backend,
    check::Stream,
    is_one_of,
    json::{Line, Summary},
    lab::Lab,
    monitor::{CANNOT_ATTACH, Refused, Run, Watch},
    report::Verdict,
    socket::{Refusing, V4},
};

/// Connections of the generator, and its listeners.
const CONNECTIONS: u64 = 40;
const LISTENERS: u64 = 4;

/// Exit status: events were lost, with `--fail-on-loss`.
const EVENTS_LOST: i32 = 4;

/// What a run under a fault has told.
struct Told {
    /// By kind of event.
    counts: BTreeMap<String, u64>,
    summary: Summary,
    /// By site and errno.
    failures: BTreeMap<(String, String), u64>,
}

impl Told {
    fn of(run: &Run) -> Result<Self> {
        let (lines, summary) = run.read()?;
        let mut counts = BTreeMap::new();
        for line in &lines {
            *counts.entry(line.action().to_owned()).or_default() += 1;
        }
        let last = run.lines.last().context("no summary")?;
        Ok(Self {
            counts,
            summary,
            failures: Line::parse(last)?.failures(),
        })
    }

    fn count(&self, action: &str) -> u64 {
        self.counts.get(action).copied().unwrap_or(0)
    }

    fn failed(&self, site: &str, errno: &str) -> u64 {
        let key = (site.to_owned(), errno.to_owned());
        self.failures.get(&key).copied().unwrap_or(0)
    }

    fn expect(&self, what: &str, expected: &[(&str, u64)]) -> Result<()> {
        for &(action, count) in expected {
            let found = self.count(action);
            ensure!(
                found == count,
                "{what}: {found} {action}, not {count}; {:?}, {:?}, {:?}",
                self.counts,
                self.failures,
                self.summary
            );
        }
        Ok(())
    }
}

/// The generator's connections alone, under these faults.
fn run_under(lab: &Lab, backend: Backend, faults: [&str; 2], code: i32) -> Result<Told> {
    let connections = CONNECTIONS.to_string();
    generate(lab, backend, faults, &["--connections", &connections], code)
}

/// What the generator does, under these faults.
fn generate(
    lab: &Lab,
    backend: Backend,
    faults: [&str; 2],
    load: &[&str],
    code: i32,
) -> Result<Told> {
    let run = start(lab, backend, faults, load)?;
    run.expect_code(code)?;
    Told::of(&run)
}

fn start(lab: &Lab, backend: Backend, faults: [&str; 2], load: &[&str]) -> Result<Run> {
    let generator = env::current_exe()?;
    let mut monitor = Watch::json(lab, backend)
        .args(["--fail-on-loss"])
        .args(faults)
        .arg("--")
        .arg(generator)
        .arg("flood")
        .args(load)
        .start()?;
    monitor.finish()
}

/// Each site that can be made to fail.
pub(super) fn are_counted(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let fault = |site| run_under(lab, backend, ["--test-fault", site], 0);
    let loss = |site| run_under(lab, backend, ["--test-fault", site], EVENTS_LOST);
    // An end is told once, though the table does not let the entry go.
    for site in ["forget", "forget_listener"] {
        let told = fault(site)?;
        told.expect(site, &whole())?;
        ensure!(told.failed(site, "EBUSY") > 0, "{:?}", told.failures);
    }
    attempts_fail_once(lab, backend)?;
    // What is not told for want of a place in a table is a loss, though no event is counted.
    let told = loss("remember")?;
    let beginnings = [("connect", CONNECTIONS), ("accept", CONNECTIONS)];
    told.expect("remember", &beginnings)?;
    told.expect("remember", &[("connected", 0), ("close", 0)])?;
    let failed = told.failed("remember", "EBUSY");
    ensure!(
        is_meant(lab, failed, 2 * CONNECTIONS),
        "{failed} could not be remembered"
    );
    last_one_tells(lab, backend)?;
    let told = loss("remember_listener")?;
    let listeners = [("listen", LISTENERS), ("unlisten", 0)];
    told.expect("remember_listener", &listeners)?;
    let failed = told.failed("remember_listener", "EBUSY");
    ensure!(is_meant(lab, failed, LISTENERS), "{failed} listeners");
    // It is looked up in /proc then.
    let told = fault("executable")?;
    told.expect("executable", &whole())?;
    ensure!(
        told.failed("executable", "EFAULT") > 0,
        "{:?}",
        told.failures
    );
    // What cannot be read is no event, but it is in the account, and a loss.
    let told = loss("socket")?;
    let nothing = whole().map(|(action, _)| (action, 0));
    told.expect("socket", &nothing)?;
    let failed = told.failed("socket", "EFAULT");
    ensure!(
        failed == told.summary.gave_up && failed >= 4 * CONNECTIONS,
        "{failed} unreadable, {:?}",
        told.summary
    );
    Ok(Verdict::Pass(format!("{failed} looks given up")))
}

/// Where it cannot be noted who has told of an inbound connection, the program that comes last
/// tells it. The kernel may skip that one: what is missing then is counted.
fn last_one_tells(lab: &Lab, backend: Backend) -> Result<()> {
    let connections = CONNECTIONS.to_string();
    let load = ["--connections", connections.as_str()];
    let run = start(lab, backend, ["--test-fault", "note_told"], &load)?;
    let told = Told::of(&run)?;
    let lost = told.summary.lost;
    run.expect_code(if lost == 0 { 0 } else { EVENTS_LOST })?;
    let missing = CONNECTIONS.checked_sub(told.count("accept"));
    let missing = missing.context("told twice")?;
    let expected = whole().map(|(action, count)| match action {
        "accept" | "close" => (action, count - missing),
        _ => (action, count),
    });
    told.expect("note_told", &expected)?;
    let failed = told.failed("note_told", "EBUSY");
    ensure!(
        missing <= lost && (failed > 0) == (backend == Backend::Tracepoint),
        "{missing} missing, {lost} lost, {failed} could not be noted"
    );
    Ok(())
}

/// So many have failed, or more where others use this host too: whose an inbound connection is
/// may not be known yet when it is to be remembered.
const fn is_meant(lab: &Lab, failed: u64, made: u64) -> bool {
    failed == made || lab.native && failed > made
}

/// Attempts that are refused, which the table does not let go: two programs see each fail,
/// and one tells of it.
fn attempts_fail_once(lab: &Lab, backend: Backend) -> Result<()> {
    let refusing = Refusing::new(V4)?;
    let watch = Watch::json(lab, backend).args(["--test-fault", "forget"]);
    let mut monitor = lab.only(watch, process::id()).start()?;
    for _ in 0..CONNECTIONS {
        let refused = TcpStream::connect(refusing.at);
        ensure!(refused.is_err(), "connected to a port that refuses");
    }
    let run = monitor.stop()?;
    run.expect_code(0)?;
    let told = Told::of(&run)?;
    let attempts = [("connect", CONNECTIONS), ("failed", CONNECTIONS)];
    told.expect("refused", &attempts)?;
    ensure!(
        told.failed("forget", "EBUSY") >= CONNECTIONS,
        "{:?}",
        told.failures
    );
    Ok(())
}

/// All that happens.
fn whole() -> [(&'static str, u64); 6] {
    [
        ("connect", CONNECTIONS),
        ("connected", CONNECTIONS),
        ("accept", CONNECTIONS),
        ("close", 2 * CONNECTIONS),
        ("listen", LISTENERS),
        ("unlisten", LISTENERS),
    ]
}

/// No program looks at changes of sockets' states: what all of them miss is counted as lost
/// when the kernel uses the memory of a socket again, or at the stop.
pub(super) fn unseen_ends_are_counted(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let connections = (10 * CONNECTIONS).to_string();
    let load = ["--connections", connections.as_str()];
    let told = generate(lab, backend, ["--test-fault", "event"], &load, EVENTS_LOST)?;
    let unseen = ["connected", "failed", "close", "unlisten"].map(|kind| (kind, 0));
    told.expect("unseen", &unseen)?;
    let begun = told.count("connect") + told.count("accept") + told.count("listen");
    let Summary {
        lost,
        seen,
        shown,
        filtered,
        ..
    } = told.summary;
    ensure!(
        lost == begun && seen == shown + filtered + lost,
        "{lost} lost of {begun}: {:?}",
        told.summary
    );
    // Of a connection that lives on, no more than the outcome is missed.
    leave_open(lab, backend, &["--test-fault", "event"], 1)?;
    leave_open(lab, backend, &[], 0)?;
    Ok(Verdict::Pass(format!("{lost} of {begun}")))
}

/// A connection and its listener, which are there beyond the stop, under these faults.
fn leave_open(lab: &Lab, backend: Backend, faults: &[&str], lost: u64) -> Result<()> {
    let watch = Watch::json(lab, backend).args(faults);
    let mut monitor = lab.only(watch, process::id()).start()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let opened = TcpStream::connect(listener.local_addr()?)?;
    let accepted = listener.accept()?;
    let run = monitor.stop()?;
    drop((opened, accepted, listener));
    let told = Told::of(&run)?;
    told.expect("left open", &[("listen", 1), ("connect", 1), ("close", 0)])?;
    ensure!(
        told.summary.lost == lost,
        "left open under {faults:?}: {:?}",
        told.summary
    );
    Ok(())
}

/// A table of listeners with room for two.
pub(super) fn full_tables_are_counted(lab: &Lab, backend: Backend) -> Result<Verdict> {
    const ROOM: u64 = 2;
    let room = ROOM.to_string();
    // So long that all of them listen at the same time, unless the last must wait for a
    // processor until the first has ended.
    let load = ["--millis", "1000", "--rate", "20"];
    let told = generate(
        lab,
        backend,
        ["--test-listeners", &room],
        &load,
        EVENTS_LOST,
    )?;
    let failed = told.failed("remember_listener", "E2BIG");
    told.expect(
        "listeners",
        &[("listen", LISTENERS), ("unlisten", LISTENERS - failed)],
    )?;
    ensure!(
        (1..=LISTENERS - ROOM).contains(&failed) && told.summary.table_full >= failed,
        "{:?}, {:?}",
        told.failures,
        told.summary
    );
    Ok(Verdict::Pass(format!("{failed} times full")))
}

/// The arguments of a `connect` that cannot be taken out of their table, whose entry stays
/// as where the kernel skips the probe of a return: each attempt is told once, and as it is.
pub(super) fn calls_stay(lab: &Lab, backend: Backend) -> Result<Verdict> {
    const WORKLOADS: [&str; 2] = ["unreachable", "connect-ipv4"];
    let watch = Watch::json(lab, backend).args(["--test-fault", "forget_call"]);
    let observed = lab.observe_tree(watch, &WORKLOADS, |_| Ok(()))?;
    let mut stream = Stream::of(&observed.run)?;
    for workload in WORKLOADS {
        stream.check(&observed.facts(workload)?, backend.sight())?;
    }
    stream.expect_nothing_else()?;
    let told = Told::of(&observed.run)?;
    let failed = told.failed("forget_call", "EBUSY");
    let is_right = match backend {
        Backend::Kprobe => failed > 0,
        // A trampoline reads them at the return itself; a preemptible kernel has kprobes there.
        Backend::Fentry => true,
        Backend::Tracepoint => failed == 0,
    };
    ensure!(is_right, "{failed} stay: {:?}", told.failures);
    Ok(Verdict::Pass(format!("{failed} times")))
}

/// Without perf events there are no probes: trampolines stand in for them, and see as much.
pub(super) fn perf_events_are_refused(lab: &Lab, backend: Backend) -> Result<Verdict> {
    const WORKLOADS: [&str; 4] = [
        "not-permitted",
        "unreachable",
        "connect-ipv4",
        "listen-and-stop",
    ];
    let watch = Watch::json(lab, backend).without_perf_events();
    let observed = match lab.observe_tree(watch, &WORKLOADS, |_| Ok(())) {
        Err(error) if backend == Backend::Kprobe && error.is::<Refused>() => {
            return Ok(Verdict::Pass("refused, as it is all probes".to_owned()));
        }
        observed => observed?,
    };
    let mut stream = Stream::of(&observed.run)?;
    for workload in WORKLOADS {
        stream.check(&observed.facts(workload)?, backend.sight())?;
    }
    stream.expect_nothing_else()?;
    let header = observed.monitor.header()?;
    let spots = header.blind_spots();
    ensure!(
        backend == Backend::Tracepoint || spots.iter().all(|spot| !spot.starts_with("some attempts")
            && !spot.starts_with("some sockets")),
        "{spots:?}"
    );
    Ok(Verdict::Pass(format!("{spots:?}")))
}

/// Programs of a backend on this kernel that others stand in for, or that have nothing to
/// report of a connection that comes to its end; and what the self-test says without them.
fn hidden_programs(backend: Backend) -> Vec<(&'static str, &'static str)> {
    const FAILED: &str = "no failed for the monitor's own IPv4 connection";
    let named = |names: &[&'static str]| names.iter().map(|&name| (name, name)).collect();
    let (is_old, is_new) = (is_one_of(&["6.1."]), is_one_of(&["7.2."]));
    match backend {
        Backend::Tracepoint if is_new => named(&[
            "pm_remote_tp",
            "pm_local_tp",
            "pm_before_rt",
            "pm_local_rt",
            "pm_remote_rt",
        ]),
        Backend::Tracepoint => named(&["pm_before_rt", "pm_remote_rt"]),
        Backend::Fentry if is_old => {
            let mut hidden: Vec<_> = named(&[
                "pm_accept_fe4",
                "pm_graft_fe",
                "pm_denied_fe",
                "pm_outcome_bt",
                "pm_again_bt",
            ]);
            hidden.extend([
                ("pm_unsent4_fe", FAILED),
                (
                    "pm_unsent6_fe",
                    "no failed for the monitor's own IPv6 connection",
                ),
            ]);
            hidden
        }
        Backend::Fentry if is_new => named(&[
            "pm_accept_fe2",
            "pm_graft_mkp",
            "pm_denied_krp",
            "pm_connect_kp",
            "pm_connect_fe",
        ]),
        Backend::Kprobe if is_old || is_new => {
            vec![
                ("pm_outcome_rt", "pm_outcome_rt"),
                ("pm_again_rt", "pm_again_rt"),
                ("pm_denied_krp", "pm_denied_krp"),
                ("pm_unsent_krp", FAILED),
            ]
        }
        // As on those two.
        Backend::Fentry | Backend::Kprobe => Vec::new(),
    }
}

/// Each program that does not work is found out at the start, and named.
pub(super) fn programs_are_proved(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let hidden = hidden_programs(backend);
    for (program, words) in &hidden {
        let args = ["watch", "--output", "json", "--duration", "1s"];
        let output = Command::new(&lab.program)
            .args(args)
            .args(["--backend", backend.name(), "--test-program", program])
            .output()
            .context("start port-monitor")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        if stderr.contains("does not attach") {
            return Err(Refused(stderr.trim().to_owned()).into());
        }
        ensure!(
            output.status.code() == Some(CANNOT_ATTACH) && stderr.contains(words),
            "without {program}: {}, {stderr}",
            output.status
        );
    }
    Ok(Verdict::Pass(format!("{} programs", hidden.len())))
}
