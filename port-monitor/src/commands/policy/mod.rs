//! `port-monitor policy`: check a policy, explain what it decides, try it, or compare
//! it with another.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::{self, Path, PathBuf},
};

use clap::{Subcommand, ValueEnum};
use port_monitor_common::{
    event::FileId,
    policy::{Direction, Transport},
};
use serde::{Deserialize, Serialize};

use self::explained::ExplainReport;
use super::told::{note, written};
use crate::{
    base::{
        exit_code::{ExitCode, Failure, OrExit as _},
        sanitize::Escaped,
    },
    host::{file_id::plain, units, users},
    policy::{
        Diagnostic, Environment, Facts, Host, Policy, PolicyError, are_one_stream,
        text::{
            network::{network, reached_by},
            problem::Problem,
            schema::json_schema,
        },
    },
};

mod cases;
mod diff;
mod explained;
mod export;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod learn;
mod learned;
mod live;
mod recording;
mod replay;

/// Arguments of `policy`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a policy: syntax, names, and rules that never decide
    Check(CheckArgs),
    /// Tell what a policy decides on one connection, and why
    Explain(ExplainArgs),
    /// Try a policy: on cases that say what is expected, or on recorded connections
    Test(TestArgs),
    /// List the connections that two policies decide differently
    ///
    /// The list is exact: every connection that one policy allows and the other denies
    /// is in it, and no other. `+` is what the new policy allows, `-` what it denies.
    /// Each has the rule of either policy that decides, and a connection as `explain`
    /// takes it. Units, cgroups and executables are those the two rules ask for: of an
    /// owner that belongs to further ones, other rules may decide. The exit status is 0
    /// if the policies are alike and 1 if they differ.
    Diff(diff::DiffArgs),
    /// Print a policy in the language of another program
    ///
    /// `nft` is an nftables ruleset that decides as the policy does, and denies. It
    /// cannot match units, cgroups, executables and the user of an inbound connection,
    /// nor judge what listens or UDP: a policy that asks for them is refused, unless
    /// `--partial` leaves such rules out. It never leaves out a deny rule without which
    /// more would be allowed. It judges the addresses that programs see: what they send
    /// before redirect and DNAT, what they receive after SNAT.
    Export(export::ExportArgs),
    /// Make a policy of connections, recorded or as they happen
    ///
    /// It allows what was seen, by owner (systemd service, else executable, else user),
    /// direction, service port and the exact addresses of the peers, each rule with its
    /// evidence, and denies the rest. Addresses are joined to a network only where all
    /// of it was seen. The policy observes; it is to be read before it is used.
    Learn(learn::LearnArgs),
    /// Print the JSON Schema of a policy file, for editors
    ///
    /// Editors that know TOML use it for a policy whose first line is
    /// `#:schema ./policy.schema.json`, with the name that was given to the schema.
    Schema,
}

#[derive(Debug, clap::Args)]
struct FileArgs {
    /// The policy
    #[arg(
        long = "policy",
        value_name = "FILE",
        allow_hyphen_values = true,
        default_value = "/etc/port-monitor/policy.toml"
    )]
    path: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Debug, clap::Args)]
