//! The exit codes, in one place, and the error that carries one to `main`.

use std::fmt;

/// Why the program ended; the number is the process's exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything asked for was done.
    Ok = 0,
    /// A connection or listening socket broke the policy, and `--fail-on-violation` was
    /// given; or a case of `policy test` did not come out as expected; or the policies
    /// that `policy diff` compared differ.
    Violation = 1,
    /// The command line, or a name or file on it, is wrong, or there is nothing to do it to.
    Usage = 2,
    /// The kernel or missing privilege does not allow attaching, or detaching; or the service
    /// that was asked is not there, or has ended.
    CannotAttach = 3,
    /// Events were lost, and `--fail-on-loss` was given.
    EventsLost = 4,
    /// The policy or the configuration is missing or has errors, or the policy would refuse the
    /// session that it is applied from; nothing was applied.
    PolicyInvalid = 5,
    /// The output could not be written.
    OutputFailed = 6,
    /// Another run of the program holds the lock.
    Locked = 7,
    /// Interrupted a second time, before the orderly end was reached.
    Interrupted = 130,
}

impl ExitCode {
    /// Every code with what it means to a caller, as `--help`, the man page and
    /// docs/watch.md list them.
    pub const ALL: [(Self, &'static str); 9] = [
        (
            Self::Ok,
            "done; also after a signal to stop (Ctrl-C, SIGTERM, SIGHUP) and a closed output pipe",
        ),
        (
            Self::Violation,
            "the policy was broken (with --fail-on-violation), failed its test, or differs",
        ),
        (
            Self::Usage,
            "wrong command line: flag, value, name or file; or nothing to confirm or roll back",
        ),
        (
            Self::CannotAttach,
            "cannot attach, or not detach: privilege, kernel or BTF; or the service is not there",
        ),
        (Self::EventsLost, "events were lost (with --fail-on-loss)"),
        (
            Self::PolicyInvalid,
            "the policy or configuration is missing or wrong, or would cut you off; nothing was applied",
        ),
        (Self::OutputFailed, "the output could not be written"),
        (Self::Locked, "another port-monitor holds the lock"),
        (
            Self::Interrupted,
            "interrupted twice: stopped before the summary",
        ),
    ];

    /// [`Self::ALL`] as the end of `--help`.
    pub fn help() -> String {
        Self::ALL
            .iter()
            .fold("Exit codes:".to_owned(), |help, (code, meaning)| {
                format!("{help}\n  {:<3}  {meaning}", *code as u8)
            })
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// An error on its way to `main`: what to print and how to exit.
#[derive(Debug)]
pub struct Failure {
    /// The exit status.
    pub code: ExitCode,
    /// What failed, where, what to do: one line.
    pub error: anyhow::Error,
}

impl Failure {
    /// A failure with this code and message.
    pub fn new(code: ExitCode, error: impl Into<anyhow::Error>) -> Self {
        Self {
            code,
            error: error.into(),
        }
    }

    /// A mistake on the command line.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(ExitCode::Usage, anyhow::anyhow!("{message}"))
    }
}

/// Gives any error an exit code on its way up.
pub trait OrExit<T> {
    /// Maps the error to a [`Failure`] with `code`.
    fn or_exit(self, code: ExitCode) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, code: ExitCode) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(code, error))
    }
}
