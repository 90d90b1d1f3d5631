//! What an exported ruleset does to packets, against what `policy explain` says of them.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use port_monitor::policy::{Facts, Host, Policy, Reason, Source, export::nft::Inexpressible};
use port_monitor_common::policy::{Direction, Transport, Verdict};
use serde_json::Value;

use super::{
    packets::{Attempt, OWN, Wire, in_own_netns},
    random::{Random, Rule},
};

/// Policies of each direction.
const POLICIES: usize = 40;
/// Most packets of one rule.
const OF_A_RULE: usize = 120;
/// Packets in all, at least.
const PACKETS: usize = 10_000;

fn now_ns() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_nanos().try_into().unwrap()
}

fn parsed(text: &str) -> Option<Policy> {
    let source = Source::new("policy.toml".to_owned(), text.to_owned());
    Policy::parse(source, &Host).ok().map(|(policy, _)| policy)
}

fn load(policy: &Policy, dir: &Path) -> String {
    let ruleset = policy.to_nft(Inexpressible::Refuse, now_ns()).unwrap();
    let path = dir.join("ruleset.nft");
    fs::write(&path, &ruleset).unwrap();
    let output = Command::new("nft").arg("-f").arg(path).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}\n{ruleset}");
    ruleset
}

/// What decides the attempt, as the ruleset calls it, and whether it is allowed.
fn explained(policy: &Policy, attempt: &Attempt) -> (String, bool) {
    let is_own = OWN.iter().any(|own| own.parse() == Ok(attempt.peer));
    let explanation = policy.explain(&Facts {
        peer_is_self: is_own,
        uid: Some(attempt.uid),
        now_ns: now_ns(),
        ..Facts::new(
            attempt.direction,
            Transport::Tcp,
            attempt.port,
            attempt.peer,
        )
    });
    let by = match explanation.reason {
        Reason::Rule(rule) => rule.name.to_string(),
        Reason::Default(_) if attempt.direction == Direction::Inbound => {
            "default inbound".to_owned()
        }
        Reason::Default(_) => "default outbound".to_owned(),
        Reason::Loopback => "default, loopback".to_owned(),
        Reason::Kernel | Reason::Unjudged => panic!("{attempt:?}: {:?}", explanation.reason),
    };
    (by, explanation.verdict == Verdict::Allow)
}

/// How often each rule decided, by its comment.
fn counts(chain: &str) -> BTreeMap<String, u64> {
    let output = Command::new("nft")
        .args(["-j", "list", "chain", "inet", "port_monitor", chain])
        .output()
        .unwrap();
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut counts = BTreeMap::new();
    for rule in listed["nftables"].as_array().unwrap() {
        let Some(comment) = rule["rule"]["comment"].as_str() else {
            continue;
        };
        let words = rule["rule"]["expr"].as_array().unwrap().iter();
        let packets: u64 = words
            .filter_map(|word| word["counter"]["packets"].as_u64())
            .sum();
        if packets > 0 {
            *counts.entry(comment.to_owned()).or_default() += packets;
        }
    }
    counts
}

/// Sends every attempt under the policy, and compares.
fn compare(wire: &Wire, policy: &Policy, direction: Direction, attempts: &[Attempt], dir: &Path) {
    let ruleset = load(policy, dir);
    let passed = wire.try_all(attempts);
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for (attempt, passed) in attempts.iter().zip(passed) {
        let (by, allowed) = explained(policy, attempt);
        let text = &policy.source().text;
        assert_eq!(passed, allowed, "{attempt:?} by {by}\n{text}\n{ruleset}");
        *expected.entry(by).or_default() += 1;
    }
    let chain = match direction {
        Direction::Inbound => "input",
        _ => "output",
    };
    let text = &policy.source().text;
    assert_eq!(counts(chain), expected, "{text}\n{ruleset}");
}

