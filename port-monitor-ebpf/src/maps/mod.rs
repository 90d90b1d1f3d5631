//! Every map of the object, and nothing else.

pub(crate) mod values;
use aya_ebpf::{
    bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{self, ArrayOfMaps},
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use port_monitor_common::{
    addr::Words as Addr,
    config::PORT_SETS_WORDS,
    counters::ROW,
    executable::Executable,
    generation::{self, ExeKey, GENERATIONS, GroupKey, Header, Hits, RuleEntry, TALLIES, UserKey},
    groups::{Name, Named, Row},
    mask::Mask,
    pages::{Ends, PageV4, PageV6},
    site,
};

use crate::maps::values::{Call, Connection, LetGo, Listener, ListenerKey};

/// Records on their way to userspace: the monitor's events, or the enforcing programs'
/// denials; the loader sets the size.
#[map(name = "pm_events")]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// The monitor's events that the policy does not want: apart from the others, so that no
/// flood of those leaves no room for them. The loader sets the size.
#[map(name = "pm_violations")]
pub(crate) static VIOLATIONS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// The accounting: a row of `port_monitor_common::counters` for each CPU; the
/// loader sets the size. Mapped into userspace, because the kernel skips kprobe
/// programs while a CPU is in the middle of a bpf(2) that reads a map.
#[map(name = "pm_counters")]
pub(crate) static COUNTERS: Array<[u64; ROW]> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// How often each site of `port_monitor_common::site` failed, by errno; after them what is
/// to fail in a test. Mapped into userspace, likewise.
#[map(name = "pm_failures")]
pub(crate) static FAILURES: Array<u64> = Array::with_max_entries(site::NUMBERS, BPF_F_MMAPABLE);

/// Attempts and connections that have not ended yet, by socket address; the
/// loader sets the size.
#[map(name = "pm_connections")]
pub(crate) static CONNECTIONS: HashMap<u64, Connection> = HashMap::with_max_entries(131_072, 0);

/// Threads of which a program has told what the next one sees, too: an accept, an attempt,
/// that a socket listens, either of the last two. A bit for each thread id there can be, for each
/// of the four.
#[map(name = "pm_reported")]
pub(crate) static REPORTED: Array<u64> = Array::with_max_entries(4 * MARKS, 0);

/// Words of bits for all threads.
pub(crate) const MARKS: u32 = PID_MAX_LIMIT / u64::BITS;

/// One more than the greatest thread id (`include/linux/threads.h`).
const PID_MAX_LIMIT: u32 = 4 << 20;

/// What a thread's `connect` was called with, by thread id (kprobes). Where the kernel skips
/// the probe of its return, the entry stays, until others need its place.
#[map(name = "pm_connecting")]
pub(crate) static CONNECTING: LruHashMap<u32, Call> = LruHashMap::with_max_entries(8_192, 0);

/// Sockets that listen, by socket address: apart from the connections, so that
/// no flood of those hides them.
#[map(name = "pm_listening")]
pub(crate) static LISTENING: HashMap<u64, Connection> = HashMap::with_max_entries(16_384, 0);

/// Who listens where (tracepoint backend).
#[map(name = "pm_listeners")]
pub(crate) static LISTENERS: HashMap<ListenerKey, Listener> = HashMap::with_max_entries(16_384, 0);

/// The listening sockets that are counted there, by address: the number of their listener.
#[map(name = "pm_listener_sks")]
pub(crate) static LISTENER_SOCKETS: HashMap<u64, u32> = HashMap::with_max_entries(16_384, 0);

/// What listened there, and was closed before the handshakes of its Fast Open requests were
/// complete. The last ones.
#[map(name = "pm_let_go")]
pub(crate) static LET_GO: LruHashMap<ListenerKey, LetGo> = LruHashMap::with_max_entries(1_024, 0);

/// Who closed listening sockets that connections have come to (tracepoint backend): whoever
/// looks for the owners of those reads it. The loader sets the size.
#[map(name = "pm_closers")]
pub(crate) static CLOSERS: RingBuf = RingBuf::with_byte_size(2 << 20, 0);

/// The sockets whose handshake `pm_before_rt` or `pm_remote_tp` has seen complete, with what
/// tells one at the same address later apart. The last ones.
#[map(name = "pm_established")]
pub(crate) static ESTABLISHED: LruHashMap<u64, u32> = LruHashMap::with_max_entries(4_096, 0);

/// What processes execute, in slots of each CPU; the loader sets the size. Mapped into
/// userspace, likewise.
#[map(name = "pm_executables")]
pub(crate) static EXECUTABLES: Array<Executable> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Filter: process ids.
#[map(name = "pm_pids")]
pub(crate) static PIDS: HashMap<u32, u8> = HashMap::with_max_entries(1_024, 0);

/// Filter: real user ids.
#[map(name = "pm_uids")]
pub(crate) static UIDS: HashMap<u32, u8> = HashMap::with_max_entries(1_024, 0);

/// Filter: names of threads or their processes, NUL-padded.
#[map(name = "pm_comms")]
pub(crate) static COMMS: HashMap<[u8; 16], u8> = HashMap::with_max_entries(1_024, 0);

/// Filter: cgroup ids; descendants match too.
#[map(name = "pm_cgroups")]
pub(crate) static CGROUPS: HashMap<u64, u8> = HashMap::with_max_entries(16_384, 0);

/// Names that cgroups of the filter have, or those they lie in; the loader sets the size.
#[map(name = "pm_names")]
pub(crate) static NAMES: HashMap<Name, Named> = HashMap::with_max_entries(1, 0);

/// The nodes of the cgroups that those of the filter may lie in, by their ids.
#[map(name = "pm_nodes")]
pub(crate) static NODES: HashMap<u64, u64> = HashMap::with_max_entries(4_096, 0);

/// The automaton of the patterns; the loader sets the size.
#[map(name = "pm_patterns")]
pub(crate) static PATTERNS: Array<Row> = Array::with_max_entries(1, 0);

/// The name of the cgroup that is being made: the kernel makes one after the other.
#[map(name = "pm_name")]
pub(crate) static NAME: PerCpuArray<Name> = PerCpuArray::with_max_entries(1, 0);

/// Filter: the processes of the watched command's tree, by process id.
#[map(name = "pm_tree")]
pub(crate) static TREE: HashMap<u32, u8> = HashMap::with_max_entries(65_536, 0);

/// Filter: three sets of ports, a bit each: local, remote, either.
#[map(name = "pm_port_sets")]
pub(crate) static PORT_SETS: Array<u64> = Array::with_max_entries(PORT_SETS_WORDS, 0);

/// Filter: remote networks, IPv4 as IPv4-mapped.
#[map(name = "pm_remote_nets")]
pub(crate) static REMOTE_NETS: LpmTrie<Addr, u8> =
    LpmTrie::with_max_entries(1_024, BPF_F_NO_PREALLOC);

/// Which policy is in force: a `port_monitor_common::generation::State`. Mapped into
/// userspace, like all arrays of the policies: writing one is as quick as memory.
#[map(name = "pm_state")]
pub(crate) static STATE: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The policies, by generation.
#[map(name = "pm_policies")]
pub(crate) static POLICIES: Array<Header> = Array::with_max_entries(GENERATIONS, BPF_F_MMAPABLE);

/// Their rules, by generation and number.
#[map(name = "pm_rules")]
pub(crate) static RULES: Array<RuleEntry> =
    Array::with_max_entries(GENERATIONS * generation::RULES, BPF_F_MMAPABLE);

/// Sets of rules, by generation and number; number 0 is the empty one.
#[map(name = "pm_masks")]
pub(crate) static MASKS: Array<Mask> =
    Array::with_max_entries(GENERATIONS * generation::MASKS, BPF_F_MMAPABLE);

/// The mask of every port, four in a word, by generation and port.
#[map(name = "pm_ports")]
pub(crate) static PORTS: Array<u64> =
    Array::with_max_entries(GENERATIONS * generation::PORT_WORDS, BPF_F_MMAPABLE);

/// When their rules end, and the masks of the directions between two ends, by generation.
#[map(name = "pm_ends")]
pub(crate) static ENDS: Array<Ends> = Array::with_max_entries(GENERATIONS, BPF_F_MMAPABLE);

/// A table of each generation, as large as its policy needs; none where the policy has no use
/// for it.
type InEachGeneration<Table> = ArrayOfMaps<Table, { GENERATIONS as usize }>;

/// Pages, any number of them.
type Pages<Page> = btf_maps::Array<Page, 1, { BPF_F_INNER_MAP as usize }>;

/// The masks of IPv4 networks.
#[btf_map(name = "pm_networks_v4")]
pub(crate) static NETWORKS_V4: InEachGeneration<Pages<PageV4>> = ArrayOfMaps::new();

/// The masks of IPv6 networks.
#[btf_map(name = "pm_networks_v6")]
pub(crate) static NETWORKS_V6: InEachGeneration<Pages<PageV6>> = ArrayOfMaps::new();

/// The masks of users.
#[btf_map(name = "pm_users")]
pub(crate) static USERS: InEachGeneration<btf_maps::HashMap<UserKey, u32, 1>> = ArrayOfMaps::new();

/// The masks of cgroups.
#[btf_map(name = "pm_groups")]
pub(crate) static GROUPS: InEachGeneration<btf_maps::HashMap<GroupKey, u32, 1>> =
    ArrayOfMaps::new();

/// The masks of executables.
#[btf_map(name = "pm_exes")]
pub(crate) static EXES: InEachGeneration<btf_maps::HashMap<ExeKey, u32, 1>> = ArrayOfMaps::new();

/// This host's own addresses. For enforcement the loader has them allocated when they are
/// written.
#[map(name = "pm_self")]
pub(crate) static SELF: HashMap<Addr, u8> = HashMap::with_max_entries(generation::ADDRESSES, 0);

/// How often each rule decided, by CPU, generation and number; the loader sets the size.
#[map(name = "pm_hits")]
pub(crate) static HITS: Array<Hits> =
    Array::with_max_entries(GENERATIONS * TALLIES, BPF_F_MMAPABLE);
