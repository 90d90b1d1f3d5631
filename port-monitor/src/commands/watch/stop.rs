//! The signals that end a run: the first one in good order, the next at once.

use std::{io, thread};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit_code::ExitCode;

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

/// From now on a stop signal ends the process on the spot: the orderly end may
/// be waiting for an output that takes nothing. The kernel detaches what is left.
pub(super) fn exit_on_next_signal() {
    let wait = || -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
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
