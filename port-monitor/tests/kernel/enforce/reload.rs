//! What goes on while `apply --follow` reads its file anew: counts, the lease, and whoever
//! is still writing.

use std::{
    fs::{self, File, FileTimes},
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    fs::{FlockOperation, flock},
    process::Signal,
};

use super::{
    BPF_FS, Enforced,
    follow::{Follower, told as count_of},
    hammer::{Hammer, Ports},
    life::{denying, harmless, policy, rule},
};
use crate::{lab::Lab, process::wait_until, report::Verdict};

/// What a policy says of its follower.
const LEASE: Duration = Duration::from_secs(3);

fn leased(rules: &str) -> String {
    let text = policy("enforce", rules);
    text.replace(
        "[default]",
        "[apply]\non_daemon_exit = \"closed-after-3s\"\n[default]",
    )
}

/// Rules that are in the file before and after count on; others begin anew.
pub(crate) fn counts_go_on(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let denied = rule("denied", ports.denied(), "deny");
    let allowed = rule("allowed", ports.allowed(), "allow");
    let enforced = Enforced::new(lab, &policy("enforce", &(denied.clone() + &allowed)))?;
    let mut hammer = Hammer::start(&enforced, &ports)?;
    hammer.expect_held()?;
    let expect = |denied, allowed| {
        let hits = (enforced.hits("denied")?, enforced.hits("allowed")?);
        ensure!(hits == (denied, allowed), "{hits:?} hits");
        anyhow::Ok(())
    };
    expect(9, 1)?;
    // At another place, beside another rule; and one that says something else.
    let more = rule("more", 1, "deny");
    let other = rule("allowed", format!("{}\", \"2", ports.allowed()), "allow");
    let other = other
        .replace("port = \"", "port = [\"")
        .replace("\"2\"", "\"2\"]");
    let changed = policy("enforce", &(more.clone() + &other + &denied));
    enforced.apply(&changed, &["--no-confirm"])?;
    expect(9, 0)?;
    let status = enforced.status()?;
    let last = status["policy"]["rules"][2]["last_s"].as_u64();
    ensure!(
        last.is_some(),
        "when it last decided is forgotten: {status}"
    );
    hammer.expect_held()?;
    expect(18, 1)?;
    enforced.apply(&changed, &["--confirm", "60s"])?;
    expect(18, 1)?;
    // What would have been denied is not what was.
    let observed = changed.replace("\"enforce\"", "\"observe\"");
    enforced.apply(&observed, &["--no-confirm"])?;
    expect(0, 0)?;

    // What a follower tells adds up, over reloads as well.
    let follower = Follower::start(&enforced, &policy("enforce", &denied), "--no-confirm")?;
    let (mut all, mut lines) = (0, Vec::new());
    for rules in [more + &denied, denied.clone()] {
        hammer.begin(50)?;
        all += hammer.end()?.refused;
        follower.replace(&policy("enforce", &rules))?;
        lines.extend(follower.hear_until(": applied, ")?);
    }
    all += hammer.once()?.refused;
    ensure!(enforced.hits("denied")? == all, "not {all} hits");
    follower.signal(Signal::TERM)?;
    lines.extend(follower.expect_end()?);
    let told = lines.iter().filter(|line| line.starts_with("denied: "));
    let told: Vec<(u64, u64)> = told.map(|line| count_of(line)).collect::<Result<_>>()?;
    let sum: u64 = told.iter().map(|(more, _)| more).sum();
    ensure!(
        sum == all && told.last().map(|(_, all)| *all) == Some(all),
        "{all} denied, told: {lines:?}"
    );
    Ok(Verdict::Pass(format!("{all} denied")))
}

