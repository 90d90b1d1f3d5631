//! One consumer that goes wrong, and all others that must not notice.

use std::sync::{
    Mutex,
    mpsc::{Receiver, RecvTimeoutError, Sender, channel},
};

use port_monitor_common::event::EventKind;
use proptest::prelude::*;

use self::noted::{Told, noted};
use super::{slow::ROOM, *};
use crate::{
    consume::{
        consumer::{Kinds, Needs},
        lines::{
            json::Json,
            sample::{closed, connected, header, summary, violation},
        },
        output::writer::Output,
    },
    events::record::Dropped,
};

mod dropped;
mod noted;
mod policy;

const PATIENCE: Duration = Duration::from_mins(1);

/// What a consumer does at its first event, and what it tells.
struct Wayward {
    kind: Way,
    needs: Needs,
    started: Sender<()>,
    taken: Arc<Mutex<u64>>,
    account: Account,
}

enum Way {
    /// Takes all.
    Good,
    /// Waits for a word that may never come.
    Hangs(Receiver<()>),
    /// Panics at the event after so many.
    Panics(u64),
    /// Fails at the event after so many, and for ever from there.
    Fails(u64),
}

impl Consumer for Wayward {
    fn name(&self) -> &'static str {
        "wayward"
    }

    fn needs(&self) -> Needs {
        self.needs
    }

    fn take(&mut self, item: Item<'_>) {
        let Item::Event(_) = item else {
            return;
        };
        let _ = self.started.send(());
        match &self.kind {
            Way::Hangs(go) => {
                let _ = go.recv();
            }
            Way::Panics(after) if self.account.taken == *after => panic!("as a test wants it"),
            Way::Fails(after) if self.account.taken == *after => {
                self.account.dropped.failed += 1;
                self.account.error = Some("no more".to_owned());
                return;
            }
            _ => {}
        }
        self.account.taken += 1;
        *self.taken.lock().unwrap() += 1;
    }

    fn tick(&mut self, _: &Stats) {}

    fn account(&mut self) -> Account {
        self.account.clone()
    }
}

/// Everything to a file, and to a wayward consumer of `needs`; told when that has begun, and
/// how many events it has taken.
fn with(
    kind: Way,
    needs: Needs,
) -> (
    FanOut,
    tempfile::NamedTempFile,
    Receiver<()>,
    Arc<Mutex<u64>>,
) {
    let (mut all, file) = alone();
    let (started, has_started) = channel();
    let taken = Arc::<Mutex<u64>>::default();
    all.add(Box::new(Wayward {
        kind,
        needs,
        started,
        taken: Arc::clone(&taken),
        account: Account::default(),
    }))
    .unwrap();
    (all, file, has_started, taken)
}

fn alone() -> (FanOut, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = Output::start("test".into(), file.reopen().unwrap()).unwrap();
    let mut all = FanOut::new(Shown::new(Box::new(Json::new()), output));
    all.begin(&header());
    (all, file)
}

/// Gives them `count` events: not more at once than what is shown has room for, however long
/// the thread that writes it waits for a processor.
fn give(all: &mut FanOut, count: usize) {
    const AT_ONCE: usize = 1 << 10;
    let mut left = count;
    while left > 0 {
        let some = left.min(AT_ONCE);
        for _ in 0..some {
            all.take(&connected());
            all.flush();
        }
        left -= some;
        assert!(all.shown.is_idle_within(PATIENCE));
    }
}

/// Every event is shown, whatever the other one does, and both accounts are exact.
fn all_but_the_wayward_is_whole(
    mut all: FanOut,
    file: &tempfile::NamedTempFile,
    patience: Duration,
) -> Account {
    let accounts = all.accounts(patience);
    let [(_, shown), (name, wayward)] = &accounts[..] else {
        panic!("{accounts:?}");
    };
    assert_eq!((shown.taken, shown.dropped.total()), (shown.delivered, 0));
    assert_eq!(*name, "wayward");
    assert_eq!(wayward.delivered, shown.delivered);
    assert!(shown.adds_up() && wayward.adds_up(), "{accounts:?}");
    let taken = shown.taken;
    all.end(&summary()).unwrap();
    let text = std::fs::read_to_string(file.path()).unwrap();
    assert_eq!(text.lines().count() as u64, taken + 2);
    assert!(text.lines().last().unwrap().contains("summary"));
    wayward.clone()
}

#[test]
fn each_event_comes_to_every_consumer() {
    let (mut all, file, _, taken) = with(Way::Good, Needs::EVENTS);
    give(&mut all, 100);
    let account = all_but_the_wayward_is_whole(all, &file, PATIENCE);
    assert_eq!((account.taken, *taken.lock().unwrap()), (100, 100));
}

