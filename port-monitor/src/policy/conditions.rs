//! What there is to say of each condition on the owner of a connection, in one place.

use port_monitor_common::policy::OwnerCondition;

use super::limits::{CGROUPS, EXES, Limit, UNITS, USERS};

/// One condition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    /// How many different ones a policy may name.
    pub(crate) limit: Limit,
    /// What nftables cannot match.
    pub(crate) beyond_nft: &'static str,
    /// The kind of its entries in the schema.
    pub(crate) entry: &'static str,
    /// Its description in the schema.
    pub(crate) description: &'static str,
    /// What of the owner has to be known.
    pub(crate) of: Part,
}

/// A part of what is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The user.
    User,
    /// The cgroup, and so the unit.
    Cgroup,
    /// What is known, or counts as not there.
    Other,
}

/// What there is to say of the condition.
pub(crate) const fn about(condition: OwnerCondition) -> About {
    match condition {
        OwnerCondition::User => About {
            limit: USERS,
            beyond_nft: "the user of an inbound connection",
            entry: "user",
            description: "Users of this host by name, in quotes; uids as numbers.",
            of: Part::User,
        },
        OwnerCondition::Unit => About {
            limit: UNITS,
            beyond_nft: "a systemd unit",
            entry: "unit",
            description: "systemd units by any of their names, services without a type; `*` and \
                `?` match as in file names, `worker@.service` matches every instance.",
            of: Part::Cgroup,
        },
        OwnerCondition::Cgroup => About {
            limit: CGROUPS,
            // It takes the path for the cgroup that has it when the ruleset is loaded.
            beyond_nft: "a cgroup by its path",
            entry: "path",
            description: "cgroup v2 paths.",
            of: Part::Cgroup,
        },
        OwnerCondition::Exe => About {
            limit: EXES,
            beyond_nft: "an executable",
            entry: "path",
            description: "Executables.",
            of: Part::Other,
        },
    }
}
