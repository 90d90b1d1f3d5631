//! Rows back to joined connections.

use std::{
    collections::HashMap,
    ffi::OsString,
    net::{IpAddr, Ipv6Addr},
    os::unix::ffi::OsStringExt as _,
    sync::Arc,
};

use port_monitor_common::{
    event::{ClosedBy, OwnerSource},
    policy::Verdict,
    tcp_state::TcpState,
};
use rusqlite::{Connection as Db, Row, types::ValueRef};

use crate::{
    consume::{
        history::rows::{INBOUND, V4_MAPPED},
        join::{Beginning, Connection, State},
    },
    events::{
        decode::{Action, Close, Comm, Direction, Event, Listener, Owner},
        record::{Field, Judgement, Missing, Ports, Process, Record},
        wire::words::{Reason, Spelled as _},
    },
    host::container::container,
};

/// Owners and runs that are remembered.
const ROOM: usize = 16_384;

/// The columns that [`from_row`] reads.
pub(super) const COLUMNS: &str = "c.id, c.number, c.owner, c.beginning, c.state, c.flags,
    c.local_ip, c.local_port, c.remote_ip, c.remote_port, c.ifindex, c.handshake_us,
    c.duration_ns, c.sent, c.received, c.retransmits, c.rtt_us, c.closed_by, c.closing_pid,
    c.errno, c.verdict, (SELECT text FROM texts WHERE id = c.rule)";

const OWNER: &str = "SELECT o.run, o.netns, o.pid, o.source, o.start_ns, o.uid, o.gid,
    o.cgroup_id, process.text, exe.text, user.text, cgroup.text, unit.text, missing.text, r.host,
    r.policy FROM owners o JOIN runs r ON r.id = o.run
    LEFT JOIN texts process ON process.id = o.process LEFT JOIN texts exe ON exe.id = o.exe
    LEFT JOIN texts user ON user.id = o.user LEFT JOIN texts cgroup ON cgroup.id = o.cgroup
    LEFT JOIN texts unit ON unit.id = o.unit LEFT JOIN texts missing ON missing.id = o.missing
    WHERE o.id = ?1";

/// A connection out of a history. What that does not keep is not there, or zero: threads,
/// parents, processors, times since boot. Its time is that of its beginning.
pub type Kept = Connection<Of>;

/// Where a connection was found.
#[derive(Clone, Debug)]
pub struct Of {
    /// Its row.
    pub(super) row: i64,
    /// The run that saw it.
    pub run: Arc<Run>,
}

/// A run of the monitor.
#[derive(Debug)]
pub struct Run {
    /// The host name at the time.
    pub host: String,
    /// The policy file.
    pub policy: Option<String>,
}

/// Whose connections are, as far as it was asked for.
#[derive(Debug, Default)]
pub(super) struct Owners {
    known: HashMap<i64, Known>,
    runs: HashMap<i64, Arc<Run>>,
}

#[derive(Clone, Debug)]
struct Known {
    run: Arc<Run>,
    netns: u32,
    owner: Option<Owner>,
    process: Arc<Process>,
}

impl Owners {
    fn get(&mut self, db: &Db, id: i64) -> rusqlite::Result<Known> {
        if let Some(known) = self.known.get(&id) {
            return Ok(known.clone());
        }
        if self.known.len() >= ROOM {
            self.known.clear();
        }
        let mut statement = db.prepare_cached(OWNER)?;
        let known = statement.query_row([id], |row| self.read(row))?;
        self.known.insert(id, known.clone());
        Ok(known)
    }

    fn read(&mut self, row: &Row<'_>) -> rusqlite::Result<Known> {
        let run = row.get(0)?;
        let run = if let Some(known) = self.runs.get(&run) {
            Arc::clone(known)
        } else {
            let (host, policy) = (row.get(14)?, row.get(15)?);
            let new = Arc::new(Run { host, policy });
            self.runs.insert(run, Arc::clone(&new));
            new
        };
        let missing = text(row, 13)?.and_then(|word| missing(&word));
        Ok(Known {
            run,
            netns: row.get(1)?,
            owner: owner(row, missing)?,
            process: Arc::new(process(row, missing)?),
        })
    }
}

