//! What the stages after the decoder add to an event, and the items a sink
//! writes. Data only: each stage's logic is in its own module.

use std::{borrow::Cow, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use port_monitor_common::site::Site;

use crate::events::decode::{Comm, Event};

pub use crate::events::judgement::{Judgement, LoadedPolicy, Ruleset};
pub use crate::ports::class::{PortClass, ServiceOrigin, ServiceStatus};

/// A value found in userspace, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field<T> {
    /// The value.
    Known(T),
    /// There is none, for this reason.
    Missing(Missing),
}

impl<T> Field<T> {
    /// The value, if there is one.
    pub const fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Missing(_) => None,
        }
    }

    /// The reason, if there is no value.
    pub const fn missing(&self) -> Option<Missing> {
        match self {
            Self::Known(_) => None,
            Self::Missing(reason) => Some(*reason),
        }
    }
}

/// Why a field has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No hook saw the owner.
    NoOwner,
    /// Several processes have the listener open, and no one can be named before the others.
    Shared,
    /// No process has the listener open any more.
    Unheld,
    /// The process ended before it could be looked up, or its pid belongs to
    /// another process by now.
    Exited,
    /// The process executes another program by now, or it cannot be told that it does not.
    Executed,
    /// The kernel refused the look-up.
    Denied,
    /// A kernel thread has none.
    KernelThread,
    /// The look-up takes long: later lines have it.
    Late,
}

/// A container the process runs in, as its cgroup path tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The full id.
    pub id: String,
    /// `docker`, `podman`, `containerd`, `cri-o`, …
    pub runtime: &'static str,
    /// The Kubernetes pod's uid, where the path has one.
    pub pod_uid: Option<String>,
}

/// The parent of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Process id.
    pub pid: u32,
    /// Name of its first thread, and its start to the tick, `CLOCK_BOOTTIME` ns; `None` where
    /// it could not be looked up.
    pub named: Option<(Comm, u64)>,
}

/// What userspace knows of a process; one per (pid, start time), shared by its
/// events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Executable path, untrusted bytes.
    pub exe: Field<PathBuf>,
    /// Its parent, when it was looked up.
    pub parent: Option<Parent>,
    /// Its arguments without secrets, when it was looked up; `None` unless asked for.
    pub args: Option<Arc<[String]>>,
    /// Name of the owner's uid in this host's user database.
    pub user: Option<Arc<str>>,
    /// cgroup v2 path below the mount point, with a leading slash.
    pub cgroup: Option<Arc<str>>,
    /// systemd unit: the last `*.service`, `*.scope`, … of the cgroup path.
    pub unit: Option<Arc<str>>,
    /// The container, if the cgroup path is one's.
    pub container: Option<Container>,
    /// Why nobody knows yet whether the user has a name.
    pub user_missing: Option<Missing>,
    /// Why nobody knows whether there is a container.
    pub container_missing: Option<Missing>,
}

impl Process {
    /// One of which nothing is known, for this reason.
    pub const fn unknown(reason: Missing) -> Self {
        Self {
            exe: Field::Missing(reason),
            parent: None,
            args: None,
            user: None,
            cgroup: None,
            unit: None,
            container: None,
            user_missing: None,
            container_missing: None,
        }
    }

    /// Why nobody knows its cgroup, as far as that has a reason.
    pub fn cgroup_missing(&self) -> Option<Missing> {
        let late = self.container_missing;
        let late = late.filter(|reason| *reason == Missing::Late);
        self.exe.missing().or(late)
    }
}

/// The owner of a connection's other end; shared by all that know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Start of the process, `CLOCK_BOOTTIME` ns.
    pub start_ns: u64,
    /// Its name when it acted at that end.
    pub comm: Comm,
    /// The process.
    pub process: Arc<Process>,
}

impl ServiceStatus {
    /// The status as tables and JSON spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Reserved => "reserved",
            Self::Unassigned => "unassigned",
        }
    }
}

