//! `port-monitor audit`: what listens on this host, in every network namespace,
//! and who came in. Everything that can be wrong is found before anything is
//! attached.

mod args;

use std::sync::Arc;

pub use args::Args;

use super::watch::{
    self,
    session::{self, Session},
    stop::{EarlyStop, StopSignals},
};
use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    commands::filter,
    consume::FanOut,
    events::record::Header,
    host::clock,
    pipeline::Pipeline,
};

/// Runs the audit.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    session::block_on(audit(args))
}

async fn audit(args: &Args) -> Result<ExitCode, Failure> {
    let settings = args.settings();
    let listing = args.listing()?;
    let (violations, forgotten) = (listing.violations.clone(), listing.forgotten.clone());
    let waiting = filter::missing(&listing.selection.groups);
    let policy_path = args.policy();
    let policy = policy_path.map(crate::commands::load::load).transpose()?;
    let shown = args.destination.open_listeners(listing)?;
    let on_hangup = args.destination.on_hangup();
    // From here on a stop signal leads to an orderly end.
    let signals = StopSignals::new(on_hangup).or_exit(ExitCode::CannotAttach)?;
    let watched = args.watched();
    // A look at what listens now has no time to take half of.
    let limit = Some(watched).filter(|watched| !watched.is_zero());
    let (kernel, records) = EarlyStop::new(on_hangup)?.start(settings, limit)?;
    let mut pipeline = Pipeline::new(policy.map(Arc::new), FanOut::new(shown));
    pipeline.be_patient();
    // Whatever is older than the audit was found before now.
    let wall_ns = pipeline.wall_ns(clock::boot_ns());
    let header = Header {
        waiting,
        ..watch::header(&kernel, policy_path, wall_ns)
    };
    pipeline.consumers().begin(&header);
    let session = Session::new(Some(watched), kernel, records, pipeline, None, signals)?;
    let summary = session.run().await?;
    Ok(args.exit_code(&summary, violations.get(), forgotten.get()))
}
