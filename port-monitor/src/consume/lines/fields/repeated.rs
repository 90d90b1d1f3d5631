//! What a line for several rows shows in the columns that differ between rows
//! which repeat each other: `*` for the client's port, the longest times, the sums
//! of bytes and segments.

use super::{
    Cell, broken_rule, disorder, duration, handshake, local, local_end, local_port, outcome,
    remote, remote_end, remote_port, result, rtt,
};
use crate::events::{
    decode::{Action, Direction},
    record::{Endpoint, Record},
};

/// Before the longest of several times.
const AT_MOST: &str = "<=";

/// Nothing that rows which repeat would have to have in common.
pub(crate) const fn nothing(_: &mut Cell<'_>, _: &Record) {}

/// A value that is another one in each row.
pub(crate) fn anything(cell: &mut Cell<'_>, _: &Record) {
    cell.put("*");
}

/// An end without its port, which is a client's.
fn client(cell: &mut Cell<'_>, end: Endpoint) {
    cell.endpoint(Endpoint { port: None, ..end }, None);
}

pub(crate) fn common_local(cell: &mut Cell<'_>, record: &Record) {
    match record.event.direction() {
        Direction::Outbound => client(cell, local_end(&record.event)),
        Direction::Inbound => local(cell, record),
    }
}

pub(crate) fn common_remote(cell: &mut Cell<'_>, record: &Record) {
    match record.event.direction() {
        Direction::Outbound => remote(cell, record),
        Direction::Inbound if record.ports.remote.is_none() => cell.none(),
        Direction::Inbound => client(cell, remote_end(&record.event)),
    }
}

pub(crate) fn common_local_port(cell: &mut Cell<'_>, record: &Record) {
    match record.event.direction() {
        Direction::Outbound => cell.port(None),
        Direction::Inbound => local_port(cell, record),
    }
}

pub(crate) fn common_remote_port(cell: &mut Cell<'_>, record: &Record) {
    match record.event.direction() {
        Direction::Outbound => remote_port(cell, record),
        Direction::Inbound if record.ports.remote.is_none() => cell.none(),
        Direction::Inbound => cell.port(None),
    }
}

/// The words of a result.
pub(crate) fn common_result(cell: &mut Cell<'_>, record: &Record) {
    if let Action::Connected { .. } = record.event.action {
        cell.put("ok");
        broken_rule(cell, record);
    } else if let Some(close) = record.event.action.close() {
        cell.put(disorder(close.closed_by).trim_ascii_start());
        broken_rule(cell, record);
    } else if let Action::Progress(_) = record.event.action {
        cell.put("open");
        broken_rule(cell, record);
    } else {
        result(cell, record);
    }
}

pub(crate) fn merged_result(cell: &mut Cell<'_>, record: &Record) {
    outcome(cell, record, AT_MOST);
}

pub(crate) fn merged_handshake(cell: &mut Cell<'_>, record: &Record) {
    if let Action::Connected { .. } = record.event.action {
        cell.put(AT_MOST);
    }
    handshake(cell, record);
}

pub(crate) fn merged_duration(cell: &mut Cell<'_>, record: &Record) {
    let close = record.event.action.carried();
    if close.is_some_and(|close| close.duration_ns.is_some()) {
        cell.put(AT_MOST);
    }
    duration(cell, record);
}

pub(crate) fn merged_rtt(cell: &mut Cell<'_>, record: &Record) {
    let close = record.event.action.carried();
    if close.is_some_and(|close| close.rtt_us.is_some()) {
        cell.put(AT_MOST);
    }
    rtt(cell, record);
}
