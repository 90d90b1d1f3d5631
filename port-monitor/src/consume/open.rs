//! What is open, for those that join later: a consumer that remembers it, and the list of it at
//! a moment between two events.
//!
//! The list shares what it has with the consumer, which goes on meanwhile. It knows no clock and
//! does no I/O.

use std::{collections::HashSet, mem};

use super::{
    consumer::{Consumer, Needs, Stats},
    found::{Open, Part},
    join::{Connection, Join, ROOM, State},
};
use crate::events::record::{Account, Item};

/// Remembers what is open.
pub struct Register {
    needs: Needs,
    join: Join<()>,
    done: Vec<Connection<()>>,
    /// Those that had to make room, or whose end may be lost, and that nothing was told of since.
    missing: HashSet<u64>,
    taken: u64,
    /// Events that it was not told.
    lost: u64,
}

impl Register {
    /// One that asks for events as `needs` says.
    pub fn new(needs: Needs) -> Self {
        Self::with_room(needs, ROOM)
    }

    fn with_room(needs: Needs, room: usize) -> Self {
        Self {
            needs,
            join: Join::with_room(room),
            done: Vec::new(),
            missing: HashSet::new(),
            taken: 0,
            lost: 0,
        }
    }

    /// So many events were lost by now. What was open before may have ended by one of them.
    fn lose(&mut self, lost: u64) {
        if lost > mem::replace(&mut self.lost, lost) {
            self.join.end(&mut self.done);
            self.settle();
        }
    }

    fn settle(&mut self) {
        for gone in self.done.drain(..) {
            let is_missing = matches!(gone.state, State::PushedOut | State::CutOff);
            if is_missing && self.missing.len() < ROOM {
                self.missing.insert(gone.id());
            }
        }
    }
}