struct ExplainArgs {
    /// `in`: the peer connects to this host; `out`: this host connects to it;
    /// `listen`: a socket of this host listens
    #[arg(value_name = "DIR")]
    direction: Dir,
    /// The transport: `udp` is judged only with `out`
    #[arg(value_name = "PROTO")]
    transport: TransportArg,
    /// The peer's address and the port of the service: with `out` the peer's
    /// port, with `in` the port of this host that the peer connects to. With
    /// `listen` the address does not matter. Port 0 is one that is not known
    #[arg(value_name = "ADDR:PORT", value_parser = endpoint)]
    endpoint: SocketAddr,
    /// Who owns the connection; left out, rules that ask for a user do not match
    #[arg(long, value_name = "NAME|UID", allow_hyphen_values = true)]
    user: Option<String>,
    /// The owner's systemd unit, by any of its names; without a type, a service
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    unit: Option<String>,
    /// The owner's cgroup v2 path, such as /system.slice/app.service
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    cgroup: Option<String>,
    /// The owner's executable: the file that PATH names on this host, by any of its names;
    /// where there is none, the path itself
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    exe: Option<PathBuf>,
    /// The kernel itself acts, as for an NFS mount: a thread of its own, which the defaults
    /// spare
    #[arg(long, conflicts_with_all = ["exe", "unit"])]
    kernel: bool,
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Debug, clap::Args)]
struct TestArgs {
    /// Cases and what is expected of each; `-` is the standard input [default:
    /// policy.test.toml beside the policy]
    #[arg(
        long,
        value_name = "FILE",
        allow_hyphen_values = true,
        conflicts_with = "replay"
    )]
    cases: Option<PathBuf>,
    /// Connections recorded with `-o json`, or `-`: tell which of them the policy would
    /// deny
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    replay: Option<PathBuf>,
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Dir {
    In,
    Out,
    Listen,
}