fn owner(row: &Row<'_>, missing: Option<Missing>) -> rusqlite::Result<Option<Owner>> {
    let Some(pid) = row.get::<_, Option<u32>>(2)? else {
        return Ok(None);
    };
    let name = Comm::of(&bytes(row, 8)?.unwrap_or_default());
    Ok(Some(Owner {
        source: OwnerSource::from_raw(row.get(3)?).unwrap_or(OwnerSource::Unknown),
        pid,
        tid: 0,
        start_ns: row.get::<_, i64>(4)?.cast_unsigned(),
        comm: name,
        process_comm: name,
        uid: row.get(5)?,
        gid: row.get(6)?,
        cgroup_id: row.get::<_, i64>(7)?.cast_unsigned(),
        exe: None,
        is_kernel: missing == Some(Missing::KernelThread),
    }))
}

fn process(row: &Row<'_>, missing: Option<Missing>) -> rusqlite::Result<Process> {
    let exe = bytes(row, 9)?.map(|path| OsString::from_vec(path).into());
    let cgroup = text(row, 11)?;
    Ok(Process {
        exe: match exe {
            Some(path) => Field::Known(path),
            None => Field::Missing(missing.unwrap_or(Missing::NoOwner)),
        },
        parent: None,
        args: None,
        user: text(row, 10)?.map(Into::into),
        container: cgroup.as_deref().and_then(container),
        cgroup: cgroup.map(Into::into),
        unit: text(row, 12)?.map(Into::into),
        user_missing: None,
        container_missing: None,
    })
}

/// The connection of a row of [`COLUMNS`].
pub(super) fn from_row(db: &Db, owners: &mut Owners, row: &Row<'_>) -> rusqlite::Result<Kept> {
    let known = owners.get(db, row.get(2)?)?;
    let id: i64 = row.get(0)?;
    let (beginning, state) = (beginning(row.get(3)?), state(row.get(4)?));
    let handshake_us = row.get(11)?;
    let event = event(row, &known, (beginning, state, handshake_us))?;
    let record = Record {
        event,
        wall_ns: id.into(),
        process: known.process,
        peer: None,
        ports: Ports {
            local: None,
            remote: None,
        },
        judgement: judgement(row)?,
    };
    Ok(Connection {
        beginning,
        began_ns: id.into(),
        is_dated: !matches!(beginning, Beginning::Unseen | Beginning::Preexisting),
        state,
        handshake_us,
        events: 0,
        record,
        mark: Of {
            row: id,
            run: known.run,
        },
    })
}

fn event(
    row: &Row<'_>,
    known: &Known,
    (beginning, state, handshake_us): (Beginning, State, Option<u32>),
) -> rusqlite::Result<Event> {
    let flags: i64 = row.get(5)?;
    let direction = if flags & INBOUND == 0 {
        Direction::Outbound
    } else {
        Direction::Inbound
    };
    let carried = carried(row, direction)?;
    let action = match state {
        State::Attempted => Action::Connect,
        State::Failed => Action::Failed {
            errno: row.get(19)?,
        },
        State::Closed => Action::Close(carried.unwrap_or(Close::new(direction, ClosedBy::Unknown))),
        State::Open | State::CutOff | State::PushedOut => match carried {
            Some(carried) => Action::Progress(carried),
            None => last_told(beginning, direction, handshake_us),
        },
    };
    Ok(Event {
        action,
        id: row.get::<_, i64>(1)?.cast_unsigned(),
        ts_ns: 0,
        cpu: 0,
        owner: known.owner,
        listener: Listener::default(),
        local_ip: ip_of(row, 6)?,
        local_port: row.get(7)?,
        remote_ip: ip_of(row, 8)?,
        remote_port: row.get(9)?,
        v4_mapped: flags & V4_MAPPED != 0,
        netns_ino: known.netns,
        ifindex: row.get(10)?,
        preattach: false,
        ended: false,
        self_test: false,
        stamp: None,
        policy: 0,
    })
}

