//! The policy decision: compiled rules and the facts of one connection in,
//! verdict and rule out. Pure, no allocation, no strings: every fact is one a
//! kernel hook knows or a number that stands for it.
//!
//! Ordered first match; the direction's default decides what no rule matches.

use crate::{
    addr::{self, as_v4},
    numbered::numbered,
};
pub use crate::{
    decision::{Decider, Decision, DefaultAction},
    transport::{PortRange, Transport},
};

/// Most rules one policy may have.
pub const MAX_RULES: usize = 1024;

/// What happened to a connection under the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// Allowed.
    Allow = 0,
    /// Denied.
    Deny = 1,
    /// Denied by a policy in observe mode: the connection went on.
    AuditDeny = 2,
}

/// What a rule or a default asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Action {
    /// Let the connection go on.
    Allow = 0,
    /// Stop it.
    Deny = 1,
}

/// What a policy does about a denied connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Report it.
    Observe = 0,
    /// Stop it.
    Enforce = 1,
}

impl Mode {
    /// What happens to a connection the policy gives this action.
    pub const fn verdict(self, action: Action) -> Verdict {
        match (action, self) {
            (Action::Allow, _) => Verdict::Allow,
            (Action::Deny, Self::Observe) => Verdict::AuditDeny,
            (Action::Deny, Self::Enforce) => Verdict::Deny,
        }
    }
}

numbered! {
    /// What a rule is about.
    pub enum Direction: u8 {
        /// A peer connects to this host.
        Inbound = 0,
        /// This host connects to a peer.
        Outbound = 1,
        /// A process opens a port.
        Listen = 2,
    }
}

/// All addresses of one family with a common prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    bits: u128,
    mask: u128,
    v4: bool,
}

impl Network {
    /// Every IPv4 address.
    pub const ALL_V4: Self = Self {
        bits: 0xffff << 32,
        mask: u128::MAX << 32,
        v4: true,
    };

    /// The network of `addr` (canonical) with `prefix_len` leading bits of the
    /// 128; an IPv4 prefix counts from bit 96. `None` above 128.
    pub fn new(addr: [u8; 16], prefix_len: u8) -> Option<Self> {
        let mask = match prefix_len {
            0 => 0,
            1..=128 => u128::MAX << (128 - prefix_len),
            _ => return None,
        };
        Some(Self {
            bits: u128::from_be_bytes(addr) & mask,
            mask,
            v4: prefix_len >= 96 && as_v4(&addr).is_some(),
        })
    }

    /// `addr` (canonical) lies in the network. An IPv6 network holds no IPv4
    /// address, not even `::/0`.
    #[inline]
    pub fn contains(&self, addr: &[u8; 16]) -> bool {
        u128::from_be_bytes(*addr) & self.mask == self.bits && as_v4(addr).is_some() == self.v4
    }

    /// The lowest address of the network.
    pub const fn first(&self) -> [u8; 16] {
        self.bits.to_be_bytes()
    }

    /// The highest address of the network.
    pub const fn last(&self) -> [u8; 16] {
        (self.bits | !self.mask).to_be_bytes()
    }

    /// The leading bits its addresses share, of 128.
    pub const fn prefix_len(&self) -> u32 {
        self.mask.leading_ones()
    }

    /// It holds IPv4 addresses.
    pub const fn is_v4(&self) -> bool {
        self.v4
    }
}

/// One entry of a rule's `from` or `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Peers in this network.
    Network(Network),
    /// Peers on this host itself: [`Facts::peer_is_self`].
    ThisHost,
}

/// The address a connection to `addr` really reaches: [`addr::canonical`].
pub fn canonical(addr: [u8; 16]) -> [u8; 16] {
    addr::to_bytes(addr::canonical(addr::to_words(addr)))
}

/// `addr` (canonical) is a loopback address.
#[inline]
pub fn is_loopback(addr: &[u8; 16]) -> bool {
    addr::is_loopback(&addr::to_words(*addr))
}

/// The values a rule accepts for one fact: a part of one of the lists in
/// [`Rules`], or everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    /// The rule does not ask.
    Any,
    /// Any of these entries; none matches nothing.
    OneOf {
        /// The first entry.
        start: u32,
        /// How many there are.
        len: u32,
    },
}

