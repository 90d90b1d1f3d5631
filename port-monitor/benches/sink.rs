//! Instructions that userspace spends on an event, from ring record to line:
//!
//! ```text
//! cargo bench --bench sink --no-run
//! valgrind --tool=callgrind --toggle-collect='*take_all*' target/release/deps/sink-* json
//! ```
//!
//! What callgrind collected, divided by [`EVENTS`]; `callgrind_annotate
//! --inclusive=yes` tells the stages apart. Instructions rather than time: they
//! are the same on a busy machine.

use std::{env, hint::black_box, net::Ipv4Addr, path::Path, sync::Arc};

use jiff::tz::TimeZone;
use port_monitor::{
    classify,
    enrich::Enricher,
    event::decode,
    record::{Field, Item, Process, Record},
    sink::{
        Sink,
        json::Json,
        table::{Options, Table},
    },
};
use port_monitor_common::{
    ABI_VERSION, TcpEvent,
    event::{AF_INET, EventKind, Owner, OwnerSource},
};
use zerocopy::IntoBytes as _;

const EVENTS: u64 = 1000;

fn main() {
    let mut sink: Box<dyn Sink> = match env::args().nth(1).as_deref() {
        Some("json") => Box::new(Json::new()),
        _ => Box::new(Table::new(Options {
            width: None,
            color: false,
            fields: Vec::new(),
            zone: TimeZone::UTC,
        })),
    };
    let mut enricher = Enricher::new(Path::new("/nowhere"));
    let process = Arc::new(Process {
        exe: Field::Known("/usr/bin/curl".into()),
        parent_pid: Some(1400),
        user: Some("ann".into()),
        cgroup: Some("/user.slice/user-1000.slice/session-2.scope".into()),
        unit: Some("session-2.scope".into()),
        container: None,
    });
    let mut out = Vec::with_capacity(4 << 20);
    // The first one fills the caches.
    take_all(&mut *sink, &mut enricher, &process, &mut out);
}

/// What the pipeline does, with a process that does not depend on /proc.
#[inline(never)]
fn take_all(
    sink: &mut dyn Sink,
    enricher: &mut Enricher,
    process: &Arc<Process>,
    out: &mut Vec<u8>,
) {
    for number in 0..EVENTS {
        let Ok(event) = decode(black_box(event(number).as_bytes())) else {
            return;
        };
        black_box(enricher.process(event.owner.as_ref()));
        let record = Record {
            wall_ns: 1_795_348_801_000_000_000 + i128::from(event.ts_ns),
            ports: classify::ports(&event, &(32_768..=60_999)),
            process: Arc::clone(process),
            judgement: None,
            event,
        };
        sink.write(out, Item::Event(&record));
    }
}

/// The `number`th event: curl connects to an https server, again and again, and
/// each attempt has its outcome.
fn event(number: u64) -> TcpEvent {
    let kinds = [EventKind::Connect, EventKind::Connected];
    let (connection, kind) = (number / 2, kinds[number as usize % 2]);
    let mapped = |ip: Ipv4Addr| ip.to_ipv6_mapped().octets();
    TcpEvent {
        abi: ABI_VERSION,
        kind: kind as u8,
        family: AF_INET,
        owner_source: OwnerSource::Connect as u8,
        ts_ns: 86_400_000_000_000 + number * 1_000,
        id: connection,
        owner: Owner {
            start_ns: 4_000_000_000,
            comm: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0",
            tgid: 1_000_469,
            tid: 1_000_469,
            uid: 1000,
            gid: 100,
            cgroup_id: 4242,
        },
        local_addr: mapped(Ipv4Addr::new(192, 168, 100, 200)),
        remote_addr: mapped(Ipv4Addr::new(93, 184, 216, 34)),
        netns_ino: 4_026_531_840,
        local_port: 40_000 + connection as u16,
        remote_port: 443,
        detail: 12_345,
        ..TcpEvent::default()
    }
}
