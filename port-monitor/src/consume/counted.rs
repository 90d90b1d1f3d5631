//! The account of a stream that somebody joined after it had begun, by what was told from then on.

use std::time::Duration;

use crate::events::record::{Account, HookCount, Loss, LossCause, Summary};

/// What was told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// Events.
    pub events: u64,
    /// Of these, those that a filter has kept back.
    pub filtered: u64,
    /// Of these, those that this version does not know.
    pub unknown: u64,
    /// Events that are missing, by cause.
    ring_full: u64,
    skipped: u64,
    too_slow: u64,
    undecodable: u64,
    owner_late: u64,
}

impl Counted {
    /// A loss was told of.
    pub const fn lose(&mut self, loss: &Loss) {
        let counter = match loss.cause {
            LossCause::RingFull => &mut self.ring_full,
            LossCause::ProgramSkipped => &mut self.skipped,
            LossCause::OutputSlow => &mut self.too_slow,
            LossCause::Undecodable => &mut self.undecodable,
            LossCause::OwnerLate => &mut self.owner_late,
        };
        *counter += loss.lost;
    }

    /// Whoever tells, as a hook.
    const fn hook(&self) -> HookCount {
        let submitted = self.events + self.too_slow + self.undecodable + self.owner_late;
        HookCount {
            hit: submitted + self.ring_full,
            filtered: 0,
            reserve_failed: self.ring_full,
            submitted,
            skipped: self.skipped,
        }
    }

    /// The account at the end of it, of which `teller` has told, and that these consumers have
    /// taken, first what is shown.
    pub fn summary(
        &self,
        teller: &'static str,
        (wall_ns, duration): (i128, Duration),
        consumers: Vec<(&'static str, Account)>,
        violations: u64,
    ) -> Summary {
        let shown = consumers.first().map(|(_, account)| account.clone());
        let shown = shown.unwrap_or_default();
        let hook = self.hook();
        Summary {
            wall_ns,
            duration,
            looks: hook.hit,
            not_ours: 0,
            failures: Vec::new(),
            hooks: vec![(teller, hook)],
            received: self.events,
            undecodable: self.undecodable + self.unknown,
            hidden: self.filtered + shown.hidden,
            shown: shown.taken,
            lost_at_output: self.too_slow + shown.dropped.total(),
            unowned: self.owner_late,
            consumers,
            violations,
            accept_preattach: 0,
            command_status: None,
        }
    }
}
