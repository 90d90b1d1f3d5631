//! Enforcement: programs that refuse what a policy denies, and the policies they
//! ask. They are pinned, so that they outlive whoever put them there.
//!
//! A policy is written into a slot that no program looks at, and put into force by
//! one store. See `port_monitor_common::generation`.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use aya::programs::links::{FdLink, PinnedLink};
use port_monitor_common::{
    denial::Denial,
    generation::{Header, Hits, MODE_NONE, ON_EXIT_ENFORCE, RuleEntry, State, Tally},
};
use rustix::{
    io::Errno,
    thread::{MembarrierCommand, membarrier},
};
use thiserror::Error;

use super::{KernelError, preflight::PreflightError};
use crate::{
    clock,
    policy::lower::{LowerError, Lowered},
};

pub(super) mod hindrance;
mod home;
mod host;
mod install;
mod lock;
mod slots;
mod sockets;
mod tables;

pub use home::{BPF_FS_VARIABLE, HomeError};
pub use host::HostPlaces;
use lock::Lock;
use slots::{current_slot, free_slots, is_unconfirmed, lease_ms, slot_but};
pub use sockets::{OpenConnection, Sockets, open as open_connections, sockets};
use tables::Tables;
pub(super) use tables::write_policy;

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
    #[error("end open connections: {0} (needs CAP_NET_ADMIN and CONFIG_INET_DIAG_DESTROY)")]
    Sockets(io::Error),
    /// `membarrier(2)` did not wait for running programs.
    #[error("wait for running programs (membarrier): {0}")]
    Barrier(Errno),
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
    _lock: Lock,
}

/// An instance that others may change, its maps at hand.
#[derive(Debug)]
pub struct Unlocked {
    dir: PathBuf,
    tables: Tables,
    /// Of the directory: another instance of the same name has another.
    pinned: Option<u64>,
}

