//! What is asked at once, and what looks tell of it.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use super::*;
use crate::pipeline::inbound::answers::{Answers, HIDDEN, Memory, find, gather};

#[test]
fn many_who_wait_end_a_pause() {
    let (sender, questions) = mpsc::channel();
    let ask = |count: usize| (0..count).for_each(|_| sender.send(vec![question()]).unwrap());
    ask(3);
    let few = gather(vec![question()], &questions, Instant::now());
    assert_eq!(few.len(), 4);
    ask(HURRY);
    let long = Instant::now() + Duration::from_hours(1);
    assert_eq!(gather(vec![question()], &questions, long).len(), HURRY + 1);
}

/// Connections that came to a listener, one at each of these times.
fn asked(times: Range<u64>, listener: u32) -> impl Iterator<Item = Question> {
    times.map(move |ts_ns| Question {
        listener,
        ts_ns,
        ..question()
    })
}

#[test]
fn one_answer_is_for_all_that_came_to_a_listener() {
    let questions: Vec<_> = asked(CAME_NS..2 * CAME_NS, LISTENER).collect();
    let mut script = Script(vec![vec![holder(10, 1, 1)]]);
    let answers = find(&mut script, &questions, &mut Memory::default());
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].count, questions.len());
    assert_eq!(answers[0].found.owner.map(|owner| owner.pid), Ok(10));
}

/// Two looks at several listeners, between which processes begin and end, and close some.
fn looks_between_which_much_changes() -> (Seen, Seen) {
    let on = |listener, holder| Holder { listener, ..holder };
    let young = |pid, parent| Holder {
        owner: event::Owner {
            start_ns: 40,
            ..holder(pid, 1, 1).owner
        },
        ..holder(pid, parent, 1)
    };
    let holders = vec![
        holder(10, 1, 1),
        young(12, 10),
        on(8, young(14, 1)),
        on(8, holder(15, 14, 1)),
        on(9, holder(16, 1, 1)),
    ];
    let closed = vec![
        on(8, closer(15, 1, 20)),
        on(9, closer(17, 1, 22)),
        closer(11, 2, 25),
        on(9, closer(16, 1, 30)),
        on(6, closer(18, 1, 35)),
        on(5, closer(19, 1, 45)),
        closer(10, 2, 50),
        on(5, young(20, 1)),
    ];
    let mut seen = Seen::new(holders, closed);
    seen.lost_ns = Some(28);
    // Some of them are gone in the look after it.
    let before = Seen::new(
        vec![
            holder(10, 1, 1),
            on(9, holder(17, 1, 1)),
            on(9, holder(16, 1, 1)),
            on(8, young(21, 1)),
            on(4, young(22, 1)),
        ],
        vec![],
    );
    (before, seen)
}

#[test]
fn an_answer_is_never_that_of_a_connection_for_which_it_would_be_another() {
    let (before, mut seen) = looks_between_which_much_changes();
    let before = [before];
    let mut closers = Closers::default();
    closers.take(&mut seen, &before);
    let each_in_turn = |ts_ns| (4..=LISTENER + 2).flat_map(move |one| asked(ts_ns..ts_ns + 1, one));
    let questions: Vec<_> = (0..60)
        .flat_map(each_in_turn)
        .chain((4..=LISTENER + 2).flat_map(|one| asked(0..60, one)))
        .collect();
    let mut answers = Answers::to(&questions);
    answers.take(&seen, &closers);
    let mut told = answers.in_order().into_iter();
    let mut different = 0;
    let mut left = (0, None);
    for question in &questions {
        if left.0 == 0 {
            let answer = told.next().unwrap();
            left = (answer.count, Some(answer.found));
            different += 1;
        }
        left.0 -= 1;
        let mut alone = answer(question, &seen, &closers);
        let is_nowhere = alone.owner == Err(Missing::Unheld);
        if is_nowhere && closers.since(question).is_none() && closers.may_lack(question) {
            alone = Found::nobody(Missing::Late);
        }
        assert_eq!(left.1, Some(alone), "{question:?}");
    }
    assert_eq!(told.next(), None);
    assert!(different < questions.len(), "{different}");
}

#[test]
fn a_listener_on_its_way_from_one_to_the_other_is_looked_for_again() {
    // As often as processors that are busy may take.
    for looks_in_vain in [1, 5] {
        // The last is the first answer.
        let mut scans = vec![vec![holder(10, 1, 1)]];
        scans.resize(1 + looks_in_vain, vec![]);
        let told = told(scans, ALL, &[accept(1)]);
        let owner = told[0].event.owner.map(|owner| owner.pid);
        assert_eq!(owner, Some(10), "{looks_in_vain}");
        assert_eq!(told[0].event.listener.holders, 1);
    }
}

