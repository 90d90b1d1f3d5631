//! Connections drawn at random: everything that a rule can ask of one.

use std::path::Path;

use port_monitor_common::{
    event::FileId,
    policy::{Direction, Transport},
};

use super::{
    super::{Facts, NOW_NS, facts},
    host::file,
    world::{CGROUPS, EXES, port},
};
use crate::base::seeded::Random;

/// Cgroups made later, which no rule names.
const NEWER: [&str; 3] = [
    "/system.slice/app.service/newer",
    "/user.slice/user-1000.slice/session-3.scope",
    "/newer",
];

/// Units of owners whose cgroup is not known.
const UNITS: [&str; 9] = [
    "app.service",
    "api.service",
    "web.service",
    "worker@7.service",
    "worker@22.service",
    "cpu.service",
    "system-worker.slice",
    "user-1000.slice",
    "-.slice",
];

/// Peers as a hook sees them.
const ADDRESSES: [&str; 24] = [
    "10.0.0.1",
    "10.0.0.4",
    "10.0.0.5",
    "10.0.0.8",
    "10.128.0.1",
    "11.0.0.1",
    "1.2.3.4",
    "::ffff:10.0.0.5",
    "::ffff:11.0.0.1",
    "64:ff9b::10.0.0.5",
    "64:ff9b::11.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::0.0.0.9",
    "64:ff9b:1::10.0.0.5",
    "2002:a00:5::1",
    "::10.0.0.5",
    "127.0.0.1",
    "127.9.9.9",
    "0.0.0.0",
    "::ffff:0.0.0.0",
    "::",
    "::1",
    "2001:db8::5",
    "2001:db8::9",
];

/// A connection or a listener, and who is behind it.
pub(super) fn connection(random: &Random) -> Facts<'static> {
    let drawn = flow(random);
    if random.once_in(8) {
        // Threads of the kernel can be moved, and begin in the root.
        let is_moved = random.once_in(3);
        let cgroup = is_moved.then(|| random.one_of(&CGROUPS[1..]));
        return Facts {
            uid: Some(if is_moved { random.one_of(&[0, 33]) } else { 0 }),
            unit: cgroup.and_then(innermost_unit),
            cgroup: Some(cgroup.unwrap_or("/")),
            exe: None,
            is_kernel: true,
            ..drawn
        };
    }
    let (cgroup, unit) = match random.below(8) {
        0 => (None, None),
        1 => (None, Some(random.one_of(&UNITS))),
        2 => (Some(random.one_of(&NEWER)), None),
        _ => (Some(random.one_of(&CGROUPS)), None),
    };
    let (exe, exe_id) = executable(random);
    Facts {
        uid: (!random.once_in(8)).then(|| random.one_of(&[0, 33, 1000, 1001, 65534, 7])),
        unit: unit.or_else(|| cgroup.and_then(innermost_unit)),
        // As `/proc` writes the root.
        cgroup: cgroup.map(|path| if path.is_empty() { "/" } else { path }),
        exe: exe.map(Path::new),
        exe_id,
        ..drawn
    }
}

/// Who talks to whom, and when.
fn flow(random: &Random) -> Facts<'static> {
    let direction = random.one_of(&Direction::ALL);
    let is_listener = direction == Direction::Listen;
    let peer = if is_listener {
        random.one_of(&["::", "0.0.0.0", "10.0.0.5"])
    } else {
        random.one_of(&ADDRESSES)
    };
    let port = if random.once_in(12) { 0 } else { port(random) };
    let is_udp = direction == Direction::Outbound && random.once_in(3);
    let seconds = i128::from(random.below(8)) * 1_000_000_000;
    Facts {
        transport: if is_udp {
            Transport::Udp
        } else {
            Transport::Tcp
        },
        peer_is_self: !is_listener && random.once_in(3),
        // Just before a rule ends, too.
        now_ns: NOW_NS + (seconds - i128::from(random.below(2))).max(0),
        ..facts(direction, peer, port)
    }
}

fn executable(random: &Random) -> (Option<&'static str>, Option<FileId>) {
    match random.below(8) {
        // Known by neither; by its path only, as where a recording is of another host.
        0 => (None, None),
        1 => (Some(random.one_of(&["/opt/gone", "/srv/other"])), None),
        // Its path is another file's by now, or is gone.
        2 => (Some("/usr/bin/python"), Some(file(7))),
        3 => (None, Some(file(8))),
        4 => {
            let elsewhere = FileId {
                device: 2,
                inode: 7,
            };
            (Some("/bin/perl"), Some(elsewhere))
        }
        _ => {
            let (path, inode) = random.one_of(&EXES);
            (Some(path), Some(file(inode.unwrap_or(10))))
        }
    }
}

/// The unit that the monitor tells of a process in that cgroup.
fn innermost_unit(path: &str) -> Option<&str> {
    let is_unit = |part: &&str| {
        let kind = part.rsplit_once('.').map(|(_, kind)| kind);
        matches!(kind, Some("service" | "scope"))
    };
    let unit = path.rsplit('/').find(is_unit);
    unit.map(|unit| unit.trim_start_matches('_'))
}
