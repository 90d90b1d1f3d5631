//! What there is to say of each condition on the owner of a connection, in one place.

use port_monitor_common::policy::{Direction, OwnerCondition};

use super::limits::{CGROUPS, Limit, USERS, of_owners};

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
    /// Why the kernel cannot compare it where connections of a direction are judged, and what
    /// to do; `None` where it can.
    pub(crate) beyond_hook: fn(Direction) -> Option<&'static str>,
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
            beyond_hook: within,
            of: Part::User,
        },
        OwnerCondition::Unit => About {
            limit: of_owners("different units"),
            beyond_nft: "a systemd unit",
            entry: "unit",
            description: "systemd units by any of their names, services without a type; `*` and \
                `?` match as in file names, `worker@.service` matches every instance.",
            beyond_hook: within,
            of: Part::Cgroup,
        },
        OwnerCondition::Cgroup => About {
            limit: CGROUPS,
            // It takes the path for the cgroup that has it when the ruleset is loaded.
            beyond_nft: "a cgroup by its path",
            entry: "path",
            description: "cgroup v2 paths.",
            beyond_hook: within,
            of: Part::Cgroup,
        },
        OwnerCondition::Exe => About {
            limit: of_owners("different executables"),
            beyond_nft: "an executable",
            entry: "path",
            description: "Executables.",
            beyond_hook: of_listener,
            of: Part::Other,
        },
    }
}

const fn within(_: Direction) -> Option<&'static str> {
    None
}

const fn of_listener(direction: Direction) -> Option<&'static str> {
    match direction {
        Direction::Inbound => Some(
            "the kernel does not know the executable of a listening socket; use `user`, `unit` or \
             `cgroup`",
        ),
        Direction::Outbound | Direction::Listen => None,
    }
}
