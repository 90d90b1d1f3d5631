//! Connections as they happen, for `policy learn --for`.

use std::{io, time::Duration};

use port_monitor_common::event::EventKind;

use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    commands::{
        policy::learned::Learned,
        watch::{
            session::{self, Session},
            stop::{EarlyStop, StopSignals},
        },
    },
    consume::{
        FanOut, Shown,
        output::{args::OnHangup, writer::Output},
    },
    kernel::Settings,
    pipeline::Pipeline,
    policy::learn::Learner,
};

/// The first event of a connection or a listener: each has one of these.
const FIRST: [EventKind; 4] = [
    EventKind::Connect,
    EventKind::Accept,
    EventKind::Preexisting,
    EventKind::Listen,
];

/// What connects and listens on this host for so long, or until a stop signal; and how
/// many events were lost.
pub(super) fn watch(duration: Duration) -> Result<(Learner, u64), Failure> {
    session::block_on(watch_until(duration))
}

async fn watch_until(duration: Duration) -> Result<(Learner, u64), Failure> {
    let settings = Settings {
        kinds: FIRST.to_vec(),
        ..Settings::default()
    };
    // From here on a stop signal leads to an orderly end.
    let signals = StopSignals::new(OnHangup::Stop).or_exit(ExitCode::CannotAttach)?;
    let (kernel, records) = EarlyStop::new(OnHangup::Stop)?.start(settings, Some(duration))?;
    let learned = Learned::default();
    let nowhere =
        Output::start("nowhere".to_owned(), io::sink()).or_exit(ExitCode::OutputFailed)?;
    let shown = Shown::new(Box::new(learned.clone()), nowhere);
    let mut pipeline = Pipeline::new(None, FanOut::new(shown));
    pipeline.be_patient();
    let session = Session::new(Some(duration), kernel, records, pipeline, None, signals)?;
    let summary = session.run().await?;
    Ok((learned.take(), summary.lost() + summary.gave_up()))
}