impl Accepts {
    /// The accepted entries of `all`; `None` accepts everything.
    #[inline]
    pub fn of<T>(self, all: &[T]) -> Option<&[T]> {
        match self {
            Self::Any => None,
            Self::OneOf { start, len } => {
                let (start, len) = (start as usize, len as usize);
                Some(all.get(start..start.saturating_add(len)).unwrap_or(&[]))
            }
        }
    }

    #[inline]
    fn any<T>(self, all: &[T], mut test: impl FnMut(&T) -> bool) -> bool {
        self.of(all)
            .is_none_or(|entries| entries.iter().any(&mut test))
    }
}

/// One rule: all conditions must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What the rule is about.
    pub direction: Direction,
    /// What it asks for.
    pub action: Action,
    /// Service ports, in [`Rules::ports`].
    pub ports: Accepts,
    /// Peers, in [`Rules::peers`].
    pub peers: Accepts,
    /// By [`OwnerCondition`], in [`Rules::owners`].
    pub owners: [Accepts; OwnerCondition::COUNT],
    /// The rule ends here, ns since the Unix epoch; `i64::MAX` is never.
    pub until_ns: i64,
}

impl Rule {
    /// What matches all of a direction, for good.
    pub const fn any(direction: Direction, action: Action) -> Self {
        Self {
            direction,
            action,
            ports: Accepts::Any,
            peers: Accepts::Any,
            owners: [Accepts::Any; OwnerCondition::COUNT],
            until_ns: i64::MAX,
        }
    }

    /// What it asks of the owner by this condition.
    #[inline]
    pub const fn owner(&self, condition: OwnerCondition) -> Accepts {
        self.owners[condition as usize]
    }

    /// It asks something of the owner by one of these conditions.
    pub fn asks(&self, conditions: impl IntoIterator<Item = OwnerCondition>) -> bool {
        let mut conditions = conditions.into_iter();
        conditions.any(|condition| self.owner(condition) != Accepts::Any)
    }
}

numbered! {
    /// What a rule may ask of the owner of a connection.
    pub enum OwnerCondition: u8 {
        /// The real user: entries are uids.
        User = 0,
        /// The systemd unit.
        Unit = 1,
        /// The cgroup.
        Cgroup = 2,
        /// The executable.
        Exe = 3,
    }
}

impl OwnerCondition {
    /// Those whose entries are numbers that the compiler gives to names, which are among
    /// [`Facts::scopes`] of whoever they are about.
    pub fn scopes() -> impl DoubleEndedIterator<Item = Self> + Clone {
        Self::ALL
            .into_iter()
            .filter(|condition| *condition != Self::User)
    }

    /// Those of [`OwnerCondition::scopes`] of which an owner is in one at most.
    pub fn singles() -> impl Iterator<Item = Self> + Clone {
        Self::scopes().filter(|condition| !matches!(condition, Self::Unit | Self::Cgroup))
    }

    /// As the policy spells it.
    pub const fn key(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Unit => "unit",
            Self::Cgroup => "cgroup",
            Self::Exe => "exe",
        }
    }

    /// What it is about, in a word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Exe => "executable",
            other => other.key(),
        }
    }
}

/// What is known of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Who opened it.
    pub direction: Direction,
    /// The port of the service: the remote one outbound, else the local one.
    /// Named by [`Transport::port`].
    pub service_port: u32,
    /// The peer's address, [`canonical`]; zero when listening.
    pub peer: [u8; 16],
    /// The peer's address is one of this host, loopback included.
    pub peer_is_self: bool,
    /// Real uid of the owner; `None` when the owner is unknown.
    pub uid: Option<u32>,
    /// Numbers of the units, cgroups and executables the owner belongs to, as
    /// the compiler gave them to those that rules name.
    pub scopes: &'a [u32],
    /// The kernel itself acts: a thread of its own, not for a process.
    pub is_kernel: bool,
    /// Wall-clock time, ns since the Unix epoch.
    pub now_ns: i64,
}

/// A condition of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// [`Rule::direction`].
    Direction,
    /// [`Rule::until_ns`].
    Until,
    /// [`Rule::ports`].
    Port,
    /// [`Rule::peers`].
    Peer,
    /// [`Rule::owners`].
    Owner(OwnerCondition),
}