impl From<Dir> for Direction {
    fn from(direction: Dir) -> Self {
        match direction {
            Dir::In => Self::Inbound,
            Dir::Out => Self::Outbound,
            Dir::Listen => Self::Listen,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum TransportArg {
    #[default]
    Tcp,
    Udp,
}

impl From<TransportArg> for Transport {
    fn from(arg: TransportArg) -> Self {
        match arg {
            TransportArg::Tcp => Self::Tcp,
            TransportArg::Udp => Self::Udp,
        }
    }
}

fn endpoint(text: &str) -> Result<SocketAddr, String> {
    if text.contains('%') {
        let problem = "rules do not ask for an interface: leave out the `%` and what follows it";
        return Err(problem.to_owned());
    }
    text.parse().map_err(|_| {
        let addr = text.rsplit_once(':').map_or(text, |(addr, _)| addr);
        match network(addr) {
            Err(problem @ Problem::LeadingZero(_)) => problem.with_help(),
            _ => "expected ADDR:PORT, such as 10.1.2.3:443 or [2001:db8::1]:443".to_owned(),
        }
    })
}

/// A peer's address, by the words in which a policy would be told what is wrong with it.
fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| match network(text) {
        Ok(_) => format!("`{text}` is a network: a connection has one peer"),
        Err(Problem::NotANetwork(_)) => format!("`{}` is not an address", text.escape_debug()),
        Err(problem) => problem.with_help(),
    })
}

/// Runs a subcommand of `policy`; the answer goes to `out`.
pub fn run(args: &Args, out: impl Write) -> Result<ExitCode, Failure> {
    match &args.command {
        Command::Check(args) => check(args, out),
        Command::Explain(args) => explain(args, out),
        Command::Test(args) => match &args.replay {
            Some(recording) => replay::run(&args.file, recording, out),
            None => cases::run(&args.file, args.cases.as_deref(), out),
        },
        Command::Diff(args) => diff::run(args, out),
        Command::Export(args) => export::run(args, out),
        Command::Learn(args) => learn::run(args, out),
        Command::Schema => schema(out),
    }
}

fn schema(mut out: impl Write) -> Result<ExitCode, Failure> {
    let text = serde_json::to_string_pretty(&json_schema()).or_exit(ExitCode::OutputFailed)?;
    written(writeln!(out, "{text}"))
}

fn check(args: &CheckArgs, mut out: impl Write) -> Result<ExitCode, Failure> {
    let path = &args.file.path;
    if args.file.json {
        return check_json(path, out);
    }
    let count = super::load::load(path)?.rule_count();
    let noun = if count == 1 { "rule" } else { "rules" };
    written(writeln!(out, "{}: ok, {count} {noun}", path.display()))
}

fn check_json(path: &Path, out: impl Write) -> Result<ExitCode, Failure> {
    let (rules, diagnostics) = match Policy::load(path, &Host) {
        Ok((policy, warnings)) => (Some(policy.rule_count()), warnings),
        Err(PolicyError::Invalid(invalid)) => (None, invalid.diagnostics),
        Err(error) => return Err(error).or_exit(ExitCode::PolicyInvalid),
    };
    let report = CheckReport {
        policy: path.display().to_string(),
        ok: rules.is_some(),
        rules,
        diagnostics: diagnostics.iter().map(DiagnosticReport::of).collect(),
    };
    let code = written(json_line(&report, out))?;
    Ok(if report.ok {
        code
    } else {
        ExitCode::PolicyInvalid
    })
}

fn json_line(value: &impl Serialize, mut out: impl Write) -> io::Result<()> {
    let line = serde_json::to_string(value)?;
    writeln!(out, "{line}")
}

/// The answer of `policy check --json`.
#[derive(Serialize)]
struct CheckReport {
    policy: String,
    ok: bool,
    rules: Option<usize>,
    diagnostics: Vec<DiagnosticReport>,
}

#[derive(Serialize)]
struct DiagnosticReport {
    severity: &'static str,
    file: String,
    line: usize,
    column: usize,
    message: String,
    help: Option<String>,
}

impl DiagnosticReport {
    fn of(diagnostic: &Diagnostic) -> Self {
        Self {
            severity: if diagnostic.is_error() {
                "error"
            } else {
                "warning"
            },
            file: diagnostic.file().to_owned(),
            line: diagnostic.line(),
            column: diagnostic.column(),
            message: diagnostic.problem.to_string(),
            help: diagnostic.problem.help(),
        }
    }
}

fn explain(args: &ExplainArgs, out: impl Write) -> Result<ExitCode, Failure> {
    let path = &args.file.path;
    let policy = super::load::load(path)?;
    let owner = args.owner(&Host).map_err(Failure::usage)?;
    if let Some((path, exe)) = args.exe.as_deref().zip(owner.exe.as_ref()) {
        exe.note(path);
    }
    let direction = args.direction.into();
    let explanation = policy.explain(&args.facts(&owner, Host.now_ns()));
    let peer = args.endpoint.ip();
    let reached = reached_by(peer);
    let mut report = ExplainReport::of(&explanation, direction, path);
    report.judged_as = (reached != peer && direction != Direction::Listen).then_some(reached);
    written(if args.file.json {
        json_line(&report, out)
    } else {
        report.write(out)
    })
}

/// A connection as somebody types it.
#[cfg(feature = "top")]
#[derive(clap::Parser)]
#[command(no_binary_name = true, disable_help_flag = true, name = "what-if")]
struct WhatIf {
    #[command(flatten)]
    explain: ExplainArgs,
}

/// What the policy at `path` says of a connection, typed as `explain` takes it.
#[cfg(feature = "top")]
pub(super) fn what_if(typed: &str, path: &Path) -> Result<String, String> {
    use clap::Parser as _;
    let words = typed.split_whitespace().map(Into::into);
    let words: Vec<std::ffi::OsString> = words.chain(["--policy".into(), path.into()]).collect();
    let args = WhatIf::try_parse_from(words).map_err(|error| {
        let text = error.render().to_string();
        let line = text.lines().next().unwrap_or_default();
        line.trim_start_matches("error: ").to_owned()
    })?;
    let mut answer = Vec::new();
    explain(&args.explain, &mut answer).map_err(|failure| {
        let text = format!("{:#}", failure.error);
        text.lines().next().unwrap_or_default().to_owned()
    })?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// An owner as rules are compared with it.
struct Owner {
    uid: Option<u32>,
    unit: Option<String>,
    cgroup: Option<String>,
    exe: Option<Executable>,
}

impl ExplainArgs {
    fn owner(&self, host: &impl Environment) -> Result<Owner, String> {
        let uid = self.user.as_deref().map(users::uid).transpose();
        let unit = self.unit.as_deref().map(|written| unit(written, host));
        let cgroup = self.cgroup.as_deref().map(|written| cgroup(written, host));
        Ok(Owner {
            uid: uid.map_err(|error| error.to_string())?,
            unit: unit.transpose()?,
            cgroup: cgroup.transpose()?,
            exe: self.exe.as_deref().map(|path| Executable::at(path, host)),
        })
    }

    fn facts<'o>(&self, owner: &'o Owner, now_ns: i128) -> Facts<'o> {
        let exe = owner.exe.as_ref();
        Facts {
            direction: self.direction.into(),
            transport: self.transport.into(),
            service_port: self.endpoint.port(),
            peer: self.endpoint.ip(),
            peer_is_self: is_this_host(self.endpoint.ip()),
            uid: owner.uid,
            unit: owner.unit.as_deref(),
            cgroup: owner.cgroup.as_deref(),
            exe: exe.map(|exe| &*exe.path),
            exe_id: exe.and_then(Executable::id),
            is_kernel: self.kernel,
            now_ns,
        }
    }
}

