//! The columns of connections and of listeners.

use super::sheet::{By, Column, Looks};
use crate::{
    consume::{
        join::{Connection, State},
        lines::{
            cell::Cell,
            fields::{self, unended},
            width::{WITH_BOTH_ENDS, WITH_PID},
        },
        listeners::uses::Scope,
        top::model::{Group, Key, Mark, Model},
    },
    events::{
        decode::Direction,
        record::{Record, ServiceStatus},
    },
};

type Row = Connection<Mark>;

/// Columns of a screen that are only beside all others.
const WITH_RATES: usize = 140;

/// Columns of a screen from which on the sums of bytes leave room for the state.
const WITH_BYTES: usize = 114;

/// The columns of connections.
pub(super) const CONNECTIONS: &[Column<Row>] = &[
    Column::text("BEGAN", [8, 8, 8], 100, began, |cell, row, _| {
        cell.time_of_day(row.began_ns);
    })
    .number(),
    Column::text(
        "DIR",
        [3, 3, 3],
        0,
        |row, _| By::Number(is_inbound(&row.record).into()),
        |cell, row, _| {
            cell.put(if is_inbound(&row.record) { "<-" } else { "->" });
        },
    ),
    Column::text("PID", [6, 6, 7], WITH_PID, pid, |cell, row, _| {
        fields::pid(cell, &row.record);
    }),
    Column::text("PROCESS", [8, 9, 15], 0, process, |cell, row, _| {
        fields::process(cell, &row.record);
    }),
    Column::text("USER", [10, 10, 10], 125, user, |cell, row, _| {
        fields::user(cell, &row.record);
    }),
    Column::text("UNIT", [20, 20, 24], 176, unit, |cell, row, _| {
        fields::unit(cell, &row.record);
    }),
    Column::text(
        "LOCAL",
        [15, 18, 22],
        WITH_BOTH_ENDS,
        local,
        |cell, row, _| {
            fields::local(cell, &row.record);
        },
    ),
    Column::text("REMOTE", [18, 25, 32], 0, remote, |cell, row, _| {
        fields::remote(cell, &row.record);
    }),
    Column::text(
        "IN/s",
        [6, 6, 6],
        WITH_RATES,
        |row: &Row, _| By::Number(row.mark.rate.received_a_second.into()),
        |cell, row, _| rate(cell, row, row.mark.rate.received_a_second),
    )
    .number(),
    Column::text(
        "OUT/s",
        [6, 6, 6],
        WITH_RATES,
        |row: &Row, _| By::Number(row.mark.rate.sent_a_second.into()),
        |cell, row, _| rate(cell, row, row.mark.rate.sent_a_second),
    )
    .number(),
    Column::text(
        "IN",
        [6, 6, 6],
        WITH_BYTES,
        |row, _| By::Number(carried(row).0.into()),
        |cell, row, _| {
            bytes(cell, row, carried(row).0);
        },
    )
    .number(),
    Column::text(
        "OUT",
        [6, 6, 6],
        WITH_BYTES,
        |row, _| By::Number(carried(row).1.into()),
        |cell, row, _| {
            bytes(cell, row, carried(row).1);
        },
    )
    .number(),
    Column::text("STATE", [9, 24, 24], 0, state, |cell, row, _| {
        how(cell, row);
    })
    .descending(),
];

/// The columns of listeners.
pub(super) const LISTENERS: &[Column<Row>] = &[
    Column::text("LISTENS AT", [21, 24, 36], 0, local, |cell, row, _| {
        fields::local(cell, &row.record);
    }),
    Column::text(
        "SCOPE",
        [8, 8, 8],
        0,
        |row, _| By::Text(scope(row).to_owned()),
        |cell, row, _| {
            cell.put(scope(row));
        },
    ),
    Column::text("PID", [6, 6, 7], WITH_PID, pid, |cell, row, _| {
        fields::pid(cell, &row.record);
    }),
    Column::text("PROCESS", [8, 12, 15], 0, process, |cell, row, _| {
        fields::process(cell, &row.record);
    }),
    Column::text("USER", [8, 10, 10], WITH_BOTH_ENDS, user, |cell, row, _| {
        fields::user(cell, &row.record);
    }),
    Column::text("UNIT", [20, 20, 24], 110, unit, |cell, row, _| {
        fields::unit(cell, &row.record);
    }),
    Column::text(
        "OPEN",
        [5, 6, 6],
        WITH_PID,
        |row, model| of_port(row, model, |g| g.tally.open),
        |cell, row, model| {
            number(cell, row, model, |group| group.tally.open);
        },
    )
    .number(),
    Column::text(
        "CAME",
        [6, 8, 8],
        0,
        |row, model| of_port(row, model, |g| g.tally.all),
        |cell, row, model| {
            number(cell, row, model, |group| group.tally.all);
        },
    )
    .number(),
    Column::text(
        "LAST",
        [8, 8, 8],
        WITH_BOTH_ENDS,
        |row, model| By::Number(came(row, model).map_or(0, |group| group.last_ns)),
        |cell, row, model| match came(row, model) {
            Some(group) => cell.time_of_day(group.last_ns),
            None => cell.none(),
        },
    )
    .number(),
    Column::text(
        "POLICY",
        [8, 10, 16],
        100,
        |row, _| By::Text(verdict_of(row)),
        |cell, row, _| match row.record.judgement {
            Some(_) if row.record.is_violation() => fields::rule(cell, &row.record),
            Some(_) => cell.put("ok"),
            None => cell.none(),
        },
    ),
];

