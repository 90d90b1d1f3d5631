//! A consumer that tells what it is told.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::super::*;

/// What a consumer was told besides events.
struct Noted {
    told: Sender<Told>,
    account: Account,
}

#[derive(Debug, PartialEq)]
pub(super) enum Told {
    Header(i128, u64),
    Policy(Option<String>, u16),
    Tick(Stats),
    Reopen,
}

impl Consumer for Noted {
    fn name(&self) -> &'static str {
        "noted"
    }

    fn needs(&self) -> Needs {
        Needs::EVENTS
    }

    fn take(&mut self, item: Item<'_>) {
        match item {
            Item::Header(header) => {
                let _ = self.told.send(Told::Header(header.wall_ns, header.boot_ns));
            }
            Item::Policy(header) => {
                let number = header
                    .policy_loaded
                    .as_ref()
                    .map_or(0, |loaded| loaded.number);
                let _ = self.told.send(Told::Policy(header.policy.clone(), number));
            }
            Item::Event(_) => self.account.taken += 1,
            _ => {}
        }
    }

    fn tick(&mut self, stats: &Stats) {
        let _ = self.told.send(Told::Tick(*stats));
    }

    fn reopen(&mut self) {
        let _ = self.told.send(Told::Reopen);
    }

    fn account(&mut self) -> Account {
        self.account.clone()
    }
}

pub(super) fn noted() -> (Box<dyn Consumer>, Receiver<Told>) {
    let (told, all) = channel();
    let account = Account::default();
    (Box::new(Noted { told, account }), all)
}