#[test]
fn a_consumer_that_hangs_drops_its_own_events_and_holds_up_nobody() {
    let (go, gate) = channel();
    let (mut all, file, has_started, _) = with(Way::Hangs(gate), Needs::EVENTS);
    give(&mut all, 1);
    has_started.recv().unwrap();
    // It has one in its hands. There is room for the header it was begun with, too.
    give(&mut all, ROOM + 10);
    let account = all_but_the_wayward_is_whole(all, &file, Duration::ZERO);
    let dropped = Dropped {
        queue_full: 10,
        failed: 0,
        unfinished: 1 + ROOM as u64,
    };
    assert_eq!((account.taken, account.dropped), (0, dropped));
    assert!(account.is_incomplete());
    drop(go);
}

#[test]
fn a_consumer_that_was_slow_takes_what_its_queue_had_room_for() {
    let (go, gate) = channel();
    let (mut all, file, has_started, taken) = with(Way::Hangs(gate), Needs::EVENTS);
    give(&mut all, 1);
    has_started.recv().unwrap();
    give(&mut all, ROOM + 10);
    drop(go);
    let account = all_but_the_wayward_is_whole(all, &file, PATIENCE);
    let dropped = Dropped {
        queue_full: 10,
        ..Dropped::default()
    };
    let room = 1 + ROOM as u64;
    assert_eq!((account.taken, account.dropped), (room, dropped));
    assert_eq!(*taken.lock().unwrap(), room);
    assert!(!account.is_incomplete());
}

#[test]
fn the_start_waits_for_a_queue_that_is_half_full() {
    let (go, gate) = channel();
    let (mut all, file, has_started, _) = with(Way::Hangs(gate), Needs::EVENTS);
    give(&mut all, 1);
    has_started.recv().unwrap();
    assert!(!all.are_behind(usize::MAX));
    give(&mut all, ROOM / 2);
    assert!(all.are_behind(usize::MAX));
    assert!(!all.are_idle_within(Duration::ZERO));
    drop(go);
    assert!(all.are_idle_within(PATIENCE));
    all_but_the_wayward_is_whole(all, &file, PATIENCE);
}

#[test]
fn a_consumer_that_panics_is_told_of_and_harms_nobody() {
    let (mut all, file, has_started, _) = with(Way::Panics(0), Needs::EVENTS);
    give(&mut all, 1);
    has_started.recv().unwrap();
    give(&mut all, 99);
    let account = all_but_the_wayward_is_whole(all, &file, PATIENCE);
    assert_eq!((account.taken, account.dropped.failed), (0, 100));
    assert_eq!(account.error.as_deref(), Some("it panicked"));
}

#[test]
fn a_consumer_that_fails_for_ever_counts_what_it_could_not_take() {
    let (mut all, file, _, _) = with(Way::Fails(3), Needs::EVENTS);
    give(&mut all, 100);
    let account = all_but_the_wayward_is_whole(all, &file, PATIENCE);
    assert_eq!((account.taken, account.dropped.failed), (3, 97));
    assert_eq!(account.error.as_deref(), Some("no more"));
}

#[test]
fn needs_are_united_and_each_gets_what_it_asks_for() {
    let needs = Needs {
        kinds: [EventKind::Close].into_iter().collect(),
        allowed: true,
        peers: true,
    };
    let (all, file, _, taken) = with(Way::Good, needs);
    let only = Needs {
        kinds: [EventKind::Connected, EventKind::Failed]
            .into_iter()
            .collect(),
        allowed: false,
        peers: false,
    };
    let mut all = FanOut {
        shown: all.shown.only(only, None),
        ..all
    };
    let united = all.needs();
    let kinds: Vec<_> = united.kinds.iter().collect();
    let expected = [EventKind::Connected, EventKind::Failed, EventKind::Close];
    assert_eq!(kinds, expected);
    assert!(united.allowed && united.peers);
    for record in [connected(), violation(), closed(), closed()] {
        all.take(&record);
    }
    let accounts = all.accounts(PATIENCE);
    let counts = accounts
        .iter()
        .map(|(_, account)| (account.taken, account.hidden));
    assert_eq!(counts.collect::<Vec<_>>(), [(1, 3), (2, 2)]);
    assert_eq!(all.shown().violations(), 1);
    assert_eq!(*taken.lock().unwrap(), 2);
    all.end(&summary()).unwrap();
    let text = std::fs::read_to_string(file.path()).unwrap();
    assert!(text.lines().nth(1).unwrap().contains("no-telnet"), "{text}");
}

