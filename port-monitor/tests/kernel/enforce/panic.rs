//! `panic-open` ends enforcement whatever is in the way, and nobody who began before it
//! begins it again.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    fs::{FlockOperation, flock},
    mount::{MountFlags, mount_remount},
    process::Signal,
};

use super::{
    BPF_FS, Enforced, INSTANCE, expect_success,
    follow::Follower,
    hammer::{Hammer, Ports},
    life::{denying, expect_failure, harmless},
};
use crate::{bpf, elapsed::timed, lab::Lab, process::wait_until, report::Verdict};

/// How long it may take, whoever holds the lock: what it works and waits, not what it stands in
/// line for a processor.
const PROMPT: Duration = Duration::from_secs(1);

fn parent() -> PathBuf {
    Path::new(BPF_FS).join("port-monitor")
}

fn dir() -> PathBuf {
    parent().join(INSTANCE)
}

/// What is pinned under names that begin with the instance's.
fn pinned() -> Vec<String> {
    let entries = fs::read_dir(parent()).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(INSTANCE)).collect()
}

/// A policy in force is ended in spite of something.
fn ends(
    lab: &Lab,
    what: &str,
    spoil: impl FnOnce() -> Result<Box<dyn std::any::Any>>,
) -> Result<()> {
    let before = bpf::all()?;
    let ports = Ports::new()?;
    let enforced = Enforced::new(lab, &denying(ports.denied()))?;
    let made: bpf::Objects = bpf::all()?.difference(&before).copied().collect();
    let mut hammer = Hammer::start(&enforced, &ports)?;
    hammer.expect_held()?;
    let spoilt = spoil()?;
    let (output, took) = timed(&mut enforced.command("panic-open"))?;
    expect_success(&output).context(what.to_owned())?;
    ensure!(!lab.native || took < PROMPT, "{what}: took {took:?}");
    hammer.expect_free().context(what.to_owned())?;
    ensure!(pinned().is_empty(), "{what}: left {:?}", pinned());
    drop(spoilt);
    bpf::await_gone(&made).context(what.to_owned())
}

/// Somebody holds the lock, the maps are another version's or gone, somebody holds the
/// links, and the file system is half there.
pub(crate) fn is_unconditional(lab: &Lab) -> Result<Verdict> {
    let nothing = || Ok(Box::new(()) as Box<dyn std::any::Any>);
    ends(lab, "nothing in the way", nothing)?;
    ends(lab, "a lock", || {
        let lock = fs::File::open(parent())?;
        flock(&lock, FlockOperation::LockExclusive)?;
        Ok(Box::new(lock))
    })?;
    ends(lab, "another version", || {
        let entries = fs::read_dir(dir())?.flatten();
        let mut paths = entries.map(|entry| entry.path());
        let version = paths
            .find(|path| path.to_string_lossy().contains("version_"))
            .context("no version")?;
        fs::rename(version, dir().join("version_0"))?;
        nothing()
    })?;
    ends(lab, "maps that are gone", || {
        for name in ["pm_state", "pm_policies", "program_pm_connect4"] {
            fs::remove_file(dir().join(name))?;
        }
        nothing()
    })?;
    ends(lab, "more than there should be", || {
        fs::create_dir(dir().join("more"))?;
        fs::create_dir(parent().join(format!("{INSTANCE}_unfinished")))?;
        nothing()
    })?;
    let before = bpf::all()?;
    ends(lab, "links that somebody holds", || {
        let made: bpf::Objects = bpf::all()?.difference(&before).copied().collect();
        Ok(Box::new(bpf::hold_links(&made)?))
    })?;
    Ok(Verdict::pass())
}

