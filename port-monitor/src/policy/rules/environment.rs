//! What a policy's names mean on this host. A trait, so that tests need no
//! particular host.

use std::{fs, io, path::Path};

use jiff::Timestamp;
use port_monitor_common::event::FileId;

use crate::{
    host::{file_id, units::Units, users},
    policy::text::network_list::{self, ListError},
    ports::services,
};

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
    /// The systemd units and the cgroups that are there now.
    fn units(&self) -> Units;
    /// Which file is at a path, through symbolic links, or why there is none.
    fn executable(&self, path: &Path) -> io::Result<FileId>;
    /// Wall-clock time, ns since the Unix epoch.
    fn now_ns(&self) -> i128;
    /// The text of a file with networks.
    fn network_list(&self, path: &Path) -> Result<String, ListError> {
        network_list::read(path)
    }
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
        users::uid_of_name(user)
    }

    fn users(&self) -> Vec<String> {
        users::names()
    }

    fn units(&self) -> Units {
        Units::of_host()
    }

    fn executable(&self, path: &Path) -> io::Result<FileId> {
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(io::Error::other("is not a file"));
        }
        file_id::on_host(path)
    }

    fn now_ns(&self) -> i128 {
        Timestamp::now().as_nanosecond()
    }
}
