//! The policy changes while events are on their way.

use std::sync::Arc;

use super::Pipeline;
use crate::{
    events::{decode::Event, record::LoadedPolicy},
    policy::Policy,
};

/// How far a change of the policy has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It is over.
    Done,
    /// Programs may judge by either policy.
    Begun,
    /// They judge by the new one since then, `CLOCK_BOOTTIME` ns.
    Since(u64),
    /// All that they have judged by the one before was taken from the rings.
    Read,
}

impl Pipeline {
    /// Events may be judged by this policy from now on, which the consumers are told.
    pub fn introduce(&mut self, policy: Arc<Policy>, loaded: LoadedPolicy) {
        let Some(judging) = &mut self.judging else {
            return;
        };
        let file = policy.source().name.clone();
        judging.introduce(loaded.number, policy);
        self.policy_change = Progress::Begun;
        self.consumers.judged_by(file, loaded);
    }

    /// No program judges by the policy before any more, now that it is `boot_ns`.
    pub const fn settle(&mut self, boot_ns: u64) {
        self.policy_change = Progress::Since(boot_ns);
    }

    /// Whether all events are told that the policy before was to judge; `is_drained` where the
    /// rings were found empty since no program judges by it.
    pub fn is_settled(&mut self, is_drained: bool) -> bool {
        match self.policy_change {
            Progress::Done => return true,
            Progress::Begun => return false,
            Progress::Since(boot_ns) if !is_drained && self.latest_ns <= boot_ns => return false,
            Progress::Since(_) | Progress::Read => self.policy_change = Progress::Read,
        }
        let Some(judging) = &mut self.judging else {
            return true;
        };
        let before = judging.before();
        let is_its = |event: &Event| event.policy == before;
        let mut held = self.held.iter().map(|held| &held.event);
        let mut inbound = self.inbound.iter();
        if held.any(is_its) || inbound.any(|inbound| inbound.has(is_its)) {
            return false;
        }
        judging.settle();
        self.policy_change = Progress::Done;
        true
    }
}
