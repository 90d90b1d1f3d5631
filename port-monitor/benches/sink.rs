//! Instructions from event to line, which a busy machine does not change.
//! Callgrind counts those of a thousand events:
//!
//! ```text
//! CARGO_PROFILE_BENCH_STRIP=none cargo bench --bench sink --no-run
//! valgrind --tool=callgrind --toggle-collect='*take_all*' target/release/deps/sink-* json
//! ```
//!
//! Without `json` it is the table, and with `aggregate` the table that counts rows
//! which repeat. With `flood` they are those of connections within this host, as records of
//! the ring that go through every stage.

use std::{env, fs, io, os::unix::fs::MetadataExt as _, sync::Arc, time::Duration};

use jiff::tz::TimeZone;
use port_monitor::{
    consume::{
        FanOut, Shown, Sink,
        lines::{json::Json, table},
        output::writer::Output,
    },
    events::{
        decode::decode,
        record::{Field, Parent, Process, Record},
    },
    pipeline::{Pipeline, classify::Classifier},
};
use port_monitor_common::{
    ABI_VERSION, TcpEvent,
    event::{self, CloseEvent, CloseStats, EventKind},
};
use zerocopy::IntoBytes as _;

fn main() {
    let options = table::Options {
        width: None,
        color: false,
        verbose: true,
        aggregate: env::args().any(|arg| arg == "aggregate"),
        fields: Vec::new(),
        zone: TimeZone::UTC,
    };
    let sink: Box<dyn Sink> = if env::args().any(|arg| arg == "json") {
        Box::new(Json::new())
    } else {
        Box::new(table::Table::new(options))
    };
    let Ok(output) = Output::start("nowhere".to_owned(), io::sink()) else {
        return;
    };
    let mut consumers = FanOut::new(Shown::new(sink, output));
    if env::args().any(|arg| arg == "flood") {
        consumers = flood(consumers);
    } else {
        take_all(&mut consumers);
    }
    let _ = consumers.accounts(Duration::ZERO);
}

fn flood(consumers: FanOut) -> FanOut {
    let records = (0..200).flat_map(connection).collect::<Vec<_>>();
    let mut pipeline = Pipeline::new(None, consumers);
    pipeline.pair_ends();
    // The process is looked up once.
    if let Some(first) = records.first() {
        pipeline.take(first);
    }
    while pipeline.is_holding() {
        pipeline.catch_up();
    }
    take_all_records(&mut pipeline, &records);
    pipeline.into_consumers()
}

#[inline(never)]
fn take_all_records(pipeline: &mut Pipeline, records: &[Vec<u8>]) {
    for record in records {
        pipeline.take(record);
        if pipeline.consumers().shown().waiting_bytes() > 32 << 10 {
            pipeline.consumers().flush();
        }
    }
    pipeline.consumers().flush();
}

#[inline(never)]
fn take_all(consumers: &mut FanOut) {
    let process = Arc::new(Process {
        exe: Field::Known("/usr/bin/curl".into()),
        parent: Some(Parent {
            pid: 1400,
            named: None,
        }),
        args: None,
        user: Some("ann".into()),
        cgroup: Some("/user.slice/user-1000.slice/session-2.scope".into()),
        unit: Some("session-2.scope".into()),
        container: None,
        user_missing: None,
        container_missing: None,
    });
    let mut classifier = Classifier::new(32_768..=60_999);
    for number in 0..1000 {
        let Ok(event) = decode(curl(number).as_bytes()) else {
            return;
        };
        let record = Record {
            wall_ns: 1_795_348_801_000_000_000 + i128::from(event.ts_ns),
            ports: classifier.ports(&event),
            process: Arc::clone(&process),
            peer: None,
            judgement: None,
            event,
        };
        consumers.take(&record);
        // As after each look into the ring.
        if consumers.shown().waiting_bytes() > 32 << 10 {
            consumers.flush();
        }
    }
    consumers.flush();
}

/// curl connects to an https server over and over: attempt, outcome, attempt, …
fn curl(number: u16) -> TcpEvent {
    let mut event = TcpEvent {
        abi: ABI_VERSION,
        kind: if number.is_multiple_of(2) { 1 } else { 3 },
        family: event::AF_INET,
        owner_source: event::OwnerSource::Connect as u8,
        ts_ns: 86_400_000_000_000 + u64::from(number),
        id: u64::from(number / 2),
        local_addr: *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\xa8\x64\xc8",
        remote_addr: *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x5d\xb8\xd8\x22",
        local_port: 40_000 + number / 2,
        remote_port: 443,
        ..TcpEvent::default()
    };
    event.owner.comm = *b"curl\0\0\0\0\0\0\0\0\0\0\0\0";
    event
}

/// A connection within this host, as the ring has it: five events of this process.
fn connection(number: u16) -> [Vec<u8>; 5] {
    let client = TcpEvent {
        abi: ABI_VERSION,
        family: event::AF_INET,
        ts_ns: 86_400_000_000_000 + 70_000 * u64::from(number),
        local_addr: *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\x01",
        remote_addr: *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\x01",
        netns_ino: 4_026_531_840,
        owner: owner(),
        ..TcpEvent::default()
    };
    let client = TcpEvent {
        owner_source: event::OwnerSource::Connect as u8,
        id: 0x1234_5678_9abc_0000 + u64::from(number) * 2,
        local_port: 40_000 + number,
        remote_port: 7_000,
        ..client
    };
    let server = TcpEvent {
        owner_source: event::OwnerSource::Accept as u8,
        flags: event::FLAG_INBOUND,
        id: client.id + 1,
        local_port: client.remote_port,
        remote_port: client.local_port,
        ..client
    };
    let of_kind = |event: TcpEvent, kind: EventKind, later: u64| TcpEvent {
        kind: kind as u8,
        ts_ns: event.ts_ns + later,
        detail: match kind {
            EventKind::Connected => 21,
            _ => 0,
        },
        ..event
    };
    let close = |event: TcpEvent, closed_by: event::ClosedBy, later: u64| {
        let event = of_kind(event, EventKind::Close, later);
        let stats = CloseStats {
            duration_ns: 43_210,
            srtt_us: 25,
            closed_by: closed_by as u8,
            closer_tgid: event.owner.tgid,
            ..CloseStats::default()
        };
        CloseEvent { event, stats }.as_bytes().to_vec()
    };
    [
        of_kind(client, EventKind::Connect, 0).as_bytes().to_vec(),
        of_kind(client, EventKind::Connected, 21_000)
            .as_bytes()
            .to_vec(),
        of_kind(server, EventKind::Accept, 30_000)
            .as_bytes()
            .to_vec(),
        close(client, event::ClosedBy::LocalReset, 50_000),
        close(server, event::ClosedBy::PeerReset, 51_000),
    ]
}

/// This process, as the kernel tells of it.
fn owner() -> event::Owner {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = after_name.split(' ').nth(19).unwrap_or_default();
    let start_ticks = ticks.parse::<u64>().unwrap_or_default();
    let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second();
    let exe = fs::metadata("/proc/self/exe");
    let (device, inode) = exe.map_or((0, 0), |exe| (exe.dev(), exe.ino()));
    event::Owner {
        start_ns: start_ticks * tick_ns,
        exe_device: rustix::fs::major(device) << 20 | rustix::fs::minor(device),
        exe_inode: inode,
        comm: *b"sink\0\0\0\0\0\0\0\0\0\0\0\0",
        process_comm: *b"sink\0\0\0\0\0\0\0\0\0\0\0\0",
        tgid: std::process::id(),
        tid: std::process::id(),
        ..event::Owner::default()
    }
}
