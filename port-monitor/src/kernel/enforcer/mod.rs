//! Enforcement: programs that refuse what a policy denies, and the policies they
//! ask. They are pinned, so that they outlive whoever put them there.
//!
//! A policy is written into a generation that no program looks at, and put into force by
//! one store. See `port_monitor_common::generation`.

use std::{
    collections::HashSet,
    fs, io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use port_monitor_common::{
    denial::Denial,
    generation::{Header, ON_EXIT_ENFORCE, State, Tally},
};
use thiserror::Error;

use super::{bpf, error::KernelError, preflight::PreflightError};
use crate::{
    host::clock,
    policy::tables::lower::{LowerError, Lowered},
};

mod attempt;
mod carry;
mod counts;
mod generations;
mod grace;
pub(super) mod hindrance;
pub(super) mod home;
pub(super) mod host;
mod install;
pub(super) mod links;
mod lock;
mod removal;
pub(super) mod sockets;
pub(super) mod tables;
mod watch;

pub use attempt::Attempt;
pub use carry::Carried;
pub use counts::{Counts, Lease, PolicyId, RuleHits, Status};
use generations::{Generations, Refused, StateWord, Terms};
pub use home::{BPF_FS_VARIABLE, HomeError};
pub use host::HostPlaces;
pub use lock::Following;
use lock::Lock;
pub use removal::Left;
pub use sockets::{OpenConnection, Sockets, end_between, open as open_connections, sockets};
use tables::Tables;
pub use watch::Watch;

/// What instances are called.
pub const DEFAULT_INSTANCE: &str = "main";

/// Why a policy could not be put into force, or asked for.
#[derive(Debug, Error)]
pub enum EnforcerError {
    /// Missing privilege, or a kernel that forbids it.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// No file system to pin in.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// No cgroup v2.
    #[error(
        "no cgroup v2 hierarchy is mounted from its root on, which enforcement attaches to: mount \
         one with `mount -t cgroup2 none /sys/fs/cgroup/unified`, outside of any cgroup namespace"
    )]
    NoCgroups,
    /// A file that could not be used.
    #[error("{path}: {error}")]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Somebody else changes the policy right now.
    #[error("another port-monitor is changing the policy: try again")]
    Locked,
    /// Somebody else follows the policy.
    #[error(
        "not applied: somebody follows the policy{} already, by `apply --follow` or as a service: \
         end that first",
        of_instance(.0)
    )]
    Followed(String),
    /// Pinned by a version whose tables are others.
    #[error(
        "{path} was pinned by another version of port-monitor: end it with `port-monitor \
         panic-open`, then apply again"
    )]
    OtherVersion {
        /// Where it is pinned.
        path: PathBuf,
    },
    /// Pinned for another cgroup.
    #[error(
        "`{name}` holds another cgroup to its policy: take another --instance, or end it with \
         `port-monitor panic-open --instance {name}`"
    )]
    OtherCgroup {
        /// The instance.
        name: String,
    },
    /// Somebody has ended enforcement meanwhile.
    #[error("not applied: `port-monitor panic-open` has ended enforcement meanwhile")]
    Ended,
    /// Nothing is pinned.
    #[error("no policy is applied{}", of_instance(.0))]
    NotApplied(String),
    /// Nothing waits for confirmation.
    #[error("nothing to confirm: the policy in force is not waiting for it")]
    NothingToConfirm,
    /// The deadline has passed.
    #[error("too late: the deadline has passed and the policy before is in force again")]
    TooLate,
    /// No policy was in force before.
    #[error("nothing to go back to: no policy was in force before")]
    NothingBefore,
    /// The policy cannot be used here.
    #[error(transparent)]
    Policy(#[from] LowerError),
    /// Programs or maps.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A hook that enforcement cannot do without.
    #[error("attach {program} to {place}: {reason}")]
    Attach {
        /// The program.
        program: &'static str,
        /// Where to.
        place: String,
        /// Why not.
        reason: String,
    },
    /// Open connections could not be listed or ended.
    #[error(
        "list or end open connections: {0} (run it with sudo; it needs CAP_NET_ADMIN and CONFIG_INET_DIAG_DESTROY)"
    )]
    Sockets(io::Error),
    /// The kernel did not wait for running programs.
    #[error("wait for running programs: {0}")]
    Grace(io::Error),
}

