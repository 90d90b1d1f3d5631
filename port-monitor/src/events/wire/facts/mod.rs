//! What JSON lines carry under `port_monitor`: the facts the Elastic Common
//! Schema has no name for.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};

pub(crate) use self::number::{Decimal, Device, Hex, HexBytes};
use self::{consumer::Consumer, failure::Failure};
use super::{
    listeners::AuditFacts,
    words::{
        AlertKind, ClosedBy, ConnectionState, Enforcement, LossCause, OwnerSource, PortClass,
        Reason, ServiceOrigin, ServiceStatus, Verdict, Word,
    },
};
use crate::events::record;

mod consumer;
mod failure;
mod number;

/// Of the start line.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct StartFacts<'a> {
    #[serde(default)]
    pub(crate) schema: u32,
    /// How events are captured: fentry, kprobe or tracepoint.
    #[serde(default)]
    pub(crate) backend: Cow<'a, str>,
    /// What cannot be seen on this kernel, a sentence each.
    #[serde(default)]
    pub(crate) blind_spots: Cow<'a, [String]>,
    /// What the self-test could not prove, and why, a sentence each.
    #[serde(default, skip_serializing_if = "<[String]>::is_empty")]
    pub(crate) unproven: Cow<'a, [String]>,
    /// Units and cgroups of the filter that were not there yet.
    #[serde(default, skip_serializing_if = "<[String]>::is_empty")]
    pub(crate) waiting: Cow<'a, [String]>,
    /// The policy file in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<Cow<'a, str>>,
    /// SHA-256 of it and of the lists it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) policy_sha256: Option<HexBytes<'a>>,
    /// Which one of the run it is: the first is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy_number: Option<u16>,
}

/// Of a line about the policy.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct PolicyFacts<'a> {
    #[serde(default)]
    pub(crate) schema: u32,
    /// The policy file in force.
    pub(crate) policy: Cow<'a, str>,
    /// SHA-256 of it and of the lists it reads.
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) policy_sha256: HexBytes<'a>,
    /// Which one of the run it is: the first is 1.
    pub(crate) policy_number: u16,
}

/// Of a connection.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Facts<'a> {
    #[serde(default)]
    pub(crate) schema: u32,
    /// Joins the events of one connection end, within a stream.
    #[cfg_attr(test, schemars(with = "String", extend("pattern" = "^[0-9a-f]{16}$")))]
    pub(crate) id: Hex,
    /// Time of the event, ns since boot (`CLOCK_BOOTTIME`); absent in lines of a history.
    #[cfg_attr(test, schemars(with = "Option<String>", extend("pattern" = "^[0-9]+$")))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boottime_ns: Option<Decimal>,
    /// The CPU the event was seen on; absent in lines of a history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpu: Option<u16>,
    /// Inode number of the socket's network namespace.
    #[serde(default)]
    pub(crate) netns: u32,
    /// The interface the socket is bound to: the zone of link-local addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ifindex: Option<u32>,
    /// How the owner is known.
    #[serde(default)]
    pub(crate) owner_source: Word<OwnerSource>,
    /// Processes that had the listener open when the connection came; only on the tracepoint
    /// backend, and where they are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) holders: Option<u32>,
    /// Start of the process, ns since boot: with the pid, a name no other process
    /// of this boot ever has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>", extend("pattern" = "^[0-9]+$")))]
    pub(crate) process_start_boottime_ns: Option<Decimal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cgroup: Option<Cgroup<'a>>,
    /// The file the process executes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exe: Option<Exe>,
    /// A thread of the kernel acts, which the defaults of a policy spare.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) kernel: bool,
    /// The systemd unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<Cow<'a, str>>,
    /// The owner of the other end, where that is known to be on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer_process: Option<PeerProcess<'a>>,
    /// This host's port; absent while the kernel has not chosen it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) local: Option<Port>,
    /// The peer's port; absent where a socket listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remote: Option<Port>,
    /// The service: of the remote port outbound, of the local one inbound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<Service>,
    /// The class of the service's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port_class: Option<Word<PortClass>>,
    /// An IPv6 socket that speaks IPv4; the addresses are shown as IPv4.
    #[serde(default)]
    pub(crate) v4_mapped: bool,
    /// From the attempt to the established connection, µs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) handshake_us: Option<u32>,
    /// The socket's TCP state when it was found; only of a preexisting one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<Cow<'static, str>>,
    /// Who ended the connection first; only of a close.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) closed_by: Option<Word<ClosedBy>>,
    /// Segments sent again over the connection's life; of a close, or so far, of progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retransmits: Option<u32>,
    /// Smoothed round-trip time, µs; of a close or progress, where one was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rtt_us: Option<u32>,
    /// Process id of who closed this end, where that is not the owner: the socket
    /// was passed on, inherited, or destroyed from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) closing_pid: Option<u32>,
    /// Absent without a policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verdict: Option<Word<Verdict>>,
    /// What was done about a violation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) enforcement: Option<Word<Enforcement>>,
    /// Only the second of two hooks saw the accept: the thread was asleep in
    /// accept before the monitor attached, or the kernel skipped the first.
    /// Absent in lines of a history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) preattach: Option<bool>,
    /// How far the connection has come; only in lines of a history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connection_state: Option<Word<ConnectionState>>,
    /// Why somebody is told of it; only in alerts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) alert: Option<Alert>,
    /// Fields without a value, and why.
    #[serde(default, skip_serializing_if = "Missing::is_empty")]
    pub(crate) missing: Missing,
    /// Fields that are not UTF-8, as hexadecimal bytes; above they are with
    /// replacement characters.
    #[serde(default, skip_serializing_if = "Raw::is_empty")]
    pub(crate) raw: Raw<'a>,
}

