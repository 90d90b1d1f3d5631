//! This room's parsers, for fuzzers.

use super::{
    enforcer::{
        home::topmost,
        host::{local_v4, local_v6},
        links::place_of,
        sockets::{self, acknowledged, message},
        tables::memory::in_fdinfo,
    },
    host_btf::Types,
    preemption,
    preflight::{self, Capabilities},
    ring, skips,
};

/// A record of the ring buffer.
pub(crate) fn record(bytes: &[u8]) {
    ring::time_of(bytes);
}

/// The kernel's type information.
pub(crate) fn btf(bytes: &[u8]) {
    if let Ok(types) = Types::of(bytes) {
        types.lazy_btf(vec!["tcp_connect"]);
    }
}

/// Answers about sockets, one after another.
pub(crate) fn netlink(bytes: &[u8]) {
    let mut rest = bytes;
    while let Some((_, body, next)) = message(rest) {
        sockets::parse(body);
        let _ = acknowledged(body);
        assert!(next.len() < rest.len(), "the next message is further on");
        rest = next;
    }
}

/// `/proc/PID/status`.
pub(crate) fn process(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    Capabilities::parse(&text).missing();
}

/// `/proc/PID/mountinfo`.
pub(crate) fn mounts(bytes: &[u8]) {
    topmost(&String::from_utf8_lossy(bytes));
}

/// Texts of the kernel about itself.
pub(crate) fn text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().count();
    assert!(local_v4(&text).count() <= lines);
    assert!(local_v6(&text).count() <= lines);
    place_of(&text, 7);
    in_fdinfo(&text);
    skips::parse(&text);
    preflight::active_mode(&text);
    preemption::is_preemptible(&text);
}
