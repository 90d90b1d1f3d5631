//! Tests of the policy from its text to its verdicts, on a host made up here.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    net::IpAddr,
    path::Path,
};

use super::{Diagnostic, Environment, Facts, Invalid, Policy, Source};
use crate::host::units::Units;
use port_monitor_common::{
    event::FileId,
    policy::{Direction, Transport},
};

mod diagnostics;
mod diff;
mod differential;
mod explain;
mod index;
mod learn;
mod lower;
mod monitor;
mod networks;
mod nft;
mod oracle;
mod places;
mod schema;
mod shadow;
mod spellings;
mod surely;
mod tables;
mod verdicts;

/// 2026-11-22T00:00:00Z.
const NOW_NS: i128 = 1_795_305_600_000_000_000;

const SERVICES: [(&str, u16); 8] = [
    ("ssh", 22),
    ("telnet", 23),
    ("domain", 53),
    ("http", 80),
    ("ntp", 123),
    ("https", 443),
    ("smtp", 25),
    ("postgresql", 5432),
];

const USERS: [(&str, u32); 4] = [("root", 0), ("www-data", 33), ("app", 1000), ("ann", 1001)];

/// Files that are there, some by two names.
const FILES: [(&str, u64); 4] = [
    ("/bin/perl", 7),
    ("/usr/bin/perl", 7),
    ("/usr/bin/perl5", 7),
    ("/usr/bin/python", 8),
];

struct TestHost;

impl Environment for TestHost {
    fn service_ports(&self, service: &str) -> Vec<u16> {
        let named = SERVICES.iter().filter(|(name, _)| *name == service);
        named.map(|&(_, port)| port).collect()
    }

    fn nearest_service(&self, service: &str) -> Option<String> {
        crate::ports::services::closest(service, SERVICES.iter().map(|(name, _)| *name))
            .map(str::to_owned)
    }

    fn uid(&self, user: &str) -> Option<u32> {
        USERS
            .iter()
            .find(|(name, _)| *name == user)
            .map(|&(_, uid)| uid)
    }

    fn users(&self) -> Vec<String> {
        USERS.map(|(name, _)| name.to_owned()).to_vec()
    }

    fn units(&self) -> Units {
        Units::default().with_files(&["app.service", "web.service"])
    }

    /// Every path is of a file of its own, but for those of [`FILES`].
    fn executable(&self, path: &Path) -> io::Result<FileId> {
        let known = FILES.iter().find(|(name, _)| Path::new(name) == path);
        let inode = known.map_or_else(
            || {
                let mut hasher = DefaultHasher::new();
                path.hash(&mut hasher);
                hasher.finish()
            },
            |&(_, inode)| inode,
        );
        Ok(FileId { device: 1, inode })
    }

    fn now_ns(&self) -> i128 {
        NOW_NS
    }
}

fn parse(text: &str) -> Result<(Policy, Vec<Diagnostic>), Invalid> {
    let source = Source::new("policy.toml".to_owned(), text.to_owned());
    Policy::parse(source, &TestHost)
}

/// A policy that holds, whatever its warnings.
fn policy(text: &str) -> Policy {
    match parse(text) {
        Ok((policy, _)) => policy,
        Err(invalid) => panic!("{invalid}"),
    }
}

/// The text of a rule; `rest` has its conditions.
fn rule(name: &str, direction: &str, action: &str, rest: &str) -> String {
    format!(
        "[[rule]]\nname = \"{name}\"\ndirection = \"{direction}\"\naction = \"{action}\"\n{rest}\n"
    )
}

fn facts(direction: Direction, peer: &str, service_port: u16) -> Facts<'static> {
    let peer: IpAddr = peer.parse().unwrap();
    Facts {
        uid: Some(1001),
        cgroup: Some("/user.slice"),
        exe: Some(Path::new("/usr/bin/curl")),
        now_ns: NOW_NS,
        ..Facts::new(direction, Transport::Tcp, service_port, peer)
    }
}

fn inbound(peer: &str, service_port: u16) -> Facts<'static> {
    facts(Direction::Inbound, peer, service_port)
}

fn outbound(peer: &str, service_port: u16) -> Facts<'static> {
    facts(Direction::Outbound, peer, service_port)
}
