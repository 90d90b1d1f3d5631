//! One connection of all events, in every order that they come in.

use std::collections::HashMap;

use port_monitor_common::{event::ClosedBy, policy::Verdict, tcp_state::TcpState};
use proptest::prelude::*;

use crate::{
    consume::{
        join::*,
        lines::sample::{NOON_NS, accepted, closed, connected, listening, violation},
    },
    events::{
        decode::{Close, Direction},
        record::Judgement,
    },
};

/// `record`, so many ms after noon, as this action of connection 42.
fn at(record: &Record, ms: u64, action: Action) -> Record {
    let mut record = record.clone();
    record.event.id = 42;
    record.event.action = action;
    record.event.ts_ns = 5_000_000_000 + ms * 1_000_000;
    record.wall_ns = NOON_NS + i128::from(ms) * 1_000_000;
    record
}

fn ended(direction: Direction, duration_ns: Option<u64>) -> Action {
    Action::Close(Close {
        duration_ns,
        bytes_sent: 77,
        ..Close::new(direction, ClosedBy::Peer)
    })
}

/// Every order of these.
fn orders(records: &[Record]) -> Vec<Vec<Record>> {
    if records.len() < 2 {
        return vec![records.to_vec()];
    }
    let mut all = Vec::new();
    for (first, record) in records.iter().enumerate() {
        let mut others = records.to_vec();
        others.remove(first);
        for mut order in orders(&others) {
            order.insert(0, record.clone());
            all.push(order);
        }
    }
    all
}

/// What is done after these events and two sweeps.
fn joined(records: &[Record]) -> Vec<Connection<()>> {
    let mut join = Join::default();
    let mut done = Vec::new();
    for record in records {
        assert!(join.take(record, &mut done).is_some());
    }
    join.sweep(&mut done);
    join.sweep(&mut done);
    done
}

/// The one connection that these events are joined to, in whatever order they come.
fn one(records: &[Record]) -> Connection<()> {
    let mut found: Vec<Connection<()>> = orders(records)
        .iter()
        .map(|order| {
            let mut done = joined(order);
            assert_eq!(done.len(), 1, "{done:?}");
            done.remove(0)
        })
        .collect();
    let first = found.remove(0);
    assert_eq!(first.events as usize, records.len());
    for other in found {
        let facts = |found: &Connection<()>| {
            let Connection {
                beginning,
                began_ns,
                is_dated,
                state,
                handshake_us,
                events,
                record,
                mark: (),
            } = found;
            let owner = record.event.owner.map(|owner| (owner.pid, owner.source));
            let numbers = (*began_ns, *handshake_us, *events, record.wall_ns);
            let how = (*beginning, *is_dated, *state);
            (how, numbers, owner, record.event.action)
        };
        assert_eq!(facts(&first), facts(&other));
    }
    first
}

#[test]
fn an_attempt_its_outcome_progress_and_end_are_one_connection_in_every_order() {
    let handshake_us = Some(900);
    let so_far = Action::Progress(Close {
        bytes_sent: 5,
        duration_ns: Some(40_000_000),
        ..Close::new(Direction::Outbound, ClosedBy::Unknown)
    });
    let connection = one(&[
        at(&connected(), 1, Action::Connect),
        at(&connected(), 2, Action::Connected { handshake_us }),
        at(&connected(), 41, so_far),
        at(
            &connected(),
            91,
            ended(Direction::Outbound, Some(90_000_000)),
        ),
    ]);
    let Connection {
        beginning, state, ..
    } = connection;
    assert_eq!((beginning, state), (Beginning::Attempt, State::Closed));
    assert_eq!(connection.began_ns, NOON_NS + 1_000_000);
    assert_eq!(connection.handshake_us, handshake_us);
    let carried = connection.record.event.action.carried().unwrap();
    assert_eq!(carried.bytes_sent, 77);
}

#[test]
fn what_was_accepted_and_ended_is_one_connection_in_both_orders() {
    let connection = one(&[
        at(&accepted(), 1, Action::Accept),
        at(&accepted(), 9, ended(Direction::Inbound, Some(8_000_000))),
    ]);
    let Connection {
        beginning, state, ..
    } = connection;
    assert_eq!((beginning, state), (Beginning::Inbound, State::Closed));
}

