//! All about one connection, in the order of time.

use std::{cmp::Reverse, collections::HashMap, net::IpAddr};

use super::connections;
use crate::{
    base::{
        sanitize::{Escaped, Quoted},
        time::LocalClock,
    },
    consume::{
        join::{Beginning, Connection},
        lines::{cell::Cell, errno, fields, table::plural},
        listeners::uses::Scope,
        top::model::{Mark, Model},
    },
    events::{
        decode::{Action, Close, Direction},
        record::{Field, Record},
        wire::words::{Reason, Spelled as _},
    },
};

type Row = Connection<Mark>;

/// The title, and what there is to tell.
pub(super) fn lines(row: &Row, model: &Model, clock: &mut LocalClock) -> (String, Vec<String>) {
    let record = &row.record;
    let mut lines = Vec::new();
    let local = text(clock, |cell| fields::local(cell, record));
    let remote = text(clock, |cell| fields::remote(cell, record));
    let title = match record.event.direction() {
        _ if row.is_listener() => local,
        Direction::Inbound => format!("{local} <- {remote}"),
        Direction::Outbound => format!("{local} -> {remote}"),
    };
    story(row, clock, &mut lines);
    if row.is_listener() {
        came(row, model, clock, &mut lines);
    }
    lines.push(String::new());
    owner(record, &mut lines);
    ends(record, &mut lines);
    judgement(record, &mut lines);
    lines.push(String::new());
    commands(record, model, &mut lines);
    (title, lines)
}

