//! Where the kernel has what the programs read: one line for each value, which gives the
//! field of [`Offsets`], the place in the kernel's BTF, and who needs it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What of the kernel's BTF a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The byte offset of a struct's field.
    Field(&'static str),
    /// The byte offset of a struct's field; zero where the kernel has no such struct or field.
    FieldOrNone(&'static str),
    /// The byte that a bit field begins in; zero where the kernel has no such field.
    BitByte(&'static str),
    /// The number of a bit field's first bit in its byte.
    Bit(&'static str),
    /// Non-zero where the kernel has the function.
    Function(&'static str),
}

/// Who needs a value. What one of these misses refuses only that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Every run.
    EveryRun,
    /// The changes of a socket's state, as perf events.
    StateEvents,
    /// The process tree of a command.
    Tree,
    /// The cgroups above one and their names, for the cgroup filter.
    CgroupFilter,
    /// The paths of what processes execute.
    Executables,
    /// Who has a listener from whom, and what they execute.
    Holders,
}

macro_rules! offsets {
    ($($(#[$doc:meta])* $field:ident: $Place:ident($name:literal), $Need:ident;)+) => {
        /// What the programs read by, from the running kernel's BTF. Rust has no CO-RE
        /// relocation, so userspace resolves it.
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout,
            Immutable,
        )]
        #[repr(C)]
        pub struct Offsets {
            $(
                #[doc = concat!("[`", stringify!($Place), "`](Place::", stringify!($Place), ") `", $name, "`.")]
                ///
                $(#[$doc])*
                pub $field: u32,
            )+
        }

        impl Offsets {
            /// The place of every value, in the order of the fields.
            pub const PLACES: [(Place, Need); [$($name),+].len()] =
                [$((Place::$Place($name), Need::$Need)),+];

            /// Every value as `find` finds it, in the order of the fields.
            pub fn found(mut find: impl FnMut(Place, Need) -> u32) -> Self {
                Self {
                    $($field: find(Place::$Place($name), Need::$Need),)+
                }
            }
        }
    };
}

offsets! {
    /// IPv4, network byte order.
    skc_daddr: Field("sock_common.skc_daddr"), EveryRun;
    /// IPv4, network byte order.
    skc_rcv_saddr: Field("sock_common.skc_rcv_saddr"), EveryRun;
    /// Network byte order.
    skc_dport: Field("sock_common.skc_dport"), EveryRun;
    /// Host byte order.
    skc_num: Field("sock_common.skc_num"), EveryRun;
    skc_family: Field("sock_common.skc_family"), EveryRun;
    skc_state: Field("sock_common.skc_state"), EveryRun;
    skc_bound_dev_if: Field("sock_common.skc_bound_dev_if"), EveryRun;
    skc_net: Field("sock_common.skc_net.net"), EveryRun;
    skc_v6_daddr: Field("sock_common.skc_v6_daddr"), EveryRun;
    skc_v6_rcv_saddr: Field("sock_common.skc_v6_rcv_saddr"), EveryRun;
    /// 16 bits wide on every supported kernel.
    sk_protocol: Field("sock.sk_protocol"), EveryRun;
    sk_err: Field("sock.sk_err"), EveryRun;
    sk_socket: Field("sock.sk_socket"), EveryRun;
    /// An unsigned long of `enum sock_flags` bits.
    skc_flags: Field("sock_common.skc_flags"), EveryRun;
    /// Eight times the smoothed round-trip time.
    tcp_srtt_us: Field("tcp_sock.srtt_us"), EveryRun;
    /// With one for a FIN.
    tcp_bytes_received: Field("tcp_sock.bytes_received"), EveryRun;
    /// With what was sent again.
    tcp_bytes_sent: Field("tcp_sock.bytes_sent"), EveryRun;
    tcp_bytes_retrans: Field("tcp_sock.bytes_retrans"), EveryRun;
    /// With one for a SYN, and one for a FIN.
    tcp_bytes_acked: Field("tcp_sock.bytes_acked"), EveryRun;
    /// The first number that is not acknowledged.
    tcp_snd_una: Field("tcp_sock.snd_una"), EveryRun;
    /// The next number to send.
    tcp_snd_nxt: Field("tcp_sock.snd_nxt"), EveryRun;
    /// The number after all that is to be sent.
    tcp_write_seq: Field("tcp_sock.write_seq"), EveryRun;
    tcp_total_retrans: Field("tcp_sock.total_retrans"), EveryRun;
    /// The first subflow; zero: the kernel has no MPTCP.
    mptcp_first: FieldOrNone("mptcp_sock.first"), EveryRun;
    /// The request of a Fast Open connection that came in, until its handshake is complete.
    tcp_fastopen_rsk: Field("tcp_sock.fastopen_rsk"), EveryRun;
    /// A subflow of an MPTCP connection; zero: the kernel has no MPTCP.
    tcp_is_mptcp: FieldOrNone("tcp_sock.is_mptcp"), EveryRun;
    /// Network byte order; set from bind to the end.
    inet_sport: Field("inet_sock.inet_sport"), EveryRun;
    /// Non-zero where programs get the running task with its type (Linux 5.11).
    typed_task: Function("bpf_get_current_task_btf"), EveryRun;
    net_inum: Field("net.ns.inum"), EveryRun;
    task_group_leader: Field("task_struct.group_leader"), EveryRun;
    task_start_boottime: Field("task_struct.start_boottime"), EveryRun;
    task_tgid: Field("task_struct.tgid"), EveryRun;
    task_pid: Field("task_struct.pid"), EveryRun;
    task_comm: Field("task_struct.comm"), EveryRun;
    task_cred: Field("task_struct.cred"), EveryRun;
    task_cgroups: Field("task_struct.cgroups"), EveryRun;
    task_flags: Field("task_struct.flags"), EveryRun;
    task_mm: Field("task_struct.mm"), EveryRun;
    task_signal: Field("task_struct.signal"), Tree;
    signal_live: Field("signal_struct.live"), Tree;
    cred_uid: Field("cred.uid"), EveryRun;
    cred_gid: Field("cred.gid"), EveryRun;
    css_dfl_cgrp: Field("css_set.dfl_cgrp"), EveryRun;
    cgroup_kn: Field("cgroup.kn"), EveryRun;
    /// `cgroup.self` is the first member.
    cgroup_parent: Field("cgroup.self.parent"), CgroupFilter;
    kernfs_id: Field("kernfs_node.id"), EveryRun;
    /// A pointer to text.
    kernfs_name: Field("kernfs_node.name"), CgroupFilter;
    /// Of its hierarchy.
    cgroup_root: Field("cgroup.root"), CgroupFilter;
    file_private_data: Field("file.private_data"), EveryRun;
    file_inode: Field("file.f_inode"), EveryRun;
    mm_exe_file: Field("mm_struct.exe_file"), EveryRun;
    /// An unsigned long.
    inode_ino: Field("inode.i_ino"), EveryRun;
    inode_sb: Field("inode.i_sb"), EveryRun;
    sb_dev: Field("super_block.s_dev"), EveryRun;
    /// Of whoever made the socket.
    sk_uid: Field("sock.sk_uid"), EveryRun;
    socket_file: Field("socket.file"), EveryRun;
    socket_sk: Field("socket.sk"), EveryRun;
    /// An `enum` of 32 bits, `socket_state`.
    socket_state: Field("socket.state"), EveryRun;
    /// Zero: the kernel has no IPv6.
    skc_ipv6only: BitByte("sock_common.skc_ipv6only"), EveryRun;
    skc_ipv6only_bit: Bit("sock_common.skc_ipv6only"), EveryRun;
    state_skaddr: Field("trace_event_raw_inet_sock_set_state.skaddr"), StateEvents;
    state_oldstate: Field("trace_event_raw_inet_sock_set_state.oldstate"), StateEvents;
    state_newstate: Field("trace_event_raw_inet_sock_set_state.newstate"), StateEvents;
    /// Segments in flight, a SYN among them.
    tcp_packets_out: Field("tcp_sock.packets_out"), EveryRun;
    /// Null while the socket is in no table of the kernel's.
    skc_node_pprev: Field("sock_common.skc_node.pprev"), EveryRun;
    file_dentry: Field("file.f_path.dentry"), Executables;
    file_mnt: Field("file.f_path.mnt"), Executables;
    dentry_parent: Field("dentry.d_parent"), Executables;
    /// A pointer to text.
    dentry_name: Field("dentry.d_name.name"), Executables;
    /// Zero once the name is removed.
    dentry_pprev: Field("dentry.d_hash.pprev"), Executables;
    mnt_root: Field("vfsmount.mnt_root"), Executables;
    mount_mnt: Field("mount.mnt"), Executables;
    mount_parent: Field("mount.mnt_parent"), Executables;
    mount_point: Field("mount.mnt_mountpoint"), Executables;
    /// Zero: the kernel has none.
    tcp_repair: BitByte("tcp_sock.repair"), EveryRun;
    tcp_repair_bit: Bit("tcp_sock.repair"), EveryRun;
    task_real_parent: Field("task_struct.real_parent"), Holders;
    /// The listener of a request, which is its `rsk_listener`.
    skc_listener: Field("sock_common.skc_listener"), Holders;
    /// Requests of a listener whose Fast Open handshakes are not complete.
    fast_open_requests: Field("inet_connection_sock.icsk_accept_queue.fastopenq.qlen"), Holders;
    /// How often the process has executed a program.
    task_exec_id: Field("task_struct.self_exec_id"), Holders;
}
