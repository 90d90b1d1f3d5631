//! A record against the truth, field by field: a wrong value, a missing field
//! and a field nobody expects are all differences.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write as _, fs, path::Path};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::{
    expect::{Action, Expected, LocalPort},
    fact::{Owner, host_name, user_name},
    json::Line,
};

/// The wall clock may be corrected while the monitor derives it from the time
/// since boot.
const CLOCK_SLACK_NS: u64 = 20_000_000;

/// Nanoseconds in a clock tick of `/proc/PID/stat`.
const TICK_NS: u64 = 10_000_000;

/// What a field must be.
enum Want {
    /// Exactly this.
    Is(Value),
    /// One of these.
    OneOf(Vec<Value>),
    /// A number, also as a string of digits, between two.
    Between(u64, u64),
    /// A time between two, ns since the Unix epoch.
    Time(u64, u64),
    /// Some text.
    Text,
    /// Anything, or nothing: a port's place in a registry.
    Any,
}

impl Want {
    fn is(value: impl Into<Value>) -> Self {
        Self::Is(value.into())
    }

    fn takes(&self, value: &Value) -> bool {
        match self {
            Self::Is(wanted) => value == wanted,
            Self::OneOf(wanted) => wanted.contains(value),
            Self::Between(from, to) => value
                .as_u64()
                .or_else(|| value.as_str()?.parse().ok())
                .is_some_and(|number| (*from..=*to).contains(&number)),
            Self::Time(from, to) => time_ns(value).is_some_and(|ns| (*from..=*to).contains(&ns)),
            Self::Text => value.as_str().is_some_and(|text| !text.is_empty()),
            Self::Any => true,
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Is(value) => value.to_string(),
            Self::OneOf(values) => format!("one of {values:?}"),
            Self::Between(from, to) => format!("between {from} and {to}"),
            Self::Time(from, to) => format!("a time between {from} and {to}"),
            Self::Text => "some text".to_owned(),
            Self::Any => "anything".to_owned(),
        }
    }
}

fn time_ns(value: &Value) -> Option<u64> {
    let time: Timestamp = value.as_str()?.parse().ok()?;
    u64::try_from(time.as_nanosecond()).ok()
}

type Wants = BTreeMap<String, Want>;

/// The fields of `line` that are not as `expected`, a sentence each. `peer` is who
/// must be named at the other end.
pub(crate) fn differences(expected: &Expected, peer: Option<&Owner>, line: &Line) -> Vec<String> {
    let mut wants = Wants::new();
    let mut want = |path: &str, want: Want| {
        wants.insert(path.to_owned(), want);
    };
    want_event(&mut want, expected);
    want_flow(&mut want, expected);
    // Processes that a scenario forks have its listeners too.
    want("port_monitor.holders", Want::Any);
    match &expected.owner {
        // What nobody may tell, and why, is the userspace half's own tests' business.
        None => want(
            "port_monitor.missing.process.pid",
            Want::OneOf(vec!["no_owner".into(), "shared".into()]),
        ),
        Some(owner) => {
            want_owner(&mut want, owner);
            want_looked_up(&mut want, owner, line);
        }
    }
    if let Some(peer) = peer {
        want_peer(&mut want, peer);
        if std::str::from_utf8(&peer.process_comm).is_err() {
            let path = "port_monitor.raw.port_monitor.peer_process.name";
            want(path, Want::is(hex(&peer.process_comm)));
        }
    }
    compare(&wants, line)
}

fn compare(wants: &Wants, line: &Line) -> Vec<String> {
    let mut differences = Vec::new();
    for (path, want) in wants {
        match line.fields.get(path) {
            Some(value) if want.takes(value) => {}
            Some(value) => differences.push(format!("{path} is {value}, not {}", want.describe())),
            None if matches!(want, Want::Any) => {}
            None => differences.push(format!("no {path}, not {}", want.describe())),
        }
    }
    for (path, value) in &line.fields {
        if !wants.contains_key(path) {
            differences.push(format!("{path} is {value}, not absent"));
        }
    }
    differences
}

