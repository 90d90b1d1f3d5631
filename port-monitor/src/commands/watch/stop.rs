//! The signals that end a run: the first one in good order, the next at once.

use std::{
    fs,
    io::{self, PipeReader, PipeWriter},
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    sync::{
        Notify,
        oneshot::{self, Receiver, Sender},
    },
};

use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    commands::child,
    consume::output::args::OnHangup,
    kernel::{Kernel, Records, SelfTest, Settings},
};

/// SIGINT (Ctrl-C), SIGTERM and SIGHUP, and the wish of a part of this program.
#[derive(Debug)]
pub(in crate::commands) struct StopSignals {
    interrupt: Heeded,
    terminate: Heeded,
    hangup: Heeded,
    on_hangup: OnHangup,
    own: Arc<Notify>,
}

/// Asks for the orderly end from within. A signal would not do: whoever started us may want it
/// ignored.
#[cfg(feature = "top")]
#[derive(Clone, Debug)]
pub(in crate::commands) struct Stop(Arc<Notify>);

#[cfg(feature = "top")]
impl Stop {
    /// Asks once, whether or not somebody waits for it by now.
    pub(in crate::commands) fn ask(&self) {
        self.0.notify_one();
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// An orderly end.
    Stop,
    /// The output file opened again.
    Reopen,
    /// The configuration read again.
    Reload,
}

impl StopSignals {
    /// What SIGHUP asks for.
    pub(super) const fn on_hangup(&self) -> OnHangup {
        self.on_hangup
    }

    /// Takes the signals over; within a tokio runtime.
    pub(in crate::commands) fn new(on_hangup: OnHangup) -> io::Result<Self> {
        Ok(Self {
            interrupt: heed(SignalKind::interrupt())?,
            terminate: heed(SignalKind::terminate())?,
            hangup: heed(SignalKind::hangup())?,
            on_hangup,
            own: Arc::default(),
        })
    }

    /// What asks for the end from within.
    #[cfg(feature = "top")]
    pub(in crate::commands) fn stop(&self) -> Stop {
        Stop(Arc::clone(&self.own))
    }

    /// Waits for one of them. Cancel-safe.
    pub(super) async fn recv(&mut self) -> Wish {
        let Self {
            interrupt,
            terminate,
            hangup,
            on_hangup,
            own,
        } = self;
        tokio::select! {
            () = own.notified() => Wish::Stop,
            () = heard(interrupt) => Wish::Stop,
            () = heard(terminate) => Wish::Stop,
            () = heard(hangup) => match on_hangup {
                OnHangup::Stop => Wish::Stop,
                OnHangup::Reopen => Wish::Reopen,
                OnHangup::Reload => Wish::Reload,
            },
        }
    }

    /// Waits for one that ends the run. Cancel-safe.
    pub(in crate::commands) async fn stopped(&mut self) {
        while self.recv().await != Wish::Stop {}
    }
}

/// A signal that is listened for; `None` where whoever started us wants it ignored, as
/// nohup(1) does of SIGHUP and `trap '' INT` of SIGINT.
pub(in crate::commands) type Heeded = Option<Signal>;

/// Listens for the signal, unless it was ignored when we were started: then it stays so.
pub(in crate::commands) fn heed(kind: SignalKind) -> io::Result<Heeded> {
    let status = fs::read_to_string("/proc/self/status");
    if status.is_ok_and(|status| is_unwanted(&status, kind)) {
        return Ok(None);
    }
    signal(kind).map(Some)
}

/// Waits for a signal; without one, for ever. Cancel-safe.
pub(in crate::commands) async fn heard(signal: &mut Heeded) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Whether a process of this /proc/PID/status was started to ignore the signal. A shell
/// without job control ignores SIGINT and SIGQUIT together for all it runs behind an `&`,
/// whatever that is: nobody's wish, and scripts end it by SIGINT all the same.
pub(in crate::commands) fn is_unwanted(status: &str, kind: SignalKind) -> bool {
    let is_of_shell = kind == SignalKind::interrupt() && ignores(status, libc::SIGQUIT);
    ignores(status, kind.as_raw_value()) && !is_of_shell
}

/// Whether a process of this /proc/PID/status ignores a signal.
fn ignores(status: &str, signal: i32) -> bool {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
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
    pub(in crate::commands) fn new(on_hangup: OnHangup) -> Result<Self, Failure> {
        Self::listen(on_hangup).or_exit(ExitCode::CannotAttach)
    }

    fn listen(on_hangup: OnHangup) -> io::Result<Self> {
        let (stop, other_end) = io::pipe()?;
        let (over, is_over) = oneshot::channel();
        let runtime = Builder::new_current_thread().enable_io().build()?;
        // From here on, not first when the thread runs.
        let signals = {
            let _within = runtime.enter();
            StopSignals::new(on_hangup)?
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
            () = signals.stopped() => drop(stop),
            _ = &mut is_over => return,
        }
        tokio::select! {
            () = signals.stopped() => std::process::exit(ExitCode::Interrupted as i32),
            _ = is_over => {}
        }
    });
}

/// From now on a stop signal ends the process on the spot: the orderly end may
/// be waiting for an output that takes nothing. The kernel detaches what is left. `command` is
/// the process of a command that may be left behind.
pub(super) fn exit_on_next_signal(on_hangup: OnHangup, command: Option<u32>) {
    let wait = move || -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            StopSignals::new(on_hangup)?.stopped().await;
            if let Some(pid) = command {
                child::tell_left(pid);
            }
            std::process::exit(ExitCode::Interrupted as i32)
        })
    };
    thread::spawn(move || {
        if let Err(error) = wait() {
            log::warn!("a second signal will not be noticed: {error}");
        }
    });
}

#[cfg(test)]
mod tests {
    use crate::commands::watch::stop::*;

    #[test]
    fn an_ignored_signal_is_told_by_its_bit() {
        let status = "Name:\tx\nSigIgn:\t0000000000001005\nSigCgt:\t0000000000000002\n";
        let ignored = [1, 2, 3, 13].map(|signal| ignores(status, signal));
        assert_eq!(ignored, [true, false, true, true]);
        assert!(!ignores("SigCgt:\t0000000000000001\n", 1));
        assert!(!ignores("SigIgn:\tx\n", 1));
    }

    #[test]
    fn what_a_shell_ignores_behind_an_ampersand_is_heard() {
        let unwanted = |mask: &str| {
            let kinds = [
                SignalKind::hangup(),
                SignalKind::interrupt(),
                SignalKind::terminate(),
            ];
            kinds.map(|kind| is_unwanted(&format!("SigIgn:\t{mask}\n"), kind))
        };
        assert_eq!(unwanted("0000000000000000"), [false; 3]);
        assert_eq!(unwanted("0000000000000001"), [true, false, false]);
        assert_eq!(unwanted("0000000000000002"), [false, true, false]);
        assert_eq!(unwanted("0000000000000006"), [false; 3]);
        assert_eq!(unwanted("0000000000004002"), [false, true, true]);
    }
}
