//! What the model makes of events.

use port_monitor_common::event::ClosedBy;

use super::*;
use crate::{
    consume::lines::sample::{NOON_NS, accepted, closed, connected, header, listening, violation},
    events::decode::{Action, Close},
};

fn event(model: &mut Model, record: &Record) {
    model.take(Item::Event(record));
}

fn of(groups: &Groups) -> Tally {
    let mut total = groups.others();
    groups.iter().for_each(|group| total += group.tally);
    total
}

/// Each kind of group has all connections, and so has the total.
fn assert_adds_up(model: &Model) {
    for groups in [&model.processes, &model.services, &model.remotes] {
        assert_eq!(of(groups), model.total);
    }
    let open = model.connections();
    let open = open.filter(|row| !row.is_listener() && row.state.is_open());
    assert_eq!(u64::try_from(open.count()).unwrap(), model.total.open);
}

/// A look at a connection, or its end.
fn carried(mut record: Record, ts_ns: u64, sent: u64, is_end: bool) -> Record {
    let close = Close {
        bytes_sent: sent,
        bytes_received: 2 * sent,
        duration_ns: Some(ts_ns),
        ..Close::new(Direction::Outbound, ClosedBy::Local)
    };
    record.event.action = if is_end {
        Action::Close(close)
    } else {
        Action::Progress(close)
    };
    record.event.ts_ns = ts_ns;
    record.wall_ns = NOON_NS + i128::from(ts_ns);
    record
}

#[test]
fn a_connection_is_counted_from_its_beginning_to_its_end() {
    let mut model = Model::default();
    event(&mut model, &connected());
    assert_eq!((model.total.all, model.total.open), (1, 1));
    for (second, sent) in [(10, 500), (11, 1_500), (13, 1_500)] {
        event(
            &mut model,
            &carried(connected(), second * 1_000_000_000, sent, false),
        );
        assert_adds_up(&model);
    }
    assert_eq!((model.total.sent, model.total.received), (1_500, 3_000));
    event(
        &mut model,
        &carried(connected(), 14_000_000_000, 1_600, true),
    );
    assert_adds_up(&model);
    let Tally {
        all, open, sent, ..
    } = model.total;
    assert_eq!((all, open, sent), (1, 0, 1_600));
}

#[test]
fn a_rate_is_of_the_time_between_two_looks() {
    let mut model = Model::default();
    event(&mut model, &connected());
    let rate = |model: &Model| {
        let rate = model.connections().next().unwrap().mark.rate;
        (rate.sent_a_second, rate.received_a_second)
    };
    event(
        &mut model,
        &carried(connected(), 10_000_000_000, 5_000, false),
    );
    assert_eq!(rate(&model), (0, 0));
    event(
        &mut model,
        &carried(connected(), 12_000_000_000, 6_000, false),
    );
    assert_eq!(rate(&model), (500, 1_000));
    event(
        &mut model,
        &carried(connected(), 13_000_000_000, 9_000, true),
    );
    assert_eq!(rate(&model), (0, 0));
}

#[test]
fn an_owner_who_is_found_later_takes_the_connection_over() {
    let mut model = Model::default();
    let mut unknown = connected();
    unknown.event.owner = None;
    event(&mut model, &unknown);
    assert!(model.processes.get(&Key::Process(None)).is_some());
    event(&mut model, &closed());
    assert!(model.processes.get(&Key::Process(None)).is_none());
    assert_adds_up(&model);
    assert_eq!(model.total.all, 1);
}

#[test]
fn what_ends_or_was_there_before_has_not_begun_now() {
    let mut model = Model::default();
    event(&mut model, &closed());
    event(
        &mut model,
        &carried(connected_as(7), 5_000_000_000, 9, false),
    );
    let mut found = connected_as(8);
    found.event.action = Action::Preexisting {
        direction: Direction::Outbound,
        state: port_monitor_common::tcp_state::TcpState::ESTABLISHED,
        duration_ns: None,
    };
    event(&mut model, &found);
    let begun = |model: &mut Model| model.strip.present().begun;
    assert_eq!((begun(&mut model), model.total.all), (0, 3));
    event(&mut model, &connected_as(9));
    assert_eq!(begun(&mut model), 1);
}

/// Like curl's connection, another one.
fn connected_as(id: u64) -> Record {
    let mut record = connected();
    record.event.id = id;
    record.wall_ns = NOON_NS + 20_000_000_000;
    record
}

#[test]
fn listeners_are_no_connections() {
    let mut model = Model::default();
    event(&mut model, &listening());
    let mut accepted = accepted();
    accepted.event.id += 1;
    event(&mut model, &accepted);
    let listeners = model.connections().filter(|row| row.is_listener());
    assert_eq!((listeners.count(), model.total.all), (1, 1));
    assert_adds_up(&model);
}

