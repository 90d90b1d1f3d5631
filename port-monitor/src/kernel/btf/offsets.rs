//! The offsets that the programs read by, grouped by who needs them: what only one option
//! or one kind of program reads refuses only that.

use std::ops::Deref;

use port_monitor_common::config::Offsets;

use super::{Btf, BtfError};

/// The structs that [`offsets`] looks into.
pub(super) const STRUCTS: [&str; 22] = [
    "sock_common",
    "sock",
    "tcp_sock",
    "mptcp_sock",
    "inet_sock",
    "net",
    "task_struct",
    "signal_struct",
    "cred",
    "css_set",
    "cgroup",
    "kernfs_node",
    "file",
    "dentry",
    "vfsmount",
    "mount",
    "mm_struct",
    "inode",
    "super_block",
    "socket",
    "trace_event_raw_inet_sock_set_state",
    "bpf_ringbuf",
];

/// The helper by which programs get the running task with its type.
pub const TYPED_TASK: &str = "bpf_get_current_task_btf";

/// What only a part of the runs, or of the programs, reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
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

/// Where the kernel has what the programs read.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// The offsets; those that only somebody who [needs](Need) them reads may be zero.
    pub offsets: Offsets,
    /// Who misses something, and the first thing that is missing.
    pub missing: Vec<(Need, BtfError)>,
}

/// Every offset the eBPF programs may read by; the error names the first field that all of
/// them need and this kernel does not have.
pub fn offsets<B: Deref<Target = [u8]>>(btf: &Btf<B>) -> Result<Found, BtfError> {
    let mut offsets = common(btf)?;
    bytes(btf, &mut offsets)?;
    let needs = [
        (Need::StateEvents, state_events(btf, &mut offsets)),
        (Need::Tree, tree(btf, &mut offsets)),
        (Need::CgroupFilter, cgroup_filter(btf, &mut offsets)),
        (Need::Executables, executables(btf, &mut offsets)),
        (Need::Holders, holders(btf, &mut offsets)),
    ];
    let missing = needs
        .into_iter()
        .filter_map(|(need, found)| Some((need, found.err()?)));
    Ok(Found {
        missing: missing.collect(),
        offsets,
    })
}

/// `PREEMPT_RT` before Linux 6.6 has more in front of an event's own fields.
fn state_events<B: Deref<Target = [u8]>>(btf: &Btf<B>, to: &mut Offsets) -> Result<(), BtfError> {
    let at = |path| btf.member_offset(path);
    to.state_skaddr = at("trace_event_raw_inet_sock_set_state.skaddr")?;
    to.state_oldstate = at("trace_event_raw_inet_sock_set_state.oldstate")?;
    to.state_newstate = at("trace_event_raw_inet_sock_set_state.newstate")?;
    Ok(())
}

fn tree<B: Deref<Target = [u8]>>(btf: &Btf<B>, to: &mut Offsets) -> Result<(), BtfError> {
    to.task_signal = btf.member_offset("task_struct.signal")?;
    to.signal_live = btf.member_offset("signal_struct.live")?;
    Ok(())
}

fn cgroup_filter<B: Deref<Target = [u8]>>(btf: &Btf<B>, to: &mut Offsets) -> Result<(), BtfError> {
    let at = |path| btf.member_offset(path);
    to.cgroup_parent = at("cgroup.self.parent")?;
    to.cgroup_root = at("cgroup.root")?;
    to.kernfs_name = at("kernfs_node.name")?;
    Ok(())
}

fn executables<B: Deref<Target = [u8]>>(btf: &Btf<B>, to: &mut Offsets) -> Result<(), BtfError> {
    let at = |path| btf.member_offset(path);
    to.file_dentry = at("file.f_path.dentry")?;
    to.file_mnt = at("file.f_path.mnt")?;
    to.dentry_parent = at("dentry.d_parent")?;
    to.dentry_name = at("dentry.d_name.name")?;
    to.dentry_pprev = at("dentry.d_hash.pprev")?;
    to.mnt_root = at("vfsmount.mnt_root")?;
    to.mount_mnt = at("mount.mnt")?;
    to.mount_parent = at("mount.mnt_parent")?;
    // The last one, which tells whether all are there.
    to.mount_point = at("mount.mnt_mountpoint")?;
    Ok(())
}

/// Who has a listener from whom, and what they execute (tracepoint rung).
fn holders<B: Deref<Target = [u8]>>(btf: &Btf<B>, to: &mut Offsets) -> Result<(), BtfError> {
    let at = |path| btf.member_offset(path);
    to.task_real_parent = at("task_struct.real_parent")?;
    to.task_exec_id = at("task_struct.self_exec_id")?;
    Ok(())
}