fn want_event(want: &mut impl FnMut(&str, Want), expected: &Expected) {
    let (types, outcome) = match expected.action {
        Action::Connect => (["connection", "start"], "unknown"),
        Action::Connected => (["connection", "info"], "success"),
        Action::Failed(_) => (["connection", "end"], "failure"),
        Action::Accept | Action::Restored => (["connection", "start"], "success"),
        Action::Listen => (["info", "start"], "success"),
    };
    let (from, to) = expected.within_ns;
    want(
        "@timestamp",
        Want::Time(
            from.saturating_sub(CLOCK_SLACK_NS),
            to.saturating_add(CLOCK_SLACK_NS),
        ),
    );
    want("ecs.version", Want::Text);
    want("event.kind", Want::is("event"));
    want("event.category", Want::is(vec!["network"]));
    want("event.type", Want::is(types.to_vec()));
    want("event.action", Want::is(expected.action.name()));
    want("event.outcome", Want::is(outcome));
    want("event.dataset", Want::is("port_monitor.connection"));
    want("host.name", Want::is(host_name()));
    if let Action::Failed(errno) = expected.action {
        want("error.message", Want::Text);
        if let Some(errno) = errno {
            want("error.code", Want::is(errno_name(errno)));
        }
    }
    want("port_monitor.schema", Want::is(2));
    want("port_monitor.id", Want::Text);
    want("port_monitor.boottime_ns", Want::Between(1, u64::MAX));
    let cpus = std::thread::available_parallelism().map_or(0, |cpus| cpus.get() as u64);
    want("port_monitor.cpu", Want::Between(0, cpus));
    want("port_monitor.netns", Want::is(expected.netns_ino));
    want("port_monitor.v4_mapped", Want::is(expected.v4_mapped));
    let preattach = expected.preattach.map_or(Want::Any, Want::is);
    want("port_monitor.preattach", preattach);
    want("port_monitor.owner_source", Want::is(expected.owner_source));
    if expected.action == Action::Connected {
        let span_us = to.saturating_sub(from) / 1000;
        want("port_monitor.handshake_us", Want::Between(0, span_us));
    }
}

/// The errno's name, as the connect of the test meets it.
fn errno_name(errno: i32) -> &'static str {
    match errno {
        libc::EPERM => "EPERM",
        libc::EACCES => "EACCES",
        libc::ENOPROTOOPT => "ENOPROTOOPT",
        libc::EHOSTUNREACH => "EHOSTUNREACH",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::ECONNRESET => "ECONNRESET",
        libc::ETIMEDOUT => "ETIMEDOUT",
        _ => "an errno no scenario knows",
    }
}

fn want_flow(want: &mut impl FnMut(&str, Want), expected: &Expected) {
    let (direction, local, remote) = if expected.action.is_inbound() {
        ("ingress", "destination", "source")
    } else {
        ("egress", "source", "destination")
    };
    let family = if expected.remote.is_ipv4() {
        "ipv4"
    } else {
        "ipv6"
    };
    want("network.transport", Want::is("tcp"));
    want("network.type", Want::is(family));
    want("network.direction", Want::is(direction));
    want(
        &format!("{local}.ip"),
        Want::is(expected.local_ip.to_string()),
    );
    let inbound = expected.action.is_inbound();
    let has_remote = expected.action != Action::Listen;
    if has_remote {
        want(
            &format!("{remote}.ip"),
            Want::is(expected.remote.ip().to_string()),
        );
        let remote_port = expected.remote.port();
        want(&format!("{remote}.port"), Want::is(remote_port));
        want_port(want, "remote", remote_port, inbound);
    }
    if has_remote || expected.known_local_port().is_some() {
        want(
            "port_monitor.port_class",
            Want::is(port_class(expected.service_port())),
        );
    }
    for name in ["name", "origin", "status"] {
        want(&format!("port_monitor.service.{name}"), Want::Any);
    }
    if expected.local_port != LocalPort::NotChosen && has_remote {
        want("network.community_id", Want::Text);
    }
    let local_port = format!("{local}.port");
    match expected.local_port {
        LocalPort::Is(port) => {
            want(&local_port, Want::is(port));
            want_port(want, "local", port, !inbound);
        }
        LocalPort::Some => {
            let (low, high) = ephemeral_range();
            want(&local_port, Want::Between(low.into(), high.into()));
            want("port_monitor.local.port_class", Want::Text);
            want("port_monitor.local.ephemeral", Want::is(true));
            want_service(want, "local");
        }
        LocalPort::NotChosen => want(
            &format!("port_monitor.missing.{local_port}"),
            Want::is("not_chosen"),
        ),
    }
}