/// The lease is renewed while somebody else holds the lock; and taken up again when what
/// took the policy's place is undone.
pub(crate) fn lease_needs_no_lock(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let enforced = Enforced::new(lab, &harmless())?;
    let mut hammer = Hammer::start(&enforced, &ports)?;
    let text = leased(&rule("denied", ports.denied(), "deny"));
    let follower = Follower::start(&enforced, &text, "--no-confirm")?;
    let is_leased = || {
        let status = enforced.status()?;
        Ok(status["daemon_exit"]["in_s"].as_u64() > Some(0))
    };
    ensure!(is_leased()?, "no lease");
    let lock = File::open(format!("{BPF_FS}/port-monitor"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let held = Instant::now();
    while held.elapsed() < 2 * LEASE {
        hammer.expect_held()?;
        thread::sleep(LEASE / 10);
    }
    drop(lock);
    hammer.expect_held()?;
    enforced.apply(&harmless(), &["--confirm", "1s"])?;
    wait_until(is_leased).context("it is not followed again")?;
    hammer.expect_held()?;
    follower.signal(Signal::TERM)?;
    follower.expect_end()?;
    Ok(Verdict::pass())
}

/// SIGHUP is heard before the policy is in force.
pub(crate) fn early_hangup(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let enforced = Enforced::new(lab, &harmless())?;
    // It cannot put anything into force as long as this is held.
    let lock = File::open(format!("{BPF_FS}/port-monitor"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let follower = Follower::spawn(&enforced, &denying(ports.denied()), "--no-confirm")?;
    let attempt = format!(
        "{BPF_FS}/port-monitor/{}_applying_{}",
        super::INSTANCE,
        follower.pid()
    );
    wait_until(|| Ok(fs::exists(&attempt)?)).context("not begun")?;
    follower.signal(Signal::HUP)?;
    drop(lock);
    follower.hear(": applied, ")?;
    follower.hear(": applied, ")?;
    follower.signal(Signal::TERM)?;
    follower.expect_end()?;
    Ok(Verdict::pass())
}

/// A file that somebody is writing is not applied, though what is there of it is a policy;
/// one that was written in place, and looks as before, is.
pub(crate) fn written_in_place(lab: &Lab) -> Result<Verdict> {
    /// Between two rules.
    const PAUSE: Duration = Duration::from_millis(1_200);
    let ports = Ports::new()?;
    let enforced = Enforced::new(lab, &harmless())?;
    let mut hammer = Hammer::start(&enforced, &ports)?;
    let follower = Follower::start(&enforced, &denying(ports.denied()), "--no-confirm")?;
    hammer.expect_held()?;
    let mut file = File::create(follower.path())?;
    file.write_all(harmless().as_bytes())?;
    for nth in 1..=3 {
        thread::sleep(PAUSE);
        file.write_all(rule(&format!("r{nth}"), nth, "deny").as_bytes())?;
        follower.signal(Signal::HUP)?;
        hammer.expect_held()?;
    }
    thread::sleep(PAUSE);
    file.write_all(rule("denied", ports.denied(), "deny").as_bytes())?;
    drop(file);
    let line = follower.hear(": applied, ")?;
    ensure!(line.contains(": applied, 4 rules"), "said {line}");
    hammer.expect_held()?;

    let modified = fs::metadata(follower.path())?.modified()?;
    let text = fs::read_to_string(follower.path())?;
    let [denied, other] = [ports.denied(), ports.denied() - 1].map(|port| port.to_string());
    ensure!(denied.len() == other.len(), "another size");
    fs::write(follower.path(), text.replace(&denied, &other))?;
    let times = FileTimes::new().set_modified(modified);
    let file = File::options().write(true).open(follower.path())?;
    file.set_times(times)?;
    follower.hear(": applied, ")?;
    hammer.expect_free()?;
    follower.signal(Signal::TERM)?;
    follower.expect_end()?;
    Ok(Verdict::pass())
}

/// A list of networks that the policy names is followed as its own file is: a list that is
/// invalid or gone changes nothing, and is told once.
pub(crate) fn list(lab: &Lab) -> Result<Verdict> {
    const LOOPBACK: &str = "127.0.0.0/8\n::1 ; all there is\n";
    let ports = Ports::new()?;
    let list = lab.new_path("networks");
    let replace = |text: &str| {
        let new = list.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, &list).context("replace the list")
    };
    replace("192.0.2.0/24\n")?;
    let name = list.file_name().and_then(|name| name.to_str());
    let text = policy(
        "enforce",
        &format!(
            "{}to = \"blocked\"\n[networks]\nblocked = {{ file = \"{}\" }}\n",
            rule("denied", ports.denied(), "deny"),
            name.context("no name")?
        ),
    );
    let enforced = Enforced::new(lab, &harmless())?;
    let mut hammer = Hammer::start(&enforced, &ports)?;
    let follower = Follower::start(&enforced, &text, "--no-confirm")?;
    hammer.expect_free()?;
    replace(LOOPBACK)?;
    follower.hear(": applied, ")?;
    hammer.expect_held()?;

    replace("192.0.2.0/240\n")?;
    follower.hear("192.0.2.0/240")?;
    follower.hear("the policy in force stays")?;
    hammer.expect_held()?;
    fs::remove_file(&list)?;
    let told = follower.hear_until("the policy in force stays")?;
    let again = told.iter().filter(|line| line.contains("192.0.2.0/240"));
    // In the text of the one error, at most.
    ensure!(
        again.count() <= 1 && told.concat().contains("o such file"),
        "told: {told:?}"
    );
    hammer.expect_held()?;

    // Written in place, and applied once nobody writes it any more.
    fs::write(&list, "192.0.2.0/24\n")?;
    follower.hear(": applied, ")?;
    hammer.expect_free()?;
    follower.signal(Signal::TERM)?;
    let rest = follower.expect_end()?;
    ensure!(
        !rest.iter().any(|line| line.contains("stays")),
        "told twice: {rest:?}"
    );
    Ok(Verdict::pass())
}
