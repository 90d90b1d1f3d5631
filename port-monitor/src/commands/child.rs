//! The command after `--`: started, held back, released, waited for.
//!
//! Its pid must be in the kernel's maps before it runs anything. So what starts
//! first is this program again, as `__exec`, which waits on a socket and then
//! becomes the command under the same pid. The socket takes the place of
//! standard input meanwhile, and the message that releases the command brings
//! the real one. A socket that closes instead, because the monitor failed or
//! died, ends the process without having run the command.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{
            net::UnixStream,
            process::{CommandExt as _, ExitStatusExt as _},
        },
    },
    path::{Path, PathBuf},
    process::Command,
};

use rustix::{
    cmsg_space,
    fs::{Access, access},
    io::retry_on_intr,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid},
    stdio::dup2_stdin,
};
use thiserror::Error;

use super::told;

/// The subcommand that holds a command and becomes it.
pub const SUBCOMMAND: &str = "__exec";

/// Exit status of a command that was never released, as `env` and `nohup` exit
/// when they themselves fail.
pub const ABANDONED: i32 = 125;

/// Where programs are looked for without a `PATH`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Why the command cannot be run.
#[derive(Debug, Error)]
pub enum ChildError {
    /// Nothing to run.
    #[error("no command after `--`: write one there, or leave the `--` out")]
    Empty,
    /// No such program.
    #[error("run {0}: command not found (give its path, or check PATH)")]
    NotFound(String),
    /// No such file, of a program that is named by its path.
    #[error("run {0}: no such file (check the path)")]
    NoFile(String),
    /// Not a program.
    #[error("run {0}: not an executable file (check its mode)")]
    NotExecutable(String),
    /// The process could not be started, or not be released.
    #[error("run {command}")]
    Run {
        /// The program.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// Its end could not be waited for.
    #[error("wait for the command")]
    Wait(#[source] io::Error),
}

/// Where the command's standard output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdoutTo {
    /// To our standard error: our standard output carries data only.
    Stderr,
    /// Untouched.
    Inherit,
}

/// A command, held until it is released.
#[derive(Debug)]
pub struct Child {
    name: String,
    pid: u32,
    process: tokio::process::Child,
    /// Open while the command is held.
    hold: Option<UnixStream>,
}

impl Child {
    /// Starts the command, held. Call it within the tokio runtime.
    pub fn spawn(command: &[OsString], stdout: StdoutTo) -> Result<Self, ChildError> {
        Self::spawn_through(Path::new("/proc/self/exe"), command, stdout)
    }

    /// As [`Child::spawn`], through this port-monitor executable rather than the
    /// running one.
    pub fn spawn_through(
        port_monitor: &Path,
        command: &[OsString],
        stdout: StdoutTo,
    ) -> Result<Self, ChildError> {
        let program = command.first().ok_or(ChildError::Empty)?;
        check_program(program, env::var_os("PATH").as_deref())?;
        let name = program.to_string_lossy().into_owned();
        let failed = |source| ChildError::Run {
            command: name.clone(),
            source,
        };
        let (hold, helper_end) = UnixStream::pair().map_err(failed)?;
        let mut helper = Command::new(port_monitor);
        helper
            .args([SUBCOMMAND, "--"])
            .args(command)
            .stdin(OwnedFd::from(helper_end));
        if stdout == StdoutTo::Stderr {
            helper.stdout(io::stderr());
        }
        let process = tokio::process::Command::from(helper)
            .spawn()
            .map_err(failed)?;
        Ok(Self {
            pid: process
                .id()
                .ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?,
            name,
            process,
            hold: Some(hold),
        })
    }

    /// Its pid: the helper's now, the command's later.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets the command run.
    pub fn release(&mut self) -> Result<(), ChildError> {
        let Some(hold) = self.hold.take() else {
            return Ok(());
        };
        send_stdin(&hold).map_err(|source| ChildError::Run {
            command: self.name.clone(),
            source,
        })
    }