/// Of a loss line.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LossFacts {
    #[serde(default)]
    pub(crate) schema: u32,
    /// Events lost since the last gap of this cause.
    pub(crate) lost: u64,
    /// Events lost to this cause since the start.
    pub(crate) total: u64,
    pub(crate) cause: Word<LossCause>,
    /// Only in alerts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) alert: Option<Alert>,
}

/// What an alert says besides its event.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Alert {
    pub(crate) kind: Word<AlertKind>,
    /// As syslog numbers them: 1 is an alert, 3 an error, 4 a warning, 5 a notice.
    #[cfg_attr(test, schemars(range(max = 7)))]
    pub(crate) priority: u8,
    /// Alerts of this kind and priority that were held back since the last one.
    pub(crate) suppressed: u64,
}

/// Of the summary line. `entered = not_ours + gave_up + seen`, and
/// `seen = shown + filtered + lost`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct SummaryFacts {
    pub(crate) schema: u32,
    pub(crate) duration_ms: u64,
    /// Times that the kernel came to a hook; some changes pass several of them.
    pub(crate) entered: u64,
    /// Of those: nothing to report, reported by another hook, or the self-test's.
    pub(crate) not_ours: u64,
    /// Of those: what had to be read could not be, see `failures`.
    pub(crate) gave_up: u64,
    /// Events of the kinds asked for.
    pub(crate) seen: u64,
    /// Events written to the output; in an audit, those it has counted.
    pub(crate) shown: u64,
    /// Events kept back by filters.
    pub(crate) filtered: u64,
    /// Events lost.
    pub(crate) lost: u64,
    /// The account is exact, in total and for every hook.
    pub(crate) adds_up: bool,
    /// The kernel's counters by hook.
    pub(crate) hooks: BTreeMap<Cow<'static, str>, HookRow>,
    /// Events read from the kernel's ring.
    pub(crate) received: u64,
    /// Why events were lost.
    pub(crate) lost_by_cause: LostByCause,
    /// Of those filtered: kept back in userspace.
    pub(crate) hidden: u64,
    /// What became of the events that reached userspace, for each consumer: `output` is
    /// what is shown.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) consumers: BTreeMap<Cow<'static, str>, Consumer>,
    /// Events that broke the policy, shown or not; the end of a connection is not
    /// another one.
    pub(crate) violations: u64,
    /// Accepts only the second hook saw: by threads asleep in accept since before
    /// the start, or where the kernel skipped the first.
    pub(crate) accept_preattach: u64,
    /// Times a kernel table was full: outcomes, ends or owners are missing.
    pub(crate) table_full: u64,
    /// How the command ended: its exit status, or 128 + signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) command_status: Option<i32>,
    /// What failed in the kernel, where anything did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) failures: Vec<Failure>,
    /// Only of an audit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) audit: Option<AuditFacts>,
}

/// Events lost, by the words of a loss line's `cause`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct LostByCause {
    /// The kernel's ring buffer was full.
    ring_full: u64,
    /// The kernel skipped the program.
    program_skipped: u64,
    /// Records this version cannot read.
    undecodable: u64,
    /// What the output took too slowly, or failed to take.
    output_slow: u64,
    /// A filter of processes had to know whose they are, which was not found out in time.
    /// Recordings of earlier versions have no number for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner_late: Option<u64>,
}

impl From<&record::Summary> for LostByCause {
    fn from(summary: &record::Summary) -> Self {
        let counts = || summary.hooks.iter().map(|(_, count)| count);
        Self {
            ring_full: counts().map(|count| count.reserve_failed).sum(),
            program_skipped: counts().map(|count| count.skipped).sum(),
            undecodable: summary.undecodable,
            output_slow: summary.lost_at_output,
            owner_late: Some(summary.unowned),
        }
    }
}

