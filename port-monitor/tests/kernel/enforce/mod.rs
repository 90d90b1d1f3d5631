//! Enforcement: what a policy in the kernel refuses, and what it must let through.
//!
//! On a shared machine the policy holds one cgroup, made here, to it; in a guest it
//! holds everything.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    mount::{MountPropagationFlags, mount, mount_change},
    thread::UnshareFlags,
};
use serde_json::Value;

use crate::{bpf, cgroup, lab::Lab, report};

pub(crate) mod asked;
pub(crate) mod beside;
pub(crate) mod cost;
pub(crate) mod datagram;
pub(crate) mod follow;
pub(crate) mod hammer;
pub(crate) mod inbound;
pub(crate) mod life;
pub(crate) mod login;
mod mptcp_pm;
pub(crate) mod namespaces;
pub(crate) mod nat;
pub(crate) mod networks;
pub(crate) mod open;
pub(crate) mod oracle;
pub(crate) mod outbound;
pub(crate) mod owner;
pub(crate) mod panic;
pub(crate) mod reload;
pub(crate) mod service;
pub(crate) mod step;
pub(crate) mod subflow;
pub(crate) mod suite;
pub(crate) mod unfollowed;
pub(crate) mod vector;

/// The name of the tests' enforcement.
const INSTANCE: &str = "kernel-tests";

/// That of a host's policy.
const SERVICE_INSTANCE: &str = "main";

/// Where policies have their names.
pub(crate) const BPF_FS: &str = "/sys/fs/bpf";

/// The variable by which port-monitor pins there, and not where process 1 would keep it.
pub(crate) const BPF_FS_VARIABLE: &str = "PORT_MONITOR_BPF_FS";

/// Gives this process, and all it starts, a bpf file system of their own: nothing
/// pinned in it outlives them. The process must have one thread.
pub(crate) fn use_own_bpf_fs() -> Result<()> {
    // SAFETY: file descriptors stay what they are; only paths lead elsewhere.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
        .context("unshare(CLONE_NEWNS)")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("make mounts private")?;
    let flags = rustix::mount::MountFlags::empty();
    mount("bpf", BPF_FS, "bpf", flags, None).context("mount a bpf file system")?;
    // SAFETY: no other thread reads the environment.
    unsafe { env::set_var(BPF_FS_VARIABLE, BPF_FS) };
    Ok(())
}

/// A policy in force; dropping it ends that.
#[derive(Debug)]
pub(crate) struct Enforced<'l> {
    lab: &'l Lab,
    /// The cgroup that is held to it; the root in a guest.
    pub(crate) cgroup: String,
    /// Its name.
    instance: &'static str,
}

impl<'l> Enforced<'l> {
    /// Applies a policy.
    pub(crate) fn new(lab: &'l Lab, policy: &str) -> Result<Self> {
        let cgroup = if lab.native {
            lab.cgroups.held()
        } else {
            String::new()
        };
        let enforced = Self {
            lab,
            cgroup,
            instance: INSTANCE,
        };
        enforced.apply(policy, &["--no-confirm"])?;
        Ok(enforced)
    }

    /// What a service applies to the whole host, which is nothing yet.
    pub(crate) const fn by_service(lab: &'l Lab) -> Self {
        Self {
            lab,
            cgroup: String::new(),
            instance: SERVICE_INSTANCE,
        }
    }

    /// Applies another policy in its place.
    pub(crate) fn apply(&self, policy: &str, args: &[&str]) -> Result<()> {
        let path = self.write(policy)?;
        let output = self
            .command("apply")
            .arg(path)
            .args(self.place())
            .args(args)
            .output()?;
        expect_success(&output)
    }

    /// Writes a policy into a file.
    pub(crate) fn write(&self, policy: &str) -> Result<PathBuf> {
        let path = self.lab.new_path("toml");
        fs::write(&path, policy).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// What attaches to the tests' cgroup only; to the whole host where a service does.
    pub(crate) fn place(&self) -> Vec<String> {
        if self.instance == SERVICE_INSTANCE {
            return Vec::new();
        }
        let place = match self.cgroup.as_str() {
            "" => "/",
            cgroup => cgroup,
        };
        ["--cgroup", place].map(str::to_owned).to_vec()
    }

    /// A command about this enforcement.
    pub(crate) fn command(&self, command: &str) -> Command {
        let mut program = Command::new(&self.lab.program);
        program
            .args([command, "--instance", self.instance])
            .env_remove("SSH_CONNECTION");
        program
    }

    /// Runs a command, which must succeed.
    pub(crate) fn tell(&self, command: &str) -> Result<()> {
        expect_success(&self.command(command).output()?)
    }

    /// What `status` tells.
    pub(crate) fn status(&self) -> Result<Value> {
        let output = self.command("status").arg("--json").output()?;
        expect_success(&output)?;
        serde_json::from_slice(&output.stdout).context("read the status")
    }

    /// How often a rule, or a default, decided.
    pub(crate) fn hits(&self, name: &str) -> Result<u64> {
        let status = self.status()?;
        let rows = ["rules", "defaults"].map(|list| status["policy"][list].as_array());
        let row = rows.into_iter().flatten().flatten();
        row.into_iter()
            .find(|row| row["name"] == name)
            .and_then(|row| row["hits"].as_u64())
            .with_context(|| format!("no hits of {name} in {status}"))
    }
}

/// This program.
pub(crate) fn this_program() -> Result<Command> {
    Ok(Command::new(
        env::current_exe().context("find this program")?,
    ))
}

impl Drop for Enforced<'_> {
    fn drop(&mut self) {
        // A test that ended it itself has nothing left to end.
        let _ = self.command("panic-open").output();
    }
}

pub(crate) fn expect_success(output: &Output) -> Result<()> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}: {}",
        output.status,
        stderr.trim()
    );
    Ok(())
}

/// Prints how many instructions the verifier walked through.
pub(crate) fn report_instructions() -> Result<()> {
    const PROGRAMS: [&str; 9] = [
        "pm_connect4",
        "pm_connect6",
        "pm_sendmsg4",
        "pm_sendmsg6",
        "pm_bind4",
        "pm_bind6",
        "pm_ingress",
        "pm_unlisted",
        "pm_lookup",
    ];
    for program in bpf::programs(&bpf::all()?)? {
        if PROGRAMS.contains(&program.name.as_str()) {
            report::verified_insns(&program.name, program.verified_insns)?;
        }
    }
    Ok(())
}

/// Moves the calling process into the cgroup that is held to the policy.
pub(crate) fn enter(path: &str) -> Result<()> {
    if path.is_empty() {
        return Ok(());
    }
    cgroup::enter(path)
}
