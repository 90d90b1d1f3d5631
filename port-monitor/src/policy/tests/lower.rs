//! What a policy becomes for the kernel's programs.

use std::{io, path::Path};

use port_monitor_common::generation::INBOUND_OPEN;

use super::{super::lower::Places, policy};

/// A host with nothing on it.
struct Bare;

impl Places for Bare {
    fn cgroups(&self) -> Vec<(String, u64)> {
        Vec::new()
    }

    fn executable(&self, _path: &Path) -> Result<(u32, u64), io::Error> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn boot_ns(&self, wall_ns: i64) -> u64 {
        wall_ns.unsigned_abs()
    }
}

#[test]
fn packets_need_no_look_only_where_nothing_asks_about_inbound_connections() {
    let rule = |direction, action| {
        format!(
            "[[rule]]\nname = \"r\"\ndirection = \"{direction}\"\nport = 22\naction = \
             \"{action}\"\n"
        )
    };
    let default = |action| format!("[default]\ninbound = {{ action = \"{action}\" }}\n");
    for (text, is_open) in [
        (rule("out", "deny"), true),
        (rule("listen", "deny"), true),
        (default("allow"), true),
        (rule("in", "allow"), false),
        (rule("in", "deny"), false),
        (default("deny"), false),
    ] {
        let lowered = policy(&format!("version = 1\n{text}")).lower(&Bare);
        let asks = lowered.unwrap().header.asks;
        assert_eq!(asks & INBOUND_OPEN != 0, is_open, "{text}");
    }
}

#[test]
fn packets_are_looked_at_where_nothing_is_allowed_once_nobody_follows() {
    let text = "version = 1\n[apply]\non_daemon_exit = \"closed-after-60s\"\n";
    let lowered = policy(text).lower(&Bare).unwrap();
    assert_ne!(lowered.header.asks & INBOUND_OPEN, 0);
    let closed = lowered.closed_header().unwrap();
    assert_eq!(closed.asks & INBOUND_OPEN, 0);
}