fn carried(row: &Row<'_>, direction: Direction) -> rusqlite::Result<Option<Close>> {
    let Some(sent) = row.get::<_, Option<i64>>(13)? else {
        return Ok(None);
    };
    let closed_by = row.get::<_, Option<u8>>(17)?.and_then(ClosedBy::from_raw);
    Ok(Some(Close {
        direction,
        duration_ns: row.get::<_, Option<i64>>(12)?.map(i64::cast_unsigned),
        bytes_received: row.get::<_, Option<i64>>(14)?.unwrap_or(0).cast_unsigned(),
        bytes_sent: sent.cast_unsigned(),
        retransmits: row.get::<_, Option<u32>>(15)?.unwrap_or(0),
        rtt_us: row.get(16)?,
        closed_by: closed_by.unwrap_or(ClosedBy::Unknown),
        closing_pid: row.get(18)?,
        errno: row.get(19)?,
    }))
}

/// The last that was told of a connection whose end was not, and that has told of no bytes.
const fn last_told(
    beginning: Beginning,
    direction: Direction,
    handshake_us: Option<u32>,
) -> Action {
    match (beginning, direction) {
        (Beginning::Restored, _) => Action::Restored,
        (Beginning::Preexisting, _) => Action::Preexisting {
            direction,
            state: TcpState::ESTABLISHED,
            duration_ns: None,
        },
        (Beginning::Attempt, _) if handshake_us.is_none() => Action::Connect,
        (_, Direction::Outbound) => Action::Connected { handshake_us },
        (_, Direction::Inbound) => Action::Accept,
    }
}

fn judgement(row: &Row<'_>) -> rusqlite::Result<Option<Judgement>> {
    let Some(verdict) = row.get::<_, Option<i64>>(20)? else {
        return Ok(None);
    };
    let verdict = match verdict {
        0 => Verdict::Allow,
        1 => Verdict::Deny,
        _ => Verdict::AuditDeny,
    };
    let rule = text(row, 21)?.map(Into::into);
    Ok(Some(Judgement::of(verdict, rule)))
}

fn beginning(number: i64) -> Beginning {
    match number {
        1 => Beginning::Attempt,
        2 => Beginning::Inbound,
        3 => Beginning::Restored,
        4 => Beginning::Preexisting,
        _ => Beginning::Unseen,
    }
}

fn state(number: i64) -> State {
    match number {
        0 => State::Attempted,
        1 => State::Open,
        2 => State::Failed,
        3 => State::Closed,
        4 => State::CutOff,
        _ => State::PushedOut,
    }
}

/// Why there is no executable, by its word.
fn missing(word: &str) -> Option<Missing> {
    [
        Missing::NoOwner,
        Missing::Shared,
        Missing::Unheld,
        Missing::Exited,
        Missing::Executed,
        Missing::Denied,
        Missing::KernelThread,
        Missing::Late,
    ]
    .into_iter()
    .find(|reason| Reason::from(*reason).word() == word)
}

fn bytes(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Vec<u8>>> {
    Ok(match row.get_ref(at)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes.to_vec()),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => None,
    })
}

/// A text; of bytes that are none, as near as it gets.
pub(in crate::consume::history) fn text(
    row: &Row<'_>,
    at: usize,
) -> rusqlite::Result<Option<String>> {
    Ok(match row.get_ref(at)? {
        ValueRef::Integer(number) => Some(number.to_string()),
        _ => bytes(row, at)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    })
}

/// The address of so many bytes.
pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => Some(v4.into()),
        Err(_) => <[u8; 16]>::try_from(bytes).ok().map(Into::into),
    }
}

/// An address; the unspecified one where it is none.
pub(in crate::consume::history) fn ip_of(row: &Row<'_>, at: usize) -> rusqlite::Result<IpAddr> {
    let bytes = row.get_ref(at)?.as_blob()?;
    Ok(ip(bytes).unwrap_or(Ipv6Addr::UNSPECIFIED.into()))
}