/// What a connection has carried, which every run reads too.
fn bytes<B: Deref<Target = [u8]>>(btf: &Btf<B>, to: &mut Offsets) -> Result<(), BtfError> {
    let at = |path| btf.member_offset(path);
    to.tcp_bytes_received = at("tcp_sock.bytes_received")?;
    to.tcp_bytes_sent = at("tcp_sock.bytes_sent")?;
    to.tcp_bytes_retrans = at("tcp_sock.bytes_retrans")?;
    to.tcp_bytes_acked = at("tcp_sock.bytes_acked")?;
    to.tcp_snd_una = at("tcp_sock.snd_una")?;
    to.tcp_snd_nxt = at("tcp_sock.snd_nxt")?;
    to.tcp_write_seq = at("tcp_sock.write_seq")?;
    to.tcp_total_retrans = at("tcp_sock.total_retrans")?;
    Ok(())
}

/// What every run reads.
fn common<B: Deref<Target = [u8]>>(btf: &Btf<B>) -> Result<Offsets, BtfError> {
    let at = |path| btf.member_offset(path);
    // Zero where the kernel has no IPv6.
    let (skc_ipv6only, skc_ipv6only_bit) =
        btf.bit_offset("sock_common.skc_ipv6only").unwrap_or((0, 0));
    let (tcp_repair, tcp_repair_bit) = btf.bit_offset("tcp_sock.repair").unwrap_or((0, 0));
    Ok(Offsets {
        skc_daddr: at("sock_common.skc_daddr")?,
        skc_rcv_saddr: at("sock_common.skc_rcv_saddr")?,
        skc_dport: at("sock_common.skc_dport")?,
        skc_num: at("sock_common.skc_num")?,
        skc_family: at("sock_common.skc_family")?,
        skc_state: at("sock_common.skc_state")?,
        skc_bound_dev_if: at("sock_common.skc_bound_dev_if")?,
        skc_net: at("sock_common.skc_net.net")?,
        skc_v6_daddr: at("sock_common.skc_v6_daddr")?,
        skc_v6_rcv_saddr: at("sock_common.skc_v6_rcv_saddr")?,
        sk_protocol: at("sock.sk_protocol")?,
        sk_err: at("sock.sk_err")?,
        sk_socket: at("sock.sk_socket")?,
        skc_flags: at("sock_common.skc_flags")?,
        tcp_srtt_us: at("tcp_sock.srtt_us")?,
        tcp_fastopen_rsk: at("tcp_sock.fastopen_rsk")?,
        tcp_packets_out: at("tcp_sock.packets_out")?,
        skc_node_pprev: at("sock_common.skc_node.pprev")?,
        mptcp_first: optional(at("mptcp_sock.first"))?,
        tcp_is_mptcp: optional(at("tcp_sock.is_mptcp"))?,
        inet_sport: at("inet_sock.inet_sport")?,
        typed_task: btf.function(TYPED_TASK).is_some().into(),
        net_inum: at("net.ns.inum")?,
        task_group_leader: at("task_struct.group_leader")?,
        task_start_boottime: at("task_struct.start_boottime")?,
        task_tgid: at("task_struct.tgid")?,
        task_pid: at("task_struct.pid")?,
        task_comm: at("task_struct.comm")?,
        task_cred: at("task_struct.cred")?,
        task_cgroups: at("task_struct.cgroups")?,
        task_flags: at("task_struct.flags")?,
        task_mm: at("task_struct.mm")?,
        cred_uid: at("cred.uid")?,
        cred_gid: at("cred.gid")?,
        css_dfl_cgrp: at("css_set.dfl_cgrp")?,
        cgroup_kn: at("cgroup.kn")?,
        kernfs_id: at("kernfs_node.id")?,
        file_private_data: at("file.private_data")?,
        file_inode: at("file.f_inode")?,
        mm_exe_file: at("mm_struct.exe_file")?,
        inode_ino: at("inode.i_ino")?,
        inode_sb: at("inode.i_sb")?,
        sb_dev: at("super_block.s_dev")?,
        sk_uid: at("sock.sk_uid")?,
        socket_file: at("socket.file")?,
        socket_sk: at("socket.sk")?,
        socket_state: at("socket.state")?,
        skc_ipv6only,
        skc_ipv6only_bit,
        tcp_repair,
        tcp_repair_bit,
        ..Offsets::default()
    })
}

/// Zero for a struct or a field this kernel does not have.
fn optional(offset: Result<u32, BtfError>) -> Result<u32, BtfError> {
    match offset {
        Err(BtfError::NoStruct(_) | BtfError::NoField(_)) => Ok(0),
        other => other,
    }
}
