//! Connections counted by what they have in common.

use std::{cmp::Ordering, collections::HashMap, net::IpAddr};

use rusqlite::{
    Connection, Row,
    types::{Value, ValueRef},
};

use super::{
    ReadError, Reader,
    wanted::{SERVICE_PORT, Wanted},
};

/// What connections have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The name of the process.
    Process,
    /// The executable.
    Exe,
    /// The user.
    User,
    /// The systemd unit.
    Unit,
    /// The container.
    Container,
    /// The service's port.
    Service,
    /// The address of the other end.
    Remote,
    /// The rule that decided.
    Rule,
}

/// Groups that are counted in memory at most.
const ROOM: usize = 131_072;

/// What the connections of a group have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// There is nothing, or it could not be found out.
    Nothing,
    /// No rule: the default of the direction decided.
    Default,
    /// The id of a user without a name.
    Uid(u32),
    /// A service's port.
    Port(u16),
    /// A text; not necessarily UTF-8.
    Text(Vec<u8>),
    /// An address.
    Ip(IpAddr),
}

/// What groups are sorted by: the greatest first, but by name from A to Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// How many connections there are.
    #[default]
    Count,
    /// How many failed.
    Failed,
    /// How many a policy denied, or would have.
    Violations,
    /// The bytes that went both ways.
    Bytes,
    /// When the first one began.
    First,
    /// When the last one began.
    Last,
    /// What they have in common.
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
    /// Of one connection, from the columns behind the first.
    fn of_one(row: &Row<'_>) -> rusqlite::Result<Self> {
        let number = |at: usize| row.get::<_, i64>(at);
        let began_ns = number(5)?.into();
        Ok(Self {
            count: 1,
            failed: number(1)?.cast_unsigned(),
            violations: number(2)?.cast_unsigned(),
            sent: number(3)?.cast_unsigned(),
            received: number(4)?.cast_unsigned(),
            first_ns: began_ns,
            last_ns: began_ns,
        })
    }

    const fn bytes(&self) -> u64 {
        self.sent.saturating_add(self.received)
    }

    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.failed += other.failed;
        self.violations += other.violations;
        self.sent = self.sent.saturating_add(other.sent);
        self.received = self.received.saturating_add(other.received);
        self.first_ns = self.first_ns.min(other.first_ns);
        self.last_ns = self.last_ns.max(other.last_ns);
    }

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
    /// Which text names that; empty where it needs none.
    text: &'static str,
    /// What the sums share that are summed then.
    outer: &'static str,
}

impl Plan {
    /// What leads from sums `g` to what they share.
    fn joins(&self, by: By) -> String {
        let owners = if by.is_owners() {
            "JOIN owners ow ON ow.id = g.k "
        } else {
            ""
        };
        match self.text {
            "" => String::new(),
            text => format!("{owners}LEFT JOIN texts t ON t.id = {text}"),
        }
    }
}

