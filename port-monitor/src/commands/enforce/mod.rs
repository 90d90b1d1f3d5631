//! `port-monitor apply`, `confirm`, `rollback`, `status` and `panic-open`: the policy
//! in the kernel.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow};

use self::{
    denials::DenialLog,
    session::{Occasion, Way},
};
use super::told::written;
use crate::{
    base::{
        duration,
        exit_code::{ExitCode, Failure, OrExit as _},
    },
    commands::filter,
    consume::output::stdout,
    host::clock,
    kernel::enforcer::{
        Attempt, Carried, DEFAULT_INSTANCE, Enforcer, EnforcerError, HostPlaces, Instance,
        PolicyId, Watch,
    },
    policy::{
        Policy, is_stream,
        rules::intent::OnDaemonExit,
        tables::lower::{self, Lowered},
    },
};

mod denials;
pub(super) mod established;
mod file;
pub(super) mod follow;
mod keeper;
mod report;
pub(super) mod session;

/// Which enforcement is meant.
#[derive(Clone, Debug, clap::Args)]
pub struct InstanceArgs {
    /// The name under which the policy is in force, beside others
    #[arg(
        long = "instance",
        value_name = "NAME",
        allow_hyphen_values = true,
        default_value = DEFAULT_INSTANCE,
        value_parser = instance_name
    )]
    name: String,
}

/// Arguments of `apply`.
#[derive(Clone, Debug, clap::Args)]
pub struct ApplyArgs {
    /// The policy
    #[arg(value_name = "FILE", default_value = "/etc/port-monitor/policy.toml")]
    path: PathBuf,
    /// Go back to the policy before unless `port-monitor confirm` comes within this
    /// time [default: what the policy says under `[apply]`]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    confirm: Option<Duration>,
    /// Do not wait to be confirmed, whatever the policy says
    #[arg(long, conflicts_with = "confirm")]
    no_confirm: bool,
    /// Apply the policy even if it would refuse the session this runs in, or if that
    /// cannot be told
    #[arg(long)]
    force: bool,
    /// Stay, and keep what is in force in step: with the file and the
    /// lists of networks it names when they change and on SIGHUP, and with this host, whose
    /// units, cgroups, executables and addresses change. Tells what is denied
    #[arg(long)]
    follow: bool,
    /// Hold only the processes of this cgroup v2 to the policy, or with `/` those of the whole
    /// host; needs an `--instance` of its own, which needs it too
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    cgroup: Option<PathBuf>,
    #[command(flatten)]
    instance: InstanceArgs,
    /// Who applies it.
    #[arg(skip)]
    by: By,
}

/// Who applies a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum By {
    /// Somebody who typed a command.
    #[default]
    Command,
    /// A service, by what its configuration says.
    Service,
}

impl ApplyArgs {
    /// A service applies this policy to the whole host, and follows it.
    pub(super) fn of_service(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            confirm: None,
            no_confirm: false,
            force: false,
            follow: true,
            cgroup: None,
            instance: InstanceArgs {
                name: DEFAULT_INSTANCE.to_owned(),
            },
            by: By::Service,
        }
    }
}

/// Refuses a policy that could not be applied here, whatever the session is in which that would
/// be done. Nothing changes by that.
pub(super) fn check(path: &Path) -> Result<(), Failure> {
    let policy = super::load::load(path)?;
    established::check(&policy)?;
    lower(&policy, now_ns()).map(drop)
}

/// A name for a directory of a bpf file system, which allows no dot.
fn instance_name(text: &str) -> Result<String, &'static str> {
    if text.starts_with("--") {
        return Err("an option, not a name: the name is missing");
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if text.is_empty() || text.len() > 32 || !text.chars().all(is_plain) {
        return Err("not a name: up to 32 letters, digits and -");
    }
    Ok(text.to_owned())
}

/// Puts a policy into force, and keeps it so with `--follow`.
pub fn apply(args: &ApplyArgs, mut out: impl Write) -> Result<ExitCode, Failure> {
    // Before anything changes. What takes a policy back is done all the same.
    written(stdout::check())?;
    if args.cgroup.is_some() && args.instance.name == DEFAULT_INSTANCE {
        return Err(Failure::usage(
            "--cgroup needs --instance NAME: without a name it is the whole host's policy",
        ));
    }
    if args.cgroup.is_none() && args.instance.name != DEFAULT_INSTANCE {
        return Err(Failure::usage(
            "--instance NAME needs --cgroup PATH: whom it holds beside the host's policy; `/` is the \
             whole host",
        ));
    }
    if args.follow && is_stream(&args.path) {
        return Err(Failure::usage(format!(
            "{}: --follow needs a file: what comes out of a pipe can be read once only",
            args.path.display()
        )));
    }
    if args.follow {
        return follow::run(args, out);
    }
    let attempt = Attempt::begin(&args.instance.name);
    let prepared = Prepared::new(args, Occasion::Apply)?;
    let mut enforcer = prepared.install(&attempt)?;
    // It has become the installation, which is for others to follow.
    drop(attempt);
    let applied = prepared.put_into_force(&mut enforcer).map_err(failure)?;
    // Nobody has to wait for what follows.
    drop(enforcer);
    applied.finish(&mut out)?;
    Ok(ExitCode::Ok)
}