/// One end's port, classified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// The port.
    pub port: u16,
    /// Its range.
    pub class: PortClass,
    /// Its service name and where that comes from.
    pub service: Option<(&'static str, ServiceOrigin)>,
    /// What the registry says.
    pub status: ServiceStatus,
    /// The client's end, within this host's `ip_local_port_range`.
    pub ephemeral: bool,
}

/// Both ends, classified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The local end; `None` while the kernel has not chosen the port.
    pub local: Option<PortInfo>,
    /// The remote end; `None` where the socket listens.
    pub remote: Option<PortInfo>,
}

/// An event with everything the stages added: what sinks write.
#[derive(Clone, Debug)]
pub struct Record {
    /// The kernel's event.
    pub event: Event,
    /// Wall-clock time of the event, ns since the Unix epoch.
    pub wall_ns: i128,
    /// The owning process.
    pub process: Arc<Process>,
    /// The owner of the other end, where that is known to be on this host.
    pub peer: Option<Arc<Peer>>,
    /// Both ports.
    pub ports: Ports,
    /// The policy's word; `None` without a policy.
    pub judgement: Option<Judgement>,
}

impl Record {
    /// It breaks the policy.
    pub fn is_violation(&self) -> bool {
        let judgement = self.judgement.as_ref();
        judgement.is_some_and(Judgement::is_violation)
    }

    /// An attempt that failed with `EPERM` where the policy denies it.
    pub fn is_denied(&self) -> bool {
        self.is_violation() && self.event.action.is_refused()
    }

    /// The name of the owning process, which is its first thread's, at the event.
    pub fn process_name(&self) -> Option<Comm> {
        self.event.owner.as_ref().map(|owner| owner.process_comm)
    }
}

/// Facts of one run, first in every stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Wall-clock start, ns since the Unix epoch.
    pub wall_ns: i128,
    /// Start on the clock of events, `CLOCK_BOOTTIME` ns.
    pub boot_ns: u64,
    /// This program's version.
    pub version: &'static str,
    /// Host name.
    pub host: String,
    /// `uname -r`.
    pub kernel: String,
    /// `/proc/sys/kernel/random/boot_id`: event ids and boot times belong to it.
    pub boot_id: String,
    /// The backend in use: `fentry`, `kprobe`, `tracepoint`.
    pub backend: &'static str,
    /// What this backend cannot see on this kernel, a sentence each.
    pub blind_spots: Vec<String>,
    /// What the self-test could not prove, and why, a sentence each.
    pub unproven: Vec<String>,
    /// Units and cgroups of the filter that were not there yet.
    pub waiting: Vec<String>,
    /// The policy file in force.
    pub policy: Option<String>,
    /// Which text that policy is.
    pub policy_loaded: Option<LoadedPolicy>,
}

/// Why events are missing from the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// The kernel's ring buffer was full.
    RingFull,
    /// The kernel skipped the program: the CPU was in the middle of it already.
    ProgramSkipped,
    /// The output took the lines too slowly.
    OutputSlow,
    /// Records this version cannot read.
    Undecodable,
    /// A filter of processes had to know whose they are, which was not found out in time.
    OwnerLate,
}

/// A gap in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// When it was noticed, ns since the Unix epoch.
    pub wall_ns: i128,
    /// Events lost since the last gap of this cause was written.
    pub lost: u64,
    /// Events lost to this cause since the start.
    pub total: u64,
    /// Why.
    pub cause: LossCause,
}

/// The kernel's counters of one hook, summed over the CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookCount {
    /// Events of a kind that was asked for, in programs that ran.
    pub hit: u64,
    /// Kept back by a filter in the kernel.
    pub filtered: u64,
    /// Lost: the ring was full.
    pub reserve_failed: u64,
    /// Went into the ring.
    pub submitted: u64,
    /// Lost: the kernel skipped the program. Not in `hit`, which the program
    /// counts.
    pub skipped: u64,
}

impl HookCount {
    const fn has_losses(&self) -> bool {
        let Self {
            hit: _,
            filtered: _,
            reserve_failed,
            submitted: _,
            skipped,
        } = self;
        *reserve_failed + *skipped > 0
    }

