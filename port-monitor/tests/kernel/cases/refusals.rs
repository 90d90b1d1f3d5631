//! What the monitor refuses to run on, in one line and with exit status 3.

use std::{
    fs,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{Mode, OFlags};

use crate::{btf, enforce::Enforced, lab::Lab, report::Verdict, scenarios::identity::OTHER_USER};

/// The kernel's own type information.
const SYSTEM_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Runs `watch`, which must fail before it shows anything, naming `words`.
fn refused(command: &mut Command, args: &[&str], words: &[&str]) -> Result<Verdict> {
    // If it did attach, it would end by itself.
    let output = command
        .args(["watch", "--duration", "1s"])
        .args(args)
        .output()
        .context("start port-monitor")?;
    let stderr = String::from_utf8(output.stderr)?;
    ensure!(
        output.status.code() == Some(3),
        "{}, not exit status 3: {stderr}",
        output.status
    );
    ensure!(
        output.stdout.is_empty(),
        "something went to standard output"
    );
    ensure!(stderr.lines().count() == 1, "not one line: {stderr}");
    for word in words {
        ensure!(stderr.contains(word), "no `{word}` in: {stderr}");
    }
    Ok(Verdict::Pass(stderr))
}

pub(super) fn not_root(lab: &Lab) -> Result<Verdict> {
    // By descriptor, because the other user may not reach the program's path.
    let program = rustix::fs::open(&lab.program, OFlags::RDONLY, Mode::empty())?;
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.uid(OTHER_USER).gid(OTHER_USER);
    refused(&mut command, &[], &["CAP_BPF", "CAP_PERFMON", "sudo"])
}

fn with_btf(lab: &Lab, path: &Path, words: &[&str]) -> Result<Verdict> {
    let path = path.to_str().context("the path is not UTF-8")?;
    let mut command = Command::new(&lab.program);
    refused(&mut command, &["--btf", path], words)
}

pub(super) fn btf_missing(lab: &Lab) -> Result<Verdict> {
    let path = lab.new_path("btf");
    with_btf(lab, &path, &["BTF", &path.to_string_lossy()])
}

/// Cut off in the middle.
pub(super) fn btf_damaged(lab: &Lab) -> Result<Verdict> {
    let path = lab.new_path("btf");
    let btf = fs::read(SYSTEM_BTF).with_context(|| format!("read {SYSTEM_BTF}"))?;
    let half = btf.get(..btf.len() / 2).unwrap_or_default();
    fs::write(&path, half)?;
    with_btf(lab, &path, &[&path.to_string_lossy()])
}

/// Complete, but of a kernel in which a field lies elsewhere: the self-test
/// finds out.
pub(super) fn btf_foreign(lab: &Lab) -> Result<Verdict> {
    let path = lab.new_path("btf");
    let mut btf = fs::read(SYSTEM_BTF).with_context(|| format!("read {SYSTEM_BTF}"))?;
    btf::move_member(&mut btf, "inet_sock", "inet_sport", 16)?;
    fs::write(&path, btf)?;
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    with_btf(lab, &path, &["local port", &release])
}

/// Where the lock of the kernel's ring buffer sleeps, two writers hang the machine: nothing
/// is attached, not to observe and not to enforce.
pub(super) fn sleeping_ring(lab: &Lab) -> Result<Verdict> {
    const WORDS: [&str; 2] = ["PREEMPT_RT", "raw_spinlock_t"];
    let refused = refused(&mut Command::new(&lab.program), &[], &WORDS)?;
    let mut doctor = Command::new(&lab.program);
    let output = doctor.arg("doctor").output()?;
    let stdout = String::from_utf8(output.stdout)?;
    ensure!(!output.status.success(), "doctor finds nothing wrong");
    for word in WORDS {
        ensure!(stdout.contains(word), "no `{word}` in: {stdout}");
    }
    let applied = Enforced::new(lab, "version = 1\nmode = \"enforce\"\n");
    let told = applied.err().context("a policy was applied")?.to_string();
    for word in WORDS {
        ensure!(told.contains(word), "no `{word}` in: {told}");
    }
    Ok(refused)
}

/// On a kernel with kprobes there is nothing to refuse.
pub(super) fn kprobe_missing(lab: &Lab) -> Result<Verdict> {
    if Path::new("/sys/bus/event_source/devices/kprobe").exists() {
        return Ok(Verdict::Pass("this kernel has kprobes".to_owned()));
    }
    let mut command = Command::new(&lab.program);
    refused(&mut command, &["--backend", "kprobe"], &["kprobe"])
}
