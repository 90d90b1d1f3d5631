//! The columns of processes, services, remotes and rules.

use super::{
    sheet::{By, Column, Looks},
    spark::spark,
};
use crate::consume::{
    lines::{cell::Cell, width::WITH_BOTH_ENDS},
    top::model::{Group, Key, Model, Tally},
};

const fn count(
    name: &'static str,
    widths: [usize; 3],
    from: usize,
    by: fn(&Group, &Model) -> By,
    write: fn(&mut Cell<'_>, &Group, &Model),
) -> Column<Group> {
    Column::text(name, widths, from, by, write).number()
}

/// A column of the tally.
macro_rules! tally {
    ($name:literal, $widths:expr, $from:expr, $field:ident) => {
        count(
            $name,
            $widths,
            $from,
            |group, _| By::Number(group.tally.$field.into()),
            |cell, group, _| cell.number(group.tally.$field),
        )
    };
}

/// A column of bytes.
macro_rules! bytes {
    ($name:literal, $from:expr, $field:ident) => {
        count(
            $name,
            [6, 7, 8],
            $from,
            |group, _| By::Number(group.tally.$field.into()),
            |cell, group, _| cell.size(group.tally.$field),
        )
    };
}

const LAST: Column<Group> = count(
    "LAST",
    [8, 8, 8],
    70,
    |group, _| By::Number(group.last_ns),
    |cell, group, _| cell.time_of_day(group.last_ns),
);

/// The columns of processes.
pub(super) const PROCESSES: &[Column<Group>] = &[
    Column::text("PID", [6, 7, 7], 0, pid, |cell, group, _| {
        match group.owner {
            Some(owner) => cell.number(owner.pid),
            None => cell.unknown(),
        }
    }),
    Column::text(
        "PROCESS",
        [9, 15, 15],
        0,
        name,
        |cell, group, _| match group.owner {
            Some(owner) if owner.process_comm.as_bytes().is_empty() => cell.none(),
            Some(owner) => cell.name(owner.process_comm.as_bytes()),
            None => cell.unknown(),
        },
    ),
    Column::text(
        "USER",
        [8, 10, 10],
        WITH_BOTH_ENDS,
        user,
        |cell, group, _| match (&group.process.user, group.owner) {
            (Some(user), _) => cell.name(user.as_bytes()),
            (None, Some(owner)) => cell.number(owner.uid),
            (None, None) => cell.unknown(),
        },
    ),
    Column::text(
        "UNIT",
        [20, 24, 28],
        110,
        unit,
        |cell, group, _| match &group.process.unit {
            Some(unit) => cell.name(unit.as_bytes()),
            None => cell.none(),
        },
    ),
    OPEN,
    ALL,
    FAILED,
    VIOLATIONS,
    RECEIVED,
    SENT,
    LAST,
];

const OPEN: Column<Group> = count(
    "OPEN",
    [5, 6, 7],
    0,
    |group, _| By::Number(i128::from(group.tally.open) << 64 | i128::from(group.tally.all)),
    |cell, group, _| cell.number(group.tally.open),
);
const ALL: Column<Group> = tally!("ALL", [6, 8, 9], 0, all);
const FAILED: Column<Group> = tally!("FAILED", [6, 7, 8], 56, failed);
const VIOLATIONS: Column<Group> = tally!("VIOL", [5, 6, 7], 62, violations);
const RECEIVED: Column<Group> = bytes!("IN", 48, received);
const SENT: Column<Group> = bytes!("OUT", 48, sent);

/// The columns of services.
pub(super) const SERVICES: &[Column<Group>] = &[
    Column::text(
        "DIR",
        [3, 3, 3],
        0,
        |group, _| By::Number(is_outbound(group).into()),
        |cell, group, _| {
            cell.put(if is_outbound(group) { "->" } else { "<-" });
        },
    ),
    Column::text(
        "PORT",
        [5, 5, 5],
        0,
        |group, _| By::Number(port(group).map_or(-1, Into::into)),
        |cell, group, _| match port(group) {
            Some(port) => cell.number(port),
            None => cell.unknown(),
        },
    ),
    Column::text(
        "SERVICE",
        [10, 16, 24],
        0,
        |group, _| By::Text(group.service.unwrap_or_default().to_owned()),
        |cell, group, _| match group.service {
            Some(name) => cell.name(name.as_bytes()),
            None => cell.none(),
        },
    ),
    OPEN,
    ALL,
    FAILED,
    VIOLATIONS,
    RECEIVED,
    SENT,
    LAST,
];

/// The columns of remotes.
pub(super) const REMOTES: &[Column<Group>] = &[
    Column::text(
        "REMOTE",
        [16, 24, 39],
        0,
        |group, _| match group.key {
            Key::Remote(ip) | Key::Network(ip, _) => By::End(ip, 0),
            _ => By::Number(0),
        },
        |cell, group, _| match group.key {
            Key::Remote(ip) => cell.ip(ip),
            Key::Network(first, prefix) => cell.display(&format_args!("{first}/{prefix}")),
            _ => {}
        },
    ),
    OPEN,
    ALL,
    FAILED,
    VIOLATIONS,
    RECEIVED,
    SENT,
    LAST,
];

/// The columns of rules.
pub(super) const RULES: &[Column<Group>] = &[
    Column::text(
        "RULE",
        [20, 28, 36],
        0,
        |group, _| By::Text(rule(group).to_owned()),
        |cell, group, _| {
            cell.name(rule(group).as_bytes());
        },
    ),
    Column::text(
        "SAYS",
        [5, 5, 5],
        0,
        |group, _| By::Number(allows(group).into()),
        |cell, group, _| {
            cell.put(if allows(group) { "allow" } else { "deny" });
        },
    ),
    ALL,
    count(
        "/s",
        [6, 6, 6],
        48,
        |group, _| By::Number(group.strip.rate().begun.into()),
        |cell, group, _| {
            cell.number(group.strip.rate().begun);
        },
    ),
    OPEN,
    LAST,
    Column::text(
        "LAST MINUTE",
        [20, 30, 60],
        WITH_BOTH_ENDS,
        |group, _| By::Number(group.strip.rate().begun.into()),
        |cell, group, _| {
            let seconds: Vec<u64> = group.strip.last(60).map(|second| second.begun).collect();
            let room = cell.room();
            cell.display(&spark(&seconds, room.min(seconds.len())));
        },
    ),
];

/// How a row looks.
pub(super) fn looks(group: &Group, _: &Model) -> Looks {
    let Tally {
        violations, open, ..
    } = group.tally;
    let is_denied = matches!(group.key, Key::Rule(_, false));
    if is_denied || violations > 0 {
        Looks::Violation
    } else if open == 0 && !matches!(group.key, Key::Rule(..)) {
        Looks::Over
    } else {
        Looks::Plain
    }
}

fn pid(group: &Group, _: &Model) -> By {
    By::Number(group.owner.map_or(-1, |owner| owner.pid.into()))
}

fn name(group: &Group, _: &Model) -> By {
    By::Name(
        group
            .owner
            .map(|owner| owner.process_comm.0)
            .unwrap_or_default(),
    )
}

fn user(group: &Group, _: &Model) -> By {
    By::Text(group.process.user.as_deref().unwrap_or_default().to_owned())
}

fn unit(group: &Group, _: &Model) -> By {
    By::Text(group.process.unit.as_deref().unwrap_or_default().to_owned())
}

fn is_outbound(group: &Group) -> bool {
    matches!(group.key, Key::Service(true, _))
}

fn port(group: &Group) -> Option<u16> {
    match group.key {
        Key::Service(_, port) => port,
        _ => None,
    }
}

fn rule(group: &Group) -> &str {
    match &group.key {
        Key::Rule(Some(rule), _) => rule,
        _ => "(default)",
    }
}

fn allows(group: &Group) -> bool {
    matches!(group.key, Key::Rule(_, true))
}