#[test]
fn a_listener_that_was_waited_for_in_vain_is_not_waited_for_again() {
    let looks = 7;
    let scans = vec![vec![]; 2 * looks];
    let mut script = Script(scans);
    let mut memory = Memory::default();
    let mut left = |listener| {
        let asked = Question {
            listener,
            ..question()
        };
        let found = find(&mut script, &[asked], &mut memory);
        assert_eq!(found[0].found.owner, Err(Missing::Unheld));
        script.0.len()
    };
    let after_first = left(LISTENER);
    assert!(after_first < 2 * looks - 3, "{after_first}");
    assert_eq!(left(LISTENER), after_first - 1);
    // What is hidden says nothing of another.
    assert!(left(LISTENER + 1) < after_first - 4);
    for listener in 0..=u32::try_from(HIDDEN).unwrap() {
        memory.hide(listener);
    }
    assert!(memory.hidden.len() <= HIDDEN);
}

#[test]
fn who_closed_a_listener_is_known_when_it_is_asked_later() {
    let mut closers = Closers::default();
    let close = |port: u32| {
        let mut closer = closer(10 + port, 1, CAME_NS + u64::from(port));
        closer.owner.start_ns = 1;
        Holder { port, ..closer }
    };
    let asked = |port: u32| Question { port, ..question() };
    let many = 10_000;
    let mut seen = Seen::new(vec![], (1..=many).map(close).collect());
    closers.take(&mut seen, &[]);
    let named = |closers: &Closers, port| {
        let found = answer(&asked(port), &Seen::default(), closers);
        found.owner.map(|owner| owner.pid)
    };
    for port in 1..=many {
        assert_eq!(named(&closers, port), Ok(10 + port));
    }
    // Much later nobody asks about them.
    closers.forget_before(CAME_NS + 1);
    assert_eq!(named(&closers, 1), Ok(11));
    closers.forget_before(u64::MAX);
    assert_eq!(named(&closers, 1), Err(Missing::Unheld));
    assert!(closers.may_lack(&asked(1)));
    let later = Question {
        ts_ns: CAME_NS + u64::from(many) + 1,
        ..question()
    };
    assert!(!closers.may_lack(&later));
}

#[test]
fn where_one_who_closed_a_listener_is_missing_the_owner_is_late_at_once() {
    /// Shows nothing, and counts how often it is asked.
    struct Lossy {
        lost_ns: u64,
        looks: u32,
    }
    impl Source for Lossy {
        fn look(&mut self) -> io::Result<Seen> {
            self.looks += 1;
            Ok(Seen {
                lost_ns: Some(self.lost_ns),
                ..Seen::default()
            })
        }
    }
    for (lost_ns, missing, is_at_once) in [
        (CAME_NS, Missing::Late, true),
        (CAME_NS - 1, Missing::Unheld, false),
    ] {
        let mut source = Lossy { lost_ns, looks: 0 };
        let found = find(&mut source, &[question()], &mut Memory::default());
        assert_eq!(found[0].found, Found::nobody(missing));
        assert_eq!(source.looks == 1, is_at_once);
    }
}

#[test]
fn who_let_go_while_a_look_lasted_is_known_when_the_next_one_tells_it() {
    /// Each look is there once.
    struct Looks(Vec<Seen>);
    impl Source for Looks {
        fn look(&mut self) -> io::Result<Seen> {
            Ok(self.0.pop().unwrap_or_default())
        }
    }
    let other = LISTENER + 1;
    let elsewhere = Holder {
        listener: other,
        ..holder(20, 1, 1)
    };
    let us = Holder {
        owner: event::Owner::default(),
        flags: HOLDER_LOOKED,
        ..closer(0, 1, CAME_NS)
    };
    // Another question takes two looks. In the first one the monitor lets go of the listener,
    // which is told in the second.
    let mut source = Looks(vec![
        Seen::default(),
        Seen::new(vec![elsewhere], vec![us]),
        Seen::new(vec![holder(10, 1, 1)], vec![]),
    ]);
    let mut memory = Memory::default();
    let mut named = |listener| {
        let asked = Question {
            listener,
            ..question()
        };
        let answers = find(&mut source, &[asked], &mut memory);
        answers[0].found.owner.map(|owner| owner.pid)
    };
    assert_eq!(named(other), Ok(20));
    assert_eq!(named(LISTENER), Ok(10));
}
