//! What a connection has carried, at its end or so far, and how it ended.

use port_monitor_common::event::ClosedBy;

use crate::{
    consume::lines::cell::Cell,
    events::{decode::Close, record::Record, wire::words::Spelled as _},
};

/// Writes what a connection has carried, at its end or so far, or `-` where nothing says.
fn of_carried(cell: &mut Cell<'_>, record: &Record, write: impl FnOnce(&mut Cell<'_>, &Close)) {
    match record.event.action.carried() {
        Some(carried) => write(cell, carried),
        None => cell.none(),
    }
}

/// Writes a fact of a connection's end, or `-` when it has not ended.
fn of_close(cell: &mut Cell<'_>, record: &Record, write: impl FnOnce(&mut Cell<'_>, &Close)) {
    match record.event.action.close() {
        Some(close) => write(cell, close),
        None => cell.none(),
    }
}

pub(crate) fn duration(cell: &mut Cell<'_>, record: &Record) {
    of_carried(cell, record, |cell, close| match close.duration_ns {
        Some(ns) => cell.number(ns / 1_000),
        None => cell.unknown(),
    });
}

pub(crate) fn bytes_in(cell: &mut Cell<'_>, record: &Record) {
    of_carried(cell, record, |cell, close| {
        cell.number(close.bytes_received);
    });
}

pub(crate) fn bytes_out(cell: &mut Cell<'_>, record: &Record) {
    of_carried(cell, record, |cell, close| cell.number(close.bytes_sent));
}

pub(crate) fn retransmits(cell: &mut Cell<'_>, record: &Record) {
    of_carried(cell, record, |cell, close| cell.number(close.retransmits));
}

pub(crate) fn rtt(cell: &mut Cell<'_>, record: &Record) {
    of_carried(cell, record, |cell, close| match close.rtt_us {
        Some(rtt_us) => cell.number(rtt_us),
        None => cell.none(),
    });
}

pub(crate) fn closed_by(cell: &mut Cell<'_>, record: &Record) {
    of_close(cell, record, |cell, close| match close.closed_by {
        ClosedBy::Unknown => cell.unknown(),
        by => cell.put(by.word()),
    });
}

pub(crate) fn closing_pid(cell: &mut Cell<'_>, record: &Record) {
    of_close(cell, record, |cell, close| match close.closing_pid {
        Some(pid) => cell.number(pid),
        None => cell.none(),
    });
}

/// `8.1s 1.2K out 84K in`, and what ended it where that was not orderly.
pub(crate) fn ending(cell: &mut Cell<'_>, close: &Close, before_time: &str) {
    match close.duration_ns {
        Some(ns) => {
            cell.put(before_time);
            cell.duration_us(ns / 1_000);
        }
        None => cell.unknown(),
    }
    cell.put(" ");
    cell.size(close.bytes_sent);
    cell.put(" out ");
    cell.size(close.bytes_received);
    cell.put(" in");
    cell.put(disorder(close.closed_by));
}

/// What ended a connection where that was not orderly.
pub(crate) const fn disorder(closed_by: ClosedBy) -> &'static str {
    match closed_by {
        ClosedBy::PeerReset => " reset by peer",
        ClosedBy::LocalReset => " reset",
        ClosedBy::Timeout => " timed out",
        ClosedBy::TakenAway => " taken away",
        ClosedBy::Unknown | ClosedBy::Local | ClosedBy::Peer => "",
    }
}