impl Unlocked {
    /// What is pinned under its name now; `None` where nothing is.
    pub fn lock(self) -> Result<Option<Enforcer>, EnforcerError> {
        let lock = Lock::take(&self.dir)?;
        if self.pinned.is_none() || inode(&self.dir) != self.pinned {
            return Enforcer::open_locked(self.dir, lock);
        }
        Ok(Some(Enforcer {
            dir: self.dir,
            tables: self.tables,
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
        let lock = Lock::take(&dir)?;
        Self::open_locked(dir, lock)
    }

    fn open_locked(dir: PathBuf, lock: Lock) -> Result<Option<Self>, EnforcerError> {
        if !dir.exists() {
            return Ok(None);
        }
        install::check_version(&dir)?;
        Ok(Some(Self {
            tables: Tables::open(&dir)?,
            dir,
            _lock: lock,
        }))
    }

    /// Lets others change it meanwhile.
    pub fn unlock(self) -> Unlocked {
        Unlocked {
            pinned: inode(&self.dir),
            dir: self.dir,
            tables: self.tables,
        }
    }

    /// The same, or an error.
    pub fn existing(name: &str) -> Result<Self, EnforcerError> {
        Self::open(name)?.ok_or_else(|| EnforcerError::NotApplied(name.to_owned()))
    }

    /// What is pinned under this name, or else loads and pins it, with no policy in force;
    /// all that `policy` asks is attached. On error, nothing decides that did not before.
    pub fn open_or_install(instance: &Instance, policy: &Lowered) -> Result<Self, EnforcerError> {
        let mut headers = vec![policy.header];
        headers.extend(policy.closed_header());
        let cgroup = instance.cgroup.as_deref();
        super::preflight::check()?;
        let dir = home::lasting()?.join(&instance.name);
        if let Some(enforcer) = Self::open_locked(dir.clone(), Lock::take(&dir)?)? {
            install::check_cgroup(&enforcer.dir, instance)?;
            install::attach(&enforcer.dir, cgroup, &headers)?;
            return Ok(enforcer);
        }
        let lock = Lock::take(&dir)?;
        install::install(&dir, cgroup, &headers)?;
        Ok(Self {
            tables: Tables::open(&dir)?,
            dir,
            _lock: lock,
        })
    }

    /// Detaches and forgets everything. Connections are no longer judged once this
    /// returns.
    pub fn remove(name: &str) -> Result<(), EnforcerError> {
        let dir = home::of(name)?;
        let _lock = Lock::take(&dir)?;
        if !dir.exists() {
            return Err(EnforcerError::NotApplied(name.to_owned()));
        }
        // The kernel detaches a little later than its files go.
        if install::check_version(&dir).is_ok() {
            let mut tables = Tables::open(&dir)?;
            let [slot, _] = free_slots(tables.state(), now_ms());
            barrier()?;
            tables.clear(slot)?;
            tables.set_state(State::confirmed(slot));
        }
        install::remove(&dir)?;
        // Nobody minds if another instance is still there.
        let _ = dir.parent().map(fs::remove_dir);
        Ok(())
    }

    /// Puts a policy into force; until `confirm` has passed, if given.
    pub fn apply(
        &mut self,
        policy: &Lowered,
        confirm: Option<Duration>,
    ) -> Result<(), EnforcerError> {
        let state = self.tables.state();
        let current = current_slot(state, now_ms());
        let [slot, exit] = free_slots(state, now_ms());
        // Programs that began while the slots were in force.
        barrier()?;
        let exit = if policy.header.on_exit == ON_EXIT_ENFORCE {
            slot
        } else {
            match policy.closed_header() {
                Some(closed) => self.tables.write(exit, policy, &closed)?,
                None => self.tables.clear(exit)?,
            }
            exit
        };
        self.tables.write(slot, policy, &policy.header)?;
        let now_ms = now_ms();
        self.tables.set_state(match confirm {
            Some(confirm) => {
                let before = if is_unconfirmed(state, now_ms) {
                    state.fallback()
                } else {
                    current
                };
                State::until(slot, before, now_ms + millis(confirm)).with_exit(exit)
            }
            None => State::confirmed_after(slot, current)
                .with_exit(exit)
                .leased_until(now_ms + lease_ms(&policy.header)),
        });
        Ok(())
    }

    /// A sign that the policy is followed. One that had to give way because there was
    /// none comes into force again.
    pub fn renew(&self) {
        let state = self.tables.state();
        if state.is_leased() {
            let lease_ms = lease_ms(&self.tables.header(state.slot()));
            self.tables
                .set_state(state.leased_until(now_ms() + lease_ms));
        }
    }

    /// Puts the policy in force into force anew, as this host is now. Its counts go on,
    /// and what was before stays what one can go back to.
    pub fn refresh(&mut self, policy: &Lowered) -> Result<(), EnforcerError> {
        let state = self.tables.state();
        let (current, before) = (state.slot(), state.before());
        let exit = state.exit();
        let slot = slot_but(&[current, before, exit.unwrap_or(current)]);
        barrier()?;
        self.tables.write(slot, policy, &policy.header)?;
        let now_ms = now_ms();
        self.tables.set_state(
            State::confirmed_after(slot, before)
                .with_exit(exit.unwrap_or(slot))
                .leased_until(now_ms + lease_ms(&policy.header)),
        );
        // Programs that count in the old one.
        barrier()?;
        self.tables.add_hits(current, slot);
        Ok(())
    }

    /// The policy in force.
    pub fn in_force(&self) -> PolicyId {
        let slot = self.tables.state().slot_at(now_ms());
        PolicyId::of(&self.tables.header(slot))
    }

    /// The policy that is in force for good, or would be if somebody followed it.
    pub fn confirmed(&self) -> Option<PolicyId> {
        let state = self.tables.state();
        let is_confirmed = state.deadline_ms() == 0 || state.is_leased();
        is_confirmed.then(|| PolicyId::of(&self.tables.header(state.slot())))
    }

    /// Who was denied what by a policy, as far as there was room to tell since somebody
    /// asked last.
    pub fn take_denials(&mut self, policy: PolicyId) -> Result<Vec<Denial>, EnforcerError> {
        let mut denials = self.tables.take_denials(&self.dir)?;
        denials.retain(|denial| PolicyId::of(&self.tables.header(denial.slot.into())) == policy);
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
        let (state, now_ms) = (self.tables.state(), now_ms());
        if state.deadline_ms() == 0 || state.is_leased() {
            return Err(EnforcerError::NothingToConfirm);
        }
        if state.slot_at(now_ms) != state.slot() {
            return Err(EnforcerError::TooLate);
        }
        let lease_ms = lease_ms(&self.tables.header(state.slot()));
        self.tables.set_state(state.leased_until(now_ms + lease_ms));
        Ok(())
    }

    /// Goes back to the policy before.
    pub fn rollback(&self) -> Result<(), EnforcerError> {
        let state = self.tables.state();
        let current = current_slot(state, now_ms());
        let before = state.before();
        if current == before {
            return Err(EnforcerError::NothingBefore);
        }
        self.tables
            .set_state(State::confirmed_after(before, current));
        Ok(())
    }

    /// Ends the open connections that are to be, in every network namespace; gives
    /// those that were. What opens meanwhile is judged by the policy in force.
    pub fn end_connections(
        &self,
        is_to_end: impl Fn(&OpenConnection) -> bool + Sync,
    ) -> Result<Vec<OpenConnection>, EnforcerError> {
        let mut ended = sockets::end(&is_to_end)?;
        // What a program judged just before the policy came into force.
        ended.extend(sockets::end(&is_to_end)?);
        Ok(ended)
    }

    /// What is in force, and how often what decided.
    pub fn status(&self) -> Result<Status, EnforcerError> {
        let (state, now_ms) = (self.tables.state(), now_ms());
        let left = Duration::from_millis(state.deadline_ms().saturating_sub(now_ms));
        Ok(Status {
            counts: self.counts(state.slot_at(now_ms)),
            unconfirmed: is_unconfirmed(state, now_ms).then_some(left),
            lease: state.is_leased().then(|| Lease {
                header: self.tables.header(state.slot()),
                left,
            }),
            links: self.links()?,
        })
    }

    /// How often what decided of a policy, while it is in force, or the one before.
    pub fn counts_of(&self, policy: PolicyId) -> Option<Counts> {
        let state = self.tables.state();
        let slots = [state.slot_at(now_ms()), state.slot(), state.before()];
        let is_it = |slot: &u32| PolicyId::of(&self.tables.header(*slot)) == policy;
        slots.into_iter().find(is_it).map(|slot| self.counts(slot))
    }

    fn counts(&self, slot: u32) -> Counts {
        let header = self.tables.header(slot);
        let count = header.rule_count as usize;
        let rules = (0..count)
            .filter_map(|rule| {
                Some(RuleHits {
                    entry: self.tables.rule(slot, rule)?,
                    hits: self.tables.hits(slot, rule),
                })
            })
            .collect();
        let tally = |tally: Tally| self.tables.tally(slot, tally);
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

fn now_ms() -> u64 {
    clock::boot_ns() / 1_000_000
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX >> 8)
}

/// Waits until every program that runs now has ended: `MEMBARRIER_CMD_GLOBAL` is an
/// RCU grace period (`kernel/sched/membarrier.c`).
fn barrier() -> Result<(), EnforcerError> {
    membarrier(MembarrierCommand::Global).map_err(EnforcerError::Barrier)
}

/// What a pinned link attaches its program to: a cgroup's id, or the inode number of a
/// network namespace. `None` where the kernel has left the link there, attached to
/// nothing, because its cgroup was removed or somebody detached it.
fn attached_to(path: &Path) -> Result<Option<u64>, EnforcerError> {
    let link = PinnedLink::from_pin(path)
        .map_err(|error| KernelError::Map(super::ladder::chain(&error)))?;
    let link = FdLink::from(link);
    let info = link
        .info()
        .map_err(|error| KernelError::Map(super::ladder::chain(&error)))?;
    let in_proc = |error| EnforcerError::File {
        path: "/proc/self/fdinfo".into(),
        error,
    };
    let entries = fs::read_dir("/proc/self/fdinfo").map_err(in_proc)?;
    let entries: Vec<_> = entries.flatten().collect();
    // It was opened last, and most often has the highest number.
    let texts = entries
        .iter()
        .rev()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let places = texts.into_iter().map(|text| place_of(&text, info.id()));
    Ok(places.flatten().next())
}

/// What a descriptor's `fdinfo` says that this link is attached to, if it is this
/// link's.
fn place_of(fdinfo: &str, link_id: u32) -> Option<u64> {
    let value = |key: &str| {
        let mut lines = fdinfo.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(name, _)| *name == key)?;
        value.trim().parse::<u64>().ok()
    };
    if value("link_id") != Some(link_id.into()) {
        return None;
    }
    let place = value("cgroup_id").or_else(|| value("netns_ino"));
    place.filter(|place| *place != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_attached_to_nothing_is_told_from_one_that_is() {
        let text = |place| format!("pos:\t0\nlink_id:\t7\nprog_id:\t9\n{place}\n");
        assert_eq!(place_of(&text("cgroup_id:\t4"), 7), Some(4));
        let netns = text("netns_ino:\t4026531840");
        assert_eq!(place_of(&netns, 7), Some(4_026_531_840));
        assert_eq!(place_of(&text("cgroup_id:\t0"), 7), None);
        assert_eq!(place_of(&text("cgroup_id:\t4"), 8), None);
        assert_eq!(place_of("pos:\t0\n", 7), None);
    }
}
