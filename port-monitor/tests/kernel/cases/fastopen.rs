//! TCP Fast Open beside what the monitor makes of connections: listeners, a policy, what began
//! before the monitor.

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    backend::Backend,
    fact::Fact,
    json::Line,
    lab::Lab,
    monitor::Watch,
    report::Verdict,
    scenarios::fastopen::{PREEMPTED, PREEMPTED_PORT},
    workload::Workload,
};

/// Nobody may come in.
const POLICY: &str = "version = 1\nmode = \"observe\"\n[[rule]]\nname = \"nobody\"\n\
                      direction = \"in\"\naction = \"deny\"\n";

/// Who comes in by Fast Open and goes before the handshake is complete has used the listener,
/// and is judged.
pub(super) fn gone_early(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let path = lab.new_path("toml");
    fs::write(&path, POLICY)?;
    let mut workload = lab.workload("fastopen-gone-early")?;
    workload.hear("ready")?;
    let mut all = Watch::audit(lab, backend)
        .args(["--duration", "1h"])
        .start()?;
    let mut unused = Watch::audit(lab, backend)
        .args(["--unused", "1h"])
        .start()?;
    let judged = Watch::json(lab, backend).arg("--policy").arg(&path);
    let mut judged = lab.only(judged, workload.pid()).start()?;
    workload.go()?;
    workload.hear("done")?;
    let (listeners, _) = all.stop()?.read()?;
    let (unused, _) = unused.stop()?.read()?;
    let (records, _) = judged.stop()?.read()?;
    let facts = workload.facts()?;
    let accept = facts.iter().find_map(|fact| match fact {
        Fact::Accept(accept) => Some(accept),
        _ => None,
    });
    let accept = accept.context("nobody came in")?;
    let is_listener = |line: &&Line| {
        line.action() == "listener"
            && line.destination() == Some(accept.local)
            && line.netns_ino() == Some(accept.netns_ino)
    };
    let listener = listeners.iter().find(is_listener).context("no listener")?;
    let accepts = listener.number("port_monitor.uses.accepts");
    ensure!(accepts == Some(1), "{accepts:?} accepts: {}", listener.text);
    if let Some(listener) = unused.iter().find(is_listener) {
        bail!("unused: {}", listener.text);
    }
    let is_it = |line: &&Line| {
        line.action() == "accept"
            && line.local_and_remote() == Some((accept.local, accept.remote))
            && line.netns_ino() == Some(accept.netns_ino)
    };
    let record = records.iter().find(is_it).context("no record")?;
    ensure!(
        record.verdict() == ("violation", "nobody"),
        "not judged: {}",
        record.text
    );
    Ok(Verdict::pass())
}

/// Who comes in by Fast Open has used the listener, also where that is closed before the
/// handshake is complete.
pub(super) fn let_go(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let mut workload = lab.workload("fastopen-let-go")?;
    workload.hear("ready")?;
    let all = Watch::audit(lab, backend).args(["--all", "--duration", "1h"]);
    let mut all = all.start()?;
    workload.go()?;
    workload.hear("done")?;
    let (lines, _) = all.stop()?.read()?;
    let facts = workload.facts()?;
    let accepts = facts.iter().filter_map(|fact| match fact {
        Fact::Accept(accept) => Some(accept),
        _ => None,
    });
    for accept in accepts {
        let is_its = |line: &&Line| {
            line.action() == "listener"
                && line.destination() == Some(accept.local)
                && line.netns_ino() == Some(accept.netns_ino)
        };
        let listener = lines.iter().find(is_its).context("no listener")?;
        let accepts = listener.number("port_monitor.uses.accepts");
        ensure!(accepts == Some(1), "{accepts:?} accepts: {}", listener.text);
    }
    Ok(Verdict::pass())
}

/// Whoever comes in by Fast Open is told once, also where the thread that closes the connection
/// before its handshake is complete is preempted in the middle of that.
pub(super) fn preempted(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let mut workload = lab.workload("fastopen-preempted")?;
    workload.hear("ready")?;
    let port = PREEMPTED_PORT.to_string();
    let watch = Watch::json(lab, backend).args(["--local-port", &port, "--events", "accept,close"]);
    let mut monitor = watch.start()?;
    workload.go()?;
    workload.hear("done")?;
    let (records, summary) = monitor.stop()?.read()?;
    let told = records.iter().filter(|line| line.action() == "accept");
    let told = told.count();
    ensure!(
        told == PREEMPTED && summary.lost == 0,
        "{told} of {PREEMPTED} are told: {summary:?}"
    );
    Ok(Verdict::Pass(format!("{} records", summary.shown)))
}

/// An attempt that waits for its first write when the monitor starts is older than the
/// monitor, and nothing else; its outcome is told.
pub(super) fn deferred_before(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let mut workload = lab.workload("fastopen-deferred-before")?;
    workload.hear("ready")?;
    let mut monitor = lab
        .only(Watch::json(lab, backend), workload.pid())
        .start()?;
    workload.go()?;
    workload.hear("done")?;
    let (records, _) = monitor.stop()?.read()?;
    let attempt = attempt(&workload)?;
    let is_its = |line: &&Line| {
        line.local_and_remote() == Some(attempt) && line.text("network.direction") == "egress"
    };
    let its: Vec<&Line> = records.iter().filter(is_its).collect();
    let actions: Vec<&str> = its.iter().map(|line| line.action()).collect();
    // Its end may have come too.
    ensure!(
        actions.starts_with(&["preexisting", "connected"]) && !actions.contains(&"connect"),
        "{its:?}"
    );
    ensure!(its[0].id() == its[1].id(), "two ids: {its:?}");
    Ok(Verdict::pass())
}

/// The client's end.
fn attempt(workload: &Workload) -> Result<(std::net::SocketAddr, std::net::SocketAddr)> {
    let facts = workload.facts()?;
    let attempts = facts.iter().find_map(|fact| match fact {
        Fact::Attempt(attempt) => {
            let port = attempt.local_port?;
            Some(((attempt.local_ip, port).into(), attempt.remote))
        }
        _ => None,
    });
    attempts.context("no attempt")
}
