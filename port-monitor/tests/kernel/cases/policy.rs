//! A policy's word on a stream of connections, and `policy explain` agreeing
//! with it.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::accounting;
use crate::{
    backend::Backend,
    check::{Stream, is_meant},
    expect::{Action, Expected, ends},
    json::Line,
    lab::Lab,
    monitor::Watch,
    report::Verdict,
    scenarios::{
        identity::OTHER_USER,
        mixture::{HIGH, ROOT_CLIENT, SERVER},
    },
};

/// ssh in only from an internal network, web out, telnet nowhere, postgresql
/// out only by one user.
const POLICY: &str = r#"
version = 1
mode = "observe"

[default]
inbound = { action = "allow" }
outbound = { action = "deny", loopback = "filter" }

[networks]
internal = ["127.77.0.0/16"]

[[rule]]
name = "no-telnet-out"
direction = "out"
service = "telnet"
action = "deny"

[[rule]]
name = "no-telnet-in"
direction = "in"
service = "telnet"
action = "deny"

[[rule]]
name = "ssh-internal"
direction = "in"
service = "ssh"
from = "internal"
action = "allow"

[[rule]]
name = "ssh-elsewhere"
direction = "in"
service = "ssh"
action = "deny"

[[rule]]
name = "ssh-out"
direction = "out"
service = "ssh"
action = "allow"

[[rule]]
name = "web-out"
direction = "out"
service = ["http", "https"]
action = "allow"

[[rule]]
name = "postgresql-user"
direction = "out"
service = "postgresql"
user = 1234
action = "allow"
"#;

/// Two rules ask for what the kernel side does not tell: a unit, and the time.
const OWNERS: &str = r#"
version = 1
mode = "observe"

[default]
inbound = { action = "deny", loopback = "filter" }
outbound = { action = "allow" }

[[rule]]
name = "over"
direction = "out"
action = "deny"
until = 2001-01-01T00:00:00Z

[[rule]]
name = "unit-out"
direction = "out"
unit = "port-monitor-test.service"
action = "deny"

[[rule]]
name = "user-in"
direction = "in"
user = 0
until = 2199-01-01T00:00:00Z
action = "allow"
"#;

/// Nothing but telnet is denied.
const TELNET: &str = r#"
version = 1
mode = "observe"

[[rule]]
name = "no-telnet-out"
direction = "out"
service = "telnet"
action = "deny"

[[rule]]
name = "no-telnet-in"
direction = "in"
service = "telnet"
action = "deny"
"#;

/// What [`POLICY`] says: whether the connection breaks it, and the rule that
/// decides, empty for the default.
fn truth(record: &Expected) -> (bool, &'static str) {
    let uid = record.owner.as_ref().map(|owner| owner.uid);
    match (record.action.is_inbound(), record.service_port()) {
        _ if record.action == Action::Listen => (false, ""),
        (false, 23) => (true, "no-telnet-out"),
        (true, 23) => (true, "no-telnet-in"),
        (true, 22) if record.remote.ip() == ROOT_CLIENT => (false, "ssh-internal"),
        (true, 22) => (true, "ssh-elsewhere"),
        (false, 22) => (false, "ssh-out"),
        (false, 80 | 443) => (false, "web-out"),
        (false, 5432) if uid == Some(OTHER_USER) => (false, "postgresql-user"),
        (inbound, _) => (!inbound, ""),
    }
}

pub(super) fn write(lab: &Lab) -> Result<PathBuf> {
    write_text(lab, POLICY)
}

fn write_text(lab: &Lab, text: &str) -> Result<PathBuf> {
    let path = lab.new_path("toml");
    fs::write(&path, text)?;
    Ok(path)
}

/// Every event carries the right verdict and rule, and `policy explain` says
/// the same of it.
pub(super) fn stream(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let policy = write(lab)?;
    let watch = Watch::json(lab, backend).arg("--policy").arg(&policy);
    let observed = lab.observe(watch, &["services"])?;
    let stream = Stream::of(&observed.run)?;
    let facts = observed.facts("services")?;
    let expected: Vec<Expected> = ends(&facts, backend.sight())
        .into_iter()
        .flatten()
        .collect();
    ensure!(
        stream.events().len() == expected.len(),
        "{} events, not {}",
        stream.events().len(),
        expected.len()
    );
    let mut asked = BTreeSet::new();
    for record in &expected {
        let answer = check_verdict(stream.events(), record, truth(record))?;
        let question = question(record)?;
        if asked.insert(question.clone()) {
            explain(lab, &policy, &question, answer)?;
        }
    }
    Ok(Verdict::Pass(format!(
        "{} events, {} explained",
        expected.len(),
        asked.len()
    )))
}

/// The event of a record carries this verdict and rule.
fn check_verdict<'a>(
    events: &[Line],
    record: &Expected,
    (is_violation, rule): (bool, &'a str),
) -> Result<(&'static str, &'a str)> {
    let meant = events.iter().find(|line| is_meant(record, None, line));
    let line = meant.with_context(|| format!("no record of {record:?}"))?;
    let verdict = if is_violation { "violation" } else { "allow" };
    let kind = if is_violation { "alert" } else { "event" };
    ensure!(
        line.verdict() == (verdict, rule) && line.text("event.kind") == kind,
        "not {kind} {verdict} by {rule:?}: {}",
        line.text
    );
    Ok((verdict, rule))
}

