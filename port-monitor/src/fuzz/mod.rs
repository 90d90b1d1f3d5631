//! What fuzzers call: a target for each kind of bytes that something else writes.
//!
//! A target must come to its end with any bytes: it panics where a parser does, and where
//! what it made of them cannot be. The tests run each on its corpus, in
//! `port-monitor/fuzz/corpus`, and on what they make of that; `cargo xtask fuzz` has
//! libFuzzer run them.

use port_monitor_common::event::{ABI_VERSION, CLOSE_EVENT_SIZE, EVENT_SIZE};

use crate::{
    commands::policy::fuzz as commands,
    events::{community_id::CommunityId, decode::decode},
    host::fuzz as host,
    kernel::fuzz as kernel,
    pipeline::classify::{self, Classifier},
    policy::fuzz as policy,
};

#[cfg(test)]
mod tests;

/// What a fuzzer runs.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("btf", kernel::btf),
    target("cases", commands::cases),
    target("kernel-text", kernel_text),
    target("mounts", mounts),
    target("netlink", kernel::netlink),
    target("networks", policy::networks),
    target("policy", policy::policy),
    target("process", process),
    target("record", record),
    target("recording", commands::recording),
    target("words", words),
];

/// A record of the ring buffer: as it is, and as this version's layout would have it.
fn record(bytes: &[u8]) {
    kernel::record(bytes);
    decoded(bytes);
    for size in [EVENT_SIZE, CLOSE_EVENT_SIZE] {
        let mut own = bytes.to_vec();
        own.resize(size, 0);
        if let Some(abi) = own.first_mut() {
            *abi = ABI_VERSION;
        }
        decoded(&own);
    }
}

fn decoded(record: &[u8]) {
    let Ok(event) = decode(record) else {
        return;
    };
    let ports = Classifier::new(32_768..=60_999).ports(&event);
    let told = ports.remote.map(|port| port.port);
    assert!(told.is_none_or(|port| port == event.remote_port));
    let local = (event.local_ip, event.local_port.unwrap_or(0));
    let remote = (event.remote_ip, event.remote_port);
    let there = CommunityId::of(local, remote).text();
    let back = CommunityId::of(remote, local).text();
    assert_eq!(there, back, "both ends have one id");
    if let Some(owner) = event.owner {
        assert!(!owner.comm.as_bytes().contains(&0));
    }
}

/// Texts of the kernel about itself.
fn kernel_text(bytes: &[u8]) {
    kernel::text(bytes);
    classify::parse_port_range(&String::from_utf8_lossy(bytes));
}

/// Files of a process in `/proc`.
fn process(bytes: &[u8]) {
    host::process(bytes);
    commands::process(bytes);
    kernel::process(bytes);
}

/// `/proc/PID/mountinfo`.
fn mounts(bytes: &[u8]) {
    host::mounts(bytes);
    kernel::mounts(bytes);
}

/// Words of a command line, which may come from elsewhere.
fn words(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        host::words(text);
        policy::words(text);
    }
}
