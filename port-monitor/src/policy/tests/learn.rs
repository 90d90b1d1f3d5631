//! Policies made of what was seen allow all of it, and no peer that was not.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use port_monitor_common::{
    event::FileId,
    policy::{Direction, Transport, Verdict},
};
use proptest::prelude::*;

use super::{Facts, NOW_NS, TestHost, parse};
use crate::policy::learn::Learner;

#[derive(Clone, Debug)]
struct Seen {
    direction: Direction,
    port: u16,
    peer: IpAddr,
    uid: Option<u32>,
    unit: Option<String>,
    cgroup: Option<String>,
    exe: Option<PathBuf>,
}

impl Seen {
    fn facts(&self) -> Facts<'_> {
        Facts {
            uid: self.uid,
            unit: self.unit.as_deref(),
            cgroup: self.cgroup.as_deref(),
            exe: self.exe.as_deref(),
            now_ns: NOW_NS,
            ..Facts::new(self.direction, Transport::Tcp, self.port, self.peer)
        }
    }
}

fn peer() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0_u8..8).prop_map(|last| [192, 0, 2, last].into()),
        (0_u16..4).prop_map(|last| [0x2001, 0xdb8, 0, 0, 0, 0, 0, last].into()),
        (0_u16..4).prop_map(|last| [0, 0, 0, 0, 0, 0xffff, 0x0a00, last].into()),
        Just("127.0.0.1".parse().unwrap()),
        Just("::".parse().unwrap()),
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
    ]
}

fn seen() -> impl Strategy<Value = Seen> {
    const UNITS: &[&str] = &[
        "app.service",
        "web.service",
        "user@7.service",
        "session-1.scope",
        "x y",
    ];
    const EXES: &[&str] = &[
        "/usr/bin/curl",
        "/opt/a \"b\"\n\\c\u{7f}",
        "relative",
        "/",
        "/tmp/é (deleted)",
    ];
    use proptest::{option::of, sample::select};
    (
        select(&Direction::ALL[..]),
        prop_oneof![select(&[22, 443, 8080, 65535][..]), 1_u16..],
        peer(),
        of(select(&[0, 33, u32::MAX][..])),
        of(select(UNITS)),
        of(select(&["/", "/system.slice/app.service"][..])),
        of(select(EXES)),
    )
        .prop_map(|(direction, port, peer, uid, unit, cgroup, exe)| Seen {
            direction,
            port,
            peer,
            uid,
            unit: unit.map(str::to_owned),
            cgroup: cgroup.map(str::to_owned),
            exe: exe.map(PathBuf::from),
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn everything_seen_is_allowed_and_no_other_peer(all in prop::collection::vec(seen(), 1..40), other in peer()) {
        let mut learner = Learner::default();
        for seen in &all {
            learner.take(&seen.facts(), &TestHost);
        }
        let text = learner.policy(Some(0), &TestHost).unwrap();
        let (policy, _) = match parse(&text) {
            Ok(parsed) => parsed,
            Err(invalid) => return Err(TestCaseError::fail(format!("{invalid}\n{text}"))),
        };
        for seen in &all {
            prop_assert_eq!(policy.judge(&seen.facts()).verdict, Verdict::Allow, "{:?}\n{}", seen, text);
        }
        let canonical = |peer: IpAddr| peer.to_canonical();
        let is_new = all.iter().all(|seen| canonical(seen.peer) != canonical(other));
        let is_loopback = canonical(other).is_loopback() || canonical(other).is_unspecified();
        for seen in all.iter().filter(|seen| is_new && !is_loopback && seen.direction != Direction::Listen) {
            let facts = Facts { peer: other, ..seen.facts() };
            prop_assert_ne!(policy.judge(&facts).verdict, Verdict::Allow, "{:?}\n{}", facts, text);
        }
    }
}

#[test]
fn what_was_lost_or_may_have_been_is_told() {
    let learner = Learner::default();
    let head = |lost| learner.policy(lost, &TestHost).unwrap();
    assert!(head(Some(7)).contains("# 7 events were lost while recording"));
    assert!(head(None).contains("# The recording has no summary"));
    assert!(!head(Some(0)).contains("lost"));
}

#[test]
fn an_executable_is_named_by_a_path_that_is_it_here() {
    let mut learner = Learner::default();
    let mut see = |path: &'static str, inode, uid| {
        let facts = Facts {
            exe: Some(Path::new(path)),
            exe_id: Some(FileId { device: 1, inode }),
            uid: Some(uid),
            ..super::outbound("10.0.0.1", 443)
        };
        learner.take(&facts, &TestHost);
    };
    // One file by two names, and by its own in a container.
    see("/usr/bin/perl", 7, 1);
    see("/bin/perl", 7, 1);
    see("/other/root/perl", 7, 1);
    // Another one in a mount namespace of somebody's own.
    see("/usr/bin/python", 66, 1234);
    let text = learner.policy(Some(0), &TestHost).unwrap();
    assert!(text.contains("# 3 connections"), "{text}");
    assert!(text.contains("exe = \"/usr/bin/perl\""), "{text}");
    assert!(!text.contains("/bin/python"), "{text}");
    assert!(text.contains("user = 1234"), "{text}");
}
