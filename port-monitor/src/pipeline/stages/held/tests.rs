//! Of events whose processes take long to look up.

use std::sync::{Arc, Mutex, mpsc};

use port_monitor_common::{
    ABI_VERSION, TcpEvent,
    event::{AF_INET, Owner, OwnerSource},
};
use zerocopy::IntoBytes as _;

use crate::{
    consume::{Due, FanOut, Lines, Shown, Sink, output::writer::Output},
    events::record::{Field, Item, Missing},
    pipeline::{enrich::Enricher, stages::held::*},
};

type Told = Arc<Mutex<Vec<(Option<u16>, Option<Missing>)>>>;

/// Keeps the local ports of events, and why the executable is missing.
struct Keeper(Told);

impl Sink for Keeper {
    fn write(&mut self, _: &mut Lines, item: Item<'_>) {
        if let Item::Event(record) = item {
            let missing = match &record.process.exe {
                Field::Missing(reason) => Some(*reason),
                Field::Known(_) => None,
            };
            let told = (record.event.local_port, missing);
            self.0.lock().unwrap().push(told);
        }
    }

    fn release(&mut self, _: &mut Lines, _: Due) {}
}

/// A pipeline whose look-ups of process 1 wait for a word.
fn pipeline() -> (Pipeline, Told, mpsc::Sender<()>) {
    let told = Told::default();
    let output = Output::start("nowhere".into(), std::io::sink()).unwrap();
    let shown = Shown::new(Box::new(Keeper(Arc::clone(&told))), output);
    let mut pipeline = Pipeline::new(None, FanOut::new(shown));
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    pipeline.enricher = Enricher::delayed(move |owner| {
        if owner.pid == 1 {
            let _ = gate.lock().unwrap().recv();
        }
    });
    (pipeline, told, go)
}

/// An event of a process.
fn take(pipeline: &mut Pipeline, pid: u32, number: u16) {
    let event = TcpEvent {
        abi: ABI_VERSION,
        kind: 1,
        family: AF_INET,
        local_port: number,
        remote_port: 80,
        owner: Owner {
            tgid: pid,
            tid: pid,
            // No process was there then: what is looked up is gone.
            start_ns: 1,
            ..Owner::default()
        },
        owner_source: OwnerSource::Connect as u8,
        ..TcpEvent::default()
    };
    pipeline.take(event.as_bytes());
}

fn numbers(told: &Told) -> Vec<u16> {
    let told = told.lock().unwrap();
    told.iter().filter_map(|(number, _)| *number).collect()
}

#[test]
fn a_look_up_that_hangs_keeps_no_record_in_the_ring_and_lines_stay_in_order() {
    let (mut pipeline, told, go) = pipeline();
    take(&mut pipeline, 1, 1);
    for number in 2..=1_000 {
        take(&mut pipeline, 2, number);
    }
    assert_eq!(pipeline.tally().received, 1_000);
    assert_eq!(pipeline.tally().delivered, 0);
    assert!(pipeline.has_room());
    go.send(()).unwrap();
    while pipeline.is_holding() {
        pipeline.catch_up();
    }
    assert_eq!(numbers(&told), (1..=1_000).collect::<Vec<_>>());
    assert_eq!(pipeline.tally().delivered, 1_000);
    // Nothing waits for what is known.
    take(&mut pipeline, 1, 1_001);
    assert_eq!(pipeline.tally().delivered, 1_001);
}

#[test]
fn what_never_comes_is_late_and_holds_up_nothing_for_ever() {
    let (mut pipeline, told, _go) = pipeline();
    for number in 1..=u16::try_from(ROOM).unwrap() {
        take(&mut pipeline, 1 + u32::from(number > 1), number);
    }
    assert!(!pipeline.has_room());
    pipeline.make_room();
    assert_eq!(
        told.lock().unwrap().first(),
        Some(&(Some(1), Some(Missing::Late)))
    );
    while pipeline.is_holding() {
        pipeline.catch_up();
    }
    assert_eq!(
        numbers(&told),
        (1..=u16::try_from(ROOM).unwrap()).collect::<Vec<_>>()
    );
    // The other process was looked up meanwhile.
    let second = told.lock().unwrap().get(1).copied();
    assert_eq!(second, Some((Some(2), Some(Missing::Exited))));
    // Once is enough.
    take(&mut pipeline, 1, 9_000);
    take(&mut pipeline, 2, 9_001);
    assert_eq!(numbers(&told).last(), Some(&9_001));
    let last = *told.lock().unwrap().last().unwrap();
    assert_eq!(last, (Some(9_001), Some(Missing::Exited)));
}

#[test]
fn few_events_wait_where_those_to_come_wait_elsewhere() {
    let (mut pipeline, told, go) = pipeline();
    for number in 1..=1_000 {
        take(&mut pipeline, 1, number);
    }
    // Whoever does not answer keeps nobody for longer than that.
    assert_eq!(pipeline.hold_few(PAUSE), Duration::ZERO);
    assert!(numbers(&told).is_empty());
    go.send(()).unwrap();
    assert_ne!(pipeline.hold_few(Duration::from_mins(1)), Duration::ZERO);
    assert!(numbers(&told).len() >= 1_000 - FEW);
    // A few are waited for by nobody.
    take(&mut pipeline, 3, 1_001);
    let patience = Duration::from_nanos(1);
    assert_eq!(pipeline.hold_few(patience), patience);
}

#[test]
fn where_processors_are_busy_a_look_up_has_its_turns_before_it_is_late() {
    for (waited, turns, is_late) in [
        (2 * PATIENCE, 0, false),
        (2 * PATIENCE, 1_000, true),
        // But it is not waited for without end.
        (LONG_PATIENCE, 0, true),
    ] {
        let (mut pipeline, told, _go) = pipeline();
        take(&mut pipeline, 1, 1);
        let held = &mut pipeline.held[0];
        held.since = held.since.checked_sub(waited).unwrap();
        held.waits = held.waits.wrapping_sub(turns);
        pipeline.catch_up();
        assert_eq!(numbers(&told).len(), usize::from(is_late), "{waited:?}");
    }
}