impl From<Refused> for EnforcerError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NothingToConfirm => Self::NothingToConfirm,
            Refused::TooLate => Self::TooLate,
            Refused::NothingBefore => Self::NothingBefore,
        }
    }
}

fn of_instance(instance: &str) -> String {
    if instance == DEFAULT_INSTANCE {
        String::new()
    } else {
        format!(" as `{instance}`")
    }
}

/// What is attached, and may be more than once on a host.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its name: a directory's in the bpf file system.
    pub name: String,
    /// Only processes in this cgroup; `None` is the whole host.
    pub cgroup: Option<PathBuf>,
}

/// The pinned programs and policies of an instance. While it lives, nobody else
/// changes them.
#[derive(Debug)]
pub struct Enforcer {
    dir: PathBuf,
    tables: Tables,
    /// Of the directory: another installation of the same name has another.
    pinned: Option<u64>,
    _lock: Lock,
}

/// An instance that others may change, its maps at hand.
#[derive(Debug)]
pub struct Unlocked {
    dir: PathBuf,
    tables: Tables,
    /// Of the directory: another installation of the same name has another.
    pinned: Option<u64>,
}

impl Unlocked {
    /// Nobody else changes it from now on; `None` where it has been ended, even if there is
    /// another of its name by now.
    pub fn lock(self) -> Result<Option<Enforcer>, EnforcerError> {
        let lock = Lock::take(self.dir.parent().unwrap_or(&self.dir))?;
        if self.pinned.is_none() || inode(&self.dir) != self.pinned {
            return Ok(None);
        }
        Ok(Some(Enforcer {
            dir: self.dir,
            tables: self.tables,
            pinned: self.pinned,
            _lock: lock,
        }))
    }
}

fn inode(dir: &Path) -> Option<u64> {
    Some(fs::metadata(dir).ok()?.ino())
}

impl Enforcer {
    /// What is pinned under this name; `None` where nothing is.
    pub fn open(name: &str) -> Result<Option<Self>, EnforcerError> {
        super::preflight::check()?;
        let dir = home::of(name)?;
        let lock = Lock::take(dir.parent().unwrap_or(&dir))?;
        Self::open_locked(dir, lock)
    }

    fn open_locked(dir: PathBuf, lock: Lock) -> Result<Option<Self>, EnforcerError> {
        let Some(pinned) = inode(&dir) else {
            return Ok(None);
        };
        let tables = install::check_version(&dir).and_then(|()| Ok(Tables::open(&dir)?));
        let tables = match tables {
            // Somebody has ended it meanwhile.
            Err(_) if inode(&dir) != Some(pinned) => return Ok(None),
            tables => tables?,
        };
        Ok(Some(Self {
            tables,
            pinned: Some(pinned),
            dir,
            _lock: lock,
        }))
    }

    /// Lets others change it meanwhile.
    pub fn unlock(self) -> Unlocked {
        Unlocked {
            pinned: self.pinned,
            dir: self.dir,
            tables: self.tables,
        }
    }

    /// What is pinned under this name; an error where nothing is.
    pub fn existing(name: &str) -> Result<Self, EnforcerError> {
        Self::open(name)?.ok_or_else(|| EnforcerError::NotApplied(name.to_owned()))
    }

    /// What is pinned under this name, or else loads and pins it, with no policy in force,
    /// and attaches all that `policy` asks. On error, nothing decides that did not before.
    pub fn open_or_install(
        attempt: &Attempt,
        instance: &Instance,
        policy: &Lowered,
    ) -> Result<Self, EnforcerError> {
        super::preflight::check()?;
        let all = home::lasting()?;
        let lock = Lock::take(&all)?;
        let dir = all.join(&instance.name);
        if !dir.exists() {
            let cgroup = instance.cgroup.as_deref();
            install::install(&dir, attempt, cgroup, &headers(policy))?;
        }
        Self::open_locked(dir, lock)?.ok_or(EnforcerError::Ended)
    }

    /// Attaches what `policy` asks and nothing asked before.
    pub fn attach(&self, instance: &Instance, policy: &Lowered) -> Result<(), EnforcerError> {
        let attached = install::check_cgroup(&self.dir, instance).and_then(|()| {
            install::attach(&self.dir, instance.cgroup.as_deref(), &headers(policy))
        });
        self.or_ended(attached)
    }

