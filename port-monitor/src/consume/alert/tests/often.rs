//! How often somebody is told, and that no alert is forgotten.

use proptest::prelude::*;

use super::*;
use crate::consume::consumer::Stats;

const MINUTE: Duration = Duration::from_mins(1);

fn alert(priority: Priority, record: Record) -> Alert {
    Alert {
        kind: AlertKind::Violation,
        priority,
        subject: Subject::Event(Box::new(record)),
    }
}

/// Tells it or holds it back.
fn admit(gate: &mut Gate, alert: Alert, now: Instant) -> Option<Told> {
    let offered = gate.offer(alert, now);
    offered.map_err(|alert| gate.hold(alert, now)).ok()
}

fn gate(rate: &str) -> Gate {
    Gate::new(rate.parse().unwrap())
}

#[test]
fn a_rate_is_a_number_and_a_unit() {
    for text in [
        "",
        "10",
        "10/",
        "/m",
        "10/d",
        "0/m",
        "-1/m",
        "+1/m",
        "1.5/s",
        "1000001/s",
        "10 /m",
    ] {
        let wrong = text.parse::<Rate>();
        assert!(wrong.is_err(), "{text}");
    }
    for text in ["1/s", "10/m", "100/h", "1000000/s"] {
        assert!(text.parse::<Rate>().is_ok(), "{text}");
    }
}

#[test]
fn what_is_alike_is_told_once_a_minute_with_their_number() {
    let mut gate = gate("1000/s");
    let begin = Instant::now();
    let mut numbers = Vec::new();
    // Another process id, another port of the client: they say the same.
    for number in 0..300_u32 {
        let mut record = violation();
        record.event.local_port = u16::try_from(number).ok();
        record.event.owner.as_mut().unwrap().pid = number;
        let now = begin + Duration::from_secs(number.into());
        let told = admit(&mut gate, alert(Priority::Warning, record), now);
        numbers.extend(told.map(|told| told.suppressed));
    }
    assert_eq!(numbers, [0, 59, 59, 59, 59]);
    // The last of them are told though nothing else comes.
    let now = begin + Duration::from_secs(299);
    assert!(gate.due(now).is_empty());
    let due = gate.due(now + MINUTE);
    assert_eq!(due.len(), 1);
    assert_eq!(due[0].events(), 59);
    assert!(gate.due(now + 3 * MINUTE).is_empty());
}

#[test]
fn many_that_matter_little_do_not_hold_back_one_that_does() {
    let mut gate = gate("10/m");
    let now = Instant::now();
    let low = |port| alert(Priority::Warning, to(port));
    let told = (0..5_000).filter(|&port| admit(&mut gate, low(port), now).is_some());
    assert_eq!(told.count(), 10);
    assert!(admit(&mut gate, alert(Priority::Alert, to(1)), now).is_some());
    let later = now + MINUTE / 10;
    let next = admit(&mut gate, low(6_000), later).unwrap();
    assert_eq!(next.suppressed, 4_990);
    assert!(admit(&mut gate, low(6_001), later).is_none());
}

proptest! {
    /// Whatever comes when, no more is told than the rate allows, and in the end all of it.
    #[test]
    fn nothing_is_told_too_often_or_forgotten(
        steps in prop::collection::vec((0..3_000_u64, 0..60_u16, any::<bool>()), 1..400),
    ) {
        let mut gate = gate("5/m");
        let begin = Instant::now();
        let mut now = begin;
        let mut told = Vec::new();
        for &(wait_ms, port, is_loud) in &steps {
            now += Duration::from_millis(wait_ms);
            told.extend(gate.due(now).into_iter().map(|told| (now, told)));
            let priority = if is_loud { Priority::Alert } else { Priority::Warning };
            told.extend(admit(&mut gate, alert(priority, to(port)), now).map(|told| (now, told)));
        }
        for priority in [Priority::Alert, Priority::Warning] {
            let times = told.iter().filter(|(_, told)| told.alert.priority == priority);
            let times: Vec<Instant> = times.map(|(time, _)| *time).collect();
            for (first, time) in times.iter().enumerate() {
                let within = times[first..].iter().filter(|other| **other - *time <= MINUTE);
                // A full burst, and what a minute makes room for.
                prop_assert!(within.count() <= 10);
            }
        }
        let all = told.into_iter().map(|(_, told)| told).chain(gate.rest(now));
        prop_assert_eq!(all.map(|told| told.events()).sum::<u64>(), steps.len() as u64);
    }
}

#[test]
fn the_end_tells_what_was_held_back_and_the_account_adds_up() {
    let inbox = Inbox::new();
    let mut alerts = inbox.alerts(&EVERY, "2/h");
    for port in 0..100 {
        alerts.take(Item::Event(&to(port)));
    }
    let account = alerts.account();
    assert_eq!((account.taken, account.hidden), (2, 0));
    alerts.settle();
    assert_eq!(inbox.each("PORT_MONITOR_SUPPRESSED"), ["0", "0", "97"]);
    let account = alerts.account();
    assert_eq!(
        (account.delivered, account.taken, account.hidden),
        (100, 100, 0)
    );
    assert!(account.adds_up() && account.error.is_none());
}

#[test]
fn losses_are_told_by_their_cause_and_are_no_events() {
    let inbox = Inbox::new();
    let mut alerts = inbox.alerts(&EVERY, "10/m");
    let mut stats = Stats {
        ring_full: 17,
        ..Stats::default()
    };
    alerts.tick(&stats);
    alerts.tick(&stats);
    stats.queue_full = 3;
    stats.ring_full = 20;
    alerts.tick(&stats);
    alerts.settle();
    assert_eq!(
        inbox.each("MESSAGE"),
        [
            "loss: 17 events lost (ring full), 17 so far",
            "loss: 3 events lost (output slow), 3 so far",
            "loss: 3 events lost (ring full), 20 so far",
        ]
    );
    assert_eq!(alerts.account().delivered, 0);
    let mut alerts = inbox.alerts(&[AlertKind::Violation], "10/m");
    alerts.tick(&stats);
    assert!(inbox.entries().is_empty());
}
