//! `port-monitor [watch]`: the live monitor. Everything that can be wrong is
//! found before anything is attached.

pub(super) mod args;
pub(in crate::commands) mod kept;
pub(in crate::commands) mod policy;
mod progress;
pub(in crate::commands) mod service;
pub(super) mod session;
pub(super) mod stop;
pub(in crate::commands) mod values;

pub use args::Args;

use std::{path::Path, sync::Arc};

use port_monitor_common::{event::EventKind, judging::FIRST_NUMBER};

use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    commands::child::{Child, StdoutTo},
    events::record::{Header, LoadedPolicy},
    host::clock::{self, WallClock},
    kernel::{self, Kernel},
    pipeline::Pipeline,
    policy::{Policy, tables::lower::Lowered},
};
use session::Session;
use stop::{EarlyStop, StopSignals};

/// Runs the monitor.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    match args.service.socket() {
        Some(socket) => session::block_on(service::watch(args, socket)),
        None => session::block_on(watch(args)),
    }
}

async fn watch(args: &Args) -> Result<ExitCode, Failure> {
    if args.tells_how_called && !args.tells_json() {
        return Err(Failure::usage(
            "--process-args is told in JSON: add -o json or --record FILE, or drop it",
        ));
    }
    let filters = args.filters()?;
    let policy = load_policy(args)?;
    let consumers = args.consumers()?;
    let needs = consumers.needs();
    let mut settings = args.settings(filters, needs);
    if let Some(policy) = &policy {
        settings.policy = for_kernel(policy);
    }
    let on_hangup = args.output.destination.on_hangup();
    // From here on a stop signal leads to an orderly end.
    let signals = StopSignals::new(on_hangup).or_exit(ExitCode::CannotAttach)?;
    let early = EarlyStop::new(on_hangup)?;
    let mut child = hold_command(args)?;
    let (mut kernel, records) = early.start(settings, args.duration)?;
    let policy_loaded = policy.as_ref().map(loaded);
    let mut pipeline = Pipeline::new(policy.map(Arc::new), consumers);
    if args.tells_how_called {
        pipeline.tell_args();
    }
    // Without their ends connections would never be forgotten; and of violations alone
    // the other ends are not among the events.
    if needs.peers && needs.kinds.has(EventKind::Close) && needs.allowed {
        pipeline.pair_ends();
    }
    let wall_ns = pipeline.wall_ns(clock::boot_ns());
    let header = Header {
        policy_loaded,
        ..header(&kernel, args.policy.policy.as_deref(), wall_ns)
    };
    pipeline.consumers().begin(&header);
    if let Some(child) = &mut child {
        kernel
            .watch_process(child.pid())
            .or_exit(ExitCode::CannotAttach)?;
        child.release().or_exit(ExitCode::Usage)?;
    }
    let session = Session::new(args.duration, kernel, records, pipeline, child, signals)?;
    let summary = session.tell_progress(args.progress).run().await?;
    Ok(args.exit_code(&summary))
}

/// Loads the policy, and prints its warnings.
fn load_policy(args: &Args) -> Result<Option<Policy>, Failure> {
    let Some(path) = &args.policy.policy else {
        return Ok(None);
    };
    super::load::load(path).map(Some)
}

/// The policy for the kernel side. One that is too large for its tables is judged by
/// after the events have left it.
pub(super) fn for_kernel(policy: &Policy) -> Option<Arc<Lowered>> {
    match policy.lower_for_monitor() {
        Ok(lowered) => Some(Arc::new(lowered)),
        Err(error) => {
            log::warn!("{error}: judging in userspace");
            None
        }
    }
}

/// Starts the command after `--`, held back until its process is in the filter.
fn hold_command(args: &Args) -> Result<Option<Child>, Failure> {
    if args.command.is_empty() {
        return Ok(None);
    }
    let to_file = args.output.destination.output_file().is_some();
    let stdout = if to_file {
        StdoutTo::Inherit
    } else {
        StdoutTo::Stderr
    };
    Child::spawn(&args.command, stdout)
        .or_exit(ExitCode::Usage)
        .map(Some)
}

/// Which text of a policy is in use from now on.
pub(super) fn loaded(policy: &Policy) -> LoadedPolicy {
    LoadedPolicy {
        digest: policy.digest(),
        wall_ns: WallClock::sample().wall_ns(clock::boot_ns()),
        number: FIRST_NUMBER,
        denying: policy.denying_rules().cloned().collect(),
    }
}

/// The facts of a run that began at `wall_ns`.
pub(super) fn header(kernel: &Kernel, policy: Option<&Path>, wall_ns: i128) -> Header {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let uname = rustix::system::uname();
    Header {
        wall_ns,
        boot_ns: clock::boot_ns(),
        version: env!("CARGO_PKG_VERSION"),
        host: uname.nodename().to_string_lossy().into_owned(),
        kernel: kernel::kernel_release(),
        boot_id: boot_id.unwrap_or_default().trim().to_owned(),
        backend: kernel.backend().name(),
        blind_spots: kernel.blind_spots().to_vec(),
        unproven: kernel.unproven().to_vec(),
        waiting: kernel.waiting().to_vec(),
        policy: policy.map(|path| path.display().to_string()),
        policy_loaded: None,
    }
}