    /// An error's cause, where it is that nothing is pinned any more; nothing else counts
    /// then.
    fn or_ended<T>(&self, result: Result<T, EnforcerError>) -> Result<T, EnforcerError> {
        if self.pinned.is_some() && inode(&self.dir) == self.pinned {
            result
        } else {
            Err(EnforcerError::Ended)
        }
    }

    /// Detaches and forgets everything, whatever is in the way. Connections are no longer
    /// judged once this returns, unless it says so.
    pub fn remove(name: &str) -> Result<Left, EnforcerError> {
        removal::remove(name)
    }

    /// Puts a policy into force; until `confirm` has passed, if given. Rules that the
    /// policy before has too go on counting where they were; gives how far.
    pub fn apply(
        &mut self,
        policy: &Lowered,
        confirm: Option<Duration>,
    ) -> Result<Carried, EnforcerError> {
        let terms = Terms {
            confirm_ms: confirm.map(millis),
            lease_ms: lease_of(&policy.header),
        };
        let change = generations::apply(self, policy, terms);
        let change = self.or_ended(change)?;
        self.await_old_programs();
        self.or_ended(Ok(carry::same_rules(&self.tables, change)))
    }

    /// Waits for programs that count in the generation before: the policy is in force, so what
    /// goes wrong here costs a few counts and nothing else.
    fn await_old_programs(&self) {
        if let Err(error) = self.wait_for_programs() {
            log::warn!("{error}");
        }
    }

    /// What is in force, to be seen and renewed without the lock.
    pub fn watch(&self) -> Result<Watch, EnforcerError> {
        self.or_ended(Watch::open(&self.dir))
    }

    /// Puts the policy in force into force anew, as this host is now. Its counts go on,
    /// and what was before stays what one can go back to.
    pub fn refresh(&mut self, policy: &Lowered) -> Result<(), EnforcerError> {
        let change = generations::refresh(self, policy, lease_of(&policy.header))?;
        self.await_old_programs();
        carry::all(&self.tables, change);
        Ok(())
    }

    /// The policy in force.
    pub fn in_force(&self) -> PolicyId {
        let generation = self.tables.state().generation_at(now_ms());
        PolicyId::of(&self.tables.header(generation))
    }

    /// The policy that is in force for good, or would be if somebody followed it.
    pub fn confirmed(&self) -> Option<PolicyId> {
        let state = self.tables.state().settled(now_ms());
        let is_confirmed = !state.is_unconfirmed();
        is_confirmed.then(|| PolicyId::of(&self.tables.header(state.generation())))
    }

    /// The policy in force asks to be followed, and would stay all the same.
    pub fn is_unleased(&self) -> bool {
        let state = self.tables.state().settled(now_ms());
        let header = self.tables.header(state.generation());
        lease_of(&header).is_some() && !state.is_leased()
    }