/// Keeps what ticks say.
struct Ticked {
    started: Sender<()>,
    go: Receiver<()>,
    ticks: Sender<Stats>,
    account: Account,
}

impl Consumer for Ticked {
    fn name(&self) -> &'static str {
        "ticked"
    }

    fn needs(&self) -> Needs {
        Needs::EVENTS
    }

    fn take(&mut self, item: Item<'_>) {
        if let Item::Event(_) = item {
            let _ = self.started.send(());
            let _ = self.go.recv();
            self.account.taken += 1;
        }
    }

    fn tick(&mut self, stats: &Stats) {
        let _ = self.ticks.send(*stats);
    }

    fn account(&mut self) -> Account {
        self.account.clone()
    }
}

#[test]
fn a_queue_that_was_full_is_told_to_its_consumer_alone() {
    let (mut all, file) = alone();
    let (ticks, ticked) = channel();
    let (started, has_started) = channel();
    let (go, gate) = channel();
    all.add(Box::new(Ticked {
        started,
        go: gate,
        ticks,
        account: Account::default(),
    }))
    .unwrap();
    give(&mut all, 1);
    has_started.recv().unwrap();
    give(&mut all, ROOM + 10);
    let stats = Stats {
        wall_ns: 7,
        ring_full: 2,
        ..Stats::default()
    };
    // No room for a tick either: the next one says it too.
    all.tick(&stats);
    drop(go);
    let accounts = all.accounts(PATIENCE);
    assert!(accounts[1].1.adds_up(), "{accounts:?}");
    all.tick(&stats);
    all.end(&summary()).unwrap();
    let ticks: Vec<Stats> = ticked.iter().collect();
    let expected = Stats {
        queue_full: 10,
        ..stats
    };
    assert_eq!(ticks, [expected]);
    let text = std::fs::read_to_string(file.path()).unwrap();
    let losses = text.lines().filter(|line| line.contains("\"output_slow\""));
    // Only the summary names the cause.
    assert_eq!(losses.count(), 1);
    let gaps = text
        .lines()
        .filter(|line| line.contains("\"action\":\"loss\""));
    assert_eq!(gaps.count(), 1);
}

#[test]
fn consumers_change_between_two_events_and_each_event_comes_to_one_of_them() {
    let (mut all, file, _, taken) = with(Way::Good, Needs::EVENTS);
    give(&mut all, 100);
    let lost = Stats {
        ring_full: 2,
        ..Stats::default()
    };
    all.tick(&lost);
    let (consumer, told) = noted();
    let mut change = Change::default();
    change.leave("wayward");
    change.join(consumer).unwrap();
    let left = all.change(change, 7, 8);
    give(&mut all, 50);
    let more = Stats {
        ring_full: 5,
        ..lost
    };
    all.tick(&more);
    let [left] = <[Left; 1]>::try_from(left).ok().unwrap();
    assert_eq!(left.name(), "wayward");
    let account = left.finish(PATIENCE);
    assert_eq!((account.delivered, account.taken), (100, 100));
    assert_eq!(*taken.lock().unwrap(), 100);
    let accounts = all.accounts(PATIENCE);
    let [(_, shown), ("noted", joined)] = &accounts[..] else {
        panic!("{accounts:?}");
    };
    assert_eq!(shown.taken, 150);
    assert_eq!((joined.delivered, joined.taken), (50, 50));
    assert!(account.adds_up() && joined.adds_up());
    all.end(&summary()).unwrap();
    // Its stream begins when it joined, and what was lost before is not missing in it.
    let since = Stats {
        ring_full: 3,
        ..Stats::default()
    };
    let told: Vec<_> = told.iter().collect();
    assert_eq!(told, [Told::Header(7, 8), Told::Tick(since)]);
    let text = std::fs::read_to_string(file.path()).unwrap();
    assert_eq!(
        text.lines()
            .filter(|line| line.contains("\"connected\""))
            .count(),
        150
    );
}

#[test]
fn those_that_stay_open_again_what_they_write_to() {
    let (mut all, _file) = alone();
    let (consumer, told) = noted();
    all.add(consumer).unwrap();
    for change in [Change::default(), Change::reopening()] {
        assert!(all.change(change, 7, 8).is_empty());
    }
    all.end(&summary()).unwrap();
    assert_eq!(told.iter().collect::<Vec<_>>(), [Told::Reopen]);
}

