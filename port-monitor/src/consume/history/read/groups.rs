//! Connections counted by what they have in common.

use std::net::IpAddr;

use clap::ValueEnum;
use rusqlite::{Row, types::ValueRef};

use super::{
    ReadError, Reader,
    wanted::{SERVICE_PORT, Wanted},
};
use crate::consume::history::rows::wall_ns;

/// What connections have in common. `--help` has these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// The name of the process
    Process,
    /// The executable
    Exe,
    /// The user
    User,
    /// The systemd unit
    Unit,
    /// The container
    Container,
    /// The service: the remote port outbound, the local one inbound
    Service,
    /// The address of the other end
    Remote,
    /// The policy rule that decided
    Rule,
}

/// What the connections of a group have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// There is nothing, or it could not be found out.
    Nothing,
    /// A text; not necessarily UTF-8.
    Text(Vec<u8>),
    /// The id of a user without a name.
    Uid(u32),
    /// A service's port.
    Port(u16),
    /// An address.
    Ip(IpAddr),
    /// No rule: the default of the direction decided.
    Default,
}

/// What groups are sorted by: the greatest first. `--help` has these words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// How many connections
    #[default]
    Count,
    /// How many failed
    Failed,
    /// How many broke the policy
    Violations,
    /// Payload bytes, both ways
    Bytes,
    /// When the first one began
    First,
    /// When the last one began
    Last,
    /// What they have in common, from A to Z
    Name,
}

/// How connections are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// What they have in common.
    pub by: By,
    /// What to sort by.
    pub sort: Sort,
    /// How many groups to give at most.
    pub most: Option<u32>,
    /// Only groups whose first one began then or later, ns since the Unix epoch.
    pub first_ns: Option<i128>,
}

/// Connections that have something in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What they have in common.
    pub key: Key,
    /// What they add up to.
    pub sums: Sums,
}

/// What connections add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums {
    /// How many there are.
    pub count: u64,
    /// Of those: attempts that failed.
    pub failed: u64,
    /// Of those: a policy denied them, or would have.
    pub violations: u64,
    /// Payload bytes that this host sent.
    pub sent: u64,
    /// Payload bytes that it received.
    pub received: u64,
    /// When the first one began, ns since the Unix epoch.
    pub first_ns: i128,
    /// When the last one began, ns since the Unix epoch.
    pub last_ns: i128,
}

/// The sums of rows `c`.
pub(super) const SUMS: &str = "count(*) AS n, sum(c.state = 2) AS failed,
    coalesce(sum(c.verdict > 0), 0) AS violations, coalesce(sum(c.sent), 0) AS sent,
    coalesce(sum(c.received), 0) AS received, min(c.id) AS first, max(c.id) AS last";
/// The sums of what has those.
pub(super) const SUMS_OF_SUMS: &str =
    "sum(n), sum(failed), sum(violations), sum(sent), sum(received), min(first), max(last)";

impl Sums {
    /// From seven columns, the first of them at `at`.
    pub(super) fn of(row: &Row<'_>, at: usize) -> rusqlite::Result<Self> {
        let number = |n: usize| row.get::<_, i64>(at + n);
        let count = |n: usize| number(n).map(i64::cast_unsigned);
        Ok(Self {
            count: count(0)?,
            failed: count(1)?,
            violations: count(2)?,
            sent: count(3)?,
            received: count(4)?,
            first_ns: number(5)?.into(),
            last_ns: number(6)?.into(),
        })
    }
}

/// How rows are put together.
struct Plan {
    /// What the rows share that are summed first: a number, mostly.
    inner: &'static str,
    /// What that leads to.
    joins: &'static str,
    /// What the sums share that are summed then.
    outer: &'static str,
}

