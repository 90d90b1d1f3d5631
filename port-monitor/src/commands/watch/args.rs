//! The flags of `watch`, and what they mean: strings in, settings out.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::ValueEnum;
use port_monitor_common::{event::EventKind, policy::Network, site::Site};

use super::{
    service::{self, JUDGED},
    values::{
        parse_count, parse_latency, parse_level, parse_max_connections, parse_pid, parse_program,
        parse_progress, parse_ring_size, parse_site,
    },
};
use crate::{
    base::{
        duration,
        exit_code::{ExitCode, Failure, OrExit as _},
    },
    commands::{
        filter::{self, FilterError},
        told::note,
    },
    consume::{
        self, FanOut, SinkKind,
        consumer::{Kinds, Needs},
        consumers,
    },
    events::{decode::Direction, record::Summary},
    host::groups::Groups,
    kernel::{
        Backend, DEFAULT_LATENCY, DEFAULT_MAX_CONNECTIONS, DEFAULT_RING_BYTES, Settings,
        faults::Faults,
        filters::{Family, Filters},
    },
    ports::port_set::PortSet,
};

/// Flags of `watch`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    pub(super) output: consume::output::args::Args,
    #[command(flatten)]
    pub(in crate::commands) consumers: consumers::Args,
    /// Tell in JSON how processes were called (`process.args`), without passwords and tokens
    /// in their usual places
    #[arg(long = "process-args", help_heading = "Output")]
    pub(in crate::commands) tells_how_called: bool,
    /// Tell every so often what the connections that are open have carried so far: 10s, 1m
    ///
    /// A look at them takes a hundredth of the time at most: where there are very many, the
    /// next one comes later.
    #[arg(long, value_name = "TIME", value_parser = parse_progress, help_heading = "Output")]
    pub(in crate::commands) progress: Option<Duration>,
    #[command(flatten)]
    pub(in crate::commands) policy: PolicyArgs,
    #[command(flatten)]
    kernel: KernelArgs,
    #[command(flatten)]
    pub(super) service: service::Args,
    /// Stop after this long: 30s, 5m, 2h
    #[arg(long, value_name = "TIME", value_parser = duration::parse, help_heading = "Stopping")]
    pub(super) duration: Option<Duration>,
    /// Stop after this many events
    #[arg(long, value_name = "N", value_parser = parse_count, help_heading = "Stopping")]
    pub(super) count: Option<u64>,
    /// Exit 4 if events were lost, or may have been
    #[arg(long, help_heading = "Stopping")]
    pub(super) fail_on_loss: bool,
    /// Run this command, watch only it and its children, stop when it ends
    ///
    /// Its standard output goes to standard error, so that standard output
    /// carries events only; with --output-file it is left alone. How it ended is
    /// in the summary. What it leaves behind in the background, as `setsid -f`
    /// does, is watched no longer than that. Where the run ends first, the command
    /// is sent SIGTERM; if it goes on, standard error says so after two seconds.
    #[arg(last = true, value_name = "CMD", help_heading = "Command")]
    pub(super) command: Vec<OsString>,
}

/// What to keep. Different filters all have to match; the values of one are
/// alternatives. They run in the kernel, and what they drop is counted.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Filters")]
struct FilterArgs {
    #[command(flatten)]
    selection: Selection,
    /// Kinds of events [default: all in JSON; connected, failed, accept, close, restored
    /// in a table, where an attempt is one line, with its outcome]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    events: Vec<EventArg>,
}

/// Which connections to keep, whatever happens to them.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Filters")]
pub(in crate::commands) struct Selection {
    #[command(flatten)]
    owner: OwnerArgs,
    /// Names of the processes or threads that act, exactly as the kernel has them (15 bytes
    /// at most)
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        allow_hyphen_values = true
    )]
    comm: Vec<OsString>,
    #[command(flatten)]
    ends: EndArgs,
}

impl Selection {
    /// Which events the kernel keeps.
    pub(in crate::commands) fn filters(&self) -> Result<Filters, Failure> {
        Ok(Filters {
            pids: self.owner.pids()?,
            uids: self.owner.uids()?,
            comms: resolve(&self.comm, |comm| filter::comm(comm))?,
            groups: self.owner.groups()?,
            tree: false,
            local_ports: self.ends.local_port.clone(),
            remote_ports: self.ends.remote_port.clone(),
            any_ports: self.ends.port.clone(),
            remote_nets: self.ends.networks()?,
            family: self.ends.family.family(),
            direction: self.ends.direction(),
            only_denied: false,
        })
    }
}

