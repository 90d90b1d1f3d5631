//! What a policy's names mean on this host. A trait, so that tests need no
//! particular host.

use std::{fs, path::Path};

use jiff::Timestamp;

use crate::services;

/// Looks names up.
pub trait Environment {
    /// The TCP ports of a service; empty for an unknown one.
    fn service_ports(&self, service: &str) -> Vec<u16>;
    /// A service whose name is close.
    fn nearest_service(&self, service: &str) -> Option<String>;
    /// The uid of a user.
    fn uid(&self, user: &str) -> Option<u32>;
    /// The users whose names suggestions may give.
    fn users(&self) -> Vec<String>;
    /// The systemd unit is installed or running.
    fn has_unit(&self, unit: &str) -> bool;
    /// Wall-clock time, ns since the Unix epoch.
    fn now_ns(&self) -> i128;
}

/// This host.
#[derive(Clone, Copy, Debug)]
pub struct Host;

impl Environment for Host {
    fn service_ports(&self, service: &str) -> Vec<u16> {
        services::ports_named(service).collect()
    }

    fn nearest_service(&self, service: &str) -> Option<String> {
        services::suggest(service).map(str::to_owned)
    }

    fn uid(&self, user: &str) -> Option<u32> {
        uzers::get_user_by_name(user).map(|user| user.uid())
    }

    fn users(&self) -> Vec<String> {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        passwd
            .lines()
            .filter_map(|line| line.split(':').next())
            .map(str::to_owned)
            .collect()
    }

    fn has_unit(&self, unit: &str) -> bool {
        const DIRS: [&str; 7] = [
            "/etc/systemd/system",
            "/run/systemd/system",
            "/run/systemd/transient",
            "/run/systemd/generator",
            "/usr/lib/systemd/system",
            "/lib/systemd/system",
            // Running units that no file made.
            "/sys/fs/cgroup/system.slice",
        ];
        // `worker@1.service` is an instance of `worker@.service`.
        let template = unit
            .split_once('@')
            .zip(unit.rsplit_once('.'))
            .map(|((stem, _), (_, kind))| format!("{stem}@.{kind}"));
        DIRS.iter()
            .flat_map(|dir| [Some(unit), template.as_deref()].map(|name| (dir, name)))
            .any(|(dir, name)| name.is_some_and(|name| Path::new(dir).join(name).exists()))
            || Path::new("/sys/fs/cgroup").join(unit).exists()
    }

    fn now_ns(&self) -> i128 {
        Timestamp::now().as_nanosecond()
    }
}