    /// `hit = filtered + reserve_failed + submitted`.
    pub const fn adds_up(&self) -> bool {
        self.hit == self.filtered + self.reserve_failed + self.submitted
    }
}

/// What failed in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Where.
    pub site: Site,
    /// The errno; the greatest one stands for all above it too.
    pub errno: u32,
    /// How often.
    pub count: u64,
}

impl Failed {
    /// The errno's name, or its number.
    pub fn errno_name(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self.errno {
            1 => "EPERM",
            2 => "ENOENT",
            7 => "E2BIG",
            11 => "EAGAIN",
            12 => "ENOMEM",
            14 => "EFAULT",
            16 => "EBUSY",
            17 => "EEXIST",
            28 => "ENOSPC",
            34 => "ERANGE",
            35 => "EDEADLK",
            75 => "EOVERFLOW",
            110 => "ETIMEDOUT",
            other => return Cow::Owned(other.to_string()),
        })
    }

    /// A table of the kernel was full: what did not go into it loses its outcome, its end
    /// or its owner.
    pub const fn is_table_full(&self) -> bool {
        const ENOMEM: u32 = 12;
        const E2BIG: u32 = 7;
        self.site.is_insertion() && matches!(self.errno, E2BIG | ENOMEM)
    }
}

/// Why events that were delivered to a consumer are missing from what it has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Its queue was full.
    pub queue_full: u64,
    /// It had failed.
    pub failed: u64,
    /// The end of the run did not wait for it any longer.
    pub unfinished: u64,
}

impl Dropped {
    /// These and `others`.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self {
            queue_full: self.queue_full + others.queue_full,
            failed: self.failed + others.failed,
            unfinished: self.unfinished + others.unfinished,
        }
    }

    /// All of them.
    pub const fn total(self) -> u64 {
        self.queue_full + self.failed + self.unfinished
    }
}

/// What became of the events that were delivered to a consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Events that came to it.
    pub delivered: u64,
    /// Events that are where it brings them.
    pub taken: u64,
    /// Events that it did not ask for.
    pub hidden: u64,
    /// The rest, by cause.
    pub dropped: Dropped,
    /// What it failed of.
    pub error: Option<String>,
}

impl Account {
    /// `delivered = taken + hidden + dropped`.
    pub const fn adds_up(&self) -> bool {
        self.delivered == self.taken + self.hidden + self.dropped.total()
    }

    const fn has_losses(&self) -> bool {
        let Self {
            delivered: _,
            taken: _,
            hidden: _,
            dropped,
            error: _,
        } = self;
        dropped.total() > 0
    }

    /// It has failed, or did not come to an end.
    pub const fn is_incomplete(&self) -> bool {
        self.error.is_some() || self.dropped.unfinished > 0
    }
}

