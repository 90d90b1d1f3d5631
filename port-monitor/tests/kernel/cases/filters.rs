//! Filters, one at a time: what matches is shown, the rest is counted.

use anyhow::{Result, ensure};

use crate::{
    backend::Backend,
    cgroup::UNIT,
    check::Stream,
    expect::{Action, Expected, ends},
    fact::{Fact, Owner},
    lab::Lab,
    monitor::Watch,
    report::Verdict,
    scenarios::{
        identity::OTHER_USER,
        mixture::{
            CLIENT_PORT, FINGER, HIGH, HIGH_V6, REFUSING, ROOT_CLIENT, SERVER, THREAD_COMM,
            USER_COMM,
        },
    },
};

/// What most filters are tried on: a monitor with few hooks starts faster.
const EVENTS: &str = "connect,connected,accept,close";

/// Filters of owners.
const OF_OWNERS: [&str; 5] = ["--pid", "--user", "--comm", "--cgroup", "--unit"];

/// The record is a beginning of [`EVENTS`].
fn is_asked(record: &Expected) -> bool {
    matches!(
        record.action,
        Action::Connect | Action::Connected | Action::Accept
    )
}

/// Watches the connections of the mixture through one filter.
fn filter(
    lab: &Lab,
    backend: Backend,
    args: &[&str],
    keeps: impl Fn(&Expected) -> bool,
) -> Result<Verdict> {
    let watch = Watch::json(lab, backend)
        .args(["--events", EVENTS])
        .args(args.iter().copied());
    let observed = lab.observe(watch, &["filters"])?;
    let facts = observed.facts("filters")?;
    check(lab, backend, args, &observed.run, &facts, is_asked, keeps)
}

/// A filter with every kind of event.
fn filter_all(
    lab: &Lab,
    backend: Backend,
    args: &[&str],
    keeps: impl Fn(&Expected) -> bool,
) -> Result<Verdict> {
    let watch = Watch::json(lab, backend).args(args.iter().copied());
    let observed = lab.observe(watch, &["filters"])?;
    let facts = observed.facts("filters")?;
    check(lab, backend, args, &observed.run, &facts, |_| true, keeps)
}

/// The kept records are in the stream, nothing else is, and the others are
/// counted as filtered.
fn check(
    lab: &Lab,
    backend: Backend,
    args: &[&str],
    run: &crate::monitor::Run,
    facts: &[Fact],
    asked: impl Fn(&Expected) -> bool,
    keeps: impl Fn(&Expected) -> bool,
) -> Result<Verdict> {
    let all = ends(facts, backend.sight());
    let all = all.iter().flatten().filter(|record| asked(record));
    let (kept, dropped): (Vec<_>, Vec<_>) = all.partition(|record| keeps(record));
    ensure!(
        !kept.is_empty() && !dropped.is_empty(),
        "the filter of this case chooses nothing"
    );
    let mut stream = Stream::of(run)?;
    stream.check_kept(facts, backend.sight(), |record| {
        asked(record) && keeps(record)
    })?;
    stream.expect_nothing_else()?;
    let filtered = stream.summary().filtered;
    // A filtered attempt has no outcome to count.
    let counted = |record: &&&Expected| {
        matches!(
            record.action,
            Action::Connect | Action::Accept | Action::Listen
        )
    };
    let mut others = dropped.iter().filter(counted).count();
    if !backend.sight().acceptors && args.iter().any(|arg| OF_OWNERS.contains(arg)) {
        // Whose these are is known when they are told of: their ends are, too.
        let accepts = dropped.iter().filter(|one| one.action == Action::Accept);
        others += accepts.count();
    }
    let others = others as u64;
    ensure!(
        filtered == others || lab.native && filtered > others,
        "{others} records do not match, but {filtered} are counted as filtered"
    );
    Ok(Verdict::Pass(format!(
        "{} shown, {others} filtered",
        kept.len()
    )))
}

fn owned(record: &Expected, is: impl Fn(&Owner) -> bool) -> bool {
    record.owner.as_ref().is_some_and(is)
}

pub(super) fn pid(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let mut workload = lab.workload("parent-and-child")?;
    let pid = workload.pid();
    let mut monitor = Watch::json(lab, backend)
        .arg("--pid")
        .arg(pid.to_string())
        .start()?;
    workload.go()?;
    workload.hear("done")?;
    let run = monitor.stop()?;
    let facts = workload.facts()?;
    let is_ours = |record: &Expected| owned(record, |owner| owner.pid == pid);
    check(lab, backend, &["--pid"], &run, &facts, |_| true, is_ours)
}

pub(super) fn user(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let user = OTHER_USER.to_string();
    filter_all(lab, backend, &["--user", &user], |record| {
        owned(record, |owner| owner.uid == OTHER_USER)
    })
}