/// Whose sockets are meant.
#[derive(Debug, clap::Args)]
pub(in crate::commands) struct OwnerArgs {
    /// Process ids, of processes that run now
    #[arg(short, long, value_name = "PID", value_delimiter = ',', value_parser = parse_pid)]
    pid: Vec<u32>,
    /// Users, by name or real uid
    #[arg(
        short,
        long,
        value_name = "USER",
        value_delimiter = ',',
        allow_hyphen_values = true
    )]
    user: Vec<String>,
    /// cgroups and those below them, by path; those that come later too
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    cgroup: Vec<PathBuf>,
    /// systemd units, by name (services without a type, others with it), alias, template or
    /// pattern; those that start later too
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        allow_hyphen_values = true
    )]
    unit: Vec<String>,
}

/// Which ends the connections have.
#[derive(Debug, clap::Args)]
pub(in crate::commands) struct EndArgs {
    /// Ports of either end: numbers, ranges a-b, service names, or a class
    /// (well-known, registered, dynamic)
    #[arg(short = 'P', long, value_name = "PORTS")]
    pub(in crate::commands) port: Option<PortSet>,
    /// Local ports
    #[arg(short = 'L', long, value_name = "PORTS")]
    pub(in crate::commands) local_port: Option<PortSet>,
    /// Remote ports
    #[arg(short = 'R', long, value_name = "PORTS")]
    pub(in crate::commands) remote_port: Option<PortSet>,
    /// Remote networks or addresses
    #[arg(long, value_name = "NET", value_delimiter = ',')]
    remote: Vec<String>,
    /// Who opened the connection: in, a peer; out, this host
    #[arg(long, value_name = "DIR")]
    direction: Option<DirectionArg>,
    #[command(flatten)]
    pub(in crate::commands) family: FamilyArgs,
}

/// Which version of IP is meant.
#[derive(Debug, clap::Args)]
pub(in crate::commands) struct FamilyArgs {
    /// IPv4 only, IPv4-mapped IPv6 included
    #[arg(short = '4', long = "ipv4", conflicts_with = "ipv6")]
    ipv4: bool,
    /// IPv6 only
    #[arg(short = '6', long = "ipv6")]
    ipv6: bool,
}

/// The policy to judge by.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Policy")]
pub(in crate::commands) struct PolicyArgs {
    /// Judge every connection by this policy, and mark violations
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    pub(in crate::commands) policy: Option<PathBuf>,
    /// Show only violations: what the kernel can tell to be allowed never leaves it
    #[arg(long, requires = JUDGED)]
    pub(super) violations: bool,
    /// Exit 1 if there was a violation
    #[arg(long, requires = JUDGED)]
    pub(super) fail_on_violation: bool,
}

