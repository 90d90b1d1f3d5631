//! BTF written by the tests themselves, whole, odd and broken.

use port_monitor_common::offsets::{Offsets, Place};
use proptest::prelude::*;

use crate::kernel::btf::*;

/// Writes BTF, so that the tests do not depend on the machine's kernel.
#[derive(Default)]
struct Writer {
    types: Vec<[u32; 3]>,
    bodies: Vec<Vec<u32>>,
    strings: Vec<u8>,
}

impl Writer {
    fn name(&mut self, name: &str) -> u32 {
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len();
        self.strings.extend(name.bytes().chain([0]));
        at.try_into().unwrap()
    }

    fn add(&mut self, name: &str, info: u32, target: u32, body: Vec<u32>) -> u32 {
        let name = self.name(name);
        self.types.push([name, info, target]);
        self.bodies.push(body);
        self.types.len().try_into().unwrap()
    }

    fn int(&mut self) -> u32 {
        self.add("int", 1 << 24, 4, vec![32])
    }

    fn composite(&mut self, kind: u32, name: &str, members: &[(&str, u32, u32)]) -> u32 {
        let mut body = Vec::new();
        for (member, type_id, position) in members {
            body.extend([self.name(member), *type_id, *position]);
        }
        let count = u32::try_from(members.len()).unwrap();
        self.add(name, kind << 24 | count, 0, body)
    }

    /// A struct with members at these byte offsets.
    fn structure(&mut self, name: &str, members: &[(&str, u32, u32)]) -> u32 {
        let members: Vec<_> = members.iter().map(|&(n, t, at)| (n, t, at * 8)).collect();
        self.composite(4, name, &members)
    }

    fn has_structure(&self, name: &str) -> bool {
        let whole = [name.as_bytes(), b"\0"].concat();
        let is_it = |&[at, info, _]: &[u32; 3]| {
            info >> 24 == 4 && self.strings[at as usize..].starts_with(&whole)
        };
        self.types.iter().any(is_it)
    }

    fn finish(&self, word: fn(u32) -> [u8; 4]) -> Vec<u8> {
        let mut types = Vec::new();
        for (head, body) in self.types.iter().zip(&self.bodies) {
            types.extend(head.iter().chain(body).copied().flat_map(word));
        }
        let magic = match word(1) {
            [0, ..] => MAGIC.to_be_bytes(),
            _ => MAGIC.to_le_bytes(),
        };
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        let header = [24, 0, length(&types), length(&types), length(&self.strings)];
        magic
            .into_iter()
            .chain([VERSION, 0])
            .chain(header.into_iter().flat_map(word))
            .chain(types.iter().copied())
            .chain(self.strings.iter().copied())
            .collect()
    }

    fn parse(&self) -> Btf<Vec<u8>> {
        parse(self.finish(u32::to_le_bytes)).unwrap()
    }
}

fn parse(bytes: Vec<u8>) -> Result<Btf<Vec<u8>>, BtfError> {
    Btf::parse(bytes, &["inet_csk_accept", "inet_csk", "sought", "absent"])
}

/// The fields of a struct that are looked for and lie in it directly.
fn fields_of(name: &str) -> Vec<&'static str> {
    let fields = Offsets::PLACES.iter().filter_map(|(place, _)| match place {
        Place::Field(path) => path.strip_prefix(name)?.strip_prefix('.'),
        _ => None,
    });
    fields.filter(|field| !field.contains('.')).collect()
}

/// The structs that are looked for and not written yet, with their fields wherever.
fn others(w: &mut Writer, int: u32) {
    for name in offsets::structs() {
        let fields = fields_of(name);
        if fields.is_empty() || w.has_structure(name) {
            continue;
        }
        let members: Vec<_> = (200..).zip(fields).map(|(i, n)| (n, int, i * 8)).collect();
        w.structure(name, &members);
    }
}

