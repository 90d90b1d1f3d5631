//! The filters of `history`: those of `watch`, as far as a history has the fact.

use std::{ffi::OsString, path::PathBuf};

use super::place::{Span, unreadable};
use crate::{
    base::exit_code::Failure,
    commands::{
        filter,
        watch::{
            args::{FamilyArgs, resolve},
            values::parse_pid,
        },
    },
    consume::history::read::{Ended, Reader, User, Wanted},
    events::decode::Direction,
    kernel::filters::Family,
    ports::port_set::PortSet,
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
    /// Ports of either end: numbers, ranges a-b, service names, or a class
    /// (well-known, registered, dynamic)
    #[arg(short = 'P', long, value_name = "PORTS")]
    port: Option<PortSet>,
    /// Local ports
    #[arg(short = 'L', long, value_name = "PORTS")]
    local_port: Option<PortSet>,
    /// Remote ports
    #[arg(short = 'R', long, value_name = "PORTS")]
    remote_port: Option<PortSet>,
    /// Remote networks or addresses
    #[arg(long, value_name = "NET", value_delimiter = ',')]
    remote: Vec<String>,
    /// Who opened the connection: in, a peer; out, this host
    #[arg(long, value_name = "DIR")]
    direction: Option<DirectionArg>,
    #[command(flatten)]
    family: FamilyArgs,
    /// Of `watch`: a history has connections, and no events of them.
    #[arg(long, hide = true, value_name = "LIST")]
    events: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum DirectionArg {
    In,
    Out,
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
            local_ports: self.local_port.clone(),
            remote_ports: self.remote_port.clone(),
            any_ports: self.port.clone(),
            service_ports: None,
            networks: resolve(&self.remote, |net| filter::network(net))?,
            is_ipv6: self.family.family().map(|family| family == Family::V6),
            direction: self.direction.map(|direction| match direction {
                DirectionArg::In => Direction::Inbound,
                DirectionArg::Out => Direction::Outbound,
            }),
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
