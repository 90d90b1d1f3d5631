//! Where a policy stays that is applied in a mount namespace of one's own.

use std::{
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    fs::statfs,
    mount::{MountFlags, UnmountFlags, mount, unmount},
    thread::UnshareFlags,
};

use super::{
    BPF_FS, BPF_FS_VARIABLE, Enforced, expect_success,
    hammer::{Hammer, Ports},
    life::{denying, harmless},
};
use crate::{lab::Lab, report::Verdict};

/// The tests' second enforcement.
const INSTANCE: &str = "kernel-tests-lasting";
/// What process 1 has.
const LASTING: &str = "/proc/1/root/sys/fs/bpf";

/// A mount namespace.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// The tests': a bpf file system of theirs hides that of process 1.
    OwnBpfFs,
    /// Another, with nothing in `/sys`, as `ip netns exec` makes it: neither a bpf file
    /// system nor cgroups.
    FreshSys,
}

impl Place {
    /// A command about the second enforcement, in this namespace.
    fn command(self, lab: &Lab, words: &[&str]) -> Command {
        let mut command = Command::new(&lab.program);
        command
            .args(words)
            .args(["--instance", INSTANCE])
            .env_remove("SSH_CONNECTION")
            .env_remove(BPF_FS_VARIABLE);
        if matches!(self, Self::FreshSys) {
            // SAFETY: system calls only, between fork and exec of a process with one thread.
            unsafe { command.pre_exec(mount_fresh_sys) };
        }
        command
    }

    fn run(self, lab: &Lab, words: &[&str]) -> Result<Output> {
        Ok(self.command(lab, words).output()?)
    }
}

fn mount_fresh_sys() -> io::Result<()> {
    // SAFETY: file descriptors stay what they are; only paths lead elsewhere.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    unmount(c"/sys", UnmountFlags::DETACH)?;
    Ok(mount(
        c"sysfs",
        c"/sys",
        c"sysfs",
        MountFlags::empty(),
        None,
    )?)
}

/// What is applied there lasts, or is refused with advice that helps.
pub(crate) fn lasting(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let enforced = Enforced::new(lab, &harmless())?;
    let path = enforced.write(&denying(ports.denied()))?;
    let path = path.to_str().context("the path is not UTF-8")?;
    let place = enforced.place();
    let mut apply = vec!["apply", path, "--confirm", "60s"];
    apply.extend(place.iter().map(String::as_str));
    // Process 1 of a shared machine may have none, or be out of reach.
    if !is_reached()? {
        let words = ["process 1", "mount namespace"];
        for place in [Place::OwnBpfFs, Place::FreshSys] {
            for command in ["status", "confirm", "rollback", "panic-open"] {
                expect_refused(&place.run(lab, &[command])?, &words)?;
            }
        }
        expect_refused(&Place::OwnBpfFs.run(lab, &apply)?, &words)?;
        return Ok(Verdict::Pass("refused".to_owned()));
    }
    let mut hammer = Hammer::start(&enforced, &ports)?;
    for (one, other) in [
        (Place::OwnBpfFs, Place::FreshSys),
        (Place::FreshSys, Place::OwnBpfFs),
    ] {
        hammer.expect_free()?;
        expect_success(&one.run(lab, &apply)?)?;
        let dir = Path::new(LASTING).join("port-monitor").join(INSTANCE);
        ensure!(dir.exists(), "not in the bpf file system of process 1");
        hammer.expect_held()?;
        let status = other.run(lab, &["status"])?;
        expect_success(&status)?;
        let text = String::from_utf8(status.stdout)?;
        ensure!(text.contains("undone in"), "{text}");
        expect_success(&other.run(lab, &["confirm"])?)?;
        expect_success(&one.run(lab, &["rollback"])?)?;
        hammer.expect_free()?;
        expect_success(&other.run(lab, &["rollback"])?)?;
        hammer.expect_held()?;
        expect_success(&other.run(lab, &["panic-open"])?)?;
        ensure!(!dir.exists(), "still there");
        hammer.expect_free()?;
    }
    Ok(Verdict::Pass("kept by process 1".to_owned()))
}

/// Process 1 has a bpf file system, and lets this process look.
fn is_reached() -> Result<bool> {
    let Ok(found) = statfs(LASTING) else {
        return Ok(false);
    };
    Ok(found.f_type == statfs(BPF_FS)?.f_type)
}

fn expect_refused(output: &Output, words: &[&str]) -> Result<()> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(3),
        "{}, not 3: {stderr}",
        output.status
    );
    for word in words {
        ensure!(stderr.contains(word), "no `{word}` in: {stderr}");
    }
    Ok(())
}