#[test]
fn what_has_ended_is_kept_for_a_while_and_no_longer_than_there_is_room() {
    let mut model = Model::default();
    let count = u64::try_from(ENDED_ROOM).unwrap() + 2_000;
    for id in 0..count {
        let mut record = violation();
        record.event.id = id;
        event(&mut model, &record);
    }
    let stats = Stats {
        wall_ns: NOON_NS + JUST_ENDED_NS + 2_000_000_000,
        ..Stats::default()
    };
    model.tick(&stats);
    model.tick(&stats);
    let kept: Vec<u64> = model.connections().map(Connection::id).collect();
    assert_eq!(kept.len(), ENDED_ROOM);
    assert!(kept.contains(&(count - 1)) && !kept.contains(&0));
    assert!(model.connection(count - 1).is_some());
    assert!(model.connections().all(|row| model.is_past(row)));
    assert_eq!((model.total.all, model.total.failed), (count, count));
    assert_eq!(model.total.violations, count);
    assert_adds_up(&model);
}

#[test]
fn what_is_pushed_out_is_not_open_any_more() {
    let mut model = Model::default();
    let count = u64::try_from(crate::consume::join::ROOM).unwrap() + 100;
    for id in 0..count {
        let mut record = connected();
        record.event.id = id;
        event(&mut model, &record);
    }
    assert_eq!(model.total.all, count);
    assert_eq!(model.total.open, count - 100);
    assert_adds_up(&model);
}

/// Two million events, of which the numbers are known.
#[test]
fn a_flood_is_counted_to_the_unit() {
    const CONNECTIONS: u64 = 700_000;
    let mut model = Model::default();
    let mut made = Tally::default();
    let mut events = 0;
    let mut say = |model: &mut Model, record: &Record| {
        events += 1;
        event(model, record);
    };
    for number in 0..CONNECTIONS {
        let (mut begin, id) = (connected(), number + 1);
        begin.event.id = id;
        begin.event.remote_ip = std::net::Ipv4Addr::from(u32::try_from(number).unwrap()).into();
        begin.wall_ns += i128::from(number) * 50_000;
        made.all += 1;
        if number % 7 == 0 {
            begin.event.action = Action::Failed { errno: Some(111) };
            made.failed += 1;
            say(&mut model, &begin);
            continue;
        }
        begin.event.action = Action::Connect;
        say(&mut model, &begin);
        begin.event.action = Action::Connected { handshake_us: None };
        begin.event.ts_ns += 1;
        say(&mut model, &begin);
        let mut end = carried(begin, 9_000_000_000, number % 100, number % 70 != 1);
        end.wall_ns = NOON_NS + i128::from(number) * 50_000;
        made.open += u64::from(number % 70 == 1);
        made.sent += number % 100;
        made.received += 2 * (number % 100);
        say(&mut model, &end);
        if number % 1_000 == 0 {
            model.tick(&Stats::default());
        }
    }
    assert!(events > 1_800_000, "{events}");
    assert_eq!(model.events(), events);
    assert_eq!(model.total, made);
    assert_adds_up(&model);
}

/// The view names the policy that judges now, and goes on with what it has counted.
#[test]
fn another_policy_takes_the_place_of_the_one_before() {
    let mut model = Model::default();
    let mut header = header();
    model.take(Item::Header(&header));
    event(&mut model, &connected());
    header.policy = Some("other.toml".to_owned());
    model.take(Item::Policy(&header));
    let named = model.header.as_ref().and_then(|now| now.policy.as_deref());
    assert_eq!(named, Some("other.toml"));
    assert_eq!(model.total.all, 1);
}

/// What is open goes on, and is not counted twice or less than once, whatever becomes of it.
#[test]
fn counts_that_are_begun_anew_have_what_came_since_and_what_is_open() {
    let told = |id: u64, action: Action| {
        let mut record = violation();
        record.event.id = id;
        record.event.action = action;
        record
    };
    let carried = |received: u64| Close {
        bytes_received: received,
        ..Close::new(Direction::Outbound, ClosedBy::Peer)
    };
    let mut model = Model::default();
    model.take(Item::Header(&header()));
    let handshake_us = None;
    for id in 1..=3 {
        model.take(Item::Event(&told(id, Action::Connected { handshake_us })));
        model.take(Item::Event(&told(id, Action::Progress(carried(100)))));
    }
    model.take(Item::Event(&told(3, Action::Close(carried(150)))));
    model.clear();
    let sums = |model: &Model| {
        let mut sums = vec![model.total];
        for by in [
            GroupedBy::Process,
            GroupedBy::Service,
            GroupedBy::Remote,
            GroupedBy::Rule,
        ] {
            let mut sum = Tally::default();
            model.groups(by).iter().for_each(|group| sum += group.tally);
            sums.push(sum);
        }
        sums
    };
    let mut expected = Tally {
        all: 2,
        open: 2,
        violations: 2,
        ..Tally::default()
    };
    assert_eq!(sums(&model), [expected; 5]);
    let hits = model.rules.iter().map(|rule| rule.strip.clone());
    assert!(
        hits.map(|mut strip| strip.present().begun)
            .all(|hits| hits == 0)
    );
    model.take(Item::Event(&told(1, Action::Progress(carried(130)))));
    model.take(Item::Event(&told(2, Action::Close(carried(107)))));
    expected.open = 1;
    expected.received = 37;
    assert_eq!(sums(&model), [expected; 5]);
    // Its own row has all that it has carried.
    let row = model.record(1).unwrap().event.action.carried().copied();
    assert_eq!(row.unwrap().bytes_received, 130);
}
