//! The tables, their versions, and the views that people read.

use rusqlite::{Connection, Transaction, TransactionBehavior};

/// `PRAGMA application_id` of a history.
pub(super) const APPLICATION_ID: i64 = 0x706d_6864;

/// What brings a history from each version to the next one.
const MIGRATIONS: [&str; 4] = [
    include_str!("tables.sql"),
    include_str!("outbox.sql"),
    include_str!("rejected.sql"),
    include_str!("sending.sql"),
];

/// The version that this program writes.
pub(super) const VERSION: usize = MIGRATIONS.len();

/// Brings a history of an older `version` to that of this program: all of it, or nothing.
pub(super) fn migrate(db: &Connection, version: usize) -> rusqlite::Result<()> {
    let transaction = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    for migration in MIGRATIONS.iter().skip(version) {
        transaction.execute_batch(migration)?;
    }
    transaction.execute_batch(&views())?;
    transaction.execute_batch(&format!(
        "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
    ))?;
    transaction.commit()
}

/// The views, anew: people and programs read these, and know no table. Old
/// programs read them too: there is nothing in them that is new.
fn views() -> String {
    let time = time("c.id");
    let local = address("c.local_ip");
    let remote = address("c.remote_ip");
    let owner = OWNER;
    let verdict = VERDICT;
    let from = |rows| {
        format!(
            "FROM {rows} c JOIN owners o ON o.id = c.owner JOIN runs r ON r.id = o.run
            LEFT JOIN texts service ON service.id = c.service
            LEFT JOIN texts rule ON rule.id = c.rule {OWNER_TEXTS}"
        )
    };
    let (connections, listeners) = (from("connection_rows"), from("listener_rows"));
    let (began, ended) = (self::time("began_ns"), self::time("ended_ns"));
    let until = self::time("c.ended_ns");
    let noticed = self::time("l.time_ns");
    format!(
        "DROP VIEW IF EXISTS connections;
        CREATE VIEW connections AS SELECT
            {time} AS time, r.host AS host, {owner},
            CASE c.flags & 1 WHEN 0 THEN 'out' ELSE 'in' END AS direction,
            {local} AS local, c.local_port AS local_port,
            {remote} AS remote, c.remote_port AS remote_port,
            CASE c.flags & 1 WHEN 0 THEN c.remote_port ELSE c.local_port END AS port,
            service.text AS service,
            CASE c.state WHEN 0 THEN 'attempted' WHEN 1 THEN 'open' WHEN 2 THEN 'failed'
                WHEN 3 THEN 'closed' WHEN 4 THEN 'cut off' ELSE 'pushed out' END AS state,
            {verdict}, rule.text AS rule,
            c.duration_ns / 1e9 AS duration, c.sent AS bytes_sent,
            c.received AS bytes_received, c.sent + c.received AS bytes,
            c.handshake_us AS handshake_us, c.rtt_us AS rtt_us, c.retransmits AS retransmits,
            c.errno AS errno, c.id AS time_ns
            {connections};
        DROP VIEW IF EXISTS listeners;
        CREATE VIEW listeners AS SELECT
            {time} AS time, r.host AS host, {owner},
            {local} AS local, c.local_port AS port, service.text AS service,
            CASE c.state WHEN 1 THEN 'open' WHEN 3 THEN 'closed' WHEN 4 THEN 'cut off'
                ELSE 'pushed out' END AS state,
            {until} AS until, {verdict}, rule.text AS rule, c.id AS time_ns
            {listeners};
        DROP VIEW IF EXISTS denials;
        CREATE VIEW denials AS SELECT * FROM connections WHERE verdict = 'denied';
        DROP VIEW IF EXISTS gaps;
        CREATE VIEW gaps AS SELECT {began} AS began, {ended} AS ended,
            (ended_ns - began_ns) / 1e9 AS seconds, cause FROM gap_rows;
        DROP VIEW IF EXISTS losses;
        CREATE VIEW losses AS SELECT {noticed} AS time, r.host AS host, l.cause AS cause,
            l.lost AS lost FROM loss_rows l JOIN runs r ON r.id = l.run;"
    )
}

const OWNER: &str = "process.text AS process, o.pid AS pid, exe.text AS exe,
    coalesce(user.text, o.uid) AS user, unit.text AS unit, container.text AS container";

const OWNER_TEXTS: &str = "LEFT JOIN texts process ON process.id = o.process
    LEFT JOIN texts exe ON exe.id = o.exe LEFT JOIN texts user ON user.id = o.user
    LEFT JOIN texts unit ON unit.id = o.unit
    LEFT JOIN texts container ON container.id = o.container";

const VERDICT: &str = "CASE c.verdict WHEN 0 THEN 'allowed' WHEN 1 THEN 'denied'
    WHEN 2 THEN 'violation' END AS verdict";

/// A time in ns as text, in UTC, to the µs.
fn time(ns: &str) -> String {
    format!(
        "strftime('%Y-%m-%dT%H:%M:%S', {ns} / 1000000000, 'unixepoch')
        || printf('.%06dZ', {ns} / 1000 % 1000000)"
    )
}

/// An address as text; an IPv6 one in full.
fn address(blob: &str) -> String {
    let digit = |at| format!("instr('123456789ABCDEF', substr(hex({blob}), {at}, 1))");
    let octet = |index| format!("{} * 16 + {}", digit(2 * index + 1), digit(2 * index + 2));
    let octets: Vec<String> = (0..4).map(octet).collect();
    let groups: Vec<String> = (0..8)
        .map(|index| format!("substr(lower(hex({blob})), {}, 4)", 4 * index + 1))
        .collect();
    format!(
        "CASE length({blob}) WHEN 4 THEN printf('%d.%d.%d.%d', {}) ELSE {} END",
        octets.join(", "),
        groups.join(" || ':' || ")
    )
}