/// How the kernel is asked.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Kernel")]
pub(in crate::commands) struct KernelArgs {
    /// The hooks to use: auto takes the first that attach
    #[arg(long, value_name = "BACKEND", default_value = "auto")]
    backend: BackendChoice,
    /// Size of the kernel's ring buffer, and of the one for violations: a power of two, 4K
    /// or more
    #[arg(long, value_name = "BYTES", value_parser = parse_ring_size)]
    ring_size: Option<u32>,
    /// How late an event may be shown, one second at most: the longer, the less CPU
    /// and the more room in the ring it takes [default: 5ms]
    #[arg(long, value_name = "TIME", value_parser = parse_latency)]
    latency: Option<Duration>,
    /// Connections to remember until they end; one within this host counts twice
    ///
    /// The kernel takes 144 bytes for each, at the start. Of a connection that
    /// finds no room, outcome and end are not reported; how many there were is in
    /// the summary.
    #[arg(
        long,
        value_name = "N",
        default_value_t = DEFAULT_MAX_CONNECTIONS,
        value_parser = parse_max_connections
    )]
    max_connections: u32,
    /// What the eBPF programs log to standard error: error, warn, info, debug,
    /// trace
    #[arg(long, value_name = "LEVEL", value_parser = parse_level)]
    bpf_log: Option<log::Level>,
    /// For tests: where the eBPF programs are to fail
    #[arg(long, hide = true, value_parser = parse_site)]
    test_fault: Option<Site>,
    /// For tests: a program that does not work
    #[arg(long, hide = true, value_parser = parse_program)]
    test_program: Option<&'static str>,
    /// For tests: listeners there is room for
    #[arg(long, hide = true, default_value_t = 0)]
    test_listeners: u32,
    /// The kernel's BTF, instead of /sys/kernel/btf/vmlinux
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    btf: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BackendChoice {
    /// The first of the following that attaches
    Auto,
    /// BPF trampolines: cheapest, sees most
    Fentry,
    /// Kprobes, where there are no trampolines
    Kprobe,
    /// A raw tracepoint on TCP state changes
    Tracepoint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DirectionArg {
    In,
    Out,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EventArg {
    /// An attempt to connect
    Connect,
    /// An accepted connection
    Accept,
    /// An attempt that succeeded
    Connected,
    /// An attempt that failed
    Failed,
    /// The end of a connection
    Close,
    /// A socket that was there before the start
    Preexisting,
    /// A socket that listens from now on
    Listen,
    /// A socket that does not listen any more
    Unlisten,
    /// A connection that was put into a socket (`TCP_REPAIR`), without a handshake
    Restored,
}

impl Args {
    /// How much the eBPF programs are to log.
    pub(crate) fn bpf_log(&self) -> Option<log::Level> {
        self.kernel.bpf_log()
    }

    /// The command to run and watch; empty where there is none.
    pub(crate) fn command(&self) -> &[OsString] {
        &self.command
    }

    /// Events are told in JSON somewhere.
    pub(super) const fn tells_json(&self) -> bool {
        matches!(self.output.destination.output, SinkKind::Json) || self.consumers.tell_json()
    }

    /// What the kernel side is to do, for consumers of these `needs`.
    pub(in crate::commands) fn settings(&self, filters: Filters, needs: Needs) -> Settings {
        let filters = Filters {
            only_denied: !needs.allowed,
            ..filters
        };
        self.kernel.settings(needs.kinds.iter().collect(), filters)
    }

    /// Opens what takes the events.
    ///
    /// To be called before anything is attached: a file that cannot be written
    /// must not cost a connection its events.
    pub(super) fn consumers(&self) -> Result<FanOut, Failure> {
        let needs = Needs {
            kinds: self.kinds(self.output.destination.output),
            allowed: !self.policy.violations,
            peers: self.output.names_peers(),
        };
        let shown = self.output.open()?.only(needs, self.count);
        let mut all = FanOut::new(shown);
        let file = self.output.destination.output_file();
        for consumer in self.consumers.open(self.kinds(SinkKind::Json), file)? {
            all.add(consumer).or_exit(ExitCode::OutputFailed)?;
        }
        Ok(all)
    }

    /// How a run with this account ends.
    pub(in crate::commands) fn exit_code(&self, summary: &Summary) -> ExitCode {
        if summary.is_incomplete() {
            ExitCode::OutputFailed
        } else if self.fail_on_loss && summary.has_losses() {
            ExitCode::EventsLost
        } else if self.policy.fail_on_violation && summary.violations > 0 {
            ExitCode::Violation
        } else {
            ExitCode::Ok
        }
    }

    /// The kinds of event that `output` has: those that are asked for, and progress.
    pub(in crate::commands) fn kinds(&self, output: SinkKind) -> Kinds {
        let chosen = self.filters.events.iter().map(|&event| event.into());
        // The service tells it, or does not.
        let is_told = self.progress.is_some() || self.service.socket().is_some();
        let progress = is_told.then_some(EventKind::Progress);
        match output {
            _ if !self.filters.events.is_empty() => chosen.chain(progress).collect(),
            SinkKind::Json => {
                let all = EventKind::ALL.into_iter();
                let all = all.filter(|kind| *kind != EventKind::Progress);
                all.chain(progress).collect()
            }
            SinkKind::Table => [
                EventKind::Connected,
                EventKind::Failed,
                EventKind::Accept,
                EventKind::Close,
                EventKind::Restored,
            ]
            .into_iter()
            .chain(progress)
            .collect(),
        }
    }

    /// Which events the kernel keeps.
    pub(in crate::commands) fn filters(&self) -> Result<Filters, Failure> {
        Ok(Filters {
            tree: !self.command.is_empty(),
            ..self.filters.selection.filters()?
        })
    }
}

impl OwnerArgs {
    /// The processes that are there. Of several, those that are gone are told.
    pub(in crate::commands) fn pids(&self) -> Result<Vec<u32>, Failure> {
        let mut there = Vec::new();
        let mut gone = Vec::new();
        for &pid in &self.pid {
            match filter::process(pid) {
                Ok(pid) => there.push(pid),
                Err(error @ FilterError::NoProcess { .. }) => gone.push(error),
                Err(error) => return Err(Failure::usage(error)),
            }
        }
        if let (true, Some(error)) = (there.is_empty(), gone.first()) {
            return Err(Failure::usage(error));
        }
        for error in &gone {
            note(error);
        }
        Ok(there)
    }

    /// The users' ids.
    pub(in crate::commands) fn uids(&self) -> Result<Vec<u32>, Failure> {
        resolve(&self.user, |user| filter::uid(user))
    }

    /// The cgroups of `--cgroup` and `--unit`.
    pub(in crate::commands) fn groups(&self) -> Result<Groups, Failure> {
        filter::groups(&self.cgroup, &self.unit).map_err(Failure::usage)
    }
}

impl EndArgs {
    /// The networks of `--remote`.
    pub(in crate::commands) fn networks(&self) -> Result<Vec<Network>, Failure> {
        resolve(&self.remote, |net| filter::network(net))
    }

    /// Who opened the connections.
    pub(in crate::commands) fn direction(&self) -> Option<Direction> {
        self.direction.map(Direction::from)
    }
}

impl FamilyArgs {
    /// The family to keep.
    pub(in crate::commands) const fn family(&self) -> Option<Family> {
        match (self.ipv4, self.ipv6) {
            (true, _) => Some(Family::V4),
            (_, true) => Some(Family::V6),
            _ => None,
        }
    }
}

impl KernelArgs {
    /// How much the eBPF programs are to log.
    pub(in crate::commands) const fn bpf_log(&self) -> Option<log::Level> {
        self.bpf_log
    }

    /// What the kernel side is to do: report these kinds, and keep those.
    pub(in crate::commands) fn settings(
        &self,
        kinds: Vec<EventKind>,
        filters: Filters,
    ) -> Settings {
        Settings {
            backend: match self.backend {
                BackendChoice::Auto => None,
                BackendChoice::Fentry => Some(Backend::Fentry),
                BackendChoice::Kprobe => Some(Backend::Kprobe),
                BackendChoice::Tracepoint => Some(Backend::Tracepoint),
            },
            kinds,
            filters,
            ring_bytes: self.ring_size.unwrap_or(DEFAULT_RING_BYTES),
            latency: self.latency.unwrap_or(DEFAULT_LATENCY),
            max_connections: self.max_connections,
            log_level: self.bpf_log,
            btf: self.btf.clone(),
            faults: Faults {
                listeners: self.test_listeners,
                site: self.test_fault,
                program: self.test_program,
            },
            ..Settings::default()
        }
    }
}

/// Looks every value up; the first that is wrong is a mistake on the command
/// line.
pub(in crate::commands) fn resolve<A, T, E: std::fmt::Display>(
    values: &[A],
    look_up: impl Fn(&A) -> Result<T, E>,
) -> Result<Vec<T>, Failure> {
    let found: Result<Vec<T>, E> = values.iter().map(look_up).collect();
    found.map_err(|error| Failure::new(ExitCode::Usage, anyhow::anyhow!("{error}")))
}

impl From<DirectionArg> for Direction {
    fn from(arg: DirectionArg) -> Self {
        match arg {
            DirectionArg::In => Self::Inbound,
            DirectionArg::Out => Self::Outbound,
        }
    }
}

impl From<EventArg> for EventKind {
    fn from(arg: EventArg) -> Self {
        match arg {
            EventArg::Connect => Self::Connect,
            EventArg::Accept => Self::Accept,
            EventArg::Connected => Self::Connected,
            EventArg::Failed => Self::Failed,
            EventArg::Close => Self::Close,
            EventArg::Preexisting => Self::Preexisting,
            EventArg::Listen => Self::Listen,
            EventArg::Unlisten => Self::Unlisten,
            EventArg::Restored => Self::Restored,
        }
    }
}
