//! Joined connections to rows: numbers for words, blobs for addresses.

use std::net::IpAddr;

use port_monitor_common::policy::Verdict;
use rusqlite::{CachedStatement, Connection, ErrorCode, params};

use super::names::Names;
use crate::{
    consume::join::{self, Beginning, State},
    events::{
        decode::{Action, Direction},
        record::Record,
    },
};

const INSERT_CONNECTION: &str = "INSERT INTO connection_rows (id, number, owner, beginning,
    state, flags, local_ip, local_port, remote_ip, remote_port, ifindex, service, handshake_us,
    duration_ns, sent, received, retransmits, rtt_us, closed_by, closing_pid, errno, verdict,
    rule) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
    ?18, ?19, ?20, ?21, ?22, ?23)";

const UPDATE_CONNECTION: &str = "UPDATE connection_rows SET number = ?2, owner = ?3,
    beginning = ?4, state = ?5, flags = ?6, local_ip = ?7, local_port = ?8, remote_ip = ?9,
    remote_port = ?10, ifindex = ?11, service = ?12, handshake_us = ?13, duration_ns = ?14,
    sent = ?15, received = ?16, retransmits = ?17, rtt_us = ?18, closed_by = ?19,
    closing_pid = ?20, errno = ?21, verdict = ?22, rule = ?23 WHERE id = ?1";

const INSERT_LISTENER: &str = "INSERT INTO listener_rows (id, number, owner, beginning, state,
    flags, local_ip, local_port, ifindex, service, ended_ns, verdict, rule)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";

const UPDATE_LISTENER: &str = "UPDATE listener_rows SET number = ?2, owner = ?3, beginning = ?4,
    state = ?5, flags = ?6, local_ip = ?7, local_port = ?8, ifindex = ?9, service = ?10,
    ended_ns = ?11, verdict = ?12, rule = ?13 WHERE id = ?1";

/// Of [`flags`]: a peer opened it.
pub(super) const INBOUND: i64 = 1;
/// Of [`flags`]: an IPv6 socket that speaks IPv4.
pub(super) const V4_MAPPED: i64 = 2;

/// What a row says by the numbers of texts and owners.
struct Named {
    owner: i64,
    service: Option<i64>,
    rule: Option<i64>,
}

impl Named {
    fn of(db: &Connection, names: &mut Names, record: &Record) -> rusqlite::Result<Self> {
        let judgement = record.judgement.as_ref();
        let rule = judgement.and_then(|judgement| judgement.rule.as_deref());
        let mut text = |text: Option<&str>| {
            let text = text.map(|text| names.text(db, text.as_bytes()));
            text.transpose()
        };
        Ok(Self {
            service: text(service(record))?,
            rule: text(rule)?,
            owner: names.owner(db, record)?,
        })
    }
}

/// The name of the service: of the remote port outbound, of the local one inbound.
fn service(record: &Record) -> Option<&'static str> {
    let port = match record.event.direction() {
        Direction::Outbound => record.ports.remote,
        Direction::Inbound => record.ports.local,
    };
    port?.service.map(|(name, _)| name)
}