/// A policy of rules of one direction, and connections at all their edges.
fn made_up(direction: Direction, random: &mut Random) -> (Policy, Vec<Attempt>) {
    let pick = |random: &mut Random, words: [&'static str; 2]| words[random.below(2)];
    let action = pick(random, ["allow", "deny"]);
    let loopback = pick(random, ["allow", "filter"]);
    let (key, style) = match direction {
        Direction::Inbound => ("inbound", pick(random, ["reset", "drop"])),
        _ => ("outbound", "error"),
    };
    let head = format!(
        "version = 1\n[default]\n\
         {key} = {{ action = \"{action}\", style = \"{style}\", loopback = \"{loopback}\" }}\n"
    );
    let side = if key == "inbound" { "from" } else { "to" };
    let failsafe = match random.below(3) {
        0 => format!("[failsafe]\n{key} = [{{ port = 22, {side} = \"10.0.0.0/8\" }}]\n"),
        _ => String::new(),
    };
    let mut text = head + &failsafe;
    let mut policy = parsed(&text).unwrap();
    let mut attempts = Vec::new();
    for number in 0..=random.below(5) {
        let rule = Rule::new(direction, random);
        let more = text.clone() + &rule.text(&format!("r{number}"), direction, random);
        // One that earlier rules leave nothing is refused.
        let Some(longer) = parsed(&more) else {
            continue;
        };
        (policy, text) = (longer, more);
        let mut edges = rule.attempts(direction, random);
        while edges.len() > OF_A_RULE {
            edges.swap_remove(random.below(edges.len()));
        }
        attempts.extend(edges);
    }
    (policy, attempts)
}

#[test]
#[expect(clippy::print_stdout, reason = "what happens once can be tried again")]
fn packets_are_treated_as_explain_says() {
    let seed = u64::try_from(now_ns() & 0xffff_ffff).unwrap();
    println!("seed {seed}");
    let dir = tempfile::tempdir().unwrap();
    in_own_netns(|| {
        let wire = Wire::new();
        let mut random = Random(seed);
        let mut packets = 0;
        for number in 0.. {
            if number >= 2 * POLICIES && packets >= PACKETS {
                break;
            }
            let direction = [Direction::Inbound, Direction::Outbound][number % 2];
            let (policy, attempts) = made_up(direction, &mut random);
            compare(&wire, &policy, direction, &attempts, dir.path());
            packets += attempts.len();
        }
        println!("{packets} packets");
    });
}

#[test]
fn rule_ends_when_its_time_has_come() {
    let dir = tempfile::tempdir().unwrap();
    in_own_netns(|| {
        let wire = Wire::new();
        let end = UNIX_EPOCH
            + Duration::from_secs(
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap()
                    .as_secs()
                    + 3,
            );
        let until = jiff::Timestamp::try_from(end).unwrap();
        let rule = |name, port, action| {
            format!(
                "[[rule]]\nname = \"{name}\"\ndirection = \"out\"\nport = {port}\n\
                 action = \"{action}\"\nuntil = {until}\n"
            )
        };
        let default = "version = 1\n[default]\noutbound = { action = \"deny\" }\n";
        let allow_all =
            "[[rule]]\nname = \"rest\"\ndirection = \"out\"\nport = 2\naction = \"allow\"\n";
        let text = [
            default,
            &rule("a", 1, "allow"),
            &rule("d", 2, "deny"),
            allow_all,
        ]
        .concat();
        load(&parsed(&text).unwrap(), dir.path());
        let attempts = [1, 2].map(|port| Attempt {
            direction: Direction::Outbound,
            peer: "198.51.100.9".parse().unwrap(),
            port,
            uid: 0,
        });
        assert_eq!(wire.try_all(&attempts), [true, false]);
        assert!(SystemTime::now() < end, "the machine was too slow to tell");
        std::thread::sleep(end.duration_since(SystemTime::now()).unwrap());
        assert_eq!(wire.try_all(&attempts), [false, true]);
    });
}

#[test]
fn fragments_hide_no_port() {
    let dir = tempfile::tempdir().unwrap();
    in_own_netns(|| {
        let wire = Wire::new();
        let rule = "[[rule]]\nname = \"r\"\ndirection = \"in\"\nport = 23\naction = \"deny\"\n";
        load(
            &parsed(&["version = 1\n", rule].concat()).unwrap(),
            dir.path(),
        );
        assert!(!wire.try_in_fragments(23));
        // Newer kernels let no such packet in by themselves.
        assert_eq!(counts("input").get("SYN in fragments"), Some(&1));
    });
}
