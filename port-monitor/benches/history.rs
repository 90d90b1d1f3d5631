//! Rows a second that the history takes, beside a bare loop of prepared inserts of the same
//! rows, and bytes a row; then how long people wait for answers out of as many rows, one each
//! 50 ms. Run by `cargo xtask bench history`; an argument is the number of rows.

use std::{
    env, fs,
    io::{self, Write as _},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use port_monitor::{
    consume::{
        consumer::{Consumer as _, Kinds},
        history::{
            History, Keep,
            read::{By, Counted, ReadError, Reader, Sort, Wanted},
        },
    },
    events::{
        decode::{Action, Close, Direction, Event, decode},
        record::{Field, Header, Item, Process, Record},
    },
    pipeline::classify::Classifier,
};
use port_monitor_common::{ABI_VERSION, TcpEvent, addr::v4_mapped, event, policy::Network};
use rusqlite::{Connection, params};
use zerocopy::IntoBytes as _;

/// 2026-11-22 12:00 UTC.
const NOON_NS: i128 = 1_795_348_800_000_000_000;
/// Between one connection and the next.
const STEP_NS: u64 = 20_000;
/// Between two of those that are looked back at.
const SLOW_STEP_NS: u64 = 50_000_000;
/// One in so many of those is to [`RARE_PORT`].
const RARE: u64 = 100;
const RARE_PORT: u16 = 5_432;
const HOUR_NS: i128 = 3_600_000_000_000;
/// Rows of a transaction, as the history has them.
const BATCH_ROWS: u64 = 1_000;
/// Processes that connect.
const PROCESSES: u32 = 200;

fn main() -> Result<()> {
    let rows = env::args().skip(1).find_map(|arg| arg.parse().ok());
    let rows: u64 = rows.unwrap_or(300_000);
    let dir = tempfile::tempdir()?;
    let mut out = io::stdout();
    let mut best = [0.0_f64; 2];
    let mut bytes = 0;
    // In turn: what else the host does meets both.
    for round in 0..3 {
        let path = dir.path().join(format!("history-{round}.db"));
        let seconds = history(&path, rows)?.as_secs_f64();
        bytes = size(&path)?;
        let bare = dir.path().join(format!("bare-{round}.db"));
        let bare_seconds = bare_loop(&bare, rows)?.as_secs_f64();
        for (best, seconds) in best.iter_mut().zip([seconds, bare_seconds]) {
            *best = best.max(number(rows) / seconds);
        }
    }
    let [history, bare] = best;
    writeln!(out, "history {history:.0} rows/s of 3 events each")?;
    writeln!(out, "bare    {bare:.0} rows/s")?;
    writeln!(out, "ratio   {:.2}", history / bare)?;
    writeln!(out, "size    {:.1} bytes/row", number(bytes) / number(rows))?;
    look_back(&dir.path().join("slow.db"), rows, &mut out)
}

/// Fills a history, and tells how long answers take.
fn look_back(path: &Path, rows: u64, out: &mut impl io::Write) -> Result<()> {
    let records = records()?;
    let mut history = History::open(path, Kinds::ALL, FOR_EVER)?;
    history.take(Item::Header(&header()));
    for id in 0..rows {
        for record in &records[usize::try_from(id % u64::from(PROCESSES))?] {
            let mut record = at(record, id);
            record.wall_ns += i128::from(id * (SLOW_STEP_NS - STEP_NS));
            record.event.ts_ns += id * (SLOW_STEP_NS - STEP_NS);
            if id.is_multiple_of(RARE) {
                record.event.remote_port = RARE_PORT;
            }
            history.take(Item::Event(&record));
        }
    }
    history.settle();
    drop(history);
    let end_ns = NOON_NS + i128::from(rows * SLOW_STEP_NS);
    let reader = Reader::open(path)?;
    let since = |ns: i128| Wanted {
        since_ns: Some(end_ns - ns),
        ..Wanted::default()
    };
    let count = |by| Counted {
        by,
        sort: Sort::Count,
        most: Some(10),
        first_ns: None,
    };
    let talkers = Wanted {
        service_ports: Some(std::iter::once(RARE_PORT..=RARE_PORT).collect()),
        networks: Network::new(v4_mapped([10, 0, 0, 0]), 96 + 8)
            .into_iter()
            .collect(),
        ..Wanted::default()
    };
    tell(out, "processes of the last hour", || {
        Ok(reader.groups(&since(HOUR_NS), count(By::Process))?.len())
    })?;
    tell(out, "who talked to 10.0.0.0/8 on a port", || {
        Ok(reader.talks(&talkers, None)?.len())
    })?;
    tell(out, "top 10 peers of a day", || {
        Ok(reader
            .groups(&since(24 * HOUR_NS), count(By::Remote))?
            .len())
    })
}

/// Tells the shortest of three times that an answer took, and of how many lines it is.
fn tell(
    out: &mut impl io::Write,
    question: &str,
    ask: impl Fn() -> Result<usize, ReadError>,
) -> Result<()> {
    let mut best = Duration::MAX;
    let mut lines = 0;
    for _ in 0..3 {
        let start = Instant::now();
        lines = ask()?;
        best = best.min(start.elapsed());
    }
    writeln!(out, "{:>7} ms {question} ({lines} lines)", best.as_millis())?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn number(count: u64) -> f64 {
    count as f64
}

/// The size of the file alone, without its log.
fn size(path: &Path) -> Result<u64> {
    let db = Connection::open(path)?;
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(fs::metadata(path)?.len())
}

const FOR_EVER: Keep = Keep {
    age: Duration::MAX,
    bytes: 1 << 40,
};

const KEEP: Keep = Keep {
    age: Duration::from_hours(24),
    bytes: 1 << 40,
};

/// How long the history takes for so many connections, until the last one is written.
fn history(path: &Path, rows: u64) -> Result<Duration> {
    let records = records()?;
    let mut history = History::open(path, Kinds::ALL, KEEP)?;
    history.take(Item::Header(&header()));
    let start = Instant::now();
    for id in 0..rows {
        for record in &records[usize::try_from(id % u64::from(PROCESSES))?] {
            history.take(Item::Event(&at(record, id)));
        }
    }
    history.settle();
    let time = start.elapsed();
    let account = history.account();
    anyhow::ensure!(account.taken == 3 * rows, "{account:?}");
    Ok(time)
}

fn header() -> Header {
    Header {
        wall_ns: NOON_NS,
        boot_ns: 0,
        version: "bench",
        host: "bench".into(),
        kernel: String::new(),
        boot_id: String::new(),
        backend: "none",
        blind_spots: Vec::new(),
        unproven: Vec::new(),
        waiting: Vec::new(),
        policy: None,
        policy_loaded: None,
    }
}

/// `record` of connection `id`, to an address and from a port of its own.
fn at(record: &Record, id: u64) -> Record {
    let mut record = record.clone();
    record.event.id = spread(id);
    record.event.ts_ns += id * STEP_NS;
    record.wall_ns += i128::from(id * STEP_NS);
    record.event.local_port = Some(local_port(id));
    record.event.remote_ip = remote(id).into();
    record
}

fn local_port(id: u64) -> u16 {
    u16::try_from(32_768 + id % 28_000).unwrap_or_default()
}

fn remote(id: u64) -> [u8; 4] {
    let [.., b, c, d] = (spread(id) % 50_000).to_be_bytes();
    [10, b, c, d]
}

/// A number without order, as the kernel's are.
const fn spread(id: u64) -> u64 {
    id.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Attempt, outcome and end, of each process.
fn records() -> Result<Vec<[Record; 3]>> {
    let mut classifier = Classifier::new(32_768..=60_999);
    let records = (0..PROCESSES).map(|number| {
        let process = Arc::new(Process {
            exe: Field::Known(format!("/usr/bin/program-{number}").into()),
            parent: None,
            args: None,
            user: Some("ann".into()),
            cgroup: Some("/user.slice/user-1000.slice/session-2.scope".into()),
            unit: Some("session-2.scope".into()),
            container: None,
            user_missing: None,
            container_missing: None,
        });
        let attempt = decode(wire(number).as_bytes()).context("decode")?;
        let handshake_us = Some(900 + number);
        let end = Action::Close(Close {
            duration_ns: Some(8_000_000 + u64::from(number)),
            bytes_sent: 1_234,
            bytes_received: 86_016,
            rtt_us: Some(1_000 + number),
            ..Close::new(Direction::Outbound, event::ClosedBy::Local)
        });
        let actions = [Action::Connect, Action::Connected { handshake_us }, end];
        let mut delay_ns = 0;
        Ok(actions.map(|action| {
            delay_ns += 1_000;
            let event = Event {
                action,
                ts_ns: delay_ns,
                ..attempt
            };
            Record {
                wall_ns: NOON_NS + i128::from(delay_ns),
                ports: classifier.ports(&event),
                process: Arc::clone(&process),
                peer: None,
                judgement: None,
                event,
            }
        }))
    });
    records.collect()
}

fn wire(number: u32) -> TcpEvent {
    let mut event = TcpEvent {
        abi: ABI_VERSION,
        kind: 1,
        family: event::AF_INET,
        owner_source: event::OwnerSource::Connect as u8,
        local_addr: *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\xa8\x64\xc8",
        local_port: 40_000,
        remote_port: 443,
        ..TcpEvent::default()
    };
    event.owner.tgid = 1_000 + number;
    event.owner.start_ns = 5_000_000_000;
    event.owner.process_comm = *b"program\0\0\0\0\0\0\0\0\0";
    event
}

/// How long the same rows take that are only inserted.
fn bare_loop(path: &Path, rows: u64) -> Result<Duration> {
    // Only for its tables.
    drop(History::open(path, Kinds::ALL, KEEP)?);
    let db = Connection::open(path)?;
    db.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA cache_size = -8192;")?;
    let insert = "INSERT INTO connection_rows VALUES (?1, ?2, ?3, 1, 3, 0, ?4, ?5, ?6, 443, NULL,
        1, ?7, ?8, 1234, 86016, 0, ?9, 1, NULL, NULL, NULL, NULL)";
    let mut insert = db.prepare(insert)?;
    let start = Instant::now();
    for id in 0..rows {
        if id % BATCH_ROWS == 0 {
            db.execute_batch("BEGIN IMMEDIATE")?;
        }
        let number = id % u64::from(PROCESSES);
        insert.execute(params![
            i64::try_from(NOON_NS)? + (id * STEP_NS).cast_signed(),
            spread(id).cast_signed(),
            number.cast_signed(),
            &[192_u8, 168, 100, 200][..],
            local_port(id),
            &remote(id)[..],
            (900 + number).cast_signed(),
            (8_000_000 + number).cast_signed(),
            (1_000 + number).cast_signed(),
        ])?;
        if id % BATCH_ROWS == BATCH_ROWS - 1 || id == rows - 1 {
            db.execute_batch("COMMIT")?;
        }
    }
    Ok(start.elapsed())
}