/// What [`OWNERS`] says.
fn truth_of_owners(record: &Expected, unit: &str) -> (bool, &'static str) {
    let owner = record.owner.as_ref();
    match record.action {
        Action::Listen => (false, ""),
        action if action.is_inbound() && owner.is_some_and(|owner| owner.uid == 0) => {
            (false, "user-in")
        }
        action if action.is_inbound() => (true, ""),
        _ if owner.is_some_and(|owner| owner.cgroup == unit) => (true, "unit-out"),
        _ => (false, ""),
    }
}

/// Rules that ask for what only userspace can tell decide as rightly as the others, and
/// of what those rules leave open nothing is dropped on the way.
pub(super) fn owners(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let unit = lab.cgroups.unit();
    let policy = write_text(lab, OWNERS)?;
    let watch = Watch::json(lab, backend).arg("--policy").arg(&policy);
    let observed = lab.observe(watch.arg("--violations"), &["filters"])?;
    let stream = Stream::of(&observed.run)?;
    let facts = observed.facts("filters")?;
    let mut shown = 0;
    for record in ends(&facts, backend.sight()).into_iter().flatten() {
        let truth = truth_of_owners(&record, &unit);
        if truth.0 {
            check_verdict(stream.events(), &record, truth)?;
            shown += 1;
        }
    }
    ensure!(
        shown > 0 && stream.events().len() == shown,
        "{} events, {shown} violations",
        stream.events().len()
    );
    Ok(Verdict::Pass(format!("{shown} shown")))
}

/// However many allowed connections have no room in their ring, violations have.
pub(super) fn flood(lab: &Lab) -> Result<Verdict> {
    let backend = Backend::Fentry;
    let mut monitor = Watch::json(lab, backend)
        .arg("--policy")
        .arg(write_text(lab, TELNET)?)
        .args(["--ring-size", "65536"])
        .start()?;
    monitor.signal(Signal::STOP)?;
    accounting::flood("--connections", 2_000)?;
    let mut workload = lab.workload("services")?;
    workload.hear("done")?;
    monitor.signal(Signal::CONT)?;
    let run = monitor.stop()?;
    let (lines, summary) = run.read()?;
    ensure!(summary.lost > 0 && summary.adds_up, "{summary:?}");
    let expected: Vec<Expected> = ends(&workload.facts()?, backend.sight())
        .into_iter()
        .flatten()
        .filter(|record| record.action != Action::Listen && record.service_port() == 23)
        .collect();
    ensure!(!expected.is_empty(), "nobody spoke telnet");
    for record in &expected {
        let rule = if record.action.is_inbound() {
            "no-telnet-in"
        } else {
            "no-telnet-out"
        };
        check_verdict(&lines, record, (true, rule))?;
    }
    Ok(Verdict::Pass(format!(
        "{} violations, {} others lost",
        expected.len(),
        summary.lost
    )))
}

/// The arguments of `policy explain` that ask for a record.
fn question(record: &Expected) -> Result<Vec<String>> {
    let owner = record.owner.as_ref().context("nobody owns this")?;
    let direction = match record.action {
        Action::Listen => "listen",
        action if action.is_inbound() => "in",
        _ => "out",
    };
    let peer = SocketAddr::new(record.remote.ip(), record.service_port());
    Ok([
        direction,
        "tcp",
        &peer.to_string(),
        "--user",
        &owner.uid.to_string(),
    ]
    .map(str::to_owned)
    .to_vec())
}

/// Asks `policy explain`, whose verdict and rule must be these.
fn explain(lab: &Lab, policy: &Path, question: &[String], answer: (&str, &str)) -> Result<()> {
    let output = Command::new(&lab.program)
        .args(["policy", "explain", "--json", "--policy"])
        .arg(policy)
        .args(question)
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "explain {question:?}: {stderr}");
    let line = Line::parse(&String::from_utf8(output.stdout)?)?;
    let explained = (line.text("verdict"), line.text("decided_by.rule"));
    ensure!(
        explained == answer,
        "explain {question:?} says {explained:?}, the stream {answer:?}"
    );
    Ok(())
}

/// The run ends with exit status 1 because something broke the policy.
pub(super) fn fail_on_violation(lab: &Lab) -> Result<Verdict> {
    let watch = Watch::new(lab, "auto", "json")
        .arg("--policy")
        .arg(write(lab)?)
        .arg("--fail-on-violation");
    let observed = lab.observe(watch, &["services"])?;
    observed.run.expect_code(1)?;
    Ok(Verdict::pass())
}

/// Only violations are shown; the rest counts as filtered.
pub(super) fn violations_only(lab: &Lab) -> Result<Verdict> {
    let watch = Watch::new(lab, "auto", "json")
        .arg("--policy")
        .arg(write(lab)?)
        .arg("--violations");
    let observed = lab.observe(watch, &["services"])?;
    let stream = Stream::of(&observed.run)?;
    ensure!(!stream.events().is_empty(), "no violation shown");
    for line in stream.events() {
        let (verdict, _) = line.verdict();
        ensure!(verdict == "violation", "not a violation: {}", line.text);
    }
    ensure!(
        stream.summary().filtered > 0,
        "the allowed ones are not counted: {:?}",
        stream.summary()
    );
    ensure!(
        stream.summary().hidden == 0,
        "the kernel side has let allowed ones pass: {:?}",
        stream.summary()
    );
    let ports = stream.events().iter().filter_map(Line::destination);
    ensure!(
        ports
            .clone()
            .any(|at| at.ip() == SERVER && at.port() == HIGH),
        "the default's denial is not shown"
    );
    Ok(Verdict::pass())
}
