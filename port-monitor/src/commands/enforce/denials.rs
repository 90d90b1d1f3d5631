//! What `apply --follow` tells of the connections that were denied.

use std::{
    collections::HashMap,
    fmt::{self, Display, Formatter},
    net::SocketAddr,
    time::{Duration, Instant},
};

use port_monitor_common::{
    addr,
    denial::{DENIED_UDP, Denial},
    generation::MODE_ENFORCE,
    policy::Direction,
};
use zerocopy::IntoBytes as _;

use super::report;
use crate::{
    base::sanitize::Escaped,
    events::decode,
    host::clock,
    kernel::enforcer::{Carried, Counts, PolicyId},
};

/// How long it tells no more of a rule that it told of, so that a flood of denied
/// connections is no flood of lines.
const PAUSE: Duration = Duration::from_secs(10);

/// How many different denials a line shows.
const SHOWN: usize = 3;

/// How much of what a policy denied was told. Whatever is denied is told in the end: the
/// lines of a rule add up to its count.
pub(super) struct DenialLog {
    /// The policy.
    pub(super) policy: PolicyId,
    /// What denies, by the number of its counter.
    deniers: HashMap<u32, Denier>,
    /// What is older was another policy's doing, `CLOCK_BOOTTIME` ns.
    since_ns: u64,
}

#[derive(Default)]
struct Denier {
    /// How much was told, and when.
    told: u64,
    at: Option<Instant>,
    /// Since then, as far as it was seen.
    seen: Vec<String>,
    is_more: bool,
}

impl DenialLog {
    /// Of a policy that had denied nothing at `since_ns`, `CLOCK_BOOTTIME`, beyond what the
    /// policy before had, which was told.
    pub(super) fn new(policy: PolicyId, carried: &Carried, since_ns: u64) -> Self {
        let told = carried.iter().map(|(&tally, &told)| {
            let denier = Denier {
                told,
                ..Denier::default()
            };
            (tally, denier)
        });
        Self {
            policy,
            deniers: told.collect(),
            since_ns,
        }
    }

    /// Of one that has denied this before.
    pub(super) fn after(counts: &Counts) -> Self {
        let before = report::deniers(counts).map(|(tally, _, told)| (tally, told));
        Self::new(
            PolicyId::of(&counts.header),
            &before.collect(),
            clock::boot_ns(),
        )
    }

    /// Keeps in mind who was denied what, for the line that will tell of it.
    pub(super) fn note(&mut self, denial: &Denial) {
        if denial.ts_ns < self.since_ns {
            return;
        }
        let denier = self.deniers.entry(denial.tally).or_default();
        let text = Described(denial).to_string();
        if denier.seen.contains(&text) {
            return;
        }
        if denier.seen.len() < SHOWN {
            denier.seen.push(text);
        } else {
            denier.is_more = true;
        }
    }

    /// What there is to tell at `now`.
    pub(super) fn due(&mut self, counts: &Counts, now: Instant) -> Vec<String> {
        let is_due = |denier: &Denier| {
            let is_quiet = |at| now.saturating_duration_since(at) >= PAUSE;
            denier.at.is_none_or(is_quiet)
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
        is_due: impl Fn(&Denier) -> bool,
    ) -> Vec<String> {
        let verb = match counts.header.mode {
            MODE_ENFORCE => "denied",
            _ => "would have denied",
        };
        let mut lines = Vec::new();
        for (tally, name, count) in report::deniers(counts) {
            if count == 0 {
                continue;
            }
            let denier = self.deniers.entry(tally).or_default();
            if count <= denier.told || !is_due(denier) {
                continue;
            }
            let more = count - denier.told;
            let mut line = format!("{name}: {verb} {more}, {count} since it was applied");
            if !denier.seen.is_empty() {
                line.push_str(": ");
                line.push_str(&denier.seen.join("; "));
            }
            if denier.is_more {
                line.push_str("; and others");
            }
            lines.push(line);
            *denier = Denier {
                told: count,
                at: Some(now),
                ..Denier::default()
            };
        }
        lines
    }
}

/// A denial in words.
struct Described<'a>(&'a Denial);

