//! The filters of `history`: those of `watch`, as far as a history has the fact.

use std::{ffi::OsString, path::PathBuf};

use super::place::{Span, unreadable};
use crate::{
    base::exit_code::Failure,
    commands::{
        filter,
        watch::{
            args::{EndArgs, resolve},
            values::parse_pid,
        },
    },
    consume::history::read::{Ended, Reader, User, Wanted},
    kernel::filters::Family,
};

/// Which connections. Different filters all have to match; the values of one are
/// alternatives.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Filters")]
pub(super) struct FilterArgs {
    /// Only what a policy denied, or would have
    #[arg(long)]
    violations: bool,
    /// Only attempts that failed
    #[arg(long, conflicts_with = "open")]
    failed: bool,
    /// Only what is open, or tries to be, as far as the history knows
    #[arg(long)]
    open: bool,
    /// Process ids
    #[arg(short, long, value_name = "PID", value_delimiter = ',', value_parser = parse_pid)]
    pid: Vec<u32>,
    /// Users, by name at the time or by real uid
    #[arg(
        short,
        long,
        value_name = "USER",
        value_delimiter = ',',
        allow_hyphen_values = true
    )]
    user: Vec<String>,
    /// Names of processes, exactly as the kernel has them (15 bytes at most)
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        allow_hyphen_values = true
    )]
    comm: Vec<OsString>,
    /// cgroups and those below them, by path
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    cgroup: Vec<PathBuf>,
    /// systemd units, by name (services without a type, others with it), alias, template or
    /// pattern
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        allow_hyphen_values = true
    )]
    unit: Vec<String>,
    #[command(flatten)]
    ends: EndArgs,
    /// Of `watch`: a history has connections, and no events of them.
    #[arg(long, hide = true, value_name = "LIST")]
    events: Option<String>,
}

impl FilterArgs {
    /// The connections that are wanted of a span of time.
    pub(super) fn wanted(&self, span: Span, reader: &Reader) -> Result<Wanted, Failure> {
        if self.events.is_some() {
            return Err(Failure::usage(
                "--events: a history keeps connections, not each event of them: use --failed, \
                 --open or --direction",
            ));
        }
        let names = resolve(&self.comm, |comm| filter::comm(comm))?;
        let names = names.iter().map(|name| {
            let end = name.iter().position(|&byte| byte == 0);
            name.iter()
                .copied()
                .take(end.unwrap_or(name.len()))
                .collect()
        });
        Ok(Wanted {
            since_ns: span.since_ns,
            until_ns: span.until_ns,
            ended: match (self.failed, self.open) {
                (true, _) => Some(Ended::Failed),
                (_, true) => Some(Ended::NotYet),
                _ => None,
            },
            violations: self.violations,
            pids: self.pid.clone(),
            users: self.users(reader)?,
            names: names.collect(),
            groups: filter::groups(&self.cgroup, &self.unit).map_err(Failure::usage)?,
            local_ports: self.ends.local_port.clone(),
            remote_ports: self.ends.remote_port.clone(),
            any_ports: self.ends.port.clone(),
            service_ports: None,
            networks: self.ends.networks()?,
            is_ipv6: self.ends.family.family().map(|family| family == Family::V6),
            direction: self.ends.direction(),
        })
    }

    /// The users: those of this host, and those that had a name when they were seen.
    fn users(&self, reader: &Reader) -> Result<Vec<User>, Failure> {
        let user = |name: &String| {
            let uid = match filter::uid(name) {
                Ok(uid) => Some(uid),
                Err(_) if reader.has_text(name).map_err(unreadable)? => None,
                Err(error) => return Err(Failure::usage(error)),
            };
            let name = name.clone();
            Ok(User { name, uid })
        };
        self.user.iter().map(user).collect()
    }
}
