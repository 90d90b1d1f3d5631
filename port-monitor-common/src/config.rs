//! What the loader tells the eBPF object before it loads: kernel struct offsets
//! and filters, as read-only globals the verifier treats as constants.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::numbered::{bits, numbered};

bits! {
    u32 {
        /// [`Config::filters`]: only processes in the `PIDS` map.
        FILTER_PID = 0,
        /// [`Config::filters`]: only real uids in the `UIDS` map.
        FILTER_UID = 1,
        /// [`Config::filters`]: only threads whose name, or whose process's, is in the `COMMS` map.
        FILTER_COMM = 2,
        /// [`Config::filters`]: only cgroups in the `CGROUPS` map and their descendants.
        FILTER_CGROUP = 3,
        /// [`Config::filters`]: only processes in the `TREE` map.
        FILTER_TREE = 4,
        /// [`Config::filters`]: local port in its set of `PORT_SETS`.
        FILTER_LOCAL_PORT = 5,
        /// [`Config::filters`]: remote port in its set of `PORT_SETS`.
        FILTER_REMOTE_PORT = 6,
        /// [`Config::filters`]: either port in its set of `PORT_SETS`.
        FILTER_ANY_PORT = 7,
        /// [`Config::filters`]: remote address in the `REMOTE_NETS` trie.
        FILTER_REMOTE_NET = 8,
        /// [`Config::filters`]: no IPv6 (IPv4-mapped counts as IPv4).
        FILTER_ONLY_V4 = 9,
        /// [`Config::filters`]: no IPv4 (IPv4-mapped counts as IPv4).
        FILTER_ONLY_V6 = 10,
        /// [`Config::filters`]: no inbound connections.
        FILTER_ONLY_OUT = 11,
        /// [`Config::filters`]: no outbound connections.
        FILTER_ONLY_IN = 12,
        /// [`Config::filters`]: nothing that the policy allows.
        FILTER_ONLY_DENIED = 13,
    }
}

/// The filters that ask who owns the socket rather than where it leads.
pub const OWNER_FILTERS: u32 = FILTER_PID | FILTER_UID | FILTER_COMM | FILTER_CGROUP | FILTER_TREE;

/// The settings of one run.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Config {
    /// Random, so that a connection id tells nothing of kernel addresses.
    pub salt: u64,
    /// The monitor itself: its connections are the self-test's.
    pub self_tgid: u32,
    /// The kinds wanted: [`crate::event::EventKind::bit`].
    pub kinds: u32,
    /// `FILTER_*` bits: the filters that are on.
    pub filters: u32,
    /// Non-zero: log every event and what became of it.
    pub trace: u32,
    /// Non-zero: judge every event as [`crate::judging::Judging`] says.
    pub judge: u32,
    /// Non-zero: fail where [`crate::site::INJECT`] says, for tests.
    pub inject: u32,
    /// Non-zero: functions of the kernel are hooked, which see an attempt when its SYN is to
    /// be sent and a listener when it is entered into a table; zero: changes of state alone.
    pub sees_calls: u8,
    /// Non-zero: the programs of one change of a socket's state run one after the other, on one
    /// CPU, and softirqs alone run in between: the kernel does not preempt its own code.
    pub in_turn: u8,
    /// Non-zero: two programs see each attempt and each listener, because the kernel skips
    /// either of them at times.
    pub twice: u16,
    /// Slots of each CPU for [`crate::executable`], a power of two; zero where this kernel
    /// does not let paths be read.
    pub executables: u32,
}

numbered! {
    /// A set of ports in `PORT_SETS`.
    pub enum PortFilter: u32 {
        /// The local port is in it.
        Local = 0,
        /// The remote port is in it.
        Remote = 1,
        /// Either port is in it.
        Any = 2,
    }
}

/// Words of 64 ports in one set.
pub const PORT_SET_WORDS: u32 = 1024;
/// Words in `PORT_SETS`.
pub const PORT_SETS_WORDS: u32 = PortFilter::COUNT_32 * PORT_SET_WORDS;

/// Levels of the cgroup tree the cgroup filter climbs at most.
pub const CGROUP_DEPTH: u32 = 16;
