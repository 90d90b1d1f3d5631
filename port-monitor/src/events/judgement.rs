//! The policy's word on an event, and which policy that is.

use std::sync::Arc;

use port_monitor_common::policy::Verdict;

use crate::{base::ascii, events::alert::Alert};

/// What the policy says of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Allowed, denied, or denied by a policy that only observes.
    pub verdict: Verdict,
    /// The rule that decided; `None` when the direction's default did.
    pub rule: Option<Arc<str>>,
    /// How loud that rule wants its match to be, if it says so.
    pub alert: Option<Alert>,
    /// Whose rule it is; `None` where nobody knows any more.
    pub ruleset: Option<Arc<Ruleset>>,
}

/// Which text of which policy it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Its file.
    pub file: String,
    /// The beginning of the SHA-256 of it and of the lists it reads, in hexadecimal digits.
    pub version: String,
}

impl Ruleset {
    /// How many digits tell the texts of a policy apart.
    const DIGITS: usize = 12;

    /// The text of this SHA-256.
    pub fn new(file: &str, digest: &[u8; 32]) -> Self {
        let mut version = ascii::hex_text(digest);
        version.truncate(Self::DIGITS);
        Self {
            file: file.to_owned(),
            version,
        }
    }
}

impl Judgement {
    /// Of a rule that nothing more is known of.
    pub const fn of(verdict: Verdict, rule: Option<Arc<str>>) -> Self {
        Self {
            verdict,
            rule,
            alert: None,
            ruleset: None,
        }
    }

    /// The connection breaks the policy.
    pub fn is_violation(&self) -> bool {
        self.verdict != Verdict::Allow
    }
}

/// Which text of a policy was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedPolicy {
    /// SHA-256 of it and of the lists it reads.
    pub digest: [u8; 32],
    /// When, ns since the Unix epoch.
    pub wall_ns: i128,
    /// Which one of the run it is: the first is 1.
    pub number: u16,
    /// The rules that deny.
    pub denying: Arc<[Arc<str>]>,
}