/// Sockets below TCP.
fn sockets(w: &mut Writer, int: u32) {
    let net_pointer = w.structure("", &[("net", int, 0)]);
    let possible_net = w.add("possible_net_t", 8 << 24, net_pointer, vec![]);
    let addresses = w.structure("", &[("skc_daddr", int, 0), ("skc_rcv_saddr", int, 4)]);
    let ports = w.structure("", &[("skc_dport", int, 0), ("skc_num", int, 2)]);
    let pair = w.composite(5, "", &[("skc_portpair", int, 0), ("", ports, 0)]);
    let node = w.structure("hlist_node", &[("next", int, 0), ("pprev", int, 8)]);
    w.structure(
        "sock_common",
        &[
            ("", addresses, 0),
            ("", pair, 12),
            ("skc_family", int, 16),
            ("skc_state", int, 18),
            ("skc_flags", int, 96),
            ("skc_listener", int, 96),
            ("skc_bound_dev_if", int, 20),
            ("skc_net", possible_net, 48),
            ("skc_v6_daddr", int, 56),
            ("skc_v6_rcv_saddr", int, 72),
            ("skc_node", node, 104),
        ],
    );
    w.structure(
        "sock",
        &[
            ("sk_err", int, 284),
            ("sk_protocol", int, 532),
            ("sk_socket", int, 288),
            ("sk_uid", int, 536),
        ],
    );
    w.structure("inet_sock", &[("inet_sport", int, 814)]);
    let requests = w.structure("fastopen_queue", &[("qlen", int, 20)]);
    let queue = w.structure("request_sock_queue", &[("fastopenq", requests, 24)]);
    w.structure("inet_connection_sock", &[("icsk_accept_queue", queue, 992)]);
}

/// The event of a state change, with so many bytes before its own fields.
fn state_event(w: &mut Writer, head: u32) {
    let fields = [
        ("skaddr", 1, head),
        ("oldstate", 1, head + 8),
        ("newstate", 1, head + 12),
    ];
    w.structure("trace_event_raw_inet_sock_set_state", &fields);
}

/// The type information of [`kernel`] without one struct.
fn kernel_without(name: &str) -> Writer {
    let mut w = kernel();
    let at = |text: &[u8]| w.strings.windows(text.len()).position(|part| part == text);
    let at = at(&[b"\0", name.as_bytes(), b"\0"].concat()).unwrap();
    w.strings[at + 1] = b'?';
    w
}

/// A kernel with every field [`offsets`] asks for, at the places 6.18 has.
fn kernel() -> Writer {
    let mut w = Writer::default();
    let int = w.int();
    sockets(&mut w, int);
    let ns = w.structure("ns_common", &[("inum", int, 24)]);
    w.structure("net", &[("ns", ns, 152)]);
    w.structure("signal_struct", &[("live", int, 4)]);
    w.structure("cred", &[("uid", int, 8), ("gid", int, 12)]);
    w.structure("css_set", &[("dfl_cgrp", int, 136)]);
    let css = w.structure("cgroup_subsys_state", &[("parent", int, 80)]);
    let css = w.add("", 10 << 24, css, vec![]);
    w.structure(
        "cgroup",
        &[("self", css, 0), ("kn", int, 256), ("root", int, 264)],
    );
    w.structure("kernfs_node", &[("name", int, 16), ("id", int, 96)]);
    paths(&mut w, int);
    w.structure("mm_struct", &[("exe_file", int, 928)]);
    w.structure("inode", &[("i_ino", int, 64), ("i_sb", int, 40)]);
    w.structure("super_block", &[("s_dev", int, 16)]);
    w.structure(
        "socket",
        &[("state", int, 0), ("file", int, 16), ("sk", int, 24)],
    );
    let tasks = [
        "group_leader",
        "start_boottime",
        "tgid",
        "pid",
        "comm",
        "cred",
        "cgroups",
        "signal",
        "flags",
        "mm",
        "real_parent",
        "self_exec_id",
    ];
    let more = fields_of("task_struct").into_iter();
    let more = more.filter(|field| !tasks.contains(field));
    let tasks = (0..).zip(tasks.into_iter().chain(more));
    let members: Vec<_> = tasks.map(|(i, n)| (n, int, i * 8)).collect();
    let randomized = w.structure("", &members);
    w.structure("task_struct", &[("", randomized, 1256)]);
    state_event(&mut w, 8);
    others(&mut w, int);
    let prototype = w.add("", 13 << 24 | 2, int, vec![0, int, 0, int]);
    w.add("inet_csk_accept", 12 << 24 | 1, prototype, vec![]);
    w
}