/// How a row looks.
pub(super) fn looks(row: &Row, _: &Model) -> Looks {
    if row.record.is_violation() {
        Looks::Violation
    } else if row.state == State::Failed {
        Looks::Failed
    } else if row.state.is_open() {
        Looks::Plain
    } else {
        Looks::Over
    }
}

fn is_inbound(record: &Record) -> bool {
    record.event.direction() == Direction::Inbound
}

fn began(row: &Row, _: &Model) -> By {
    By::Number(row.began_ns)
}

fn pid(row: &Row, _: &Model) -> By {
    let owner = row.record.event.owner.as_ref();
    By::Number(owner.map_or(-1, |owner| owner.pid.into()))
}

fn process(row: &Row, _: &Model) -> By {
    By::Name(row.record.process_name().unwrap_or_default().0)
}

fn user(row: &Row, _: &Model) -> By {
    By::Text(
        row.record
            .process
            .user
            .as_deref()
            .unwrap_or_default()
            .to_owned(),
    )
}

fn unit(row: &Row, _: &Model) -> By {
    By::Text(
        row.record
            .process
            .unit
            .as_deref()
            .unwrap_or_default()
            .to_owned(),
    )
}

fn local(row: &Row, _: &Model) -> By {
    let event = &row.record.event;
    By::End(event.local_ip, event.local_port.unwrap_or(0))
}

fn remote(row: &Row, _: &Model) -> By {
    let event = &row.record.event;
    By::End(event.remote_ip, event.remote_port)
}

/// What it has carried: received, sent.
fn carried(row: &Row) -> (u64, u64) {
    let carried = row.record.event.action.carried();
    carried.map_or((0, 0), |so_far| (so_far.bytes_received, so_far.bytes_sent))
}

fn bytes(cell: &mut Cell<'_>, row: &Row, bytes: u64) {
    match row.record.event.action.carried() {
        Some(_) => cell.size(bytes),
        None => cell.none(),
    }
}

fn rate(cell: &mut Cell<'_>, row: &Row, bytes: u64) {
    if row.state.is_open() && row.record.event.action.carried().is_some() {
        cell.size(bytes);
    } else {
        cell.none();
    }
}

fn state(row: &Row, _: &Model) -> By {
    let rank: i128 = match row.state {
        State::Open => 0,
        State::Attempted => 1,
        State::Failed => 2,
        State::Closed => 3,
        State::CutOff => 4,
        State::PushedOut => 5,
    };
    // Of those that stand alike, the latest first.
    By::Number((5 - rank) << 96 | row.began_ns)
}

/// How it stands.
pub(super) fn how(cell: &mut Cell<'_>, row: &Row) {
    match row.state {
        State::CutOff => unended(cell, &row.record, "cut off"),
        State::PushedOut => unended(cell, &row.record, "forgotten"),
        State::Attempted | State::Open | State::Failed | State::Closed => {
            fields::how_it_went(cell, &row.record, "");
            fields::broken_rule(cell, &row.record);
        }
    }
}

fn scope(row: &Row) -> &'static str {
    Scope::of(row.record.event.local_ip).name()
}

/// What came to the port of a listener.
fn came<'m>(row: &Row, model: &'m Model) -> Option<&'m Group> {
    let port = row.record.event.local_port;
    model.services.get(&Key::Service(false, port))
}

fn of_port(row: &Row, model: &Model, of: fn(&Group) -> u64) -> By {
    By::Number(came(row, model).map_or(0, of).into())
}

fn number(cell: &mut Cell<'_>, row: &Row, model: &Model, of: fn(&Group) -> u64) {
    cell.number(came(row, model).map_or(0, of));
}

fn verdict_of(row: &Row) -> String {
    let judgement = row.record.judgement.as_ref();
    let rule = judgement.and_then(|judged| judged.rule.as_deref());
    rule.unwrap_or_default().to_owned()
}

/// The name of the service at a connection's service port.
pub(super) fn service(record: &Record) -> Option<&'static str> {
    let port = fields::service_port(record)?;
    let (name, _) = port.service?;
    (port.status == ServiceStatus::Assigned).then_some(name)
}