#[test]
fn one_that_hangs_when_it_leaves_is_not_waited_for_by_those_that_stay() {
    let (go, gate) = channel();
    let (mut all, file, has_started, _) = with(Way::Hangs(gate), Needs::EVENTS);
    give(&mut all, 1);
    has_started.recv().unwrap();
    give(&mut all, 9);
    let mut change = Change::default();
    change.leave("wayward");
    let mut left = all.change(change, 7, 8);
    give(&mut all, 10);
    let account = left.remove(0).finish(Duration::ZERO);
    assert_eq!((account.delivered, account.dropped.unfinished), (10, 10));
    assert!(account.adds_up());
    let accounts = all.accounts(PATIENCE);
    assert_eq!((accounts.len(), accounts[0].1.taken), (1, 20));
    all.end(&summary()).unwrap();
    drop((go, file));
}

#[test]
fn one_that_never_came_to_join_leaves_no_thread_behind() {
    let (consumer, told) = noted();
    let mut change = Change::default();
    change.join(consumer).unwrap();
    drop(change);
    // Its thread has ended when nobody can tell anything any more.
    let news = told.recv_timeout(PATIENCE);
    assert_eq!(news, Err(RecvTimeoutError::Disconnected));
}

/// What happens to a fan-out.
#[derive(Clone, Debug)]
enum Step {
    Connected,
    Violation,
    Closed,
    Flush,
    Tick,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        Just(Step::Connected),
        Just(Step::Violation),
        Just(Step::Closed),
        Just(Step::Flush),
        Just(Step::Tick),
    ];
    prop::collection::vec(step, 0..60)
}

fn needs() -> impl Strategy<Value = Needs> {
    (any::<[bool; 3]>(), any::<bool>()).prop_map(|(kinds, allowed)| {
        let all = [EventKind::Connected, EventKind::Failed, EventKind::Close];
        let chosen = all
            .into_iter()
            .zip(kinds)
            .filter(|(_, is_chosen)| *is_chosen);
        Needs {
            kinds: chosen.map(|(kind, _)| kind).collect::<Kinds>(),
            allowed,
            peers: false,
        }
    })
}

fn ways() -> impl Strategy<Value = (Option<u64>, bool)> {
    (prop::option::of(0..30_u64), any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn delivered_is_taken_hidden_and_dropped(
        steps in steps(),
        shown_needs in needs(),
        limit in prop::option::of(0..20_u64),
        others in prop::collection::vec((needs(), ways()), 0..3),
    ) {
        let (all, _file) = alone();
        let mut all = FanOut { shown: all.shown.only(shown_needs, limit), ..all };
        let mut counts = Vec::new();
        for (needs, (after, panics)) in others {
            let taken = Arc::<Mutex<u64>>::default();
            let kind = match (after, panics) {
                (None, _) => Way::Good,
                (Some(after), true) => Way::Panics(after),
                (Some(after), false) => Way::Fails(after),
            };
            all.add(Box::new(Wayward {
                kind,
                needs,
                started: channel().0,
                taken: Arc::clone(&taken),
                account: Account::default(),
            })).unwrap();
            counts.push((needs, after, panics, taken));
        }
        let mut given = Vec::new();
        for step in steps {
            let record = match step {
                Step::Connected => connected(),
                Step::Violation => violation(),
                Step::Closed => closed(),
                Step::Flush => { all.flush(); continue }
                Step::Tick => { all.tick(&Stats::default()); continue }
            };
            all.take(&record);
            given.push(record);
        }
        let accounts = all.accounts(PATIENCE);
        let asked = |needs: &Needs| given.iter().filter(|record| needs.has(record)).count() as u64;
        for (_, account) in &accounts {
            prop_assert!(account.adds_up(), "{account:?}");
            prop_assert_eq!(account.delivered, given.len() as u64);
        }
        let shown = &accounts[0].1;
        prop_assert_eq!(shown.taken, asked(&shown_needs).min(limit.unwrap_or(u64::MAX)));
        prop_assert_eq!(shown.dropped.total(), 0);
        for ((needs, after, panics, taken), (_, account)) in counts.iter().zip(&accounts[1..]) {
            let asked = asked(needs);
            let able = after.unwrap_or(u64::MAX).min(asked);
            prop_assert_eq!(account.hidden, given.len() as u64 - asked);
            prop_assert_eq!(*taken.lock().unwrap(), able);
            // What it took in the middle of which it panicked is not told to be there.
            let is_told = account.taken == able || *panics && account.taken < able;
            prop_assert!(is_told, "{account:?}");
            prop_assert_eq!(account.error.is_some(), able < asked);
        }
        let _ = all.end(&summary());
    }
}