/// The defaults of all directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// For [`Direction::Inbound`].
    pub inbound: DefaultAction,
    /// For [`Direction::Outbound`].
    pub outbound: DefaultAction,
    /// For [`Direction::Listen`].
    pub listen: DefaultAction,
}

impl Defaults {
    /// The default of one direction.
    pub const fn of(&self, direction: Direction) -> DefaultAction {
        match direction {
            Direction::Inbound => self.inbound,
            Direction::Outbound => self.outbound,
            Direction::Listen => self.listen,
        }
    }
}

/// A compiled policy: rules in order, and the lists they point into.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// What decides where no rule matches.
    pub defaults: Defaults,
    /// UDP is judged too, where this host sends it. Else all of `rules` are about TCP,
    /// which is what [`Accepts::Any`] ports are then.
    pub judges_udp: bool,
    /// First match wins.
    pub rules: &'a [Rule],
    /// [`Rule::ports`].
    pub ports: &'a [PortRange],
    /// [`Rule::peers`].
    pub peers: &'a [Peer],
    /// [`Rule::owners`].
    pub owners: &'a [u32],
}

impl Rules<'_> {
    /// The transports that are judged in a direction.
    pub const fn transports(&self, direction: Direction) -> &'static [Transport] {
        if self.judges_udp && matches!(direction, Direction::Outbound) {
            &Transport::ALL
        } else {
            &[Transport::Tcp]
        }
    }

    /// Decides one connection, rule by rule: what first match means. What decides
    /// many connections is the same made of [masks](crate::mask).
    pub fn decide(&self, facts: &Facts<'_>) -> Decision {
        let mut rules = self.rules.iter();
        let first = rules.position(|rule| self.mismatch(rule, facts).is_none());
        self.decision(first, facts)
    }

    /// The decision where this rule is the first that matches.
    pub fn decision(&self, first: Option<usize>, facts: &Facts<'_>) -> Decision {
        let rule = first.and_then(|index| {
            let rule = self.rules.get(index)?;
            Some((u32::try_from(index).ok()?, rule.action))
        });
        Decision::of(
            rule,
            facts.direction,
            self.defaults.of(facts.direction),
            is_loopback(&facts.peer),
            || facts.is_kernel,
        )
    }

    /// What is decided when no rule matches.
    pub fn default_decision(&self, facts: &Facts<'_>) -> Decision {
        self.decision(None, facts)
    }

    /// The first condition of `rule` that does not hold; `None` is a match.
    pub fn mismatch(&self, rule: &Rule, facts: &Facts<'_>) -> Option<Condition> {
        if rule.direction != facts.direction {
            return Some(Condition::Direction);
        }
        if facts.now_ns >= rule.until_ns {
            return Some(Condition::Until);
        }
        if !rule
            .ports
            .any(self.ports, |range| range.contains(facts.service_port))
        {
            return Some(Condition::Port);
        }
        if !rule.peers.any(self.peers, |peer| peer.matches(facts)) {
            return Some(Condition::Peer);
        }
        let mut owners = OwnerCondition::ALL.into_iter();
        let wrong = owners.find(|&condition| {
            !rule
                .owner(condition)
                .any(self.owners, |entry| match condition {
                    OwnerCondition::User => facts.uid == Some(*entry),
                    _ => facts.scopes.contains(entry),
                })
        });
        wrong.map(Condition::Owner)
    }
}

impl Peer {
    #[inline]
    fn matches(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Network(network) => network.contains(&facts.peer),
            Self::ThisHost => facts.peer_is_self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::v4_mapped;

    const LOOPBACK_V6: [u8; 16] = 1_u128.to_be_bytes();
    const ALLOW: DefaultAction = DefaultAction {
        action: Action::Allow,
        filters_loopback: false,
    };
    const DENY: DefaultAction = DefaultAction {
        action: Action::Deny,
        filters_loopback: false,
    };
    const ANY_OUT: Rule = Rule::any(Direction::Outbound, Action::Deny);
    const SSH_OUT: Facts<'static> = Facts {
        direction: Direction::Outbound,
        service_port: 22,
        peer: v4_mapped([10, 0, 0, 1]),
        peer_is_self: false,
        uid: Some(1000),
        scopes: &[],
        is_kernel: false,
        now_ns: 100,
    };

