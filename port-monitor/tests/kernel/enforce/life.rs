//! How policies come into force and go: nothing in between, and nobody locked out.

use std::{
    fs,
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{FlockOperation, flock};

use super::{
    BPF_FS, Enforced,
    hammer::{Hammer, Ports, Tally},
};
use crate::{bpf, lab::Lab, report::Verdict};

/// How much later than its deadline a policy may end.
const LATE: Duration = Duration::from_secs(1);

pub(super) fn policy(mode: &str, rules: &str) -> String {
    format!(
        "version = 1\nmode = \"{mode}\"\n[default]\ninbound = {{ action = \"allow\" }}\n{rules}"
    )
}

pub(super) fn rule(name: &str, port: impl std::fmt::Display, action: &str) -> String {
    format!(
        "[[rule]]\nname = \"{name}\"\ndirection = \"out\"\nport = \"{port}\"\naction = \
         \"{action}\"\n"
    )
}

/// Denies one port.
pub(super) fn denying(port: u16) -> String {
    policy("enforce", &rule("denied", port, "deny"))
}

/// Denies nothing.
pub(super) fn harmless() -> String {
    policy("enforce", "")
}

/// A command that must fail with an exit status and say certain words in one line.
pub(super) fn expect_failure(command: &mut Command, code: i32, words: &[&str]) -> Result<()> {
    let Output { status, stderr, .. } = command.output()?;
    let stderr = String::from_utf8(stderr)?;
    ensure!(
        status.code() == Some(code),
        "{status}, not {code}: {stderr}"
    );
    for word in words {
        ensure!(stderr.contains(word), "no `{word}` in: {stderr}");
    }
    Ok(())
}

/// What nobody confirms ends at its deadline, with no process there to end it.
pub(crate) fn deadline(lab: &Lab) -> Result<Verdict> {
    // What comes before must be done by then, in an emulated guest too.
    let confirm = Duration::from_secs(if lab.native { 2 } else { 10 });
    let ports = Ports::new()?;
    let enforced = Enforced::new(lab, &harmless())?;
    let mut hammer = Hammer::start(&enforced, &ports)?;
    hammer.expect_free()?;
    let before = Instant::now();
    enforced.apply(
        &denying(ports.denied()),
        &["--confirm", &format!("{confirm:?}")],
    )?;
    let applied = Instant::now();
    hammer.expect_held()?;
    let mut asked = Instant::now();
    while hammer.once()?.refused > 0 {
        // What is asked now may wait for a processor, and be refused: it was asked in time.
        ensure!(
            asked - applied < confirm + LATE,
            "still there after {:?}",
            asked - applied
        );
        asked = Instant::now();
    }
    let ended = Instant::now();
    ensure!(ended - before >= confirm, "gone after {:?}", ended - before);
    expect_failure(
        &mut enforced.command("confirm"),
        2,
        &["deadline has passed"],
    )?;
    hammer.expect_free()?;
    Ok(Verdict::Pass(format!(
        "gone {:.1?} after it was applied",
        ended - applied
    )))
}

/// What is confirmed stays, and what is rolled back is as before.
pub(crate) fn confirmed(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let enforced = Enforced::new(lab, &harmless())?;
    let mut hammer = Hammer::start(&enforced, &ports)?;
    enforced.apply(&denying(ports.denied()), &["--confirm", "60s"])?;
    ensure!(
        enforced.status()?["unconfirmed_s"].as_u64() > Some(50),
        "not waiting"
    );
    // A second one takes its place, and would fall back to the same.
    enforced.apply(&denying(ports.denied()), &["--confirm", "60s"])?;
    enforced.tell("confirm")?;
    ensure!(
        enforced.status()?["unconfirmed_s"].is_null(),
        "still waiting"
    );
    expect_failure(&mut enforced.command("confirm"), 2, &["nothing to confirm"])?;
    hammer.expect_held()?;
    enforced.tell("rollback")?;
    hammer.expect_free()?;
    enforced.tell("rollback")?;
    hammer.expect_held()?;
    Ok(Verdict::pass())
}

/// When it ends, everything is allowed, and nothing of it is left.
pub(crate) fn ended(lab: &Lab) -> Result<Verdict> {
    let before = bpf::all()?;
    let ports = Ports::new()?;
    let enforced = Enforced::new(lab, &denying(ports.denied()))?;
    let mut hammer = Hammer::start(&enforced, &ports)?;
    hammer.expect_held()?;
    let made = bpf::all()?.difference(&before).copied().collect();
    enforced.tell("panic-open")?;
    hammer.expect_free()?;
    bpf::await_gone(&made)?;
    expect_failure(
        &mut enforced.command("rollback"),
        2,
        &["no policy is applied"],
    )?;
    Ok(Verdict::Pass(format!("{} objects", made.len())))
}

/// In observe mode the same rule decides, and is counted, and nothing is stopped.
pub(crate) fn observed(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let rules = rule("denied", ports.denied(), "deny");
    let enforced = Enforced::new(lab, &policy("observe", &rules))?;
    let mut hammer = Hammer::start(&enforced, &ports)?;
    hammer.expect_free()?;
    let hits = enforced.hits("denied")?;
    ensure!(hits == 9, "{hits} hits, not 9");
    Ok(Verdict::pass())
}

/// Policies that are wrong in one way each, made of a good one, and what is said of it.
pub(super) fn bad(good: &str) -> Vec<(String, &'static str)> {
    let exe_inbound = "[[rule]]\nname = \"x\"\ndirection = \"in\"\nport = 1\nexe = \"/bin/sh\"\n\
                       action = \"deny\"\n";
    vec![
        (String::new(), "empty"),
        (
            good.replace("action = \"deny\"", "action = \"dney\""),
            "dney",
        ),
        (good[..good.len() - 9].to_owned(), "error"),
        (format!("{good}\0"), "not text"),
        (good.replace("out", "sideways"), "sideways"),
        (policy("enforce", &rule("p", "70000", "deny")), "70000"),
        (
            policy("enforce", exe_inbound),
            "does not know the executable",
        ),
    ]
}

/// A bad policy changes nothing, whatever is bad about it.
pub(crate) fn bad_policies(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let good = denying(ports.denied());
    let enforced = Enforced::new(lab, &good)?;
    let mut hammer = Hammer::start(&enforced, &ports)?;
    // Whoever follows a policy may say what becomes of it without him.
    let on_exit = "[apply]\non_daemon_exit = \"closed\"\n";
    let mut bad = bad(&good);
    bad.push((policy("enforce", on_exit), "on_daemon_exit"));
    for (text, word) in &bad {
        let path = enforced.write(text)?;
        let mut apply = enforced.command("apply");
        expect_failure(apply.arg(&path).args(enforced.place()), 5, &[word])?;
        hammer.expect_held()?;
    }
    for path in [lab.new_path("missing"), "/".into()] {
        let mut apply = enforced.command("apply");
        expect_failure(apply.arg(path).args(enforced.place()), 5, &[])?;
    }
    // The file that was applied may go: the policy does not live there.
    hammer.expect_held()?;
    ensure!(
        enforced.hits("denied")? == 9 * (bad.len() as u64 + 1),
        "not the same policy"
    );
    Ok(Verdict::Pass(format!("{} of them", bad.len() + 2)))
}

/// A policy that would refuse the ssh session it is applied from is not applied.
pub(crate) fn own_session(lab: &Lab) -> Result<Verdict> {
    let enforced = Enforced::new(lab, &harmless())?;
    let deny_all = "version = 1\nmode = \"enforce\"\n[default]\ninbound = { action = \"deny\" }\n";
    let path = enforced.write(deny_all)?;
    let apply = || {
        let mut apply = enforced.command("apply");
        apply
            .arg(&path)
            .args(enforced.place())
            .env("SSH_CONNECTION", "198.51.100.7 51234 198.51.100.1 22");
        apply
    };
    expect_failure(&mut apply(), 5, &["ssh session", "198.51.100.7", "--force"])?;
    let failsafe = "[failsafe]\ninbound = [{ service = \"ssh\", from = \"198.51.100.0/24\" }]\n";
    fs::write(&path, format!("{deny_all}{failsafe}"))?;
    ensure!(
        apply().output()?.status.success(),
        "refused in spite of [failsafe]"
    );
    fs::write(&path, deny_all)?;
    ensure!(
        apply().arg("--force").output()?.status.success(),
        "refused in spite of --force"
    );
    Ok(Verdict::pass())
}

/// An instance is not taken for one that holds another cgroup.
pub(crate) fn other_cgroup(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let enforced = Enforced::new(lab, &denying(ports.denied()))?;
    let mut hammer = Hammer::start(&enforced, &ports)?;
    let path = enforced.write(&harmless())?;
    let mut apply = enforced.command("apply");
    apply.arg(&path).args(["--cgroup", &lab.cgroups.unit()]);
    expect_failure(&mut apply, 2, &["another cgroup", "panic-open"])?;
    // Nor is it taken for one of the whole host's that `--cgroup` was forgotten of.
    let mut apply = enforced.command("apply");
    expect_failure(apply.arg(&path), 2, &["--cgroup PATH", "whole host"])?;
    hammer.expect_held()?;
    Ok(Verdict::pass())
}

/// Two that change the policy at once: the second is told so.
pub(crate) fn locked(lab: &Lab) -> Result<Verdict> {
    let enforced = Enforced::new(lab, &harmless())?;
    let dir = fs::File::open(format!("{BPF_FS}/port-monitor"))?;
    flock(&dir, FlockOperation::LockExclusive)?;
    expect_failure(
        &mut enforced.command("rollback"),
        7,
        &["another port-monitor"],
    )?;
    drop(dir);
    enforced.tell("rollback")?;
    Ok(Verdict::pass())
}

/// `status` tells when somebody has detached a program.
pub(crate) fn detached(lab: &Lab) -> Result<Verdict> {
    let before = bpf::all()?;
    let enforced = Enforced::new(lab, &harmless())?;
    let made: bpf::Objects = bpf::all()?.difference(&before).copied().collect();
    let link = bpf::detach_one(&made)?;
    expect_failure(&mut enforced.command("status"), 3, &["detached"])?;
    Ok(Verdict::Pass(format!("link {link}")))
}

/// Policies take each other's place while connects go on: every verdict is of one of
/// them. Each numbers the rules another way, so that a mixture would decide wrong.
pub(crate) fn reloads(lab: &Lab) -> Result<Verdict> {
    let (applies, rounds) = if lab.native {
        (1_000, 200)
    } else {
        (26, 1_000)
    };
    let ports = Ports::new()?;
    let (denied, allowed) = (ports.denied(), ports.allowed());
    let one = policy(
        "enforce",
        &(rule("denied", denied, "deny") + &rule("allowed", allowed, "allow")),
    );
    let many: String = (1..=40)
        .map(|port| rule(&format!("r{port}"), port, "deny"))
        .collect();
    let other = policy(
        "enforce",
        &(many + &rule("allowed", allowed, "allow") + &rule("denied", denied, "deny")),
    );
    let enforced = Enforced::new(lab, &one)?;
    let paths = [enforced.write(&other)?, enforced.write(&one)?];
    let mut hammer = Hammer::start(&enforced, &ports)?;
    let mut all = Tally::default();
    let mut made = 0;
    while made < applies {
        hammer.begin(rounds)?;
        for path in &paths {
            let output = enforced
                .command("apply")
                .arg(path)
                .args(enforced.place())
                .output()?;
            super::expect_success(&output)?;
            made += 1;
        }
        let tally = hammer.end()?;
        ensure!(
            tally.leaked == 0 && tally.blocked == 0,
            "after {made}: {tally:?}"
        );
        all.refused += tally.refused;
        all.passed += tally.passed;
    }
    Ok(Verdict::Pass(format!(
        "{} connects, {made} policies",
        all.connects()
    )))
}

/// Every refusal and every pass is counted, to the unit.
pub(crate) fn counted(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let rules = rule("denied", ports.denied(), "deny") + &rule("allowed", ports.allowed(), "allow");
    let enforced = Enforced::new(lab, &policy("enforce", &rules))?;
    let mut hammers = [
        Hammer::start(&enforced, &ports)?,
        Hammer::start(&enforced, &ports)?,
    ];
    for hammer in &mut hammers {
        hammer.begin(1_000)?;
    }
    let mut all = Tally::default();
    for hammer in &mut hammers {
        let tally = hammer.end()?;
        ensure!(tally.leaked == 0 && tally.blocked == 0, "{tally:?}");
        all.refused += tally.refused;
        all.passed += tally.passed;
    }
    let hits = (enforced.hits("denied")?, enforced.hits("allowed")?);
    ensure!(hits == (all.refused, all.passed), "{hits:?} hits, {all:?}");
    let status = enforced.status().context("after the count")?;
    ensure!(
        status["policy"]["rules"][0]["last_s"].as_u64() < Some(60),
        "{status}"
    );
    Ok(Verdict::Pass(format!("{} + {}", all.refused, all.passed)))
}
