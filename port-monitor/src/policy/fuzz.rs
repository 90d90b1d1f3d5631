//! This room's parsers, for fuzzers.

use std::{io, path::Path};

use port_monitor_common::{
    event::FileId,
    policy::{Direction, Transport, Verdict},
};

use super::{
    Diagnostic, Environment, Facts, Invalid, Policy, Source, Style,
    export::nft::Inexpressible,
    text::{
        network::{network, spelled},
        network_list::ListError,
    },
};
use crate::{base::duration, host::units::Units, ports::services};

/// 2026-11-22T00:00:00Z.
const NOW_NS: i128 = 1_795_305_600_000_000_000;

/// A policy that reads a list.
const WITH_LIST: &str = "version = 1\n[networks]\na = { file = \"list\" }\n[[rule]]\n\
    name = \"a\"\ndirection = \"in\"\naction = \"allow\"\nport = 22\nfrom = \"a\"\n";

/// A host on which names mean the same every time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FuzzHost<'a> {
    /// What is in each file with networks.
    list: &'a str,
}

impl Environment for FuzzHost<'_> {
    fn service_ports(&self, service: &str) -> Vec<u16> {
        services::ports_named(service).collect()
    }

    fn nearest_service(&self, service: &str) -> Option<String> {
        services::suggest(service).map(str::to_owned)
    }

    fn uid(&self, user: &str) -> Option<u32> {
        (user == "root").then_some(0)
    }

    fn users(&self) -> Vec<String> {
        vec!["root".to_owned()]
    }

    fn units(&self) -> Units {
        Units::default().with_files(&["app.service", "web@.service"])
    }

    fn executable(&self, path: &Path) -> io::Result<FileId> {
        let inode = path.as_os_str().len() as u64;
        Ok(FileId { device: 1, inode })
    }

    fn now_ns(&self) -> i128 {
        NOW_NS
    }

    fn network_list(&self, _: &Path) -> Result<String, ListError> {
        Ok(self.list.to_owned())
    }
}

/// The text of a policy.
pub(crate) fn policy(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        compile(text, FuzzHost { list: "10.0.0.0/8" });
    }
}

/// A file with networks.
pub(crate) fn networks(bytes: &[u8]) {
    if let Ok(list) = str::from_utf8(bytes) {
        compile(WITH_LIST, FuzzHost { list });
    }
}

/// A duration, and a network as a policy has it.
pub(crate) fn words(text: &str) {
    if let Ok(duration) = duration::parse(text) {
        assert!(!duration.is_zero());
    }
    if let Ok(read) = network(text) {
        let again = network(&spelled(&read));
        assert!(again.is_ok_and(|again| again == read), "as it is spelled");
    }
}

fn compile(text: &str, host: FuzzHost<'_>) {
    let source = Source::new("policy.toml".to_owned(), text.to_owned());
    match Policy::parse(source, &host) {
        Ok((policy, warnings)) => {
            told(&warnings, text, host.list);
            decide(&policy);
        }
        Err(invalid) => {
            let Invalid { diagnostics, .. } = &invalid;
            assert!(diagnostics.iter().any(Diagnostic::is_error));
            told(diagnostics, text, host.list);
            invalid.render(Style::Coloured);
        }
    }
}

/// Each is at a place of the text, and harmless on a terminal.
fn told(diagnostics: &[Diagnostic], policy: &str, list: &str) {
    for diagnostic in diagnostics {
        let text = match diagnostic.file() {
            "policy.toml" => policy,
            _ => list,
        };
        let lines: Vec<_> = text.split('\n').collect();
        let line = lines.get(diagnostic.line() - 1);
        let length = line.map_or(0, |line| line.chars().count());
        assert!(line.is_some(), "in the text");
        assert!(
            (1..=length + 1).contains(&diagnostic.column()),
            "in the line"
        );
        let shown = diagnostic.render(Style::Plain);
        let hostile = shown.chars().find(|&c| c != '\n' && moves_a_cursor(c));
        assert_eq!(hostile, None, "{shown:?}");
    }
}

/// A terminal does something else than showing it.
fn moves_a_cursor(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What is decided is what is explained, and other forms of it can be made.
fn decide(policy: &Policy) {
    for direction in Direction::ALL {
        for (peer, service_port) in [([10, 1, 2, 3], 22), ([127, 0, 0, 1], 443)] {
            let facts = Facts {
                uid: Some(0),
                unit: Some("app.service"),
                cgroup: Some("/system.slice/app.service"),
                exe: Some(Path::new("/usr/bin/app")),
                now_ns: NOW_NS,
                ..Facts::new(direction, Transport::Tcp, service_port, peer.into())
            };
            let judgement = policy.judge(&facts);
            let explained = policy.explain(&facts).verdict;
            let is_allowed = |verdict| verdict == Verdict::Allow;
            assert_eq!(is_allowed(judgement.verdict), is_allowed(explained));
        }
    }
    for inexpressible in [Inexpressible::Refuse, Inexpressible::LeaveOut] {
        if let Ok(ruleset) = policy.to_nft(inexpressible, NOW_NS) {
            let hostile = ruleset
                .chars()
                .find(|&c| !"\n\t".contains(c) && moves_a_cursor(c));
            assert_eq!(hostile, None, "{ruleset:?}");
        }
    }
    // What is too large for the kernel's tables is an error.
    let _ = policy.lower_for_monitor();
}