/// An executable as rules are compared with it.
struct Executable {
    path: PathBuf,
    file: io::Result<FileId>,
}

impl Executable {
    /// The file that a path names.
    fn at(path: &Path, host: &impl Environment) -> Self {
        let absolute = path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self {
            path: plain(&absolute),
            file: host.executable(path),
        }
    }

    fn id(&self) -> Option<FileId> {
        self.file.as_ref().ok().copied()
    }

    /// Tells where there is no file at the path, and only that can be compared.
    fn note(&self, path: &Path) {
        if let Err(error) = &self.file {
            let path = Escaped(path.as_os_str().as_encoded_bytes());
            let why = match error.kind() {
                io::ErrorKind::NotFound => "is not on this host".to_owned(),
                _ => error.to_string(),
            };
            note(format_args!(
                "{path} {why}: rules are compared with its path, not with the file"
            ));
        }
    }
}

/// Refuses two files that are one pipe: the second would find nothing in it.
fn expect_apart(a: &Path, b: &Path) -> Result<(), Failure> {
    if !are_one_stream(a, b) {
        return Ok(());
    }
    let (a, b) = (a.display(), b.display());
    let both = if a.to_string() == b.to_string() {
        format!("{a} is given twice")
    } else {
        format!("{a} and {b} are the same")
    };
    Err(Failure::usage(format!(
        "{both}: what comes out of a pipe can be read once only, so put one of them in a file"
    )))
}

/// The name that a unit runs under, whichever of its names is written; an error as a rule
/// with that unit would be told.
fn unit(written: &str, host: &impl Environment) -> Result<String, String> {
    let whole = units::completed(written)
        .ok_or_else(|| Problem::NotAUnit(written.to_owned()).with_help())?;
    let names = host.units().names(&whole);
    Ok(names.into_iter().next().unwrap_or_default())
}

/// The path of a cgroup as the kernel spells it.
fn cgroup(written: &str, host: &impl Environment) -> Result<String, String> {
    if written.starts_with('/') {
        return Ok(host.units().cgroup(written));
    }
    Err(Problem::RelativePath(written.to_owned()).to_string())
}

/// Whether the kernel would take `peer` itself as the source address, as it
/// does for its own addresses. Connecting a UDP socket sends nothing.
fn is_this_host(peer: IpAddr) -> bool {
    let any: IpAddr = match peer {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((peer, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == peer)
}

/// The direction as the policy spells it.
const fn spelled(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
        Direction::Listen => "listen",
    }
}

/// Has `try_on` the facts that the words after `policy explain` tell of on that host.
#[cfg(test)]
pub(crate) fn explained<T>(
    words: &[String],
    host: &impl Environment,
    try_on: impl FnOnce(&Facts<'_>) -> T,
) -> Result<T, String> {
    use clap::{Args as _, FromArgMatches as _};
    let command = ExplainArgs::augment_args(clap::Command::new("explain"));
    let words = [&["explain".to_owned()], words].concat();
    let matches = command.try_get_matches_from(words);
    let matches = matches.map_err(|error| error.to_string())?;
    let args = ExplainArgs::from_arg_matches(&matches).map_err(|error| error.to_string())?;
    let owner = args.owner(host)?;
    Ok(try_on(&args.facts(&owner, host.now_ns())))
}
