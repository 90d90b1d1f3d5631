//! Consumers that come and go while events go on.

use std::{
    io, mem,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::slow::Slow;
use crate::{consume::consumer::Consumer, events::record::Account};

/// Who takes events from now on, and who no longer does.
#[derive(Default)]
pub struct Change {
    pub(super) joining: Vec<Slow>,
    pub(super) leaving: Vec<&'static str>,
    /// Those that stay open again what they write to.
    pub(super) reopens: bool,
}

/// Consumers that are to come and go while a run goes on.
pub struct Request {
    /// Which.
    pub change: Change,
    /// Told when they have, and given those that left.
    pub done: oneshot::Sender<Vec<Left>>,
}

impl Change {
    /// One at which those that stay open again what they write to.
    pub fn reopening() -> Self {
        let mut change = Self::default();
        change.reopens = true;
        change
    }

    /// Consumers of this name leave.
    pub fn leave(&mut self, name: &'static str) {
        self.leaving.push(name);
    }

    /// `consumer` joins, on a thread of its own that is there from now on.
    pub fn join(&mut self, consumer: Box<dyn Consumer>) -> io::Result<()> {
        self.joining.push(Slow::start(consumer)?);
        Ok(())
    }
}

impl Drop for Change {
    /// Ends the threads of those that did not come to join.
    fn drop(&mut self) {
        for slow in mem::take(&mut self.joining) {
            slow.finish(Instant::now());
        }
    }
}

/// A consumer that no event comes to any more. It still has to take those in its queue, and
/// its thread ends with this.
pub struct Left(Option<Slow>);

impl Left {
    pub(super) const fn new(slow: Slow) -> Self {
        Self(Some(slow))
    }

    /// What the account calls it.
    pub fn name(&self) -> &'static str {
        self.0.as_ref().map_or("", Slow::name)
    }

    /// Waits until it has taken all. What it has not within `patience` is dropped.
    pub fn finish(mut self, patience: Duration) -> Account {
        let Some(mut slow) = self.0.take() else {
            return Account::default();
        };
        let deadline = Instant::now() + patience;
        slow.wake();
        let account = slow.settle(deadline);
        slow.finish(deadline);
        account
    }
}

impl Drop for Left {
    /// Nobody asks for its account, or waits for its thread.
    fn drop(&mut self) {
        if let Some(slow) = self.0.take() {
            slow.finish(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    };

    use super::*;
    use crate::{
        consume::{
            FanOut, Shown,
            consumer::{Needs, Stats},
            lines::{json::Json, sample::connected},
            output::writer::Output,
        },
        events::record::Item,
    };

    const PATIENCE: Duration = Duration::from_mins(1);

    /// One to whom nothing is owed, and that waits at each event until it is told to go on.
    struct Unhurried {
        starts: Sender<()>,
        go: Receiver<()>,
        taken: u64,
    }

    impl Consumer for Unhurried {
        fn name(&self) -> &'static str {
            "unhurried"
        }

        fn needs(&self) -> Needs {
            Needs::EVENTS
        }

        fn is_owed_all(&self) -> bool {
            false
        }

        fn take(&mut self, item: Item<'_>) {
            if let Item::Event(_) = item {
                let _ = self.starts.send(());
                let _ = self.go.recv();
                self.taken += 1;
            }
        }

        fn tick(&mut self, _stats: &Stats) {}

        fn account(&mut self) -> Account {
            Account {
                taken: self.taken,
                ..Account::default()
            }
        }
    }

    fn with_one() -> (FanOut, Receiver<()>, Sender<()>) {
        let output = Output::start("nowhere".to_owned(), io::sink()).unwrap();
        let mut all = FanOut::new(Shown::new(Box::new(Json::new()), output));
        let ((starts, started), (goes, go)) = (channel(), channel());
        let mut change = Change::default();
        change
            .join(Box::new(Unhurried {
                starts,
                go,
                taken: 0,
            }))
            .unwrap();
        assert!(all.change(change, 1, 2).is_empty());
        (all, started, goes)
    }

    #[test]
    fn what_nobody_owes_is_not_waited_for_long_and_no_fault_of_the_run() {
        let (mut all, started, goes) = with_one();
        for _ in 0..10 {
            all.take(&connected());
        }
        all.flush();
        started.recv().unwrap();
        let begun = Instant::now();
        let accounts = all.accounts(PATIENCE);
        assert!(begun.elapsed() < PATIENCE / 4);
        let ("unhurried", account) = &accounts[1] else {
            panic!("{accounts:?}");
        };
        assert_eq!((account.delivered, account.dropped.queue_full), (10, 10));
        assert!(account.adds_up() && !account.is_incomplete());
        drop(goes);
    }

    #[test]
    fn one_that_left_ends_when_nobody_asks_for_its_account() {
        let (mut all, started, goes) = with_one();
        all.take(&connected());
        all.flush();
        started.recv().unwrap();
        let mut change = Change::default();
        change.leave("unhurried");
        drop(all.change(change, 1, 2));
        goes.send(()).unwrap();
        // Its thread has ended when nobody can tell anything any more.
        let news = started.recv_timeout(PATIENCE);
        assert_eq!(news, Err(RecvTimeoutError::Disconnected));
    }
}
