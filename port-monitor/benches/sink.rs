//! Instructions from event to line, which a busy machine does not change.
//! Callgrind counts those of a thousand events:
//!
//! ```text
//! CARGO_PROFILE_BENCH_STRIP=none cargo bench --bench sink --no-run
//! valgrind --tool=callgrind --toggle-collect='*take_all*' target/release/deps/sink-* json
//! ```
//!
//! Without `json` it is the table, and with `aggregate` the table that counts rows
//! which repeat.

use std::{env, io, sync::Arc, time::Duration};

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
    pipeline::classify,
};
use port_monitor_common::{ABI_VERSION, TcpEvent, event};
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
    take_all(&mut consumers);
    let _ = consumers.accounts(Duration::ZERO);
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
    for number in 0..1000 {
        let Ok(event) = decode(curl(number).as_bytes()) else {
            return;
        };
        let record = Record {
            wall_ns: 1_795_348_801_000_000_000 + i128::from(event.ts_ns),
            ports: classify::ports(&event, &(32_768..=60_999)),
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