/// What a cell has.
fn text(clock: &mut LocalClock, write: impl FnOnce(&mut Cell<'_>)) -> String {
    let mut bytes = Vec::new();
    write(&mut Cell::new(&mut bytes, usize::MAX, clock));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn story(row: &Row, clock: &mut LocalClock, lines: &mut Vec<String>) {
    let record = &row.record;
    let began = clock.time_of_day(row.began_ns).to_owned();
    let now = clock.time_of_day(record.wall_ns).to_owned();
    lines.push(match row.beginning {
        Beginning::Attempt => format!("{began}  this host tried to open it"),
        Beginning::Inbound if row.is_listener() => format!("{began}  began to listen"),
        Beginning::Inbound => format!("{began}  a peer opened it"),
        Beginning::Restored => format!("{began}  put into a socket by TCP_REPAIR"),
        Beginning::Preexisting if row.is_dated => {
            format!("{began}  it began, before this view")
        }
        Beginning::Preexisting => "it was there before this began to watch".to_owned(),
        Beginning::Unseen => format!("{began}  its beginning was not seen"),
    });
    if let Some(us) = row.handshake_us {
        let took = text(clock, |cell| cell.duration_us(us.into()));
        lines.push(format!("{began}  established after {took}"));
    }
    let how = text(clock, |cell| connections::how(cell, row));
    match &record.event.action {
        Action::Failed { errno } => lines.push(failed(&now, *errno)),
        Action::Close(close) => {
            lines.push(format!(
                "{now}  ended, closed by {}",
                close.closed_by.word()
            ));
            if let Some(errno) = close.errno {
                lines.push(format!("          with {}", error(errno)));
            }
            if let Some(pid) = close.closing_pid {
                lines.push(format!(
                    "          this end by process {pid}, which is not its owner"
                ));
            }
            carried(close, clock, lines);
        }
        Action::Progress(so_far) => {
            lines.push(format!("{now}  open"));
            carried(so_far, clock, lines);
        }
        Action::Accept | Action::Connected { .. } => lines.push(format!("{now}  open")),
        Action::Connect
        | Action::Preexisting { .. }
        | Action::Listen
        | Action::Unlisten
        | Action::Restored => lines.push(format!("{now}  {how}")),
    }
}

fn failed(now: &str, errno: Option<i32>) -> String {
    match errno {
        Some(errno) => format!("{now}  failed: {}", error(errno)),
        None => format!("{now}  closed before any answer"),
    }
}

/// An errno in a word for people and by its name.
fn error(errno: i32) -> String {
    let name = errno::name(errno).unwrap_or(errno::UNKNOWN);
    match errno::word(errno) {
        Some(word) => format!("{word} ({name})"),
        None => format!("{name}, errno {errno}"),
    }
}

fn carried(close: &Close, clock: &mut LocalClock, lines: &mut Vec<String>) {
    let Close {
        duration_ns,
        bytes_received,
        bytes_sent,
        retransmits,
        rtt_us,
        ..
    } = close;
    let duration = duration_ns.map_or("?".to_owned(), |ns| {
        text(clock, |cell| cell.duration_us(ns / 1_000))
    });
    lines.push(format!(
        "          {bytes_received} bytes in, {bytes_sent} out, in {duration}"
    ));
    let rtt = rtt_us.map_or("not measured".to_owned(), |us| {
        text(clock, |cell| cell.duration_us(us.into()))
    });
    lines.push(format!(
        "          round trip {rtt}, {retransmits} segments sent again"
    ));
}

/// Addresses that are told of a listener at most.
const CAME: usize = 8;

/// Who came to the port of a listener, as far as it is in the list of connections: most often
/// first.
fn came(row: &Row, model: &Model, clock: &mut LocalClock, lines: &mut Vec<String>) {
    let port = row.record.event.local_port;
    let mut peers: HashMap<IpAddr, (u64, i128)> = HashMap::new();
    for other in model.connections().filter(|other| !other.is_listener()) {
        let event = &other.record.event;
        if event.direction() == Direction::Inbound && event.local_port == port {
            let (count, last_ns) = peers.entry(event.remote_ip).or_default();
            *count += 1;
            *last_ns = (*last_ns).max(other.began_ns);
        }
    }
    let mut peers: Vec<_> = peers.into_iter().collect();
    peers.sort_unstable_by_key(|&(ip, (count, last_ns))| (Reverse((count, last_ns)), ip));
    for (ip, (count, last_ns)) in peers.iter().take(CAME) {
        let last = clock.time_of_day(*last_ns);
        let times = plural(*count, "time");
        lines.push(format!("came      {ip}, {count} {times}, last {last}"));
    }
    if let Some(more) = peers.len().checked_sub(CAME).filter(|more| *more > 0) {
        lines.push(format!("          and {more} more addresses"));
    }
}

fn owner(record: &Record, lines: &mut Vec<String>) {
    let Some(owner) = &record.event.owner else {
        let why = record
            .process
            .exe
            .missing()
            .map_or("not seen", |missing| Reason::from(missing).word());
        lines.push(format!("process   not known: {why}"));
        return;
    };
    let name = Escaped(owner.process_comm.as_bytes()).to_string();
    lines.push(format!(
        "process   {} {name}, known by {}",
        owner.pid,
        owner.source.word()
    ));
    if owner.comm != owner.process_comm {
        let thread = Escaped(owner.comm.as_bytes());
        lines.push(format!("thread    {} {thread}", owner.tid));
    }
    match &record.process.exe {
        Field::Known(path) => {
            let path = Escaped(path.as_os_str().as_encoded_bytes());
            lines.push(format!("program   {path}"));
        }
        Field::Missing(missing) => {
            lines.push(format!(
                "program   not known: {}",
                Reason::from(*missing).word()
            ));
        }
    }
    if let Some(parent) = &record.process.parent {
        let name = parent.named.map_or("?".to_owned(), |(name, _)| {
            Escaped(name.as_bytes()).to_string()
        });
        lines.push(format!("parent    {} {name}", parent.pid));
    }
    let user = record.process.user.as_deref().unwrap_or("?");
    lines.push(format!(
        "user      {} ({})",
        Escaped(user.as_bytes()),
        owner.uid
    ));
    place(record, lines);
}

/// The unit or the container.
fn place(record: &Record, lines: &mut Vec<String>) {
    if let Some(container) = &record.process.container {
        let id = Escaped(container.id.as_bytes());
        lines.push(format!("container {}:{id}", container.runtime));
    }
    if let Some(unit) = &record.process.unit {
        lines.push(format!("unit      {}", Escaped(unit.as_bytes())));
    } else if let Some(cgroup) = &record.process.cgroup {
        lines.push(format!("cgroup    {}", Escaped(cgroup.as_bytes())));
    }
}

fn ends(record: &Record, lines: &mut Vec<String>) {
    let mut clock = LocalClock::new(jiff::tz::TimeZone::UTC);
    let mut of = |cell: fn(&mut Cell<'_>, &Record)| text(&mut clock, |out| cell(out, record));
    let local = of(fields::local);
    lines.push(format!(
        "local     {local}, {}",
        Scope::of(record.event.local_ip).name()
    ));
    if record.ports.remote.is_some() {
        let remote = of(fields::remote);
        lines.push(format!(
            "remote    {remote}, {}",
            Scope::of(record.event.remote_ip).name()
        ));
    }
    if let Some(service) = connections::service(record) {
        lines.push(format!("service   {service}, by its port (IANA)"));
    }
    if let Some(peer) = &record.peer {
        let name = Escaped(peer.comm.as_bytes());
        lines.push(format!("peer      {} {name}, on this host", peer.pid));
    }
}

fn judgement(record: &Record, lines: &mut Vec<String>) {
    let Some(judged) = &record.judgement else {
        return;
    };
    let says = if judged.is_violation() {
        "denies"
    } else {
        "allows"
    };
    match &judged.rule {
        Some(rule) => lines.push(format!(
            "policy    {says} it: rule {}",
            Escaped(rule.as_bytes())
        )),
        None => lines.push(format!("policy    {says} it: the default, no rule matches")),
    }
}

/// What shows the same elsewhere.
fn commands(record: &Record, model: &Model, lines: &mut Vec<String>) {
    let event = &record.event;
    let remote = event.remote_ip;
    if record.ports.remote.is_some() {
        lines.push(format!("port-monitor history --remote {remote} --since 1d"));
    }
    if let Some(port) = fields::service_port(record) {
        lines.push(format!("port-monitor service {}", port.port));
    }
    let policy = model
        .header
        .as_ref()
        .and_then(|header| header.policy.as_ref());
    if let (Some(policy), true) = (policy, record.ports.remote.is_some()) {
        lines.push(format!(
            "port-monitor policy explain {} --policy {}",
            asked(record),
            Quoted(policy)
        ));
    }
}

/// A connection as `policy explain` asks for it.
fn asked(record: &Record) -> String {
    let event = &record.event;
    let port = |ip: IpAddr, port: u16| match ip {
        IpAddr::V4(ip) => format!("{ip}:{port}"),
        IpAddr::V6(ip) => format!("[{ip}]:{port}"),
    };
    match event.direction() {
        Direction::Outbound => format!("out tcp {}", port(event.remote_ip, event.remote_port)),
        Direction::Inbound => {
            format!(
                "in tcp {}",
                port(event.remote_ip, event.local_port.unwrap_or(0))
            )
        }
    }
}