#[test]
fn a_failure_is_whole_with_and_without_its_attempt() {
    let failed = at(&violation(), 3, Action::Failed { errno: Some(111) });
    let alone = one(std::slice::from_ref(&failed));
    assert_eq!(
        (alone.beginning, alone.state),
        (Beginning::Unseen, State::Failed)
    );
    let both = one(&[at(&violation(), 1, Action::Connect), failed]);
    assert_eq!(
        (both.beginning, both.state),
        (Beginning::Attempt, State::Failed)
    );
    assert_eq!(both.began_ns, NOON_NS + 1_000_000);
}

#[test]
fn an_end_alone_knows_when_it_began_where_the_kernel_does() {
    let end = |duration_ns| at(&closed(), 90, ended(Direction::Outbound, duration_ns));
    let told = one(&[end(Some(80_000_000))]);
    assert_eq!(
        (told.beginning, told.began_ns),
        (Beginning::Unseen, NOON_NS + 10_000_000)
    );
    let untold = one(&[end(None)]);
    assert_eq!(untold.began_ns, NOON_NS + 90_000_000);
}

#[test]
fn a_denial_keeps_its_rule_whichever_event_has_it() {
    let mut attempt = at(&violation(), 1, Action::Connect);
    attempt.judgement = None;
    let mut denied = at(&violation(), 2, Action::Failed { errno: Some(1) });
    denied.judgement = Some(Judgement::of(Verdict::Deny, Some("no-telnet".into())));
    let connection = one(&[attempt, denied.clone()]);
    assert_eq!(connection.record.judgement, denied.judgement);
    assert_eq!(connection.state, State::Failed);
}

#[test]
fn what_was_there_before_learns_whose_it_is() {
    let found = Action::Preexisting {
        direction: Direction::Inbound,
        state: TcpState::ESTABLISHED,
        duration_ns: None,
    };
    let mut early = at(&accepted(), 1, found);
    if let Some(owner) = &mut early.event.owner {
        owner.source = OwnerSource::Holder;
        owner.pid = 1;
    }
    let connection = one(&[
        early,
        at(&accepted(), 4, Action::Accept),
        at(&accepted(), 9, ended(Direction::Inbound, None)),
    ]);
    assert_eq!(connection.beginning, Beginning::Preexisting);
    assert_eq!(connection.record.event.owner.unwrap().pid, 812);
}

#[test]
fn what_is_found_out_late_is_taken_over() {
    let mut attempt = at(&connected(), 1, Action::Connect);
    attempt.event.local_port = None;
    attempt.ports.local = None;
    attempt.process = Arc::new(Process {
        exe: Field::Missing(crate::events::record::Missing::Late),
        ..(*attempt.process).clone()
    });
    let handshake_us = None;
    let connection = one(&[
        attempt,
        at(&connected(), 2, Action::Connected { handshake_us }),
        at(&connected(), 3, ended(Direction::Outbound, Some(2_000_000))),
    ]);
    assert_eq!(connection.record.event.local_port, Some(49_152));
    assert!(connection.record.process.exe.known().is_some());
}

#[test]
fn a_listener_is_one_too() {
    let listener = one(&[
        at(&listening(), 1, Action::Listen),
        at(&listening(), 5, Action::Unlisten),
    ]);
    assert!(listener.is_listener());
    assert_eq!(listener.state, State::Closed);
}

#[test]
fn the_oldest_makes_room_and_its_end_is_not_merged_by_guess() {
    let mut join = Join::<()>::with_room(2);
    let mut done = Vec::new();
    let mut attempt = at(&connected(), 1, Action::Connect);
    for id in 1..=3 {
        attempt.event.id = id;
        join.take(&attempt, &mut done);
    }
    assert_eq!(done.len(), 1);
    assert_eq!((done[0].id(), done[0].state), (1, State::PushedOut));
    let mut end = at(&closed(), 2, ended(Direction::Outbound, Some(1_000_000)));
    end.event.id = 1;
    join.take(&end, &mut done);
    join.end(&mut done);
    let told: Vec<_> = done.iter().map(|one| (one.id(), one.state)).collect();
    let expected = [
        (1, State::PushedOut),
        (1, State::Closed),
        (2, State::CutOff),
        (3, State::CutOff),
    ];
    assert_eq!(told, expected);
    assert_eq!(done[1].beginning, Beginning::Unseen);
}