/// A policy that can be put into force.
struct Prepared {
    policy: Arc<Policy>,
    lowered: Lowered,
    instance: Instance,
    confirm: Option<Duration>,
}

impl Prepared {
    /// The file as it is now.
    fn new(args: &ApplyArgs, occasion: Occasion) -> Result<Self, Failure> {
        Self::read(args, occasion).1
    }

    /// The file as it is now, and the lists of networks that it names, also where it is
    /// refused.
    fn read(args: &ApplyArgs, occasion: Occasion) -> (Vec<PathBuf>, Result<Self, Failure>) {
        let (lists, policy) = crate::commands::load::load_with_lists(&args.path);
        let prepared = policy.and_then(|policy| Self::of(policy, args, occasion));
        (lists, prepared)
    }

    fn of(policy: Policy, args: &ApplyArgs, occasion: Occasion) -> Result<Self, Failure> {
        check_intent(&policy, args)?;
        established::check(&policy)?;
        let cgroup = args.cgroup.as_deref().map(filter::cgroup_path).transpose();
        let cgroup = cgroup.or_exit(ExitCode::Usage)?.map(PathBuf::from);
        // All of them: the whole host.
        let cgroup = cgroup.filter(|path| path.as_os_str() != "/");
        let confirm = if args.no_confirm {
            None
        } else {
            args.confirm.or(policy.intent().confirm)
        };
        let lowered = lower(&policy, now_ns())?;
        if !args.force {
            let way = Way {
                confirm,
                held: cgroup.as_deref(),
                occasion,
                is_service: args.by == By::Service,
            };
            session::check(&policy, &lowered, way)?;
        }
        Ok(Self {
            lowered,
            instance: Instance {
                name: args.instance.name.clone(),
                cgroup,
            },
            confirm,
            policy: Arc::new(policy),
        })
    }

    /// What it needs, installed if it is not.
    fn install(&self, attempt: &Attempt) -> Result<Enforcer, Failure> {
        Enforcer::open_or_install(attempt, &self.instance, &self.lowered).map_err(failure)
    }

    fn put_into_force(self, enforcer: &mut Enforcer) -> Result<Applied, EnforcerError> {
        enforcer.attach(&self.instance, &self.lowered)?;
        let watch = Arc::new(enforcer.watch()?);
        let since_ns = clock::boot_ns();
        let carried = enforcer.apply(&self.lowered, self.confirm)?;
        Ok(Applied {
            policy: self.policy,
            lowered: self.lowered,
            name: self.instance.name,
            cgroup: self.instance.cgroup,
            confirm: self.confirm,
            carried,
            since_ns,
            watch,
        })
    }
}

/// A policy that was put into force.
struct Applied {
    policy: Arc<Policy>,
    lowered: Lowered,
    /// The name it was applied under.
    name: String,
    /// What is held to it, if it is not the whole host.
    cgroup: Option<PathBuf>,
    confirm: Option<Duration>,
    /// What its counts began with.
    carried: Carried,
    /// A moment just before it came into force, `CLOCK_BOOTTIME` ns.
    since_ns: u64,
    /// Whether it is still in force.
    watch: Arc<Watch>,
}

impl Applied {
    const fn id(&self) -> PolicyId {
        PolicyId::of(&self.lowered.header)
    }

    /// What is told of its denials: nothing yet.
    fn log(&self) -> DenialLog {
        DenialLog::new(self.id(), &self.carried, self.since_ns)
    }

    /// Ends what it denies, and says that it is applied.
    fn finish(&self, mut out: impl Write) -> Result<(), Failure> {
        let source = &self.policy.source().name;
        let is_in_force = || self.watch.is_in_force(self.id());
        let ended = established::end(&self.policy, self.cgroup.as_deref(), is_in_force)
            .with_context(|| format!("{source} is in force, but"))
            .or_exit(ExitCode::CannotAttach)?;
        let count = self.policy.rule_count();
        let noun = if count == 1 { "rule" } else { "rules" };
        let undone = self.confirm.map_or_else(String::new, |confirm| {
            let seconds = confirm.as_secs();
            format!(
                "; undone in {seconds} s unless you run `{}`",
                confirm_line(&self.name)
            )
        });
        let applied = writeln!(out, "{source}: applied, {count} {noun}{undone}");
        written(applied.and_then(|()| established::write(&ended, &mut out))).map(drop)
    }
}

/// What keeps the policy that was applied under this name.
fn confirm_line(instance: &str) -> String {
    if instance == DEFAULT_INSTANCE {
        "port-monitor confirm".to_owned()
    } else {
        format!("port-monitor confirm --instance {instance}")
    }
}