impl By {
    const fn plan(self) -> Plan {
        let (inner, joins, outer) = match self {
            Self::Process => ("c.owner", "ow.process", "t.text"),
            Self::Exe => ("c.owner", "ow.exe", "t.text"),
            Self::User => ("c.owner", "ow.user", "coalesce(t.text, ow.uid)"),
            Self::Unit => ("c.owner", "ow.unit", "t.text"),
            Self::Container => ("c.owner", "ow.container", "t.text"),
            // Zero is no text: the default decided. Where there was no policy, there is nothing.
            Self::Rule => (
                "CASE WHEN c.verdict IS NOT NULL THEN coalesce(c.rule, 0) END",
                "g.k",
                "CASE g.k WHEN 0 THEN 0 ELSE t.text END",
            ),
            Self::Service => (SERVICE_PORT, "", "g.k"),
            Self::Remote => ("c.remote_ip", "", "g.k"),
        };
        Plan {
            inner,
            joins,
            outer,
        }
    }

    /// Whether it is about the owner.
    const fn is_owners(self) -> bool {
        match self {
            Self::Process | Self::Exe | Self::User | Self::Unit | Self::Container => true,
            Self::Service | Self::Remote | Self::Rule => false,
        }
    }

    pub(super) fn key(self, value: ValueRef<'_>) -> Key {
        match (self, value) {
            (_, ValueRef::Null | ValueRef::Real(_)) => Key::Nothing,
            (Self::Remote, ValueRef::Blob(bytes)) => {
                super::kept::ip(bytes).map_or(Key::Nothing, Key::Ip)
            }
            (_, ValueRef::Text(bytes) | ValueRef::Blob(bytes)) => Key::Text(bytes.to_vec()),
            (Self::Service, ValueRef::Integer(port)) => {
                u16::try_from(port).map_or(Key::Nothing, Key::Port)
            }
            (Self::User, ValueRef::Integer(uid)) => {
                u32::try_from(uid).map_or(Key::Nothing, Key::Uid)
            }
            (_, ValueRef::Integer(_)) => Key::Default,
        }
    }
}

impl Sort {
    const fn order(self) -> &'static str {
        match self {
            Self::Count => "sum(n) DESC",
            Self::Failed => "sum(failed) DESC",
            Self::Violations => "sum(violations) DESC",
            Self::Bytes => "sum(sent + received) DESC",
            Self::First => "min(first) DESC",
            Self::Last => "max(last) DESC",
            Self::Name => "key",
        }
    }
}

impl Reader {
    /// The connections that are `wanted`, as they are to be `counted`.
    pub fn groups(&self, wanted: &Wanted, counted: Counted) -> Result<Vec<Group>, ReadError> {
        let Counted {
            by,
            sort,
            most,
            first_ns,
        } = counted;
        let mut sql = self.condition(wanted)?;
        let most = sql.bind(most.map_or(-1, i64::from));
        let first = sql.bind(first_ns.map_or(i64::MIN, wall_ns));
        let Plan {
            inner,
            joins,
            outer,
        } = by.plan();
        let owners = if by.is_owners() {
            "JOIN owners ow ON ow.id = g.k "
        } else {
            ""
        };
        let texts = if joins.is_empty() {
            String::new()
        } else {
            format!("LEFT JOIN texts t ON t.id = {joins}")
        };
        let select = format!(
            "SELECT {outer} AS key, {SUMS_OF_SUMS} FROM (SELECT {inner} AS k, {SUMS} FROM {} \
             WHERE {} GROUP BY 1) g {owners}{texts} GROUP BY 1 HAVING min(first) >= {first} \
             ORDER BY {}, key LIMIT {most}",
            sql.from(),
            sql.condition(),
            sort.order(),
        );
        self.ask(|db| {
            let mut statement = db.prepare(&select)?;
            let groups = statement.query_map(sql.values(), |row| {
                Ok(Group {
                    key: by.key(row.get_ref(0)?),
                    sums: Sums::of(row, 1)?,
                })
            })?;
            groups.collect()
        })
    }
}