/// Writes a connection or a listener over its `row`, or as a new one; the row's number.
pub(super) fn save<M>(
    db: &Connection,
    names: &mut Names,
    connection: &join::Connection<M>,
    row: Option<i64>,
) -> rusqlite::Result<i64> {
    let said = Named::of(db, names, &connection.record)?;
    let began = wall_ns(connection.began_ns);
    let (insert, update) = if connection.is_listener() {
        (INSERT_LISTENER, UPDATE_LISTENER)
    } else {
        (INSERT_CONNECTION, UPDATE_CONNECTION)
    };
    let run = |statement: &mut CachedStatement<'_>, id| {
        if connection.is_listener() {
            run_listener(statement, connection, &said, id)
        } else {
            run_connection(statement, connection, &said, id)
        }
    };
    if let Some(id) = row {
        let changed = run(&mut db.prepare_cached(update)?, id)?;
        // What is as old as that may be forgotten already.
        if changed > 0 {
            return Ok(id);
        }
    }
    let mut statement = db.prepare_cached(insert)?;
    let mut id = began;
    loop {
        match run(&mut statement, id) {
            Ok(_) => return Ok(id),
            // Another one began in the same ns.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                id += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

fn run_connection<M>(
    statement: &mut CachedStatement<'_>,
    connection: &join::Connection<M>,
    named: &Named,
    id: i64,
) -> rusqlite::Result<usize> {
    let event = &connection.record.event;
    let carried = event.action.carried();
    let errno = match event.action {
        Action::Failed { errno } => errno,
        _ => carried.and_then(|carried| carried.errno),
    };
    statement.execute(params![
        id,
        event.id.cast_signed(),
        named.owner,
        beginning(connection.beginning),
        state(connection.state),
        flags(&connection.record),
        Address::of(event.local_ip).as_bytes(),
        event.local_port,
        Address::of(event.remote_ip).as_bytes(),
        event.remote_port,
        event.ifindex,
        named.service,
        connection.handshake_us,
        carried
            .and_then(|carried| carried.duration_ns)
            .map(u64::cast_signed),
        carried.map(|carried| carried.bytes_sent.cast_signed()),
        carried.map(|carried| carried.bytes_received.cast_signed()),
        carried.map(|carried| carried.retransmits),
        carried.and_then(|carried| carried.rtt_us),
        carried.map(|carried| carried.closed_by as u8),
        carried.and_then(|carried| carried.closing_pid),
        errno,
        verdict(&connection.record),
        named.rule,
    ])
}

fn run_listener<M>(
    statement: &mut CachedStatement<'_>,
    listener: &join::Connection<M>,
    named: &Named,
    id: i64,
) -> rusqlite::Result<usize> {
    let event = &listener.record.event;
    let has_ended = matches!(event.action, Action::Unlisten);
    statement.execute(params![
        id,
        event.id.cast_signed(),
        named.owner,
        beginning(listener.beginning),
        state(listener.state),
        flags(&listener.record),
        Address::of(event.local_ip).as_bytes(),
        event.local_port,
        event.ifindex,
        named.service,
        has_ended.then(|| wall_ns(listener.record.wall_ns)),
        verdict(&listener.record),
        named.rule,
    ])
}

/// An address as its bytes.
enum Address {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Address {
    const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::V4(ip.octets()),
            IpAddr::V6(ip) => Self::V6(ip.octets()),
        }
    }

    const fn as_bytes(&self) -> &[u8] {
        match self {
            Self::V4(bytes) => bytes,
            Self::V6(bytes) => bytes,
        }
    }
}

/// A time that fits into a row: until the year 2255, so that later ones fit too.
pub(super) fn wall_ns(wall_ns: i128) -> i64 {
    const LAST_NS: i64 = 9_000_000_000_000_000_000;
    let last = if wall_ns < 0 { -LAST_NS } else { LAST_NS };
    let within = i64::try_from(wall_ns).ok();
    within
        .filter(|ns| ns.unsigned_abs() < LAST_NS.unsigned_abs())
        .unwrap_or(last)
}

const fn beginning(beginning: Beginning) -> i64 {
    match beginning {
        Beginning::Unseen => 0,
        Beginning::Attempt => 1,
        Beginning::Inbound => 2,
        Beginning::Restored => 3,
        Beginning::Preexisting => 4,
    }
}

/// The number of a state in a row.
pub(super) const fn state(state: State) -> i64 {
    match state {
        State::Attempted => 0,
        State::Open => 1,
        State::Failed => 2,
        State::Closed => 3,
        State::CutOff => 4,
        State::PushedOut => 5,
    }
}

fn flags(record: &Record) -> i64 {
    let direction = match record.event.direction() {
        Direction::Outbound => 0,
        Direction::Inbound => INBOUND,
    };
    direction | if record.event.v4_mapped { V4_MAPPED } else { 0 }
}

fn verdict(record: &Record) -> Option<i64> {
    let judgement = record.judgement.as_ref()?;
    Some(match judgement.verdict {
        Verdict::Allow => 0,
        Verdict::Deny => 1,
        Verdict::AuditDeny => 2,
    })
}