/// Keeps the policy that waits for it.
pub fn confirm(args: &InstanceArgs, mut out: impl Write) -> Result<ExitCode, Failure> {
    let enforcer = Enforcer::existing(&args.name).map_err(failure)?;
    enforcer.confirm().map_err(failure)?;
    written(writeln!(out, "confirmed"))
}

/// Goes back to the policy before.
pub fn rollback(args: &InstanceArgs, mut out: impl Write) -> Result<ExitCode, Failure> {
    let enforcer = Enforcer::existing(&args.name).map_err(failure)?;
    enforcer.rollback().map_err(failure)?;
    let status = enforcer.status().map_err(failure)?;
    written(match report::source(&status.counts.header) {
        Some(source) => writeln!(out, "back to {source}"),
        None => writeln!(out, "back to no policy"),
    })
}

/// Tells what is in force.
pub(super) fn status(
    instance: &InstanceArgs,
    is_json: bool,
    out: impl Write,
) -> Result<ExitCode, Failure> {
    let enforcer = Enforcer::open(&instance.name).map_err(failure)?;
    let status = enforcer.map(|enforcer| Ok((enforcer.status()?, enforcer.memory()?)));
    let status = status.transpose().map_err(failure)?;
    let report = report::Report::of(status.as_ref(), clock::boot_ns());
    let code = written(if is_json {
        report.write_json(out)
    } else {
        report.write(out)
    })?;
    if report.is_whole() {
        return Ok(code);
    }
    Err(Failure::new(
        ExitCode::CannotAttach,
        anyhow!("somebody has detached a program: apply the policy anew after `panic-open`"),
    ))
}

/// Ends enforcement, whatever is in the way, and tells what could not be done.
pub fn panic_open(args: &InstanceArgs, mut out: impl Write) -> Result<ExitCode, Failure> {
    let left = Enforcer::remove(&args.name).map_err(failure)?;
    let mut stderr = io::stderr().lock();
    let others = left.others.iter().map(|(path, error)| {
        format!(
            "not removed, though nothing uses it: {}: {error}",
            path.display()
        )
    });
    let running = left
        .running
        .iter()
        .map(|error| format!("programs that were running may end a moment later: {error}"));
    for warning in others.chain(running) {
        // Whoever closed it does not want warnings.
        let _ = writeln!(stderr, "port-monitor: {warning}");
    }
    if let Some((path, error)) = left.links.first() {
        return Err(Failure::new(
            ExitCode::CannotAttach,
            anyhow!(
                "{} of the programs may still decide: {}: {error}; remove it by hand",
                left.links.len(),
                path.display()
            ),
        ));
    }
    written(writeln!(out, "no policy is in force any more"))
}

fn failure(error: EnforcerError) -> Failure {
    let code = match &error {
        EnforcerError::Locked | EnforcerError::Followed(_) => ExitCode::Locked,
        EnforcerError::Policy(_) => ExitCode::PolicyInvalid,
        EnforcerError::NotApplied(_)
        | EnforcerError::OtherCgroup { .. }
        | EnforcerError::NothingToConfirm
        | EnforcerError::TooLate
        | EnforcerError::NothingBefore => ExitCode::Usage,
        _ => ExitCode::CannotAttach,
    };
    Failure::new(code, error)
}

/// The policy for the kernel of this host, without the rules that have ended by `now_ns`.
fn lower(policy: &Policy, now_ns: i64) -> Result<Lowered, Failure> {
    let lowered = policy.lower(&HostPlaces { now_ns });
    let mut lowered = lowered.or_exit(ExitCode::PolicyInvalid)?;
    let source = policy.source();
    let header = &mut lowered.header;
    header.digest = policy.digest();
    header.applied_ns = now_ns;
    let path = if source.name == "-" {
        PathBuf::from("standard input")
    } else {
        std::path::absolute(&source.name).unwrap_or_else(|_| source.name.clone().into())
    };
    report::set_source(header, &path.to_string_lossy());
    Ok(lowered)
}

fn now_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Refuses a policy that would soon give way, because it waits for somebody to follow it.
fn check_intent(policy: &Policy, args: &ApplyArgs) -> Result<(), Failure> {
    if args.follow || policy.intent().on_daemon_exit == OnDaemonExit::Enforce {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::PolicyInvalid,
        anyhow!(
            "{}: [apply] on_daemon_exit other than \"enforce\" needs a process that follows the \
             policy: apply it with --follow",
            policy.source().name
        ),
    ))
}

#[cfg(test)]
mod tests {
    use crate::commands::enforce::*;

    #[test]
    fn names_are_what_a_bpf_file_system_takes() {
        assert!(instance_name("web-1").is_ok());
        for bad in ["", "a.b", "a/b", "../x"] {
            assert!(instance_name(bad).is_err());
        }
    }

    #[test]
    fn confirm_is_told_as_it_has_to_be_typed() {
        for (instance, line) in [
            ("main", "port-monitor confirm"),
            ("web", "port-monitor confirm --instance web"),
        ] {
            assert_eq!(confirm_line(instance), line);
        }
    }
}