impl Display for Described<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Denial {
            comm,
            peer,
            tgid,
            uid,
            port,
            direction,
            ..
        } = *self.0;
        let ip = decode::ip(&addr::to_bytes(addr::canonical(peer)));
        let transport = if direction & DENIED_UDP == 0 {
            ""
        } else {
            "/udp"
        };
        match direction & !DENIED_UDP {
            raw if raw == Direction::Inbound as u8 => write!(f, "from {ip} to port {port}")?,
            raw if raw == Direction::Outbound as u8 => {
                write!(f, "to {}{transport}", SocketAddr::new(ip, port))?;
            }
            _ => write!(f, "port {port}")?,
        }
        if tgid == 0 {
            return Ok(());
        }
        let name = comm.as_bytes().split(|&byte| byte == 0).next();
        let name = Escaped(name.unwrap_or_default());
        write!(f, " by {name}[{tgid}], uid {uid}")
    }
}

#[cfg(test)]
mod tests {
    use port_monitor_common::generation::{DENIES, Header, Hits, NAME_BYTES, RuleEntry};

    use crate::commands::enforce::denials::*;
    use crate::kernel::enforcer::RuleHits;

    fn counts(telnet: u64, inbound: u64) -> Counts {
        let hits = |count| Hits { count, last_ns: 0 };
        let rule = |name: &str, flags, count| {
            let mut entry = RuleEntry {
                flags,
                name: [0; NAME_BYTES],
                meaning: 0,
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
        let mut log = DenialLog::new(PolicyId::of(&Header::NONE), &Carried::new(), 1);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(log.due(&counts(0, 0), at(0)).is_empty());
        assert_eq!(
            log.due(&counts(1, 0), at(0)),
            ["telnet: denied 1, 1 since it was applied"]
        );
        assert!(log.due(&counts(90, 0), at(1_000)).is_empty());
        assert_eq!(
            log.due(&counts(95, 2), at(9_999)),
            ["default inbound: denied 2, 2 since it was applied"]
        );
        assert_eq!(
            log.due(&counts(99, 2), at(10_000)),
            ["telnet: denied 98, 99 since it was applied"]
        );
        assert_eq!(
            log.rest(&counts(100, 2)),
            ["telnet: denied 1, 100 since it was applied"]
        );
        assert!(log.rest(&counts(100, 2)).is_empty());
    }

    fn denial(log: &DenialLog, port: u16, direction: Direction, tgid: u32) -> Denial {
        let mut comm = [0; 2];
        comm.as_mut_bytes()[..4].copy_from_slice(b"nc\n\0");
        Denial {
            ts_ns: log.since_ns,
            comm,
            peer: addr::mapped(u32::from_ne_bytes([10, 1, 2, 3])),
            tgid,
            uid: 1_000,
            tally: 1,
            port,
            direction: direction as u8,
            generation: 0,
        }
    }

    #[test]
    fn a_line_shows_who_was_denied_what_once_each() {
        let mut log = DenialLog::new(PolicyId::of(&Header::NONE), &Carried::new(), 1);
        for port in [23, 23, 24, 25, 26] {
            log.note(&denial(&log, port, Direction::Outbound, 7));
        }
        assert_eq!(
            log.due(&counts(5, 0), Instant::now()),
            [
                "telnet: denied 5, 5 since it was applied: to 10.1.2.3:23 by nc\\n[7], uid \
                 1000; to 10.1.2.3:24 by nc\\n[7], uid 1000; to 10.1.2.3:25 by nc\\n[7], uid 1000; \
                 and others"
            ]
        );
        log.note(&denial(&log, 80, Direction::Inbound, 0));
        log.note(&denial(&log, 80, Direction::Listen, 0));
        log.note(&Denial {
            direction: Direction::Outbound as u8 | DENIED_UDP,
            ..denial(&log, 53, Direction::Outbound, 0)
        });
        let old = Denial {
            ts_ns: 0,
            ..denial(&log, 99, Direction::Inbound, 0)
        };
        log.note(&old);
        assert_eq!(
            log.rest(&counts(6, 0)),
            [
                "telnet: denied 1, 6 since it was applied: from 10.1.2.3 to port 80; port 80; to \
              10.1.2.3:53/udp"
            ]
        );
    }

    #[test]
    fn what_was_denied_before_is_not_told_again() {
        let mut log = DenialLog::after(&counts(7, 3));
        assert_eq!(
            log.due(&counts(9, 3), Instant::now()),
            ["telnet: denied 2, 9 since it was applied"]
        );
    }
}