#[test]
fn what_has_ended_waits_for_late_events_but_takes_no_room() {
    let mut join = Join::<()>::with_room(1);
    let mut done = Vec::new();
    for id in 0..5_000 {
        let mut end = at(&closed(), id, ended(Direction::Outbound, None));
        end.event.id = id;
        join.take(&end, &mut done);
    }
    assert_eq!(done.len(), 5_000 - LATE_ROOM);
    assert!(done.iter().all(|one| one.state == State::Closed));
    join.sweep(&mut done);
    assert_eq!(done.len(), 5_000 - LATE_ROOM);
    join.sweep(&mut done);
    assert_eq!(done.len(), 5_000);
}

/// What may happen to one of a few connections.
fn event() -> impl Strategy<Value = Option<Record>> {
    let action = prop_oneof![
        Just(Action::Connect),
        Just(Action::Accept),
        Just(Action::Connected { handshake_us: None }),
        Just(Action::Failed { errno: None }),
        Just(ended(Direction::Outbound, None)),
        Just(Action::Restored),
    ];
    let record = (0_u64..12, 0_u64..50, action).prop_map(|(id, ms, action)| {
        let mut record = at(&connected(), ms, action);
        record.event.id = id;
        record
    });
    proptest::option::weighted(0.9, record)
}

proptest! {
    #[test]
    fn every_event_is_in_one_connection(
        events in proptest::collection::vec(event(), 0..200),
        room in 1_usize..8,
    ) {
        let mut join = Join::<()>::with_room(room);
        let mut done = Vec::new();
        let mut fed = HashMap::<u64, u32>::new();
        for event in &events {
            if let Some(record) = event {
                *fed.entry(record.event.id).or_default() += 1;
                join.take(record, &mut done);
                let open = join.iter_mut().filter(|one| one.state.is_open()).count();
                prop_assert!(open <= room);
            } else {
                join.sweep(&mut done);
            }
        }
        join.end(&mut done);
        prop_assert_eq!(join.iter_mut().count(), 0);
        let mut joined = HashMap::<u64, u32>::new();
        for one in &done {
            prop_assert!(!one.state.is_open());
            *joined.entry(one.id()).or_default() += one.events;
        }
        prop_assert_eq!(joined, fed);
    }
}

#[test]
fn what_is_open_is_found_as_far_as_it_has_come_and_nothing_else() {
    let found = |action: Action| {
        let record = at(&connected(), 3, action);
        let found = Connection::<()>::new(&record).as_found(NOON_NS + 10_000_000)?;
        assert_eq!(found.wall_ns, NOON_NS + 10_000_000);
        assert_eq!(found.event.ts_ns, record.event.ts_ns + 7_000_000);
        assert_eq!((found.event.id, &found.process), (42, &record.process));
        let Action::Preexisting {
            direction,
            state,
            duration_ns,
        } = found.event.action
        else {
            panic!("{found:?}");
        };
        Some((direction, state, duration_ns))
    };
    let out = Direction::Outbound;
    let handshake_us = None;
    let age = Some(7_000_000);
    assert_eq!(found(Action::Connect), Some((out, TcpState::SYN_SENT, age)));
    // Its beginning was not seen.
    let open = Some((out, TcpState::ESTABLISHED, None));
    assert_eq!(found(Action::Connected { handshake_us }), open);
    let inbound = Direction::Inbound;
    let open = Some((inbound, TcpState::ESTABLISHED, age));
    assert_eq!(found(Action::Accept), open);
    let listening = Some((inbound, TcpState::LISTEN, age));
    assert_eq!(found(Action::Listen), listening);
    // What the kernel has told of it stays.
    let older = |duration_ns| Action::Preexisting {
        direction: out,
        state: TcpState::CLOSE_WAIT,
        duration_ns,
    };
    assert_eq!(found(older(None)), Some((out, TcpState::CLOSE_WAIT, None)));
    // So does what another service has seen.
    let aged = Some((out, TcpState::CLOSE_WAIT, Some(17_000_000)));
    assert_eq!(found(older(Some(10_000_000))), aged);
    assert_eq!(found(Action::Unlisten), None);
    assert_eq!(found(Action::Failed { errno: None }), None);
    assert_eq!(found(ended(out, None)), None);
}
