//! What a rule means, as one number: two rules of the same name and meaning are the same
//! rule, whatever file they are in and whatever else that says.

use std::hash::{DefaultHasher, Hash, Hasher as _};

use port_monitor_common::policy::{Accepts, Direction, OwnerCondition, Rule};

use crate::policy::Policy;

/// The number of a list, whatever its order; `None` is "any".
fn set<T: Hash>(entries: Option<impl IntoIterator<Item = T>>) -> Option<u64> {
    let one = |entry: T| {
        let mut hasher = DefaultHasher::new();
        entry.hash(&mut hasher);
        hasher.finish()
    };
    entries.map(|entries| entries.into_iter().map(one).fold(0, u64::wrapping_add))
}

impl Policy {
    /// The number of what a rule asks and does: all but its name, its alert and its place.
    /// Names of networks, services and users are what they stand for.
    pub(crate) fn meaning(&self, rule: &Rule) -> u64 {
        let Rule {
            direction,
            action,
            ports,
            peers,
            owners: _,
            until_ns,
        } = *rule;
        let tables = &self.tables;
        let uids = rule.owner(OwnerCondition::User);
        let scopes: Vec<Option<u64>> = OwnerCondition::scopes()
            .map(|condition| {
                let numbers = rule.owner(condition).of(&tables.owners);
                set(numbers.map(|numbers| numbers.iter().map(|&scope| self.scopes.name(scope))))
            })
            .collect();
        let mut hasher = DefaultHasher::new();
        // Any port of UDP too, where that is judged.
        let is_of_udp =
            tables.judges_udp && direction == Direction::Outbound && ports == Accepts::Any;
        (direction, action, until_ns, is_of_udp).hash(&mut hasher);
        set(ports.of(&tables.ports)).hash(&mut hasher);
        set(peers.of(&tables.peers)).hash(&mut hasher);
        set(uids.of(&tables.owners)).hash(&mut hasher);
        scopes.hash(&mut hasher);
        hasher.finish()
    }
}
