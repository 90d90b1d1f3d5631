//! The signals that end a run: the first one in good order, the next at once.

use std::{
    io::{self, PipeReader, PipeWriter},
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot::{self, Receiver, Sender},
};

use crate::{
    exit_code::{ExitCode, Failure, OrExit as _},
    kernel::{Kernel, Records, SelfTest, Settings},
};

/// SIGINT (Ctrl-C), SIGTERM and SIGHUP.
#[derive(Debug)]
pub(in crate::commands) struct StopSignals([Signal; 3]);

impl StopSignals {
    /// Takes the signals over; within a tokio runtime.
    pub(in crate::commands) fn new() -> io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    /// Waits for one of them. Cancel-safe.
    pub(super) async fn recv(&mut self) {
        let Self([interrupt, terminate, hangup]) = self;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Listens for the signals while the kernel side is started, during which the runtime
/// of the run gets no turn.
///
/// The first one cuts the self-test short, and what listens by then is told of it too:
/// the run ends in good order as soon as it has begun. The next one ends the process.
pub(in crate::commands) struct EarlyStop {
    /// Closed at its other end by the first signal.
    stop: Arc<PipeReader>,
    /// Dropped when the start is over.
    _over: Sender<()>,
}

impl EarlyStop {
    /// Begins to listen.
    pub(in crate::commands) fn new() -> Result<Self, Failure> {
        Self::listen().or_exit(ExitCode::CannotAttach)
    }

    fn listen() -> io::Result<Self> {
        let (stop, other_end) = io::pipe()?;
        let (over, is_over) = oneshot::channel();
        let runtime = Builder::new_current_thread().enable_io().build()?;
        // From here on, not first when the thread runs.
        let signals = {
            let _within = runtime.enter();
            StopSignals::new()?
        };
        thread::Builder::new().spawn(move || {
            await_signals(&runtime, signals, is_over, other_end);
        })?;
        Ok(Self {
            stop: Arc::new(stop),
            _over: over,
        })
    }

    /// Starts the kernel side for a run that ends after `duration`, if given: the
    /// self-test waits for half of that at most.
    pub(in crate::commands) fn start(
        self,
        mut settings: Settings,
        duration: Option<Duration>,
    ) -> Result<(Kernel, Records), Failure> {
        let half = duration.map_or(Duration::MAX, |duration| duration / 2);
        settings.self_test = SelfTest {
            patience: half.clamp(SelfTest::BRIEF, SelfTest::PATIENCE),
            stop: Some(self.stop.clone()),
        };
        Kernel::start(&settings).or_exit(ExitCode::CannotAttach)
    }
}

/// Waits for two signals, or until the start is over.
fn await_signals(
    runtime: &Runtime,
    mut signals: StopSignals,
    mut is_over: Receiver<()>,
    stop: PipeWriter,
) {
    runtime.block_on(async {
        tokio::select! {
            () = signals.recv() => drop(stop),
            _ = &mut is_over => return,
        }
        tokio::select! {
            () = signals.recv() => std::process::exit(ExitCode::Interrupted as i32),
            _ = is_over => {}
        }
    });
}

/// From now on a stop signal ends the process on the spot: the orderly end may
/// be waiting for an output that takes nothing. The kernel detaches what is left.
pub(super) fn exit_on_next_signal() {
    let wait = || -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            StopSignals::new()?.recv().await;
            std::process::exit(ExitCode::Interrupted as i32)
        })
    };
    thread::spawn(move || {
        if let Err(error) = wait() {
            log::warn!("a second signal will not be noticed: {error}");
        }
    });
}
