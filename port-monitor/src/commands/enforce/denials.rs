//! What `apply --follow` tells of the connections that were denied.

use std::time::{Duration, Instant};

use port_monitor_common::generation::MODE_ENFORCE;

use super::report;
use crate::kernel::enforcer::{Counts, PolicyId};

/// How long it tells no more of a rule that it told of, so that a flood of denied
/// connections is no flood of lines.
const PAUSE: Duration = Duration::from_secs(10);

/// How much of what a policy denied was told. Whatever is denied is told in the end: the
/// lines of a rule add up to its count.
pub(super) struct DenialLog {
    /// The policy.
    pub(super) policy: PolicyId,
    /// For each that denies, as `report::deniers` numbers them.
    told: Vec<Told>,
}

#[derive(Clone, Copy, Default)]
struct Told {
    count: u64,
    at: Option<Instant>,
}

impl DenialLog {
    /// Of a policy that has denied nothing yet.
    pub(super) const fn new(policy: PolicyId) -> Self {
        Self {
            policy,
            told: Vec::new(),
        }
    }

    /// Of one that has denied this before.
    pub(super) fn after(counts: &Counts) -> Self {
        let told = report::deniers(counts).map(|(_, count)| Told { count, at: None });
        Self {
            policy: PolicyId::of(&counts.header),
            told: told.collect(),
        }
    }

    /// What there is to tell at `now`.
    pub(super) fn due(&mut self, counts: &Counts, now: Instant) -> Vec<String> {
        let is_due = |told: &Told| {
            told.at
                .is_none_or(|at| now.saturating_duration_since(at) >= PAUSE)
        };
        self.take(counts, now, is_due)
    }

    /// All that was not told, because nothing follows.
    pub(super) fn rest(&mut self, counts: &Counts) -> Vec<String> {
        self.take(counts, Instant::now(), |_| true)
    }

    fn take(
        &mut self,
        counts: &Counts,
        now: Instant,
        is_due: impl Fn(&Told) -> bool,
    ) -> Vec<String> {
        let verb = match counts.header.mode {
            MODE_ENFORCE => "denied",
            _ => "would have denied",
        };
        let mut lines = Vec::new();
        for (n, (name, count)) in report::deniers(counts).enumerate() {
            if n == self.told.len() {
                self.told.push(Told::default());
            }
            let Some(told) = self.told.get_mut(n) else {
                break;
            };
            if count <= told.count || !is_due(told) {
                continue;
            }
            let more = count - told.count;
            lines.push(format!(
                "{name}: {verb} {more}, {count} since the policy was applied"
            ));
            *told = Told {
                count,
                at: Some(now),
            };
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use port_monitor_common::generation::{DENIES, Header, Hits, NAME_BYTES, RuleEntry};

    use super::*;
    use crate::kernel::enforcer::RuleHits;

    fn counts(telnet: u64, inbound: u64) -> Counts {
        let hits = |count| Hits { count, last_ns: 0 };
        let rule = |name: &str, flags, count| {
            let mut entry = RuleEntry {
                flags,
                name: [0; NAME_BYTES],
            };
            entry.name[..name.len()].copy_from_slice(name.as_bytes());
            RuleHits {
                entry,
                hits: hits(count),
            }
        };
        Counts {
            header: Header {
                mode: MODE_ENFORCE,
                defaults: [DENIES, 0, 0, 0],
                ..Header::NONE
            },
            rules: vec![rule("web", 0, 1_000), rule("telnet", DENIES, telnet)],
            defaults: [hits(inbound), hits(1_000), hits(0)],
            loopback: hits(0),
            kernel: hits(0),
            broken: hits(0),
        }
    }

    #[test]
    fn the_first_is_told_at_once_and_a_flood_by_its_number() {
        let mut log = DenialLog::new(PolicyId::of(&Header::NONE));
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(log.due(&counts(0, 0), at(0)).is_empty());
        assert_eq!(
            log.due(&counts(1, 0), at(0)),
            ["telnet: denied 1, 1 since the policy was applied"]
        );
        assert!(log.due(&counts(90, 0), at(1_000)).is_empty());
        assert_eq!(
            log.due(&counts(95, 2), at(9_999)),
            ["default inbound: denied 2, 2 since the policy was applied"]
        );
        assert_eq!(
            log.due(&counts(99, 2), at(10_000)),
            ["telnet: denied 98, 99 since the policy was applied"]
        );
        assert_eq!(
            log.rest(&counts(100, 2)),
            ["telnet: denied 1, 100 since the policy was applied"]
        );
        assert!(log.rest(&counts(100, 2)).is_empty());
    }

    #[test]
    fn what_was_denied_before_is_not_told_again() {
        let mut log = DenialLog::after(&counts(7, 3));
        assert_eq!(
            log.due(&counts(9, 3), Instant::now()),
            ["telnet: denied 2, 9 since the policy was applied"]
        );
    }
}