/// What a path is made of.
fn paths(w: &mut Writer, int: u32) {
    let path = w.structure("path", &[("mnt", int, 0), ("dentry", int, 8)]);
    w.structure(
        "file",
        &[
            ("private_data", int, 24),
            ("f_inode", int, 32),
            ("f_path", path, 64),
        ],
    );
    let name = w.structure("qstr", &[("name", int, 8)]);
    let hash = w.structure("hlist_bl_node", &[("pprev", int, 8)]);
    let members = [
        ("d_hash", hash, 8),
        ("d_parent", int, 24),
        ("d_name", name, 32),
    ];
    w.structure("dentry", &members);
    w.structure("vfsmount", &[("mnt_root", int, 0)]);
    let members = [
        ("mnt_parent", int, 16),
        ("mnt_mountpoint", int, 24),
        ("mnt", int, 32),
    ];
    w.structure("mount", &members);
}

/// The offsets of a kernel that lacks nothing that anybody needs.
fn whole(btf: &Btf<Vec<u8>>) -> Offsets {
    let Found { offsets, missing } = offsets(btf).unwrap();
    assert_eq!(missing, []);
    offsets
}

/// The places of the fields of an event that has `head` bytes in front of its own.
fn event(head: u32) -> Offsets {
    let mut w = kernel_without("trace_event_raw_inet_sock_set_state");
    state_event(&mut w, head);
    whole(&w.parse())
}

#[test]
fn fields_of_an_event_are_where_the_kernel_says() {
    // PREEMPT_RT before Linux 6.6 has more common fields.
    for head in [8, 16] {
        let found = event(head);
        let places = (
            found.state_skaddr,
            found.state_oldstate,
            found.state_newstate,
        );
        assert_eq!(places, (head, head + 8, head + 12));
    }
}

#[test]
fn kernel_without_mounts_has_all_but_paths() {
    let btf = kernel_without("mount").parse();
    let Found { offsets, missing } = offsets(&btf).unwrap();
    let [(Need::Executables, error)] = &missing[..] else {
        panic!("{missing:?}")
    };
    assert!(error.to_string().contains("mount"), "{error}");
    assert_eq!(offsets.mm_exe_file, 928);
    // Whoever asks whether paths can be read looks at one of them.
    assert_eq!((offsets.file_mnt, offsets.mount_point), (0, 0));
}

#[test]
fn bit_field_is_found_in_its_byte() {
    let mut w = kernel();
    let int = w.int();
    let with_bits = 1 << 7 | 4;
    w.composite(
        with_bits,
        "sock_common",
        &[("skc_ipv6only", int, (1 << 24) + 157)],
    );
    let btf = w.parse();
    assert_eq!(btf.bit_offset("sock_common.skc_ipv6only"), Ok((19, 5)));
    let absent = btf.bit_offset("sock_common.skc_absent");
    let path = "sock_common.skc_absent".into();
    assert_eq!(absent, Err(BtfError::NoField(path)));
}

/// A kernel whose ring buffer has this lock: the name of its type, of its first member, and
/// of the first member of that.
fn ring_sleeps(lock: [&str; 3]) -> bool {
    let mut w = kernel();
    let int = w.int();
    let [outer, member, inner] = lock;
    let inner = w.structure("", &[(inner, int, 0)]);
    let union = w.composite(5, "", &[(member, inner, 0)]);
    let structure = w.structure("", &[("", union, 0)]);
    let lock = w.add(outer, 8 << 24, structure, vec![]);
    w.structure("bpf_ringbuf", &[("spinlock", lock, 64)]);
    w.parse().ring_sleeps()
}

