//! The flags of `audit`, and what they mean.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use port_monitor_common::event::EventKind;

use crate::{
    base::{
        duration,
        exit_code::{ExitCode, Failure},
    },
    commands::watch::args::{FamilyArgs, KernelArgs, OwnerArgs},
    consume::{
        self,
        listeners::{
            Listed, Listing, Tally,
            uses::{Selection, SocketFamily},
        },
    },
    events::record::Summary,
    kernel::{
        Settings,
        filters::{Family, Filters},
    },
    ports::port_set::PortSet,
};

/// Flags of `audit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Watch this long before listing, to see who comes in: 30s, 5m, 2h, 7d
    ///
    /// Ctrl-C ends it early. Without it, what listens now is listed at once.
    #[arg(long, value_name = "TIME", value_parser = duration::parse, help_heading = "Watching")]
    duration: Option<Duration>,
    /// Watch this long, and list only the listeners nobody used
    #[arg(
        long,
        value_name = "TIME",
        value_parser = duration::parse,
        conflicts_with = "duration",
        help_heading = "Watching"
    )]
    unused: Option<Duration>,
    /// List the listeners too that closed while watching
    ///
    /// Without it only those of them that break the policy are listed.
    #[arg(long, help_heading = "Watching")]
    all: bool,
    /// Exit 4 if events were lost, or may have been
    #[arg(long, help_heading = "Watching")]
    fail_on_loss: bool,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    pub(super) destination: consume::output::args::Destination,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    kernel: KernelArgs,
}

/// Which listeners to list. Different filters all have to match; the values of one
/// are alternatives. Who comes in is counted whoever accepts.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Filters")]
struct FilterArgs {
    #[command(flatten)]
    owner: OwnerArgs,
    /// Listening ports: numbers, ranges a-b, service names, or a class
    /// (well-known, registered, dynamic)
    #[arg(short = 'L', long, value_name = "PORTS")]
    local_port: Option<PortSet>,
    #[command(flatten)]
    family: FamilyArgs,
}

/// The policy to judge by.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Policy")]
struct PolicyArgs {
    /// Judge every listening socket by this policy, and mark violations
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    policy: Option<PathBuf>,
    /// Exit 1 if there was a violation
    #[arg(long, requires = "policy")]
    fail_on_violation: bool,
}

impl Args {
    /// How much the eBPF programs are to log.
    pub(crate) const fn bpf_log(&self) -> Option<log::Level> {
        self.kernel.bpf_log()
    }

    /// The policy file.
    pub(super) fn policy(&self) -> Option<&Path> {
        self.policy.policy.as_deref()
    }

    /// How long to watch; not at all for a look at what listens now.
    pub(super) fn watched(&self) -> Duration {
        self.duration.or(self.unused).unwrap_or_default()
    }

    /// What the kernel side is to do. The owners and families of the listeners are
    /// chosen later: an accept belongs to its listener whoever makes it.
    pub(super) fn settings(&self) -> Settings {
        let mut kinds = vec![
            EventKind::Preexisting,
            EventKind::Listen,
            EventKind::Unlisten,
        ];
        if !self.watched().is_zero() {
            kinds.push(EventKind::Accept);
        }
        let filters = Filters {
            local_ports: self.filters.local_port.clone(),
            ..Filters::default()
        };
        self.kernel.settings(kinds, filters)
    }

    /// What to list.
    pub(super) fn listing(&self) -> Result<Listing, Failure> {
        if self.all && self.watched().is_zero() {
            return Err(Failure::usage(
                "--all lists what closes while watching: add --duration or --unused, or drop it",
            ));
        }
        Ok(Listing {
            selection: self.selection()?,
            listed: if self.unused.is_some() {
                Listed::Unused
            } else {
                Listed::Used
            },
            with_closed: self.all,
            watch: self.duration.or(self.unused),
            violations: Tally::default(),
            forgotten: Tally::default(),
        })
    }

    fn selection(&self) -> Result<Selection, Failure> {
        let owner = &self.filters.owner;
        Ok(Selection {
            pids: owner.pids()?,
            uids: owner.uids()?,
            groups: owner.groups()?,
            family: self.filters.family.family().map(|family| match family {
                Family::V4 => SocketFamily::V4,
                Family::V6 => SocketFamily::V6,
            }),
        })
    }

    /// How an audit with this account ends that found so many violations, and had to forget
    /// so many closed listeners.
    pub(super) fn exit_code(&self, summary: &Summary, violations: u64, forgotten: u64) -> ExitCode {
        if self.fail_on_loss && (summary.has_losses() || forgotten > 0) {
            ExitCode::EventsLost
        } else if self.policy.fail_on_violation && violations > 0 {
            ExitCode::Violation
        } else {
            ExitCode::Ok
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::consume::lines::sample::summary;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn listeners_that_are_forgotten_are_a_loss() {
        let whole = summary();
        let losing = Summary {
            unowned: 1,
            shown: whole.shown - 1,
            ..whole.clone()
        };
        for (flags, code) in [
            (&["audit", "--fail-on-loss"][..], ExitCode::EventsLost),
            (&["audit"], ExitCode::Ok),
        ] {
            let args = Line::parse_from(flags).args;
            assert_eq!(args.exit_code(&whole, 0, 0), ExitCode::Ok);
            assert_eq!(args.exit_code(&whole, 0, 1), code);
            assert_eq!(args.exit_code(&losing, 0, 0), code);
        }
    }
}
