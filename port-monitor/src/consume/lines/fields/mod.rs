//! The columns of the table, one row of [`FIELDS`] each. `--fields`, the help
//! text, the completions and the man page all read this registry.
//!
//! `?` stands for what could not be found out, `-` for what there is none of.

mod carried;
mod repeated;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use port_monitor_common::tcp_state::TcpState;

use carried::{
    bytes_in, bytes_out, closed_by, closing_pid, disorder, duration, ending, retransmits, rtt,
};

use super::{cell::Cell, errno, width};
use crate::{
    base::time::Rfc3339,
    events::{
        decode::{Action, Comm, Direction, Event, Owner},
        record::{Container, Endpoint, PortInfo, Record, ServiceStatus},
        wire::words::{ConnectionAction, Spelled as _, Verdict},
    },
};

/// When a column is in the table without `--fields`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// On every terminal.
    Always,
    /// On terminals at least this wide.
    From(usize),
    /// Only when asked for.
    OnRequest,
}

/// A column of the table.
#[derive(Debug)]
pub struct Field {
    /// Its name in `--fields`; in capitals, its heading.
    pub name: &'static str,
    /// What it shows.
    pub doc: &'static str,
    /// The unit of its numbers.
    pub unit: Option<&'static str>,
    /// Its width on a terminal of up to 80 columns, of 100, and of
    /// [`width::WIDE`].
    pub(crate) widths: [usize; 3],
    pub(crate) shown: Shown,
    pub(crate) extract: fn(&mut Cell<'_>, &Record),
    /// What rows have in common that repeat each other: the text without what
    /// differs from one connection to the next.
    pub(crate) common: fn(&mut Cell<'_>, &Record),
    /// What a line for several rows shows, of a record with the figures of all:
    /// the longest times, the sums of bytes and segments.
    pub(crate) merged: fn(&mut Cell<'_>, &Record),
    /// Whether the text is the same for all events of an owner that fall into one second
    /// and have one [`dir_text`].
    pub(crate) is_owners: bool,
}

impl Field {
    const fn new(
        name: &'static str,
        widths: [usize; 3],
        shown: Shown,
        doc: &'static str,
        extract: fn(&mut Cell<'_>, &Record),
    ) -> Self {
        Self {
            name,
            doc,
            unit: None,
            widths,
            shown,
            extract,
            common: extract,
            merged: extract,
            is_owners: false,
        }
    }

    /// What it shows, with the unit of its numbers.
    pub fn help(&self) -> String {
        match self.unit {
            Some(unit) => format!("{} ({unit})", self.doc),
            None => self.doc.to_owned(),
        }
    }

    /// Its width in a table of so many columns.
    pub(crate) const fn width(&self, table: usize) -> usize {
        let [narrow, normal, wide] = self.widths;
        match table {
            ..width::NORMAL => narrow,
            width::NORMAL..width::WIDE => normal,
            width::WIDE.. => wide,
        }
    }

    const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = Some(unit);
        self
    }

    /// A column about the owner.
    const fn owners(mut self) -> Self {
        self.is_owners = true;
        self
    }

    /// A column that differs, at least in part, between rows that repeat.
    const fn differs(
        mut self,
        common: fn(&mut Cell<'_>, &Record),
        merged: fn(&mut Cell<'_>, &Record),
    ) -> Self {
        self.common = common;
        self.merged = merged;
        self
    }
}

use Shown::{Always, From, OnRequest};

/// Every column, in the order of the default table.
#[rustfmt::skip]
pub const FIELDS: &[Field] = &[
    Field::new("time", [8, 9, 9], From(width::WITH_TIME), "local time", time).owners(),
    Field::new("dir", [3, 3, 3], Always, "-> for a connection this host opens, <- for one it accepts, o for a socket that listens, x for the end of either", dir).owners(),
    Field::new("pid", [6, 6, 7], From(width::WITH_PID), "process id", pid).owners(),
    Field::new("process", [8, 9, 15], Always, "name of the process that connected, accepted or listened", process).owners(),
    Field::new("user", [10, 10, 10], From(110), "name of the owner's user, else the uid", user).owners(),
    Field::new("unit", [20, 20, 24], From(width::WIDE), "systemd unit, or container as runtime:short-id", unit).owners(),
    Field::new("local", [15, 18, 22], From(width::WITH_BOTH_ENDS), "local address and port, with the service's name", local).differs(repeated::common_local, repeated::common_local),
    Field::new("remote", [23, 25, 32], Always, "remote address and port, with the service's name", remote).differs(repeated::common_remote, repeated::common_remote),
    Field::new("result", [9, 20, 20], Always, "how it went, and the rule a violation broke", result).differs(repeated::common_result, repeated::merged_result),
    Field::new("timestamp", [30, 30, 30], OnRequest, "date and time in UTC, to the nanosecond", timestamp).differs(repeated::nothing, timestamp),
    Field::new("event", [9, 9, 9], OnRequest, "kind of event, one of those of --events, or progress", event),
    Field::new("handshake", [9, 9, 9], OnRequest, "time from the attempt to the established connection", handshake).unit("µs").differs(repeated::nothing, repeated::merged_handshake),
    Field::new("duration", [12, 12, 12], OnRequest, "how long the connection lasted, at its end", duration).unit("µs").differs(repeated::nothing, repeated::merged_duration),
    Field::new("bytes_in", [12, 12, 12], OnRequest, "payload bytes received, at the end", bytes_in).differs(repeated::nothing, bytes_in),
    Field::new("bytes_out", [12, 12, 12], OnRequest, "payload bytes sent, at the end", bytes_out).differs(repeated::nothing, bytes_out),
    Field::new("retransmits", [11, 11, 11], OnRequest, "segments sent again, at the end", retransmits).differs(repeated::nothing, retransmits),
    Field::new("rtt", [9, 9, 9], OnRequest, "smoothed round-trip time, at the end", rtt).unit("µs").differs(repeated::nothing, repeated::merged_rtt),
    Field::new("closed_by", [11, 11, 11], OnRequest, "who ended the connection first: local, peer, peer-reset, local-reset, timeout or taken-away", closed_by),
    Field::new("closing_pid", [11, 11, 11], OnRequest, "process id of who closed this end, where that is not the owner", closing_pid),
    Field::new("tid", [6, 6, 7], OnRequest, "thread id", tid),
    Field::new("thread", [8, 9, 15], OnRequest, "name of the thread", |cell, record| of_owner(cell, record, |cell, owner| comm(cell, owner.comm))),
    Field::new("ppid", [6, 6, 7], OnRequest, "process id of the parent", ppid),
    Field::new("exe", [24, 24, 32], OnRequest, "path of the executable", exe),
    Field::new("peer", [15, 18, 22], OnRequest, "pid/name of the process at the other end, where that is on this host", peer),
    Field::new("uid", [6, 6, 6], OnRequest, "numeric user id", uid),
    Field::new("gid", [6, 6, 6], OnRequest, "numeric group id", gid),
    Field::new("container", [20, 20, 64], OnRequest, "container id", container),
    Field::new("pod", [36, 36, 36], OnRequest, "uid of the Kubernetes pod", pod),
    Field::new("cgroup", [24, 24, 48], OnRequest, "cgroup path", cgroup),
    Field::new("netns", [10, 10, 10], OnRequest, "inode number of the network namespace", netns),
    Field::new("local_ip", [15, 15, 39], OnRequest, "local address", local_ip),
    Field::new("local_port", [10, 10, 10], OnRequest, "local port", local_port).differs(repeated::common_local_port, repeated::common_local_port),
    Field::new("remote_ip", [15, 15, 39], OnRequest, "remote address", remote_ip),
    Field::new("remote_port", [11, 11, 11], OnRequest, "remote port", remote_port).differs(repeated::common_remote_port, repeated::common_remote_port),
    Field::new("service", [12, 12, 16], OnRequest, "name of the service: of the remote port outbound, the local one inbound", service),
    Field::new("class", [10, 10, 10], OnRequest, "range of the service port: well-known, registered or dynamic", class),
    Field::new("verdict", [9, 9, 9], OnRequest, "allow or violation", verdict),
    Field::new("rule", [16, 16, 24], OnRequest, "the policy rule that decided", rule),
    Field::new("id", [16, 16, 16], OnRequest, "joins the events of one connection", id).differs(repeated::nothing, repeated::anything),
    Field::new("cpu", [3, 3, 3], OnRequest, "the CPU the event was seen on", cpu).differs(repeated::nothing, repeated::anything),
    Field::new("owner", [8, 8, 8], OnRequest, "how the process is known: connect, accept, listener (whoever made the socket listen, or has it open) or holder (of a socket older than the monitor)", owner),
];

/// Parses a name of `--fields`; clap lists the names, suggests the nearest and
/// completes them.
pub fn parser() -> impl TypedValueParser<Value = &'static Field> {
    PossibleValuesParser::new(
        FIELDS
            .iter()
            .map(|field| PossibleValue::new(field.name).help(field.help())),
    )
    .try_map(|name| {
        FIELDS
            .iter()
            .find(|field| field.name == name)
            .ok_or("no such field")
    })
}

/// What the result column says of an attempt closed before any answer, and of a
/// socket that listens no more.
pub(crate) const CLOSED: &str = "closed";

/// What it says of a socket that listens.
const LISTENING: &str = "listening";

/// The port of `record` that names the service.
pub(crate) const fn service_port(record: &Record) -> Option<&PortInfo> {
    match record.event.direction() {
        Direction::Outbound => record.ports.remote.as_ref(),
        Direction::Inbound => record.ports.local.as_ref(),
    }
}

fn time(cell: &mut Cell<'_>, record: &Record) {
    cell.time_of_day(record.wall_ns);
}

fn timestamp(cell: &mut Cell<'_>, record: &Record) {
    cell.display(&Rfc3339(record.wall_ns));
}

fn dir(cell: &mut Cell<'_>, record: &Record) {
    cell.put(dir_text(&record.event));
}

/// Who opened the connection, or that it ends.
pub(crate) const fn dir_text(event: &Event) -> &'static str {
    match (event.action, event.direction()) {
        (Action::Close(_) | Action::Unlisten, _) => "x",
        (action, _) if action.is_listener() => "o",
        (_, Direction::Outbound) => "->",
        (_, Direction::Inbound) => "<-",
    }
}

/// Writes a fact of the owner, or `?` when no hook saw it.
fn of_owner(cell: &mut Cell<'_>, record: &Record, write: impl FnOnce(&mut Cell<'_>, &Owner)) {
    match &record.event.owner {
        Some(owner) => write(cell, owner),
        None => cell.unknown(),
    }
}

pub(crate) fn pid(cell: &mut Cell<'_>, record: &Record) {
    of_owner(cell, record, |cell, owner| cell.number(owner.pid));
}

fn tid(cell: &mut Cell<'_>, record: &Record) {
    of_owner(cell, record, |cell, owner| cell.number(owner.tid));
}

fn uid(cell: &mut Cell<'_>, record: &Record) {
    of_owner(cell, record, |cell, owner| cell.number(owner.uid));
}

fn gid(cell: &mut Cell<'_>, record: &Record) {
    of_owner(cell, record, |cell, owner| cell.number(owner.gid));
}

pub(crate) fn process(cell: &mut Cell<'_>, record: &Record) {
    of_owner(cell, record, |cell, owner| comm(cell, owner.process_comm));
}

/// A thread's name, or a process's, which may be empty.
fn comm(cell: &mut Cell<'_>, comm: Comm) {
    match comm.as_bytes() {
        [] => cell.none(),
        name => cell.name(name),
    }
}

pub(crate) fn user(cell: &mut Cell<'_>, record: &Record) {
    match &record.process.user {
        Some(user) => cell.name(user.as_bytes()),
        None => uid(cell, record),
    }
}

fn ppid(cell: &mut Cell<'_>, record: &Record) {
    match &record.process.parent {
        Some(parent) => cell.number(parent.pid),
        None => cell.unknown(),
    }
}

fn exe(cell: &mut Cell<'_>, record: &Record) {
    match record.process.exe.known() {
        Some(path) => cell.name(path.as_os_str().as_encoded_bytes()),
        None => cell.unknown(),
    }
}

fn peer(cell: &mut Cell<'_>, record: &Record) {
    match &record.peer {
        Some(peer) => {
            cell.number(peer.pid);
            cell.put("/");
            comm(cell, peer.comm);
        }
        None => cell.none(),
    }
}

/// Writes what the cgroup path tells, or `?` when the path is not known.
fn of_cgroup(cell: &mut Cell<'_>, record: &Record, name: Option<&str>) {
    match name {
        Some(name) => cell.name(name.as_bytes()),
        None if record.process.cgroup.is_none() => cell.unknown(),
        None => cell.none(),
    }
}

pub(crate) fn unit(cell: &mut Cell<'_>, record: &Record) {
    if let Some(Container { id, runtime, .. }) = &record.process.container {
        cell.put(runtime);
        cell.put(":");
        cell.name(id.as_bytes().get(..12).unwrap_or(id.as_bytes()));
    } else {
        of_cgroup(cell, record, record.process.unit.as_deref());
    }
}

fn container(cell: &mut Cell<'_>, record: &Record) {
    let id = record.process.container.as_ref().map(|c| c.id.as_str());
    of_cgroup(cell, record, id);
}

fn pod(cell: &mut Cell<'_>, record: &Record) {
    let container = record.process.container.as_ref();
    of_cgroup(cell, record, container.and_then(|c| c.pod_uid.as_deref()));
}

fn cgroup(cell: &mut Cell<'_>, record: &Record) {
    of_cgroup(cell, record, record.process.cgroup.as_deref());
}

fn netns(cell: &mut Cell<'_>, record: &Record) {
    cell.number(record.event.netns_ino);
}

/// The service name to show at one end: always where it is the service's end,
/// at the other only where the port is really some service's.
fn service_at(port: &PortInfo, is_service_end: bool) -> Option<&'static str> {
    let assigned = port.status == ServiceStatus::Assigned && !port.ephemeral;
    let (name, _) = port.service.filter(|_| is_service_end || assigned)?;
    Some(name)
}

const fn local_end(event: &Event) -> Endpoint {
    Endpoint {
        ip: event.local_ip,
        port: event.local_port,
        ifindex: event.ifindex,
    }
}

const fn remote_end(event: &Event) -> Endpoint {
    Endpoint {
        ip: event.remote_ip,
        port: Some(event.remote_port),
        ifindex: event.ifindex,
    }
}

pub(crate) fn local(cell: &mut Cell<'_>, record: &Record) {
    let event = &record.event;
    let inbound = event.direction() == Direction::Inbound;
    let port = record.ports.local.as_ref();
    let service = port.and_then(|port| service_at(port, inbound));
    cell.endpoint(local_end(event), service);
}

pub(crate) fn remote(cell: &mut Cell<'_>, record: &Record) {
    let event = &record.event;
    let Some(port) = &record.ports.remote else {
        return cell.none();
    };
    let outbound = event.direction() == Direction::Outbound;
    cell.endpoint(remote_end(event), service_at(port, outbound));
}

fn local_ip(cell: &mut Cell<'_>, record: &Record) {
    cell.ip(record.event.local_ip);
}

fn local_port(cell: &mut Cell<'_>, record: &Record) {
    cell.port(record.event.local_port);
}

fn remote_ip(cell: &mut Cell<'_>, record: &Record) {
    match record.ports.remote {
        Some(_) => cell.ip(record.event.remote_ip),
        None => cell.none(),
    }
}

fn remote_port(cell: &mut Cell<'_>, record: &Record) {
    match record.ports.remote {
        Some(_) => cell.number(record.event.remote_port),
        None => cell.none(),
    }
}

fn service(cell: &mut Cell<'_>, record: &Record) {
    match service_port(record).and_then(|port| port.service) {
        Some((name, _)) => cell.name(name.as_bytes()),
        None => cell.none(),
    }
}

fn class(cell: &mut Cell<'_>, record: &Record) {
    match service_port(record) {
        Some(port) => cell.put(port.class.word()),
        None => cell.unknown(),
    }
}

fn event(cell: &mut Cell<'_>, record: &Record) {
    cell.put(ConnectionAction::from(record.event.action).word());
}

fn handshake(cell: &mut Cell<'_>, record: &Record) {
    match record.event.action {
        Action::Connected {
            handshake_us: Some(handshake_us),
        } => cell.number(handshake_us),
        Action::Connected { handshake_us: None } => cell.unknown(),
        Action::Connect
        | Action::Accept
        | Action::Failed { .. }
        | Action::Close(_)
        | Action::Preexisting { .. }
        | Action::Listen
        | Action::Unlisten
        | Action::Restored
        | Action::Progress(_) => cell.none(),
    }
}

fn result(cell: &mut Cell<'_>, record: &Record) {
    outcome(cell, record, "");
}

/// The result, with `before_time` before a span of time.
fn outcome(cell: &mut Cell<'_>, record: &Record, before_time: &str) {
    how_it_went(cell, record, before_time);
    broken_rule(cell, record);
}

/// The result without the rule.
pub(crate) fn how_it_went(cell: &mut Cell<'_>, record: &Record, before_time: &str) {
    match record.event.action {
        Action::Connect => cell.put("syn"),
        Action::Accept | Action::Connected { handshake_us: None } => cell.put("ok"),
        Action::Connected {
            handshake_us: Some(handshake_us),
        } => {
            cell.put("ok ");
            cell.put(before_time);
            cell.duration_us(handshake_us.into());
        }
        Action::Failed { errno: None } | Action::Unlisten => cell.put(CLOSED),
        Action::Failed { errno: Some(errno) } => {
            if let Some(word) = errno::word(errno) {
                cell.put(word);
            } else {
                cell.put("errno ");
                cell.number(errno);
            }
        }
        Action::Close(close) => ending(cell, &close, before_time),
        Action::Preexisting {
            state, duration_ns, ..
        } => {
            cell.put(match state {
                TcpState::SYN_SENT => "syn",
                TcpState::LISTEN => LISTENING,
                _ => "open",
            });
            if let Some(ns) = duration_ns {
                cell.put(" ");
                cell.put(before_time);
                cell.duration_us(ns / 1_000);
            }
        }
        Action::Listen => cell.put(LISTENING),
        Action::Restored => cell.put("restored"),
        Action::Progress(so_far) => {
            cell.put("open ");
            ending(cell, &so_far, before_time);
        }
    }
}

/// The result of a connection whose end is not told: a word for that, and what it has carried
/// so far.
pub(crate) fn unended(cell: &mut Cell<'_>, record: &Record, word: &str) {
    cell.put(word);
    if let Some(so_far) = record.event.action.carried() {
        cell.put(" ");
        ending(cell, so_far, "");
    }
    broken_rule(cell, record);
}

/// The rule, where it is a violation.
pub(crate) fn broken_rule(cell: &mut Cell<'_>, record: &Record) {
    if let Some(judgement) = &record.judgement
        && judgement.is_violation()
    {
        cell.put("  ");
        rule(cell, record);
    }
}

pub(crate) fn rule(cell: &mut Cell<'_>, record: &Record) {
    match record.judgement.as_ref().map(|judgement| &judgement.rule) {
        Some(Some(rule)) => cell.name(rule.as_bytes()),
        Some(None) => cell.put("(default)"),
        None => cell.none(),
    }
}

pub(crate) fn verdict(cell: &mut Cell<'_>, record: &Record) {
    match record.judgement.as_ref().map(|judgement| judgement.verdict) {
        Some(verdict) => cell.put(Verdict::from(verdict).word()),
        None => cell.none(),
    }
}

fn id(cell: &mut Cell<'_>, record: &Record) {
    cell.display(&format_args!("{:016x}", record.event.id));
}

fn cpu(cell: &mut Cell<'_>, record: &Record) {
    cell.number(record.event.cpu);
}

fn owner(cell: &mut Cell<'_>, record: &Record) {
    of_owner(cell, record, |cell, owner| {
        cell.put(owner.source.word());
    });
}