/// A hook's counters. `hit = filtered + ring_full + submitted`; what the
/// kernel skipped comes on top.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct HookRow {
    hit: u64,
    filtered: u64,
    /// Lost: the ring was full.
    ring_full: u64,
    submitted: u64,
    /// Lost: the kernel skipped the program.
    program_skipped: u64,
    adds_up: bool,
}

impl From<&record::HookCount> for HookRow {
    fn from(count: &record::HookCount) -> Self {
        let record::HookCount {
            hit,
            filtered,
            reserve_failed,
            submitted,
            skipped,
        } = *count;
        Self {
            hit,
            filtered,
            ring_full: reserve_failed,
            submitted,
            program_skipped: skipped,
            adds_up: count.adds_up(),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Which file it is, whatever its name: as the kernel numbers it, until the next boot.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Exe {
    /// The device: major and minor number.
    #[cfg_attr(test, schemars(with = "String", extend("pattern" = "^[0-9]+:[0-9]+$")))]
    pub(crate) device: Device,
    /// The inode number.
    #[cfg_attr(test, schemars(with = "String", extend("pattern" = "^[0-9]+$")))]
    pub(crate) inode: Decimal,
}

/// A cgroup of the v2 hierarchy.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Cgroup<'a> {
    #[cfg_attr(test, schemars(with = "String", extend("pattern" = "^[0-9]+$")))]
    #[serde(default)]
    pub(crate) id: Decimal,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<Cow<'a, str>>,
}

/// The owner of the other end of a connection within this host.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct PeerProcess<'a> {
    pub(crate) pid: u32,
    /// Name of the process when it acted at that end: that of its first thread.
    pub(crate) name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) executable: Option<Cow<'a, str>>,
    /// Start of the process, ns since boot.
    #[cfg_attr(test, schemars(with = "String", extend("pattern" = "^[0-9]+$")))]
    pub(crate) start_boottime_ns: Decimal,
}

/// One end's port, classified.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Port {
    #[serde(rename = "port_class")]
    pub(crate) class: Word<PortClass>,
    pub(crate) service: Service,
    /// The client's end, in this host's range of ephemeral ports.
    pub(crate) ephemeral: bool,
}

impl From<&record::PortInfo> for Port {
    fn from(info: &record::PortInfo) -> Self {
        Self {
            class: info.class.into(),
            service: info.into(),
            ephemeral: info.ephemeral,
        }
    }
}

/// What a port is usually for: a guess by its number, not a protocol seen.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Service {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Cow<'static, str>>,
    /// Where the name comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<Word<ServiceOrigin>>,
    pub(crate) status: Word<ServiceStatus>,
}

impl From<&record::PortInfo> for Service {
    fn from(info: &record::PortInfo) -> Self {
        let (name, origin) = info.service.unzip();
        Self {
            name: name.map(Cow::Borrowed),
            origin: origin.map(Word::Known),
            status: info.status.into(),
        }
    }
}

/// Fields that have a value nobody could find out. Never a field that has fields of its
/// own: to a reader that takes dots for objects it would be both.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Missing {
    /// Also hides the rest of the process, the user and the group.
    #[serde(rename = "process.pid", skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<Word<Reason>>,
    #[serde(rename = "process.executable", skip_serializing_if = "Option::is_none")]
    pub(crate) executable: Option<Word<Reason>>,
    #[serde(rename = "user.name", skip_serializing_if = "Option::is_none")]
    pub(crate) user_name: Option<Word<Reason>>,
    #[serde(rename = "source.port", skip_serializing_if = "Option::is_none")]
    pub(crate) source_port: Option<Word<Reason>>,
    #[serde(rename = "destination.port", skip_serializing_if = "Option::is_none")]
    pub(crate) destination_port: Option<Word<Reason>>,
    /// Also hides the unit, the container and the pod.
    #[serde(
        rename = "port_monitor.cgroup.path",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) cgroup_path: Option<Word<Reason>>,
    /// Also hides the unit: this host has them in hierarchies of version 1.
    #[serde(rename = "container.id", skip_serializing_if = "Option::is_none")]
    pub(crate) container_id: Option<Word<Reason>>,
}

impl Missing {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The bytes of fields that are not UTF-8.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Raw<'a> {
    #[serde(
        rename = "process.thread.name",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) thread_name: Option<HexBytes<'a>>,
    #[serde(rename = "process.name", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) name: Option<HexBytes<'a>>,
    #[serde(
        rename = "process.parent.name",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) parent_name: Option<HexBytes<'a>>,
    #[serde(rename = "process.executable", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) executable: Option<HexBytes<'a>>,
    #[serde(
        rename = "port_monitor.peer_process.name",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) peer_name: Option<HexBytes<'a>>,
    #[serde(
        rename = "port_monitor.peer_process.executable",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) peer_executable: Option<HexBytes<'a>>,
}

impl Raw<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