/// Where links cannot be removed, it says so, and does it once they can.
pub(crate) fn says_what_is_left(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let enforced = Enforced::new(lab, &denying(ports.denied()))?;
    let mut hammer = Hammer::start(&enforced, &ports)?;
    mount_remount(BPF_FS, MountFlags::RDONLY, "")?;
    let told = expect_failure(
        &mut enforced.command("panic-open"),
        3,
        &["may still decide", "link_pm_", "remove it by hand"],
    );
    mount_remount(BPF_FS, MountFlags::empty(), "")?;
    told?;
    hammer.expect_held()?;
    enforced.tell("panic-open")?;
    hammer.expect_free()?;
    ensure!(pinned().is_empty(), "left {:?}", pinned());
    expect_failure(
        &mut enforced.command("panic-open"),
        2,
        &["no policy is applied"],
    )?;
    Ok(Verdict::pass())
}

/// A process that applies.
fn apply(enforced: &Enforced<'_>, path: &Path) -> Result<Child> {
    enforced
        .command("apply")
        .arg(path)
        .args(enforced.place())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start an apply")
}

/// Whoever was applying when enforcement was ended does not begin it again, wherever he
/// was: with a policy in force before, and without.
pub(crate) fn during_apply(lab: &Lab) -> Result<Verdict> {
    let rounds = if lab.native { 60 } else { 6 };
    let ports = Ports::new()?;
    let enforced = Enforced::new(lab, &harmless())?;
    let mut hammer = Hammer::start(&enforced, &ports)?;
    let path = enforced.write(&denying(ports.denied()))?;
    // How long one takes.
    enforced.tell("panic-open")?;
    let started = Instant::now();
    ensure!(apply(&enforced, &path)?.wait()?.success(), "not applied");
    let takes = started.elapsed();
    let mut refused = 0;
    for round in 0..rounds {
        if round % 2 == 0 {
            let _ = enforced.command("panic-open").output()?;
        }
        let mut child = apply(&enforced, &path)?;
        let attempt = format!("{INSTANCE}_applying_{}", child.id());
        // One that ends before anybody looks is over all the same.
        wait_until(|| Ok(pinned().contains(&attempt) || child.try_wait()?.is_some()))
            .context("no sign of an apply")?;
        thread::sleep(takes * round / rounds);
        // Where nothing was there yet, there is the attempt.
        let _ = enforced.command("panic-open").output()?;
        hammer.expect_free().context("ended")?;
        let output = child.wait_with_output()?;
        hammer.expect_free().context("after the apply")?;
        ensure!(pinned().is_empty(), "round {round}: left {:?}", pinned());
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            ensure!(stderr.contains("has ended enforcement"), "said {stderr}");
            refused += 1;
        }
    }
    Ok(Verdict::Pass(format!("{refused} of {rounds} not applied")))
}

/// A follower that reads its file anew when enforcement is ended does not begin it again.
pub(crate) fn during_reload(lab: &Lab) -> Result<Verdict> {
    let rounds = if lab.native { 12 } else { 3 };
    let ports = Ports::new()?;
    let enforced = Enforced::new(lab, &harmless())?;
    let mut hammer = Hammer::start(&enforced, &ports)?;
    for round in 0..rounds {
        let follower = Follower::start(&enforced, &denying(ports.denied()), "--no-confirm")?;
        hammer.expect_held()?;
        follower.signal(Signal::HUP)?;
        thread::sleep(Duration::from_millis(2) * round);
        enforced.tell("panic-open")?;
        hammer.expect_free()?;
        follower.signal(Signal::HUP)?;
        follower.hear("no longer following")?;
        follower.expect_end()?;
        hammer.expect_free()?;
        ensure!(pinned().is_empty(), "left {:?}", pinned());
        // Nor does one that finds another installation of its name.
        let follower = Follower::start(&enforced, &harmless(), "--no-confirm")?;
        follower.signal(Signal::STOP)?;
        enforced.tell("panic-open")?;
        enforced.apply(&denying(ports.denied()), &["--no-confirm"])?;
        follower.signal(Signal::HUP)?;
        follower.signal(Signal::CONT)?;
        follower.hear("no longer following")?;
        hammer.expect_held()?;
    }
    Ok(Verdict::Pass(format!("{rounds} times")))
}
