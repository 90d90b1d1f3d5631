//! What the loader tells the eBPF object before it loads: kernel struct offsets
//! and filters, as read-only globals the verifier treats as constants.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::numbered::{bits, numbered};

/// Byte offsets of the kernel fields the programs read, from the running
/// kernel's BTF. Rust has no CO-RE relocation, so userspace resolves them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Offsets {
    /// `sock_common.skc_daddr` (IPv4, network byte order).
    pub skc_daddr: u32,
    /// `sock_common.skc_rcv_saddr` (IPv4, network byte order).
    pub skc_rcv_saddr: u32,
    /// `sock_common.skc_dport` (network byte order).
    pub skc_dport: u32,
    /// `sock_common.skc_num` (host byte order).
    pub skc_num: u32,
    /// `sock_common.skc_family`.
    pub skc_family: u32,
    /// `sock_common.skc_state`.
    pub skc_state: u32,
    /// `sock_common.skc_bound_dev_if`.
    pub skc_bound_dev_if: u32,
    /// `sock_common.skc_net.net`.
    pub skc_net: u32,
    /// `sock_common.skc_v6_daddr`.
    pub skc_v6_daddr: u32,
    /// `sock_common.skc_v6_rcv_saddr`.
    pub skc_v6_rcv_saddr: u32,
    /// `sock.sk_protocol`: 16 bits wide on every supported kernel.
    pub sk_protocol: u32,
    /// `sock.sk_err`.
    pub sk_err: u32,
    /// `sock.sk_socket`.
    pub sk_socket: u32,
    /// `sock_common.skc_flags`: an unsigned long of `enum sock_flags` bits.
    pub skc_flags: u32,
    /// `tcp_sock.srtt_us`: eight times the smoothed round-trip time.
    pub tcp_srtt_us: u32,
    /// `tcp_sock.bytes_received`: with one for a FIN.
    pub tcp_bytes_received: u32,
    /// `tcp_sock.bytes_sent`: with what was sent again.
    pub tcp_bytes_sent: u32,
    /// `tcp_sock.bytes_retrans`.
    pub tcp_bytes_retrans: u32,
    /// `tcp_sock.bytes_acked`: with one for a SYN, and one for a FIN.
    pub tcp_bytes_acked: u32,
    /// `tcp_sock.snd_una`: the first number that is not acknowledged.
    pub tcp_snd_una: u32,
    /// `tcp_sock.snd_nxt`: the next number to send.
    pub tcp_snd_nxt: u32,
    /// `tcp_sock.write_seq`: the number after all that is to be sent.
    pub tcp_write_seq: u32,
    /// `tcp_sock.total_retrans`.
    pub tcp_total_retrans: u32,
    /// `mptcp_sock.first`: the first subflow; zero: the kernel has no MPTCP.
    pub mptcp_first: u32,
    /// `tcp_sock.fastopen_rsk`: the request of a Fast Open connection that came in, until
    /// its handshake is complete.
    pub tcp_fastopen_rsk: u32,
    /// `tcp_sock.is_mptcp`: a subflow of an MPTCP connection; zero: the kernel has no MPTCP.
    pub tcp_is_mptcp: u32,
    /// `inet_sock.inet_sport` (network byte order; set from bind to the end).
    pub inet_sport: u32,
    /// Not an offset: non-zero where programs get the running task with its type
    /// (`bpf_get_current_task_btf`, Linux 5.11).
    pub typed_task: u32,
    /// `net.ns.inum`.
    pub net_inum: u32,
    /// `task_struct.group_leader`.
    pub task_group_leader: u32,
    /// `task_struct.start_boottime`.
    pub task_start_boottime: u32,
    /// `task_struct.tgid`.
    pub task_tgid: u32,
    /// `task_struct.pid`.
    pub task_pid: u32,
    /// `task_struct.comm`.
    pub task_comm: u32,
    /// `task_struct.cred`.
    pub task_cred: u32,
    /// `task_struct.cgroups`.
    pub task_cgroups: u32,
    /// `task_struct.flags`.
    pub task_flags: u32,
    /// `task_struct.mm`.
    pub task_mm: u32,
    /// `task_struct.signal`.
    pub task_signal: u32,
    /// `signal_struct.live`.
    pub signal_live: u32,
    /// `cred.uid`.
    pub cred_uid: u32,
    /// `cred.gid`.
    pub cred_gid: u32,
    /// `css_set.dfl_cgrp`.
    pub css_dfl_cgrp: u32,
    /// `cgroup.kn`.
    pub cgroup_kn: u32,
    /// `cgroup.self.parent`; `cgroup.self` is the first member.
    pub cgroup_parent: u32,
    /// `kernfs_node.id`.
    pub kernfs_id: u32,
    /// `kernfs_node.name`: a pointer to text.
    pub kernfs_name: u32,
    /// `cgroup.root`: of its hierarchy.
    pub cgroup_root: u32,
    /// `file.private_data`.
    pub file_private_data: u32,
    /// `file.f_inode`.
    pub file_inode: u32,
    /// `mm_struct.exe_file`.
    pub mm_exe_file: u32,
    /// `inode.i_ino`: an unsigned long.
    pub inode_ino: u32,
    /// `inode.i_sb`.
    pub inode_sb: u32,
    /// `super_block.s_dev`.
    pub sb_dev: u32,
    /// `sock.sk_uid`: of whoever made the socket.
    pub sk_uid: u32,
    /// `socket.file`.
    pub socket_file: u32,
    /// `socket.sk`.
    pub socket_sk: u32,
    /// `socket.state`: an `enum` of 32 bits, `socket_state`.
    pub socket_state: u32,
    /// The byte that `sock_common.skc_ipv6only` is in, a bit field.
    pub skc_ipv6only: u32,
    /// Not an offset: the bit of that byte.
    pub skc_ipv6only_bit: u32,
    /// `trace_event_raw_inet_sock_set_state.skaddr`.
    pub state_skaddr: u32,
    /// `trace_event_raw_inet_sock_set_state.oldstate`.
    pub state_oldstate: u32,
    /// `trace_event_raw_inet_sock_set_state.newstate`.
    pub state_newstate: u32,
    /// `tcp_sock.packets_out`: segments in flight, a SYN among them.
    pub tcp_packets_out: u32,
    /// `sock_common.skc_node.pprev`: null while the socket is in no table of the kernel's.
    pub skc_node_pprev: u32,
    /// `file.f_path.dentry`.
    pub file_dentry: u32,
    /// `file.f_path.mnt`.
    pub file_mnt: u32,
    /// `dentry.d_parent`.
    pub dentry_parent: u32,
    /// `dentry.d_name.name`: a pointer to text.
    pub dentry_name: u32,
    /// `dentry.d_hash.pprev`: zero once the name is removed.
    pub dentry_pprev: u32,
    /// `vfsmount.mnt_root`.
    pub mnt_root: u32,
    /// `mount.mnt`.
    pub mount_mnt: u32,
    /// `mount.mnt_parent`.
    pub mount_parent: u32,
    /// `mount.mnt_mountpoint`.
    pub mount_point: u32,
    /// The byte that `tcp_sock.repair` is in, a bit field; zero: the kernel has none.
    pub tcp_repair: u32,
    /// Not an offset: the bit of that byte.
    pub tcp_repair_bit: u32,
    /// `task_struct.real_parent`.
    pub task_real_parent: u32,
    /// `task_struct.self_exec_id`: how often the process has executed a program.
    pub task_exec_id: u32,
}

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
    /// The monitor itself: its connections are the canary's.
    pub self_tgid: u32,
    /// The kinds wanted: [`crate::event::EventKind::bit`].
    pub kinds: u32,
    /// `FILTER_*` bits: the filters that are on.
    pub filters: u32,
    /// Non-zero: log every event and what became of it.
    pub trace: u32,
    /// Non-zero: judge every event by the policy in slot 0.
    pub judge: u32,
    /// Non-zero: fail where [`crate::site::INJECT`] says, for tests.
    pub inject: u32,
    /// Non-zero: functions of the kernel are hooked, which see an attempt when its SYN is to
    /// be sent and a listener when it is entered into a table; zero: changes of state alone.
    pub sees_calls: u32,
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
pub const PORT_SETS_WORDS: u32 = PortFilter::COUNT as u32 * PORT_SET_WORDS;

/// Levels of the cgroup tree the cgroup filter climbs at most.
pub const CGROUP_DEPTH: u32 = 16;