pub(super) fn comm(lab: &Lab, backend: Backend) -> Result<Verdict> {
    filter(lab, backend, &["--comm", USER_COMM], |record| {
        owned(record, |owner| owner.process_comm == USER_COMM.as_bytes())
    })
}

pub(super) fn comm_of_thread(lab: &Lab, backend: Backend) -> Result<Verdict> {
    filter(lab, backend, &["--comm", THREAD_COMM], |record| {
        owned(record, |owner| owner.comm == THREAD_COMM.as_bytes())
    })
}

pub(super) fn port(lab: &Lab, backend: Backend) -> Result<Verdict> {
    // An inbound record has it as the remote port, an outbound one as the local.
    let ports = format!("{CLIENT_PORT},{HIGH_V6}");
    filter(lab, backend, &["--port", &ports], |record| {
        [CLIENT_PORT, HIGH_V6]
            .iter()
            .any(|&port| record.known_local_port() == Some(port) || record.remote.port() == port)
    })
}

pub(super) fn port_name(lab: &Lab, backend: Backend) -> Result<Verdict> {
    filter(lab, backend, &["--port", "finger"], |record| {
        record.service_port() == FINGER
    })
}

pub(super) fn local_port(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let ports = format!("{CLIENT_PORT},{HIGH}");
    filter(lab, backend, &["--local-port", &ports], |record| {
        matches!(record.known_local_port(), Some(CLIENT_PORT | HIGH))
    })
}

pub(super) fn remote_port_range(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let range = format!("{HIGH_V6}-{REFUSING}");
    filter(lab, backend, &["--remote-port", &range], |record| {
        (HIGH_V6..=REFUSING).contains(&record.remote.port())
    })
}

pub(super) fn remote_net(lab: &Lab, backend: Backend) -> Result<Verdict> {
    // The server, seen from its clients, and root's client, seen from it.
    filter(lab, backend, &["--remote", "127.77.0.0/16"], |record| {
        [SERVER, ROOT_CLIENT].contains(&record.remote.ip())
    })
}

pub(super) fn inbound(lab: &Lab, backend: Backend) -> Result<Verdict> {
    filter_all(lab, backend, &["--direction", "in"], |record| {
        record.action.is_inbound()
    })
}

pub(super) fn outbound(lab: &Lab, backend: Backend) -> Result<Verdict> {
    filter(lab, backend, &["--direction", "out"], |record| {
        !record.action.is_inbound()
    })
}

pub(super) fn ipv4(lab: &Lab, backend: Backend) -> Result<Verdict> {
    filter(lab, backend, &["-4"], |record| record.remote.is_ipv4())
}

pub(super) fn ipv6(lab: &Lab, backend: Backend) -> Result<Verdict> {
    filter(lab, backend, &["-6"], |record| record.remote.is_ipv6())
}

pub(super) fn cgroup(lab: &Lab, backend: Backend) -> Result<Verdict> {
    // The parent stands for all below it.
    let unit = lab.cgroups.unit();
    let slice = unit.trim_end_matches(UNIT).trim_end_matches('/');
    filter(lab, backend, &["--cgroup", slice], |record| {
        owned(record, |owner| owner.cgroup == unit)
    })
}

pub(super) fn unit(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let unit = lab.cgroups.unit();
    filter(lab, backend, &["--unit", UNIT], |record| {
        owned(record, |owner| owner.cgroup == unit)
    })
}

pub(super) fn events(lab: &Lab, backend: Backend) -> Result<Verdict> {
    only(lab, backend, "connected,failed", |action| {
        matches!(action, Action::Connected | Action::Failed(_))
    })
}

/// For these, programs that see how connections go on and end are not even attached.
pub(super) fn beginnings(lab: &Lab, backend: Backend) -> Result<Verdict> {
    only(lab, backend, "connect,accept", |action| {
        matches!(action, Action::Connect | Action::Accept)
    })
}

/// Kinds that were not asked for are not counted at all.
fn only(
    lab: &Lab,
    backend: Backend,
    names: &str,
    keeps: impl Fn(&Action) -> bool,
) -> Result<Verdict> {
    let watch = Watch::json(lab, backend).args(["--events", names]);
    let observed = lab.observe(watch, &["filters"])?;
    let mut stream = Stream::of(&observed.run)?;
    stream.check_kept(&observed.facts("filters")?, backend.sight(), |record| {
        keeps(&record.action)
    })?;
    stream.expect_nothing_else()?;
    let summary = stream.summary();
    ensure!(
        lab.native || summary.filtered == 0,
        "nothing was filtered, yet {summary:?}"
    );
    Ok(Verdict::pass())
}
