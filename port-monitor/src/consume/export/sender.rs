//! Sends batch after batch, and waits longer and longer where that fails.

use std::{sync::Arc, time::Duration};

use rustix::rand::{GetRandomFlags, getrandom};
use thiserror::Error;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Board, Settings, Standing,
    clickhouse::Batch,
    http::{self, PostError},
};
use crate::consume::history::outbox::{Outbox, OutboxError};

/// How long a last batch may take when the service ends.
pub(super) const LAST_TIME: Duration = Duration::from_secs(5);
/// After the first failure it is tried again so soon, then half as often each time, and as
/// rarely as this.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(2);

/// Why a batch was not sent.
#[derive(Debug, Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Outbox(#[from] OutboxError),
    #[error("{0}")]
    Post(#[from] PostError),
}

impl Fault {
    /// It fails as long as nobody changes something.
    const fn is_refusal(&self) -> bool {
        matches!(self, Self::Post(error) if error.is_refusal())
    }
}

/// What was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Nothing waits.
    Nothing,
    /// All that waited.
    Rest,
    /// As much as goes at once.
    Full,
}

/// What an export does.
pub(super) struct Sender {
    pub(super) outbox: Outbox,
    name: String,
    settings: Settings,
    board: Arc<Board>,
    /// Failures one after the other.
    failures: u32,
    /// The last one was the receiver's, which shows only when there is something to send.
    is_receiver_failing: bool,
    /// It was told that a change is needed.
    has_told_refusal: bool,
    /// It was told that rows expire.
    has_told_expired: bool,
    /// What had expired when it was told last.
    expired: u64,
}

impl Sender {
    pub(super) fn new(outbox: Outbox, name: &str, settings: Settings, board: Arc<Board>) -> Self {
        let expired = outbox.progress().expired;
        Self {
            outbox,
            name: name.to_owned(),
            settings,
            board,
            failures: 0,
            is_receiver_failing: false,
            has_told_refusal: false,
            has_told_expired: false,
            expired,
        }
    }

    /// Sends until it is stopped, and then what is left, but not for long.
    pub(super) async fn run(&mut self, mut stopped: watch::Receiver<bool>) -> Standing {
        self.note();
        // Hosts that were started together do not send together.
        let mut pause = part_of(self.settings.every, 0);
        loop {
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => break,
                next = async {
                    sleep(pause).await;
                    self.round().await
                } => pause = next,
            }
        }
        if self.failures == 0 {
            // What cannot be sent now waits in the history.
            let _ = timeout(LAST_TIME, self.round()).await;
        }
        // If that fails, the numbers are those of before.
        let _ = self.outbox.look();
        self.note();
        self.standing()
    }

    /// Sends all that waits, as far as that succeeds. Returns how long to pause.
    pub(super) async fn round(&mut self) -> Duration {
        loop {
            let is_done = match self.send().await {
                Ok(Sent::Nothing) if self.is_receiver_failing => true,
                Ok(sent) => {
                    self.note_success();
                    sent != Sent::Full
                }
                Err(fault) => {
                    self.note_failure(&fault);
                    true
                }
            };
            self.note();
            if is_done {
                return self.pause();
            }
        }
    }

    /// Sends a batch.
    pub(super) async fn send(&mut self) -> Result<Sent, Fault> {
        let mut batch = Batch::default();
        let taken = self
            .outbox
            .next(self.settings.batch, |row| batch.add(row))?;
        if taken.rows == 0 {
            self.outbox.look()?;
            return Ok(Sent::Nothing);
        }
        let is_full = batch.is_full() || taken.rows >= self.settings.batch.into();
        let request = batch.request(&self.settings)?;
        http::post(&self.settings, request).await?;
        self.outbox.sent(taken)?;
        Ok(if is_full { Sent::Full } else { Sent::Rest })
    }

    fn note_success(&mut self) {
        if self.failures > 0 {
            log::warn!("export {}: rows are sent again", self.name);
        }
        self.failures = 0;
        self.is_receiver_failing = false;
        self.has_told_refusal = false;
        self.has_told_expired = false;
        self.tell_expired();
    }

    fn note_failure(&mut self, fault: &Fault) {
        let is_news = self.failures == 0 || fault.is_refusal() && !self.has_told_refusal;
        if is_news {
            log::warn!("export {}: {fault}; it is tried again", self.name);
        }
        self.has_told_refusal |= fault.is_refusal();
        self.failures = self.failures.saturating_add(1);
        self.is_receiver_failing = matches!(fault, Fault::Post(_));
        // If that fails too, the numbers are those of before.
        let _ = self.outbox.look();
        // The first of them are told at once, all when it is over.
        if !self.has_told_expired {
            self.has_told_expired = self.tell_expired();
        }
    }

    /// Tells what has expired since it was told last; whether something has.
    fn tell_expired(&mut self) -> bool {
        let expired = self.outbox.progress().expired;
        let more = expired.saturating_sub(self.expired);
        if more > 0 {
            log::warn!(
                "export {}: the history forgot rows before they were sent: {more} more, {expired} in all",
                self.name
            );
        }
        self.expired = expired;
        more > 0
    }

    fn pause(&self) -> Duration {
        if self.failures == 0 {
            return self.settings.every;
        }
        let times = 1 << (self.failures - 1).min(16);
        let longest = LONGEST_PAUSE.max(self.settings.every);
        part_of((FIRST_PAUSE * times).min(longest), 1)
    }

    const fn standing(&self) -> Standing {
        Standing {
            progress: self.outbox.progress(),
            is_failing: self.failures > 0,
        }
    }

    fn note(&self) {
        self.board.note(&self.name, self.standing());
    }
}

/// Some time up to `whole`, by chance, and `halves` of it at least.
fn part_of(whole: Duration, halves: u32) -> Duration {
    let mut bytes = [0; 4];
    // Where there is no chance, all of it.
    let chance = match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(4) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        _ => 1.0,
    };
    let least = whole * halves / 2;
    least + whole.saturating_sub(least).mul_f64(chance)
}