/// The final account of a run, last in every stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// When the run ended, ns since the Unix epoch.
    pub wall_ns: i128,
    /// How long it watched.
    pub duration: Duration,
    /// Looks that programs began.
    pub looks: u64,
    /// Of those: there was nothing to report, or it was the self-test's.
    pub not_ours: u64,
    /// What failed in the kernel.
    pub failures: Vec<Failed>,
    /// By hook; of events that a service or the live view tells, by one of that name.
    pub hooks: Vec<(&'static str, HookCount)>,
    /// Records read from the ring.
    pub received: u64,
    /// Records this version cannot read.
    pub undecodable: u64,
    /// Events kept back in userspace: not a violation with `--violations`, after
    /// `--count` was reached, or the progress of a connection whose end was just told.
    pub hidden: u64,
    /// Events written to the output.
    pub shown: u64,
    /// Events the output took too slowly, or failed to take.
    pub lost_at_output: u64,
    /// Events whose owner was not found out in time, where a filter had to know it.
    pub unowned: u64,
    /// The account of each consumer, by its name; first of what is shown.
    pub consumers: Vec<(&'static str, Account)>,
    /// Events that broke the policy, shown or not; the end of a connection is not
    /// another one.
    pub violations: u64,
    /// Accepts only `security_sock_graft` saw.
    pub accept_preattach: u64,
    /// How the command after `--` ended: its exit status, or 128 + signal.
    pub command_status: Option<i32>,
}

impl Summary {
    /// Events of the kinds asked for, over all hooks.
    pub fn seen(&self) -> u64 {
        let counts = self.hooks.iter().map(|(_, count)| count);
        counts.map(|count| count.hit + count.skipped).sum()
    }

    /// Kept back by filters, in the kernel and in userspace.
    pub fn filtered(&self) -> u64 {
        self.hooks
            .iter()
            .map(|(_, count)| count.filtered)
            .sum::<u64>()
            + self.hidden
    }

    /// Lost: program skipped, ring full, undecodable, not written, or without an owner in time.
    pub fn lost(&self) -> u64 {
        let counts = self.hooks.iter().map(|(_, count)| count);
        let kernel: u64 = counts
            .map(|count| count.reserve_failed + count.skipped)
            .sum();
        kernel + self.undecodable + self.lost_at_output + self.unowned
    }

    /// A consumer beside what is shown has failed, or did not come to an end.
    pub fn is_incomplete(&self) -> bool {
        let mut others = self.consumers.iter().skip(1);
        others.any(|(_, account)| account.is_incomplete())
    }

    /// Full kernel tables: attempts without an outcome, connections without an
    /// end, listeners without an owner, processes of the tree not followed.
    pub fn table_full(&self) -> u64 {
        let full = self.failures.iter().filter(|failed| failed.is_table_full());
        full.map(|failed| failed.count).sum()
    }

    /// Looks at what may have been events, but could not be read.
    pub fn gave_up(&self) -> u64 {
        let gave_up = self.failures.iter().filter(|failed| failed.site.gives_up());
        gave_up.map(|failed| failed.count).sum()
    }

    /// Anything that was asked for is missing, or may be: `--fail-on-loss` fails then.
    pub fn has_losses(&self) -> bool {
        // Nothing is left out: whatever is added has to be decided.
        let Self {
            wall_ns: _,
            duration: _,
            looks: _,
            not_ours: _,
            failures,
            hooks,
            received: _,
            undecodable,
            hidden: _,
            shown: _,
            lost_at_output,
            unowned,
            consumers,
            violations: _,
            accept_preattach: _,
            command_status: _,
        } = self;
        *undecodable + *lost_at_output + *unowned > 0
            || hooks.iter().any(|(_, count)| count.has_losses())
            || failures.iter().any(|failed| failed.site.costs_events())
            || consumers.iter().any(|(_, account)| account.has_losses())
            || !self.adds_up()
    }

    /// Times that the kernel came to a hook: looks, and programs that it skipped.
    pub fn entered(&self) -> u64 {
        let skipped = self.hooks.iter().map(|(_, count)| count.skipped);
        self.looks + skipped.sum::<u64>()
    }

    /// The accounting law: entered = not ours + gave up + seen, seen = shown + filtered +
    /// lost, and every hook's row and every consumer's account adds up.
    pub fn adds_up(&self) -> bool {
        self.hooks.iter().all(|(_, count)| count.adds_up())
            && self.consumers.iter().all(|(_, account)| account.adds_up())
            && self.entered() == self.not_ours + self.gave_up() + self.seen()
            && self.seen() == self.shown + self.filtered() + self.lost()
    }
}

/// One thing to write.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// The start of the stream.
    Header(&'a Header),
    /// Events may be judged by another policy from here on; this would be the start of the
    /// stream now.
    Policy(&'a Header),
    /// An event.
    Event(&'a Record),
    /// A gap.
    Loss(&'a Loss),
    /// The end of the stream.
    Summary(&'a Summary),
}

/// An address and port for display: `10.0.0.1:80`, `[::1]:80`, `[fe80::1%3]:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub ip: IpAddr,
    /// The port; `None` prints as `*`.
    pub port: Option<u16>,
    /// The zone of a link-local address.
    pub ifindex: Option<u32>,
}