fn want_port(want: &mut impl FnMut(&str, Want), end: &str, port: u16, client: bool) {
    let (low, high) = ephemeral_range();
    let ephemeral = client && (low..=high).contains(&port);
    want(
        &format!("port_monitor.{end}.port_class"),
        Want::is(port_class(port)),
    );
    want(
        &format!("port_monitor.{end}.ephemeral"),
        Want::is(ephemeral),
    );
    want_service(want, end);
}

/// The ranges of RFC 6335.
const fn port_class(port: u16) -> &'static str {
    match port {
        0..=1023 => "well-known",
        1024..=49_151 => "registered",
        49_152.. => "dynamic",
    }
}

fn want_service(want: &mut impl FnMut(&str, Want), end: &str) {
    for name in ["name", "origin", "status"] {
        want(&format!("port_monitor.{end}.service.{name}"), Want::Any);
    }
}

/// `ip_local_port_range`; the kernel's default where it cannot be read.
fn ephemeral_range() -> (u16, u16) {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut words = text.split_whitespace().map(str::parse);
    match (words.next(), words.next()) {
        (Some(Ok(low)), Some(Ok(high))) => (low, high),
        _ => (32_768, 60_999),
    }
}

/// What the kernel told.
fn want_owner(want: &mut impl FnMut(&str, Want), owner: &Owner) {
    want("process.pid", Want::is(owner.pid));
    want("process.thread.id", Want::is(owner.tid));
    let comm = String::from_utf8_lossy(&owner.comm);
    want("process.thread.name", Want::is(comm.as_ref()));
    let process_comm = String::from_utf8_lossy(&owner.process_comm);
    want("process.name", Want::is(process_comm.as_ref()));
    if matches!(comm, Cow::Owned(_)) {
        want(
            "port_monitor.raw.process.thread.name",
            Want::is(hex(&owner.comm)),
        );
    }
    if matches!(process_comm, Cow::Owned(_)) {
        let raw = hex(&owner.process_comm);
        want("port_monitor.raw.process.name", Want::is(raw));
    }
    let start_ns = owner.start_ticks.saturating_mul(TICK_NS);
    want(
        "port_monitor.process_start_boottime_ns",
        Want::Between(start_ns, start_ns.saturating_add(TICK_NS)),
    );
    want("process.start", started(owner.start_ticks));
    want("user.id", Want::is(owner.uid.to_string()));
    want("group.id", Want::is(owner.gid.to_string()));
    want(
        "port_monitor.cgroup.id",
        Want::is(owner.cgroup_id.to_string()),
    );
    want(
        "port_monitor.exe.device",
        Want::is(owner.exe_device.as_str()),
    );
    want(
        "port_monitor.exe.inode",
        Want::is(owner.exe_inode.to_string()),
    );
    match user_name(owner.uid) {
        Some(name) => want("user.name", Want::is(name)),
        // A machine that is busy may not have asked by then.
        None => want(
            "port_monitor.missing.user.name",
            Want::OneOf(vec!["unknown_user".into(), "late".into()]),
        ),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing into a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The owner of the other end.
fn want_peer(want: &mut impl FnMut(&str, Want), peer: &Owner) {
    const PEER: &str = "port_monitor.peer_process";
    let mut want = |name: &str, value: Want| want(&format!("{PEER}.{name}"), value);
    let comm = String::from_utf8_lossy(&peer.process_comm);
    want("pid", Want::is(peer.pid));
    want("name", Want::is(comm.as_ref()));
    let start_ns = peer.start_ticks.saturating_mul(TICK_NS);
    let end_ns = start_ns.saturating_add(TICK_NS);
    want("start_boottime_ns", Want::Between(start_ns, end_ns));
    want("executable", Want::is(peer.exe.to_string_lossy().as_ref()));
}

/// When a process started, so many clock ticks after boot.
fn started(ticks: u64) -> Want {
    let wall_ns = boot_wall_ns().saturating_add(ticks.saturating_mul(TICK_NS));
    Want::Time(
        wall_ns.saturating_sub(CLOCK_SLACK_NS),
        wall_ns.saturating_add(TICK_NS + CLOCK_SLACK_NS),
    )
}

/// The wall clock at boot, ns: of several samples the one that was interrupted
/// least.
fn boot_wall_ns() -> u64 {
    let ns = |clock| {
        let time = clock_gettime(clock);
        i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
    };
    let sample = |_| {
        let before = ns(ClockId::Boottime);
        let wall = ns(ClockId::Realtime);
        let after = ns(ClockId::Boottime);
        (after - before, wall - before)
    };
    let best = (0..8).map(sample).min();
    best.and_then(|(_, offset)| offset.try_into().ok())
        .unwrap_or_default()
}

/// What was looked up in userspace. Of a process that was gone by then its cgroup
/// is still known, by the id the kernel told.
fn want_looked_up(want: &mut impl FnMut(&str, Want), owner: &Owner, line: &Line) {
    const EXECUTABLE: &str = "process.executable";
    const PARENT: &str = "process.parent.pid";
    // Of processes that are gone too: the kernel told it with the event.
    want(EXECUTABLE, Want::is(owner.exe.to_string_lossy().as_ref()));
    // The process may end while it is looked up, between one file and the next.
    if owner.ends_at_once {
        // Only where units and containers are in hierarchies of version 1 too, of which the
        // kernel does not tell.
        want("port_monitor.missing.container.id", Want::Any);
    }
    if !owner.ends_at_once || line.fields.contains_key(PARENT) {
        // The parent may have ended since, which gives the process another one.
        let parents = [Some(owner.parent_pid), present_parent(owner.pid)];
        let parents = parents.into_iter().flatten().map(Value::from);
        want(PARENT, Want::OneOf(parents.collect()));
    }
    want_parent(want, owner, line);
    want("port_monitor.cgroup.path", Want::is(owner.cgroup.as_str()));
    let name = Path::new(&owner.cgroup)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    if name.ends_with(".service") || name.ends_with(".scope") {
        want("port_monitor.unit", Want::is(name.as_ref()));
    }
    if let Some(id) = name
        .strip_prefix("docker-")
        .and_then(|name| name.strip_suffix(".scope"))
    {
        want("container.id", Want::is(id));
        want("container.runtime", Want::is("docker"));
    }
}

/// Who the parent is, where it was looked up while it was the one that the process had.
fn want_parent(want: &mut impl FnMut(&str, Want), owner: &Owner, line: &Line) {
    const NAME: &str = "process.parent.name";
    const START: &str = "process.parent.start";
    want("port_monitor.raw.process.parent.name", Want::Any);
    let is_told = line.number("process.parent.pid") == Some(owner.parent_pid.into())
        && line.fields.contains_key(NAME);
    let Some((comm, ticks)) = owner.parent.as_ref().filter(|_| is_told) else {
        want(NAME, Want::Any);
        want(START, Want::Any);
        return;
    };
    want(NAME, Want::is(String::from_utf8_lossy(comm).as_ref()));
    want(START, started(*ticks));
}

fn present_parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}