#[test]
fn ring_buffer_that_sleeps_is_known_by_its_lock() {
    assert!(ring_sleeps(["spinlock_t", "lock", "wait_lock"]));
    // Without PREEMPT_RT, as the kernel should have it with that, and since Linux 6.15.
    assert!(!ring_sleeps(["spinlock_t", "rlock", "raw_lock"]));
    assert!(!ring_sleeps(["raw_spinlock_t", "raw_lock", "val"]));
    assert!(!ring_sleeps(["rqspinlock_t", "val", "counter"]));
    assert!(!kernel().parse().ring_sleeps());
}

#[test]
fn what_only_one_option_reads_refuses_only_that() {
    let found = offsets(&kernel_without("trace_event_raw_inet_sock_set_state").parse()).unwrap();
    assert!(matches!(found.missing[..], [(Need::StateEvents, _)]));
    let found = offsets(&kernel_without("signal_struct").parse()).unwrap();
    let missing = BtfError::NoStruct("signal_struct".into());
    assert_eq!(found.missing, [(Need::Tree, missing)]);
    assert!(offsets(&kernel_without("cred").parse()).is_err());
}

#[test]
fn every_offset_is_found_on_a_kernel_that_has_all_fields() {
    let found = whole(&kernel().parse());
    assert_eq!((found.skc_daddr, found.skc_rcv_saddr), (0, 4));
    assert_eq!((found.skc_dport, found.skc_num), (12, 14));
    assert_eq!((found.skc_net, found.inet_sport), (48, 814));
    assert_eq!((found.net_inum, found.cgroup_parent), (176, 80));
    assert_eq!((found.task_group_leader, found.task_signal), (1256, 1312));
}

#[test]
fn big_endian_btf_reads_the_same() {
    let big = parse(kernel().finish(u32::to_be_bytes)).unwrap();
    assert_eq!(offsets(&big), offsets(&kernel().parse()));
}

#[test]
fn parameters_of_a_function_are_counted() {
    let btf = kernel().parse();
    let accept = btf.function("inet_csk_accept").unwrap();
    assert_eq!(accept.params, Some(2));
    assert_eq!(btf.function("inet_csk"), None);
}

#[test]
fn missing_struct_and_field_are_named() {
    let btf = kernel().parse();
    let message = |path| btf.member_offset(path).unwrap_err().to_string();
    assert_eq!(
        message("sock.sk_foo"),
        "kernel BTF has no field sock.sk_foo"
    );
    assert_eq!(message("soc.sk_err"), "kernel BTF has no struct soc");
    assert_eq!(
        message("sock.sk_err.x"),
        "kernel BTF has no field sock.sk_err.x"
    );
}

#[test]
fn struct_of_the_same_name_counts_only_when_it_has_the_field() {
    let mut w = Writer::default();
    let int = w.int();
    w.structure("file", &[("other", int, 0)]);
    w.structure("file", &[("private_data", int, 24), ("f_inode", int, 32)]);
    w.structure("mm_struct", &[("exe_file", int, 928)]);
    w.structure("inode", &[("i_ino", int, 64), ("i_sb", int, 40)]);
    w.structure("super_block", &[("s_dev", int, 16)]);
    assert_eq!(w.parse().member_offset("file.private_data"), Ok(24));
    w.structure("file", &[("private_data", int, 32)]);
    let twice = w.parse().member_offset("file.private_data");
    assert_eq!(twice, Err(BtfError::Ambiguous("file.private_data".into())));
}

#[test]
fn bit_field_has_no_offset_but_its_neighbour_has() {
    let mut w = Writer::default();
    let int = w.int();
    let with_bits = 1 << 7 | 4;
    w.composite(
        with_bits,
        "sock",
        &[("flag", int, 1 << 24 | 64), ("port", int, 72)],
    );
    let btf = w.parse();
    let flag = btf.member_offset("sock.flag");
    assert_eq!(flag, Err(BtfError::BitField("sock.flag".into())));
    assert_eq!(btf.member_offset("sock.port"), Ok(9));
}