impl Consumer for Register {
    fn name(&self) -> &'static str {
        "open"
    }

    fn needs(&self) -> Needs {
        self.needs
    }

    fn is_owed_all(&self) -> bool {
        false
    }

    fn part(&self) -> Part {
        Part::Remembers
    }

    fn open(&mut self, lost: u64) -> Open {
        self.lose(lost);
        Open::new(self.join.open(), self.missing.len() as u64)
    }

    fn take(&mut self, item: Item<'_>) {
        let Item::Event(record) = item else {
            return;
        };
        self.taken += 1;
        if !self.missing.is_empty() {
            self.missing.remove(&record.event.id);
        }
        self.join.take(record, &mut self.done);
        self.settle();
    }

    fn tick(&mut self, stats: &Stats) {
        self.lose(stats.queue_full);
        self.join.sweep(&mut self.done);
        self.settle();
    }

    fn account(&mut self) -> Account {
        Account {
            delivered: self.taken,
            taken: self.taken,
            ..Account::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::mpsc, time::Duration};

    use super::*;
    use crate::{
        consume::{
            FanOut, Shown,
            fan_out::Change,
            lines::{
                json::Json,
                sample::{closed, connected, header},
            },
            output::writer::Output,
        },
        events::{
            decode::Action,
            record::{Dropped, Record},
        },
    };

    const NOON_NS: i128 = 1_700_000_000_000_000_000;

    fn numbered(mut record: Record, id: u64) -> Record {
        record.event.id = id;
        record.wall_ns = NOON_NS + i128::from(id);
        record
    }

    fn attempt(id: u64) -> Record {
        let mut record = numbered(connected(), id);
        record.event.action = Action::Connect;
        record
    }

    fn register(room: usize, records: &[Record]) -> Register {
        let mut register = Register::with_room(Needs::EVENTS, room);
        for record in records {
            register.take(Item::Event(record));
        }
        register
    }

    /// Those in the list, and how many are missing.
    fn told(register: &mut Register, lost: u64) -> (Vec<u64>, u64) {
        let open = register.open(lost);
        let missing = open.missing();
        let records = open.records(NOON_NS + 1_000_000);
        (records.map(|record| record.event.id).collect(), missing)
    }

    #[test]
    fn what_is_open_is_listed_by_age_and_stays_as_it_was() {
        let mut register = register(8, &[attempt(2), attempt(1), attempt(3)]);
        register.take(Item::Event(&numbered(closed(), 3)));
        let open = register.open(0);
        // What happens later is no part of it.
        register.take(Item::Event(&numbered(closed(), 1)));
        register.take(Item::Event(&attempt(4)));
        let told: Vec<_> = open.records(NOON_NS + 7).collect();
        let [first, second] = &*told else {
            panic!("{told:?}");
        };
        assert_eq!((first.event.id, second.event.id), (1, 2));
        assert_eq!(first.event.action.duration_ns(), Some(6));
        assert_eq!(first.process, connected().process);
        assert_eq!(Open::default().records(1).count(), 0);
    }

    #[test]
    fn what_it_has_carried_follows() {
        let mut so_far = numbered(closed(), 1);
        let Action::Close(carried) = so_far.event.action else {
            panic!("{so_far:?}");
        };
        so_far.event.action = Action::Progress(carried);
        let mut register = register(8, &[attempt(1), so_far.clone()]);
        let told: Vec<_> = register.open(0).records(NOON_NS + 7).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(told[1].event.action, so_far.event.action);
        assert_eq!(told[1].wall_ns, so_far.wall_ns);
    }

    #[test]
    fn what_had_to_make_room_is_counted_until_more_is_told_of_it() {
        let mut register = register(2, &[attempt(1), attempt(2), attempt(3), attempt(4)]);
        assert_eq!(told(&mut register, 0), (vec![3, 4], 2));
        register.take(Item::Event(&numbered(closed(), 1)));
        register.take(Item::Event(&numbered(closed(), 3)));
        register.take(Item::Event(&numbered(connected(), 2)));
        assert_eq!(told(&mut register, 0), (vec![2, 4], 0));
    }

    #[test]
    fn what_may_have_ended_by_an_event_that_is_lost_is_not_told_as_open() {
        let mut register = register(8, &[attempt(1), attempt(2)]);
        assert_eq!(told(&mut register, 5), (vec![], 2));
        // It is told of again, or ends.
        register.take(Item::Event(&numbered(connected(), 1)));
        register.take(Item::Event(&numbered(closed(), 2)));
        assert_eq!(told(&mut register, 5), (vec![1], 0));
        register.tick(&Stats {
            queue_full: 6,
            ..Stats::default()
        });
        assert_eq!(told(&mut register, 6), (vec![], 1));
    }

    /// One that joins later, and tells what it was told.
    struct Late(mpsc::Sender<(u64, bool)>, u64);

    impl Consumer for Late {
        fn name(&self) -> &'static str {
            "late"
        }

        fn needs(&self) -> Needs {
            Needs::EVENTS
        }

        fn part(&self) -> Part {
            Part::Asks
        }

        fn take(&mut self, item: Item<'_>) {
            if let Item::Event(record) = item {
                let is_found = matches!(record.event.action, Action::Preexisting { .. });
                self.0.send((record.event.id, is_found)).unwrap();
                self.1 += 1;
            }
        }

        fn tick(&mut self, _stats: &Stats) {}

        fn account(&mut self) -> Account {
            Account {
                taken: self.1,
                ..Account::default()
            }
        }
    }

    #[test]
    fn one_that_joins_is_told_what_is_open_before_what_comes_and_its_account_says_so() {
        const PATIENCE: Duration = Duration::from_mins(1);
        let output = Output::start("nowhere".to_owned(), io::sink()).unwrap();
        let mut all = FanOut::new(Shown::new(Box::new(Json::new()), output));
        all.begin(&header());
        all.add(Box::new(Register::with_room(Needs::EVENTS, 2)))
            .unwrap();
        for id in 1..=3 {
            all.take(&attempt(id));
        }
        let (told, hears) = mpsc::channel();
        let mut change = Change::default();
        change.join(Box::new(Late(told, 0))).unwrap();
        // One that would have to begin anew.
        change.join(Box::new(Register::new(Needs::EVENTS))).unwrap();
        assert!(all.change(change, NOON_NS + 9, 9).is_empty());
        all.take(&attempt(4));
        all.take(&numbered(closed(), 2));
        all.flush();
        let told = [(2, true), (3, true), (4, false), (2, false)];
        for expected in told {
            assert_eq!(hears.recv_timeout(PATIENCE), Ok(expected));
        }
        let accounts = all.accounts(PATIENCE);
        let names: Vec<_> = accounts.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["output", "open", "late"]);
        let account = &accounts[2].1;
        assert!(account.adds_up(), "{account:?}");
        assert_eq!((account.delivered, account.taken), (5, 4));
        // The one that had to make room.
        let dropped = Dropped {
            queue_full: 1,
            ..Dropped::default()
        };
        assert_eq!(account.dropped, dropped);
        assert_eq!(accounts[1].1.taken, 5);
    }
}
