//! What people ask of a history besides its connections: who uses a port, which listeners
//! nobody uses, and how much there was over time.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rusqlite::Row;

use super::{
    Key, ReadError, Reader, Sums,
    groups::{By, SUMS, SUMS_OF_SUMS},
    kept::ip_of,
    wanted::Wanted,
};
use crate::{
    consume::history::rows::{INBOUND, wall_ns},
    events::decode::Direction,
};

/// Connections of one process with one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Talk {
    /// Who opened them.
    pub direction: Direction,
    /// The name of the process.
    pub process: Key,
    /// The peer.
    pub remote: Key,
    /// What they add up to.
    pub sums: Sums,
}

/// A listener that nobody used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unused {
    /// Where it listens.
    pub ip: IpAddr,
    /// Where it listens.
    pub port: u16,
    /// The name of the process.
    pub process: Key,
    /// The user.
    pub user: Key,
    /// The unit.
    pub unit: Key,
    /// When it began to listen, or was found; ns since the Unix epoch.
    pub since_ns: i128,
}

/// Listeners, by whether somebody used them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listeners {
    /// How many there are.
    pub all: usize,
    /// Those that nobody used, by port.
    pub unused: Vec<Unused>,
}

/// Connections that began within a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many there are.
    pub connections: u64,
    /// Of those: attempts that failed.
    pub failed: u64,
    /// Of those: a policy denied them, or would have.
    pub violations: u64,
}

/// Spans of time, one after the other. Times are in ns since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spans {
    /// When the first one begins.
    pub from_ns: i128,
    /// How long each is.
    pub step_ns: i128,
    /// How many there are.
    pub count: usize,
}

impl Reader {
    /// Who has talked to whom in the connections that are wanted: the `most` frequent first.
    pub fn talks(&self, wanted: &Wanted, most: Option<u32>) -> Result<Vec<Talk>, ReadError> {
        let mut sql = self.condition(wanted)?;
        let most = sql.bind(most.map_or(-1, i64::from));
        let select = format!(
            "SELECT g.inbound, t.text, g.ip, {SUMS_OF_SUMS} FROM (SELECT c.owner AS k, \
             c.remote_ip AS ip, c.flags & {INBOUND} AS inbound, {SUMS} FROM {} WHERE {} \
             GROUP BY 1, 2, 3) g JOIN owners ow ON ow.id = g.k \
             LEFT JOIN texts t ON t.id = ow.process \
             GROUP BY 1, 2, 3 ORDER BY sum(n) DESC, 1, 2, 3 LIMIT {most}",
            sql.from(),
            sql.condition(),
        );
        self.ask(|db| {
            let mut statement = db.prepare(&select)?;
            let talks = statement.query_map(sql.values(), |row| {
                Ok(Talk {
                    direction: match row.get::<_, i64>(0)? {
                        0 => Direction::Outbound,
                        _ => Direction::Inbound,
                    },
                    process: By::Process.key(row.get_ref(1)?),
                    remote: By::Remote.key(row.get_ref(2)?),
                    sums: Sums::of(row, 3)?,
                })
            })?;
            talks.collect()
        })
    }

    /// The listeners of the last run that have not closed, and those of them that no
    /// connection used that began since `since_ns`, or is open; ns since the Unix epoch.
    pub fn listeners(&self, since_ns: i128) -> Result<Listeners, ReadError> {
        let used = self.used(since_ns)?;
        let select = "SELECT l.id, l.local_ip, l.local_port, ow.netns, process.text,
            coalesce(user.text, ow.uid), unit.text FROM listener_rows l
            JOIN owners ow ON ow.id = l.owner
            LEFT JOIN texts process ON process.id = ow.process
            LEFT JOIN texts user ON user.id = ow.user LEFT JOIN texts unit ON unit.id = ow.unit
            WHERE l.state IN (1, 4) AND ow.run = (SELECT max(id) FROM runs)
            AND l.local_port IS NOT NULL ORDER BY l.local_port, l.local_ip, l.id";
        self.ask(|db| {
            let mut statement = db.prepare(select)?;
            let mut rows = statement.query([])?;
            let mut listeners = Listeners::default();
            while let Some(row) = rows.next()? {
                listeners.all += 1;
                let netns: u32 = row.get(3)?;
                let listener = unused(row)?;
                if !is_used(&used, netns, listener.ip, listener.port) {
                    listeners.unused.push(listener);
                }
            }
            Ok(listeners)
        })
    }

