//! `on_daemon_exit`: what comes when nobody follows a policy any more.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::{
    Enforced,
    follow::{Follower, is_refused},
    hammer::{Hammer, Ports, Tally},
    life::{harmless, rule},
};
use crate::{
    lab::Lab,
    process::wait_until,
    report::Verdict,
    socket::{Refusing, V4},
};

/// What the policies say.
const LEASE: Duration = Duration::from_secs(3);

/// How long before it was killed a follower may have given its last sign, and how much
/// later than the lease ends it may be seen.
const TOLERANCE: Duration = Duration::from_secs(1);
/// How much later in an emulated guest, where it takes longer to look.
const GUEST_TOLERANCE: Duration = Duration::from_secs(3);

/// The rule's port is denied, the other is not, nor where nothing but the failsafe is.
fn policy(ports: &Ports, failsafe: u16, on_exit: &str) -> String {
    format!(
        "version = 1\nmode = \"enforce\"\n[default]\ninbound = {{ action = \"allow\" }}\n\
         outbound = {{ action = \"allow\", loopback = \"filter\" }}\n\
         [apply]\non_daemon_exit = \"{on_exit}\"\n\
         [failsafe]\noutbound = [{{ port = {failsafe} }}]\n{}until = 2999-12-31T00:00:00Z\n",
        rule("denied", ports.denied(), "deny")
    )
}

/// It stays while it is followed, and gives way in time after that; a follower that
/// comes, or goes on, puts it in force again.
pub(crate) fn gives_way(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let failsafe = Refusing::new(V4)?;
    let enforced = Enforced::new(lab, &harmless())?;
    let mut hammer = Hammer::start(&enforced, &ports)?;
    let is_open = |tally: &Tally| tally.leaked > 0 && tally.passed == 1;
    let is_closed = |tally: &Tally| tally.leaked == 0 && tally.passed == 0;
    let mut took = Vec::new();

    let open = policy(&ports, failsafe.at.port(), "open-after-3s");
    let follower = Follower::start(&enforced, &open, "--no-confirm")?;
    let passed = passes_at(lab, &mut hammer, &follower, is_open)?;
    took.push(passed);
    let exit = &enforced.status()?["daemon_exit"];
    ensure!(exit["then"] == "open" && exit["in_s"] == 0, "told {exit}");

    let closed = policy(&ports, failsafe.at.port(), "closed-after-3s");
    let follower = Follower::start(&enforced, &closed, "--no-confirm")?;
    took.push(passes_at(lab, &mut hammer, &follower, is_closed)?);
    let unheard = follower.unheard();
    ensure!(
        unheard.iter().all(|line| line.starts_with("denied: ")),
        "nothing has changed: {unheard:?}"
    );
    let status = enforced.status()?;
    let exit = &status["daemon_exit"];
    ensure!(
        exit["then"] == "closed"
            && exit["in_s"] == 0
            && status["policy"]["source"] == exit["source"],
        "told {status}"
    );
    ensure!(
        !is_refused(&enforced.cgroup, failsafe.at.port())?,
        "not even the failsafe is allowed"
    );

    // One that was only stopped.
    let follower = Follower::start(&enforced, &open, "--no-confirm")?;
    hammer.expect_held()?;
    follower.signal(Signal::STOP)?;
    wait_until(|| Ok(is_open(&hammer.once()?))).context("it stays though nobody follows it")?;
    follower.signal(Signal::CONT)?;
    wait_until(|| Ok(hammer.once()?.refused > 0)).context("it does not come back")?;
    drop(follower);

    // What waits to be confirmed needs no follower until it is.
    let follower = Follower::start(&enforced, &open, "--confirm=60s")?;
    ensure!(enforced.status()?["daemon_exit"].is_null(), "a lease");
    enforced.tell("confirm")?;
    ensure!(
        enforced.status()?["daemon_exit"]["in_s"].as_u64() > Some(0),
        "no lease"
    );
    drop(follower);
    enforced.tell("rollback")?;
    hammer.expect_held()?;
    Ok(Verdict::Pass(format!("after {took:.1?}")))
}

/// It stays for longer than its lease, and ends one after the follower is killed.
fn passes_at(
    lab: &Lab,
    hammer: &mut Hammer,
    follower: &Follower,
    is_over: impl Fn(&Tally) -> bool,
) -> Result<Duration> {
    let begin = Instant::now();
    while begin.elapsed() < LEASE + TOLERANCE {
        hammer.expect_held()?;
        thread::sleep(TOLERANCE / 10);
    }
    follower.signal(Signal::KILL)?;
    let killed = Instant::now();
    wait_until(|| Ok(is_over(&hammer.once()?))).context("it stays though nobody follows it")?;
    let after = killed.elapsed();
    let late = if lab.native {
        TOLERANCE
    } else {
        GUEST_TOLERANCE
    };
    ensure!(
        LEASE <= after + TOLERANCE * 3 / 2 && after <= LEASE + late,
        "over {after:?} after the follower was killed"
    );
    Ok(after)
}