impl By {
    const fn plan(self) -> Plan {
        let (inner, text, outer) = match self {
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
        Plan { inner, text, outer }
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

impl Reader {
    /// The connections that are `wanted`, as they are to be `counted`.
    pub fn groups(&self, wanted: &Wanted, counted: Counted) -> Result<Vec<Group>, ReadError> {
        match self.counted_here(wanted, counted, ROOM)? {
            Some(groups) => Ok(groups),
            None => self.counted_there(wanted, counted),
        }
    }

    /// Counts in memory, which takes a third of the time; `None` where that has no room for so
    /// many groups.
    pub(in crate::consume::history) fn counted_here(
        &self,
        wanted: &Wanted,
        counted: Counted,
        room: usize,
    ) -> Result<Option<Vec<Group>>, ReadError> {
        let sql = self.condition(wanted)?;
        let plan = counted.by.plan();
        let select = format!(
            "SELECT {}, c.state = 2, coalesce(c.verdict, 0) > 0, coalesce(c.sent, 0), \
             coalesce(c.received, 0), c.id FROM {} WHERE {}",
            plan.inner,
            sql.from(),
            sql.condition(),
        );
        self.ask(|db| {
            let mut statement = db.prepare(&select)?;
            let mut rows = statement.query(sql.values())?;
            let mut raw: HashMap<Raw, Sums> = HashMap::new();
            while let Some(row) = rows.next()? {
                let sums = Sums::of_one(row)?;
                let key = Raw::of(row.get_ref(0)?);
                if let Some(known) = raw.get_mut(&key) {
                    known.add(&sums);
                } else if raw.len() >= room {
                    return Ok(None);
                } else {
                    raw.insert(key, sums);
                }
            }
            Ok(Some(counted.finish(name(db, counted.by, raw)?)))
        })
    }

    /// Has the database count, which has the disk for it.
    pub(in crate::consume::history) fn counted_there(
        &self,
        wanted: &Wanted,
        counted: Counted,
    ) -> Result<Vec<Group>, ReadError> {
        let sql = self.condition(wanted)?;
        let plan = counted.by.plan();
        let select = format!(
            "SELECT {} AS key, {SUMS_OF_SUMS} FROM (SELECT {} AS k, {SUMS} FROM {} WHERE {} \
             GROUP BY 1) g {} GROUP BY 1",
            plan.outer,
            plan.inner,
            sql.from(),
            sql.condition(),
            plan.joins(counted.by),
        );
        self.ask(|db| {
            let mut statement = db.prepare(&select)?;
            let groups = statement.query_map(sql.values(), |row| {
                Ok(Group {
                    key: counted.by.key(row.get_ref(0)?),
                    sums: Sums::of(row, 1)?,
                })
            })?;
            let groups: Vec<_> = groups.collect::<Result<_, _>>()?;
            Ok(counted.finish(groups))
        })
    }
}

/// Names sums, and adds up those of one name.
fn name(db: &Connection, by: By, raw: HashMap<Raw, Sums>) -> rusqlite::Result<Vec<Group>> {
    let plan = by.plan();
    let select = format!(
        "SELECT {} FROM (SELECT ?1 AS k) g {}",
        plan.outer,
        plan.joins(by)
    );
    let mut statement = db.prepare(&select)?;
    let mut named: HashMap<Key, Sums> = HashMap::new();
    for (raw, sums) in raw {
        let key = statement.query_row([raw.value()], |row| Ok(by.key(row.get_ref(0)?)))?;
        match named.get_mut(&key) {
            Some(known) => known.add(&sums),
            None => drop(named.insert(key, sums)),
        }
    }
    let groups = named.into_iter().map(|(key, sums)| Group { key, sums });
    Ok(groups.collect())
}

/// What rows share, as they have it.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Raw {
    Nothing,
    Number(i64),
    Bytes(Box<[u8]>),
}

impl Raw {
    fn of(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Integer(number) => Self::Number(number),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Self::Bytes(bytes.into()),
            ValueRef::Null | ValueRef::Real(_) => Self::Nothing,
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Nothing => Value::Null,
            Self::Number(number) => Value::Integer(*number),
            Self::Bytes(bytes) => Value::Blob(bytes.to_vec()),
        }
    }
}

impl Counted {
    /// The groups that are wanted, in their order.
    fn finish(self, mut groups: Vec<Group>) -> Vec<Group> {
        let first_ns = self.first_ns.unwrap_or(i128::MIN);
        groups.retain(|group| group.sums.first_ns >= first_ns);
        groups.sort_by(|one, other| {
            let (a, b) = (&one.sums, &other.sums);
            let order = match self.sort {
                Sort::Count => b.count.cmp(&a.count),
                Sort::Failed => b.failed.cmp(&a.failed),
                Sort::Violations => b.violations.cmp(&a.violations),
                Sort::Bytes => b.bytes().cmp(&a.bytes()),
                Sort::First => b.first_ns.cmp(&a.first_ns),
                Sort::Last => b.last_ns.cmp(&a.last_ns),
                Sort::Name => Ordering::Equal,
            };
            order.then_with(|| one.key.cmp(&other.key))
        });
        let most = self.most.and_then(|most| usize::try_from(most).ok());
        groups.truncate(most.unwrap_or(usize::MAX));
        groups
    }
}
