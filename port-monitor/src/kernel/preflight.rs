//! What this kernel and this process's privileges allow, before anything is
//! loaded: the difference between a clear refusal and a cryptic one.

use std::{fs, path::Path};

use thiserror::Error;

/// The inode of the initial pid namespace (`PROC_PID_INIT_INO`,
/// `include/linux/proc_ns.h`).
const INITIAL_PID_NS: &str = "pid:[4026531836]";

/// `include/uapi/linux/capability.h`.
const CAP_NET_ADMIN: (u32, &str) = (12, "CAP_NET_ADMIN");
const CAP_SYS_ADMIN: (u32, &str) = (21, "CAP_SYS_ADMIN");
const CAP_PERFMON: (u32, &str) = (38, "CAP_PERFMON");
const CAP_BPF: (u32, &str) = (39, "CAP_BPF");

/// Why nothing can be attached here.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PreflightError {
    /// Missing capabilities.
    #[error("needs {0}: run it with sudo")]
    Privilege(String),
    /// The monitor would see other process ids than the kernel reports.
    #[error(
        "not in the host's pid namespace: run it on the host, or in a container with its pid \
         namespace (--pid=host)"
    )]
    PidNamespace,
    /// Kernel lockdown forbids reading kernel memory.
    #[error(
        "kernel lockdown is in confidentiality mode, which forbids reading kernel memory: boot \
         with lockdown=integrity or none"
    )]
    Lockdown,
    /// Two programs that write into the kernel's ring buffer at once can hang the machine.
    #[error(
        "the ring buffer of this PREEMPT_RT kernel has a lock that sleeps where nothing may, \
         which can hang the machine under load: boot a kernel where it is a raw_spinlock_t, as \
         Linux has since 6.12, or one without PREEMPT_RT"
    )]
    SleepingRing,
}

/// The effective capabilities of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Reads them from `/proc/self/status`.
    pub fn current() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self::parse(&status)
    }

    pub(super) fn parse(status: &str) -> Self {
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        Self(bits.unwrap_or(0))
    }

    const fn has(self, (bit, _): (u32, &str)) -> bool {
        self.0 >> bit & 1 == 1
    }

    /// The capabilities that loading tracing programs needs and this process
    /// lacks.
    pub fn missing(self) -> Vec<&'static str> {
        if self.has(CAP_SYS_ADMIN) {
            return Vec::new();
        }
        [CAP_BPF, CAP_PERFMON]
            .into_iter()
            .filter(|&capability| !self.has(capability))
            .map(|(_, name)| name)
            .collect()
    }

    /// Whether enforcement's cgroup programs could be loaded.
    pub fn has_net_admin(self) -> bool {
        self.has(CAP_NET_ADMIN) || self.has(CAP_SYS_ADMIN)
    }
}

/// The mode of kernel lockdown: `none`, `integrity`, `confidentiality`; `None`
/// when the kernel has no lockdown or securityfs is not mounted.
pub fn lockdown() -> Option<String> {
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    active_mode(&modes)
}

/// The bracketed word: `none [integrity] confidentiality`.
pub(super) fn active_mode(modes: &str) -> Option<String> {
    let (_, rest) = modes.split_once('[')?;
    rest.split_once(']').map(|(mode, _)| mode.to_owned())
}

/// Whether process ids here are those the kernel reports.
pub fn in_host_pid_namespace() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link == Path::new(INITIAL_PID_NS))
}

/// Refuses what cannot work, with the reason.
pub fn check() -> Result<(), PreflightError> {
    let missing = Capabilities::current().missing();
    if !missing.is_empty() {
        return Err(PreflightError::Privilege(missing.join(" and ")));
    }
    if lockdown().as_deref() == Some("confidentiality") {
        return Err(PreflightError::Lockdown);
    }
    if !in_host_pid_namespace() {
        return Err(PreflightError::PidNamespace);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::kernel::preflight::*;

    #[test]
    fn missing_capabilities_are_named() {
        let none = Capabilities::parse("Name:\tx\nCapEff:\t0000000000000000\n");
        assert_eq!(none.missing(), ["CAP_BPF", "CAP_PERFMON"]);
        let bpf_only = Capabilities::parse("CapEff:\t0000008000000000\n");
        assert_eq!(bpf_only.missing(), ["CAP_PERFMON"]);
    }

    #[test]
    fn root_lacks_nothing() {
        let root = Capabilities::parse("CapEff:\t000001ffffffffff\n");
        assert!(root.missing().is_empty());
        assert!(root.has_net_admin());
    }

    #[test]
    fn active_lockdown_mode_is_the_bracketed_one() {
        assert_eq!(
            active_mode("none [integrity] confidentiality\n").as_deref(),
            Some("integrity")
        );
        assert_eq!(active_mode("nonsense"), None);
    }
}