    /// Where connections came in: namespace, address and port.
    fn used(&self, since_ns: i128) -> Result<HashSet<(u32, IpAddr, u16)>, ReadError> {
        let select = format!(
            "SELECT DISTINCT ow.netns, c.local_ip, c.local_port FROM
            (SELECT DISTINCT owner, local_ip, local_port FROM connection_rows
            WHERE id >= ?1 AND flags & {INBOUND} AND local_port IS NOT NULL
            UNION SELECT owner, local_ip, local_port FROM connection_rows
            WHERE state < 2 AND flags & {INBOUND} AND local_port IS NOT NULL) c
            JOIN owners ow ON ow.id = c.owner"
        );
        self.ask(|db| {
            let mut statement = db.prepare(&select)?;
            let used = statement.query_map([wall_ns(since_ns)], |row| {
                Ok((row.get(0)?, ip_of(row, 1)?, row.get(2)?))
            })?;
            used.collect()
        })
    }

    /// The connections that are wanted, by when they began; those of no span are left out.
    pub fn tallies(&self, wanted: &Wanted, spans: Spans) -> Result<Vec<Tally>, ReadError> {
        let mut sql = self.condition(wanted)?;
        let from = sql.bind(wall_ns(spans.from_ns));
        let step = sql.bind(wall_ns(spans.step_ns).max(1));
        let select = format!(
            "SELECT (c.id - {from}) / {step}, count(*), sum(c.state = 2), \
             coalesce(sum(c.verdict > 0), 0) FROM {} WHERE {} AND c.id >= {from} GROUP BY 1",
            sql.from(),
            sql.condition(),
        );
        let mut tallies = vec![Tally::default(); spans.count];
        self.ask(|db| {
            let mut statement = db.prepare(&select)?;
            let mut rows = statement.query(sql.values())?;
            while let Some(row) = rows.next()? {
                let at = usize::try_from(row.get::<_, i64>(0)?).ok();
                if let Some(tally) = at.and_then(|at| tallies.get_mut(at)) {
                    *tally = Tally {
                        connections: row.get::<_, i64>(1)?.cast_unsigned(),
                        failed: row.get::<_, i64>(2)?.cast_unsigned(),
                        violations: row.get::<_, i64>(3)?.cast_unsigned(),
                    };
                }
            }
            Ok(())
        })?;
        Ok(tallies)
    }
}

fn unused(row: &Row<'_>) -> rusqlite::Result<Unused> {
    Ok(Unused {
        ip: ip_of(row, 1)?,
        port: row.get(2)?,
        process: By::Process.key(row.get_ref(4)?),
        user: By::User.key(row.get_ref(5)?),
        unit: By::Unit.key(row.get_ref(6)?),
        since_ns: row.get::<_, i64>(0)?.into(),
    })
}

/// Whether something came in where this listens. A socket that listens at every address of
/// IPv6 mostly does so at those of IPv4 too.
fn is_used(used: &HashSet<(u32, IpAddr, u16)>, netns: u32, ip: IpAddr, port: u16) -> bool {
    const ALL_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    const ALL_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let mut here = used
        .iter()
        .filter(|(used_netns, _, used_port)| (*used_netns, *used_port) == (netns, port));
    here.any(|(_, at, _)| match ip {
        ALL_V6 => true,
        ALL_V4 => at.is_ipv4(),
        one => *at == one,
    })
}
