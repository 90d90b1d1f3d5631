//! What is in force, and how often what decided.

use std::time::Duration;

use port_monitor_common::generation::{Header, Hits, MODE_NONE, RuleEntry};

/// Which policy: a file as it was applied once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyId {
    applied_ns: i64,
    digest: [u8; 32],
    /// What came in its place when nobody followed it says otherwise.
    on_exit: u8,
}

impl PolicyId {
    /// The policy with this header.
    pub const fn of(header: &Header) -> Self {
        Self {
            applied_ns: header.applied_ns,
            digest: header.digest,
            on_exit: header.on_exit,
        }
    }
}

/// How often a rule decided.
#[derive(Clone, Copy, Debug)]
pub struct RuleHits {
    /// The rule.
    pub entry: RuleEntry,
    /// How often, and when last.
    pub hits: Hits,
}

/// What is in force.
#[derive(Debug)]
pub struct Status {
    /// The policy, and how often what decided.
    pub counts: Counts,
    /// How long there still is to confirm it.
    pub unconfirmed: Option<Duration>,
    /// The policy ends when nobody follows it.
    pub lease: Option<Lease>,
    /// The links, and whether each is attached.
    pub links: Vec<(String, bool)>,
}

/// A policy that ends when nobody follows it.
#[derive(Debug)]
pub struct Lease {
    /// It.
    pub header: Header,
    /// How long it still stays without another sign; zero: it has ended.
    pub left: Duration,
}

impl Status {
    /// There is a policy.
    pub const fn is_in_force(&self) -> bool {
        self.counts.header.mode != MODE_NONE
    }
}

/// How often what decided of a policy.
#[derive(Debug)]
pub struct Counts {
    /// The policy.
    pub header: Header,
    /// Its rules.
    pub rules: Vec<RuleHits>,
    /// How often the defaults decided, by direction.
    pub defaults: [Hits; 3],
    /// How often a default spared loopback.
    pub loopback: Hits,
    /// How often a default spared a thread of the kernel.
    pub kernel: Hits,
    /// How often the tables did not hold together.
    pub broken: Hits,
}
