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
    http::PostError,
    receiver::{Batch, Delivered},
};
use crate::consume::history::outbox::{Outbox, OutboxError, Progress, Taken};

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
    /// How long the receiver wants to be left alone.
    fn again_after(&self) -> Duration {
        match self {
            Self::Post(error) => error.again_after().unwrap_or_default(),
            Self::Outbox(_) => Duration::ZERO,
        }
    }

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
    /// Less is sent at once from now on, or a row was left out.
    Less,
}

/// Rows that the receiver will never have. The first of them are told at once, all of them when
/// that is over.
#[derive(Debug, Default)]
struct Missing {
    /// Those that are told.
    told: u64,
    /// It is not over.
    goes_on: bool,
}

impl Missing {
    const fn since(told: u64) -> Self {
        Self {
            told,
            goes_on: false,
        }
    }

    /// How many there are more than are told, where there are any; they are told by now.
    fn more(&mut self, all: u64) -> Option<u64> {
        let more = all.checked_sub(self.told).filter(|more| *more > 0);
        self.told = all;
        more
    }
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
    /// Rows that the history forgot.
    expired: Missing,
    /// Rows that the receiver does not take.
    rejected: Missing,
    /// What the receiver said of a batch that it took, and was told.
    told: Option<String>,
    /// Rows that are sent at once, as long as larger batches are refused.
    most: u32,
    /// How long the receiver wants to be left alone.
    asked: Duration,
}

impl Sender {
    pub(super) fn new(outbox: Outbox, name: &str, settings: Settings, board: Arc<Board>) -> Self {
        let Progress {
            expired, rejected, ..
        } = outbox.progress();
        Self {
            outbox,
            name: name.to_owned(),
            board,
            failures: 0,
            is_receiver_failing: false,
            has_told_refusal: false,
            expired: Missing::since(expired),
            rejected: Missing::since(rejected),
            told: None,
            most: settings.batch,
            asked: Duration::ZERO,
            settings,
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
                Ok(Sent::Less) => false,
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
        let mut batch = Batch::new(self.settings.kind);
        let mut has_room = true;
        let taken = self.outbox.next(self.most, |row| {
            has_room = batch.add(row);
            has_room
        })?;
        if taken.rows == 0 {
            self.outbox.look()?;
            return Ok(Sent::Nothing);
        }
        let is_full = !has_room || taken.rows >= self.most.into() || taken.is_repeat;
        if self.settings.kind.knows_batches() {
            self.outbox.sending(taken)?;
        }
        match batch.send(&self.settings).await {
            Ok(delivered) => {
                self.outbox.sent(taken, delivered.rejected)?;
                self.tell_delivered(delivered);
            }
            Err(error) if self.settings.kind.is_sent_less() && error.is_of_rows() => {
                return self.send_less(taken, error).await;
            }
            Err(error) => return Err(error.into()),
        }
        self.most = self.most.saturating_mul(2).min(self.settings.batch);
        Ok(if is_full { Sent::Full } else { Sent::Rest })
    }

    /// A batch is refused for what is in it. Smaller ones show which row that is, and that one
    /// is left out.
    async fn send_less(&mut self, taken: Taken, error: PostError) -> Result<Sent, Fault> {
        if taken.rows > 1 {
            self.most = u32::try_from(taken.rows / 2).unwrap_or(self.most);
            return Ok(Sent::Less);
        }
        if !self.settings.kind.leaves_rows_out() {
            return Err(error.into());
        }
        // Whoever refuses a batch without any row too refuses them all: no row is the matter.
        let empty = Batch::new(self.settings.kind);
        if empty.send(&self.settings).await.is_err() {
            return Err(error.into());
        }
        self.outbox.sent(taken, 1)?;
        self.tell_rejected(&error.to_string());
        Ok(Sent::Less)
    }

    fn note_success(&mut self) {
        if self.failures > 0 {
            log::warn!("export {}: rows are sent again", self.name);
        }
        self.failures = 0;
        self.asked = Duration::ZERO;
        self.is_receiver_failing = false;
        self.has_told_refusal = false;
        self.expired.goes_on = false;
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
        self.asked = fault.again_after();
        // If that fails too, the numbers are those of before.
        let _ = self.outbox.look();
        if !self.expired.goes_on {
            self.expired.goes_on = self.tell_expired();
        }
    }

    /// Tells what has expired since it was told last; whether something has.
    fn tell_expired(&mut self) -> bool {
        let all = self.outbox.progress().expired;
        let more = self.expired.more(all);
        if let Some(more) = more {
            log::warn!(
                "export {}: the history forgot rows before they were sent: {more} more, {all} in all",
                self.name
            );
        }
        more.is_some()
    }

    /// Tells what a receiver says of a batch that it has taken, unless it said so before.
    fn tell_delivered(&mut self, Delivered { rejected, told }: Delivered) {
        if rejected > 0 {
            let why = told.unwrap_or_else(|| "it does not say why".to_owned());
            self.tell_rejected(&why);
            return;
        }
        self.rejected.goes_on = false;
        let all = self.outbox.progress().rejected;
        if let Some(more) = self.rejected.more(all) {
            log::warn!(
                "export {}: rows were rejected: {more} more, {all} in all",
                self.name
            );
        }
        if let Some(says) = told
            && self.told.as_ref() != Some(&says)
        {
            let (name, url) = (&self.name, &self.settings.url.first);
            log::warn!("export {name}: {url} takes rows, and says: {says}");
            self.told = Some(says);
        }
    }

    /// Tells the first of the rows that a receiver rejects, and why.
    fn tell_rejected(&mut self, why: &str) {
        let all = self.outbox.progress().rejected;
        if !self.rejected.goes_on
            && let Some(more) = self.rejected.more(all)
        {
            log::warn!(
                "export {}: rows are rejected, and not sent again: {why}: {more} more, {all} in all",
                self.name
            );
            self.rejected.goes_on = true;
        }
    }

    fn pause(&self) -> Duration {
        if self.failures == 0 {
            return self.settings.every;
        }
        let times = 1 << (self.failures - 1).min(16);
        let longest = LONGEST_PAUSE.max(self.settings.every);
        let pause = part_of((FIRST_PAUSE * times).min(longest), 1);
        // Those that were asked for the same time do not come back together.
        pause.max(self.asked + part_of(self.asked / 4, 0))
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