    /// Nobody else follows it while this is held.
    pub fn follow(&self) -> Result<Following, EnforcerError> {
        let following = Following::begin(&self.dir);
        following.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                let name = self.dir.file_name().unwrap_or_default();
                EnforcerError::Followed(name.to_string_lossy().into_owned())
            }
            _ => install::file_error(&self.dir, error),
        })
    }

    /// Which installation this is: another of its name has another number.
    pub const fn installation(&self) -> Option<u64> {
        self.pinned
    }

    /// Who was denied what by a policy, as far as there was room to tell since somebody
    /// asked last.
    pub fn take_denials(&mut self, policy: PolicyId) -> Result<Vec<Denial>, EnforcerError> {
        let mut denials = self.tables.take_denials(&self.dir)?;
        denials
            .retain(|denial| PolicyId::of(&self.tables.header(denial.generation.into())) == policy);
        Ok(denials)
    }

    /// The links, and whether each is attached.
    pub fn links(&self) -> Result<Vec<(String, bool)>, EnforcerError> {
        install::links(&self.dir)
    }

    /// Brings what `self` means in rules up to date.
    pub fn refresh_addresses(&mut self) -> Result<(), EnforcerError> {
        Ok(self.tables.write_own_addresses()?)
    }

    /// Keeps the policy that waits for it.
    pub fn confirm(&self) -> Result<(), EnforcerError> {
        let lease_of = |generation| generations::lease_ms(&self.tables.header(generation));
        Ok(generations::confirm(self, lease_of)?)
    }

    /// Goes back to the policy before.
    pub fn rollback(&self) -> Result<(), EnforcerError> {
        Ok(generations::rollback(self)?)
    }

    /// What is in force, and how often what decided.
    pub fn status(&self) -> Result<Status, EnforcerError> {
        let (state, now_ms) = (self.tables.state(), now_ms());
        let left = Duration::from_millis(state.deadline_ms().saturating_sub(now_ms));
        Ok(Status {
            counts: self.counts(state.generation_at(now_ms)),
            unconfirmed: state.settled(now_ms).is_unconfirmed().then_some(left),
            lease: state.is_leased().then(|| Lease {
                header: self.tables.header(state.generation()),
                left,
            }),
            links: self.links()?,
        })
    }

    /// How often what decided of a policy, while it is in force, or the one before.
    pub fn counts_of(&self, policy: PolicyId) -> Option<Counts> {
        let state = self.tables.state();
        let generations = [
            state.generation_at(now_ms()),
            state.generation(),
            state.before(),
        ];
        let is_it = |generation: &u32| PolicyId::of(&self.tables.header(*generation)) == policy;
        generations
            .into_iter()
            .find(is_it)
            .map(|generation| self.counts(generation))
    }

    fn counts(&self, generation: u32) -> Counts {
        let header = self.tables.header(generation);
        let count = header.rule_count as usize;
        let rules = (0..count)
            .filter_map(|rule| {
                Some(RuleHits {
                    entry: self.tables.rule(generation, rule)?,
                    hits: self.tables.hits(generation, rule),
                })
            })
            .collect();
        let tally = |tally: Tally| self.tables.tally(generation, tally);
        Counts {
            header,
            rules,
            defaults: [
                tally(Tally::DefaultInbound),
                tally(Tally::DefaultOutbound),
                tally(Tally::DefaultListen),
            ],
            loopback: tally(Tally::Loopback),
            kernel: tally(Tally::KernelThread),
            broken: tally(Tally::Broken),
        }
    }
}

impl StateWord for Enforcer {
    fn now_ms(&self) -> u64 {
        now_ms()
    }

    fn state(&self) -> State {
        self.tables.state()
    }

    fn exchange(&self, from: State, to: State) -> bool {
        self.tables.exchange_state(from, to)
    }
}

impl Generations for Enforcer {
    type Policy = Lowered;
    type Error = EnforcerError;

    fn wait_for_programs(&self) -> Result<(), EnforcerError> {
        let map = bpf::open_pinned(&self.dir.join("pm_state"));
        map.and_then(|map| grace::wait_for_programs(map.as_fd()))
            .map_err(EnforcerError::Grace)
    }

    fn write(&mut self, generation: u32, policy: &Lowered) -> Result<(), EnforcerError> {
        Ok(self.tables.write(generation, policy, policy.when_open())?)
    }

    fn write_exit(&mut self, generation: u32, policy: &Lowered) -> Result<(), EnforcerError> {
        match policy.when_closed() {
            Some((closed, ends)) => self.tables.write(generation, policy, (&closed, ends))?,
            None => self.tables.clear(generation)?,
        }
        Ok(())
    }
}

/// Ends the open connections that are to be, in every network namespace; gives those that
/// were. What opens meanwhile is judged by the policy in force. It may take long: nobody
/// should wait for it.
pub fn end_connections(
    is_to_end: impl Fn(&OpenConnection) -> bool + Sync,
) -> Result<Vec<OpenConnection>, EnforcerError> {
    let mut ended = sockets::end(&is_to_end)?;
    let known: HashSet<Vec<u8>> = ended.iter().map(|one| one.identity().to_vec()).collect();
    // What a program judged just before the policy came into force. Linux 5.10 still lists
    // what it has ended and nobody holds, until that has given up (`tcp_abort`).
    let late = sockets::end(&is_to_end)?;
    let is_new = |one: &OpenConnection| !known.contains(one.identity());
    ended.extend(late.into_iter().filter(is_new));
    Ok(ended)
}

/// Of all that may come into force by this policy.
fn headers(policy: &Lowered) -> Vec<Header> {
    let closed = policy.closed_header();
    [policy.header].into_iter().chain(closed).collect()
}

/// How long a policy stays without a sign of whoever follows it; `None` is for good.
fn lease_of(header: &Header) -> Option<u64> {
    (header.on_exit != ON_EXIT_ENFORCE).then(|| generations::lease_ms(header))
}

fn now_ms() -> u64 {
    clock::boot_ns() / 1_000_000
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX >> 8)
}