    /// Asks the command to end (SIGTERM), if it has not ended yet.
    pub fn terminate(&self) {
        // The id is gone once the process was waited for: its pid may then be
        // somebody else's.
        let pid = self.process.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            // It may end on its own just now, which is as good.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Waits for its end: its exit status, or 128 + signal as shells have it. A
    /// command not released by now never runs: [`ABANDONED`].
    pub async fn wait(&mut self) -> Result<i32, ChildError> {
        self.hold = None;
        let status = self.process.wait().await.map_err(ChildError::Wait)?;
        Ok(status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
    }
}

/// Tells that the command goes on without the monitor, if it does: `pid` is its process, which
/// was asked to end.
pub fn tell_left(pid: u32) {
    if is_running(pid) {
        told::note(format_args!(
            "the command has not ended on SIGTERM: process {pid} goes on, unwatched"
        ));
    }
}

/// Whether this is a child of ours that has not ended. Whoever waits for it still can.
fn is_running(pid: u32) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| matches!(waitid(WaitId::Pid(pid), options), Ok(None)))
}

/// The other side, in the held process: waits for the release and becomes the
/// command. Returns only when that fails: `None` when it was never released.
pub fn become_command(command: &[OsString]) -> Option<ChildError> {
    let (program, arguments) = command.split_first()?;
    let error = match receive_stdin() {
        Ok(None) => return None,
        Ok(Some(stdin)) => match dup2_stdin(stdin) {
            Ok(()) => Command::new(program).args(arguments).exec(),
            Err(errno) => errno.into(),
        },
        Err(error) => error,
    };
    Some(ChildError::Run {
        command: program.to_string_lossy().into_owned(),
        source: error,
    })
}

fn send_stdin(hold: &UnixStream) -> io::Result<()> {
    let stdin = io::stdin();
    let fds = [stdin.as_fd()];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    // An empty message is the end of the stream, so it takes one byte.
    retry_on_intr(|| {
        sendmsg(
            hold,
            &[IoSlice::new(&[0])],
            &mut control,
            SendFlags::NOSIGNAL,
        )
    })?;
    Ok(())
}

/// The real standard input, or `None` when the monitor is gone.
fn receive_stdin() -> io::Result<Option<OwnedFd>> {
    let hold = io::stdin();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    retry_on_intr(|| {
        recvmsg(
            &hold,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }))
}

/// Finds a mistyped command before anything is attached for it.
fn check_program(program: &OsStr, path: Option<&OsStr>) -> Result<(), ChildError> {
    if program.is_empty() {
        return Err(ChildError::Empty);
    }
    let is_path = program.as_encoded_bytes().contains(&b'/');
    let candidates: Vec<PathBuf> = if is_path {
        vec![program.into()]
    } else {
        env::split_paths(path.unwrap_or(OsStr::new(DEFAULT_PATH)))
            .map(|dir| dir.join(program))
            .collect()
    };
    let name = || program.to_string_lossy().into_owned();
    let mut found = candidates.iter().filter(|path| path.exists()).peekable();
    if found.peek().is_none() {
        let error = if is_path {
            ChildError::NoFile
        } else {
            ChildError::NotFound
        };
        return Err(error(name()));
    }
    let is_executable = |path: &PathBuf| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if found.any(is_executable) {
        Ok(())
    } else {
        Err(ChildError::NotExecutable(name()))
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::child::*;

    fn check(program: &str, path: &str) -> String {
        match check_program(OsStr::new(program), Some(OsStr::new(path))) {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn program_is_looked_for_in_path_or_taken_as_a_path() {
        assert_eq!(check("sh", "/nowhere:/bin"), "ok");
        assert_eq!(check("/bin/sh", ""), "ok");
        assert_eq!(
            check("no-such-program", "/bin"),
            "run no-such-program: command not found (give its path, or check PATH)"
        );
        assert_eq!(
            check("./sh", "/bin"),
            "run ./sh: no such file (check the path)"
        );
        assert_eq!(
            check("", "/bin"),
            "no command after `--`: write one there, or leave the `--` out"
        );
    }

    #[test]
    fn directory_or_plain_file_is_not_a_program() {
        let refused = "not an executable file (check its mode)";
        assert_eq!(check("/etc", ""), format!("run /etc: {refused}"));
        assert_eq!(check("passwd", "/etc"), format!("run passwd: {refused}"));
    }
}
