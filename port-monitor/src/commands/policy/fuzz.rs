//! The parsers of the commands, for fuzzers.

use std::{fs::File, io::Write as _, os::fd::AsRawFd as _, path::Path};

use port_monitor_common::policy::Verdict;
use rustix::fs::{MemfdFlags, memfd_create};

use super::{cases, recording};
use crate::{
    commands::{enforce::session::tree::Ends, watch::stop::is_unwanted},
    policy::{Policy, Source, fuzz::FuzzHost, learn::Learner},
};

/// A policy for [`cases`].
const POLICY: &str = "version = 1\n[default]\ninbound = { action = \"deny\" }\n\
    outbound = { action = \"allow\" }\nlisten = { action = \"allow\" }\n";

fn parsed(text: &str) -> Option<Policy> {
    let source = Source::new("policy.toml".to_owned(), text.to_owned());
    Policy::parse(source, &FuzzHost::default())
        .ok()
        .map(|(policy, _)| policy)
}

/// A file with cases for `policy test`.
pub(crate) fn cases(bytes: &[u8]) {
    let path = Path::new("policy.test.toml");
    let Some(policy) = parsed(POLICY) else {
        return;
    };
    let cases = str::from_utf8(bytes).map(|text| cases::parse(path, text));
    for case in cases.into_iter().flatten().flatten() {
        // A case that is wrong in itself is an error.
        let _ = cases::try_case(case.get_ref(), &policy, path);
    }
}

/// A recording of `-o json`: the policy that is learned from it is one, and denies
/// nothing of it.
pub(crate) fn recording(bytes: &[u8]) {
    let Ok(memory) = memfd_create("recording", MemfdFlags::CLOEXEC) else {
        return;
    };
    let mut file = File::from(memory);
    if file.write_all(bytes).is_err() {
        return;
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let path = Path::new(&path);
    let host = FuzzHost::default();
    let mut learner = Learner::default();
    let Ok(account) = recording::read(path, |facts| learner.take(facts, &host)) else {
        return;
    };
    if learner.is_empty() {
        return;
    }
    let Ok(text) = learner.policy(account.lost, &host) else {
        return;
    };
    let policy = parsed(&text);
    assert!(policy.is_some(), "no policy: {text}");
    let again = recording::read(path, |facts| {
        if let Some(policy) = &policy
            && facts.service_port != 0
        {
            let verdict = policy.judge(facts).verdict;
            assert_eq!(verdict, Verdict::Allow, "{facts:?}: {text}");
        }
    });
    assert!(again.is_ok_and(|again| again.seen == account.seen));
}

/// Files of a process.
pub(crate) fn process(bytes: &[u8]) {
    use tokio::signal::unix::SignalKind;

    let text = String::from_utf8_lossy(bytes);
    is_unwanted(&text, SignalKind::interrupt());
    Ends::parse(&text);
}