    fn rules(rules: &[Rule], outbound: DefaultAction) -> Rules<'_> {
        Rules {
            judges_udp: false,
            defaults: Defaults {
                inbound: ALLOW,
                outbound,
                listen: ALLOW,
            },
            rules,
            ports: &[PortRange {
                first: 20,
                last: 25,
            }],
            peers: &[],
            owners: &[],
        }
    }

    #[test]
    fn first_matching_rule_wins() {
        let allow = Rule {
            action: Action::Allow,
            ..ANY_OUT
        };
        let inbound = Rule {
            direction: Direction::Inbound,
            ..ANY_OUT
        };
        let decision = rules(&[inbound, allow, ANY_OUT], DENY).decide(&SSH_OUT);
        assert_eq!(decision.action, Action::Allow);
        assert_eq!(decision.by, Decider::Rule(1));
    }

    #[test]
    fn empty_list_matches_nothing_where_no_list_matches_all() {
        let never = Rule {
            ports: Accepts::OneOf { start: 0, len: 0 },
            ..ANY_OUT
        };
        assert_eq!(
            rules(&[never], ALLOW).mismatch(&never, &SSH_OUT),
            Some(Condition::Port)
        );
        assert_eq!(rules(&[], ALLOW).mismatch(&ANY_OUT, &SSH_OUT), None);
    }

    #[test]
    fn rule_ends_at_its_expiry_and_not_before() {
        let until = |until_ns| Rule {
            until_ns,
            ..ANY_OUT
        };
        let by = |rule| rules(&[rule], ALLOW).decide(&SSH_OUT).by;
        assert_eq!(by(until(101)), Decider::Rule(0));
        assert_eq!(by(until(100)), Decider::Default);
    }

    #[test]
    fn default_spares_loopback_unless_it_filters_it() {
        let facts = Facts {
            peer: LOOPBACK_V6,
            ..SSH_OUT
        };
        let filter = DefaultAction {
            filters_loopback: true,
            ..DENY
        };
        assert_eq!(rules(&[], DENY).decide(&facts).by, Decider::Loopback);
        assert_eq!(rules(&[], filter).decide(&facts).action, Action::Deny);
        assert_eq!(rules(&[], DENY).decide(&SSH_OUT).action, Action::Deny);
        assert_eq!(
            rules(&[ANY_OUT], DENY).decide(&facts).action,
            Action::Deny,
            "a rule judges loopback like any other peer"
        );
    }

    #[test]
    fn unspecified_address_is_loopback() {
        assert_eq!(canonical([0; 16]), LOOPBACK_V6);
        assert_eq!(canonical(v4_mapped([0; 4])), v4_mapped([127, 0, 0, 1]));
        assert_eq!(canonical(SSH_OUT.peer), SSH_OUT.peer);
    }

    #[test]
    fn ipv6_network_holds_no_ipv4_address() {
        let all_v6 = Network::new([0; 16], 0).unwrap();
        let all_v4 = Network::new(v4_mapped([0; 4]), 96).unwrap();
        let (v4, v6) = (SSH_OUT.peer, LOOPBACK_V6);
        assert!(all_v4.contains(&v4) && !all_v4.contains(&v6));
        assert!(all_v6.contains(&v6) && !all_v6.contains(&v4));
    }

    #[test]
    fn network_ends_at_its_prefix() {
        let network = Network::new(v4_mapped([10, 1, 0, 0]), 112).unwrap();
        assert_eq!(network.last(), v4_mapped([10, 1, 255, 255]));
        assert!(network.contains(&network.first()) && network.contains(&network.last()));
        assert!(!network.contains(&v4_mapped([10, 2, 0, 0])));
        assert_eq!(Network::new([0; 16], 129), None);
    }

    #[test]
    fn observe_mode_only_reports() {
        assert_eq!(Mode::Observe.verdict(Action::Deny), Verdict::AuditDeny);
        assert_eq!(Mode::Enforce.verdict(Action::Deny), Verdict::Deny);
        assert_eq!(Mode::Enforce.verdict(Action::Allow), Verdict::Allow);
    }
}