#[test]
fn type_that_contains_itself_is_an_error() {
    let mut w = Writer::default();
    w.structure("sock", &[("", 1, 0), ("", 1, 0)]);
    let found = w.parse().member_offset("sock.sk_err");
    assert_eq!(found, Err(BtfError::Cycle));
    let mut w = Writer::default();
    w.structure("sock", &[("", 2, 0)]);
    w.add("loop", 8 << 24, 2, vec![]);
    assert_eq!(w.parse().member_offset("sock.x"), Err(BtfError::Cycle));
}

#[test]
fn what_is_not_this_btf_is_refused() {
    let good = kernel().finish(u32::to_le_bytes);
    let patched = |at: usize, byte| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        parse(bytes).unwrap_err()
    };
    assert_eq!(parse(vec![]).unwrap_err(), BtfError::Truncated(0));
    assert_eq!(patched(0, 0), BtfError::Magic);
    assert_eq!(patched(2, 2), BtfError::Version(2));
    let unknown = BtfError::UnknownKind { kind: 20, at: 24 };
    assert_eq!(patched(24 + 7, 20), unknown);
    let short = good[..good.len() - 1].to_vec();
    assert!(matches!(parse(short).unwrap_err(), BtfError::Truncated(_)));
}

#[test]
fn the_running_kernel_has_every_field() {
    let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else {
        return;
    };
    let btf = parse(bytes).unwrap();
    let found = whole(&btf);
    assert!(found.skc_daddr < found.skc_dport && found.skc_dport < found.skc_num);
    assert!(found.skc_family < found.skc_state && found.skc_state < found.skc_net);
    assert!(found.skc_v6_daddr + 16 <= found.skc_v6_rcv_saddr);
    assert!(found.inet_sport > found.sk_protocol);
    let accept = btf.function("inet_csk_accept").unwrap();
    assert!(matches!(accept.params, Some(2 | 4)));
}

fn exercise(bytes: Vec<u8>) {
    if let Ok(btf) = parse(bytes) {
        let _ = offsets(&btf);
        let _ = btf.function("inet_csk_accept");
    }
}

proptest! {
    #[test]
    fn mutated_btf_never_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        length in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = kernel().finish(u32::to_le_bytes);
        for (at, byte) in edits {
            *at.get_mut(&mut bytes) = byte;
        }
        if cut {
            bytes.truncate(length.index(bytes.len()));
        }
        exercise(bytes);
    }

    #[test]
    fn arbitrary_types_never_panic(words in prop::collection::vec(0u32..64, 0..256)) {
        let mut w = Writer::default();
        w.name("sock");
        w.bodies.push(words);
        w.types.push([1, 4 << 24 | 2, 0]);
        exercise(w.finish(u32::to_le_bytes));
    }
}

#[test]
fn a_type_is_found_however_many_are_before_it() {
    for before in [0, 1, 62, 63, 64, 65, 1_000] {
        let mut w = Writer::default();
        let int = w.int();
        for _ in 0..before {
            w.structure("filler", &[("sk_err", int, 4)]);
        }
        let inner = w.structure("", &[("sk_err", int, 8)]);
        w.structure("sock", &[("", inner, 16)]);
        let prototype = w.add("", 13 << 24 | 1, int, vec![0, int]);
        let sought = w.add("sought", 12 << 24, prototype, vec![]);
        let btf = w.parse();
        assert_eq!(btf.member_offset("sock.sk_err"), Ok(24));
        let (id, params) = (sought, Some(1));
        assert_eq!(btf.function("sought"), Some(Function { id, params }));
        assert_eq!(btf.head(sought + 1).unwrap().kind, 0);
    }
}

#[test]
fn a_function_of_no_prototype_has_no_parameters() {
    let mut w = Writer::default();
    let id = w.add("sought", 12 << 24, 0, vec![]);
    w.add("other", 12 << 24, id, vec![]);
    let params = None;
    assert_eq!(w.parse().function("sought"), Some(Function { id, params }));
    assert_eq!(w.parse().function("other"), None);
    assert_eq!(w.parse().function("absent"), None);
}
