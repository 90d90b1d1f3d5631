//! The policy that a service holds its host to: applied and followed as `apply --follow` does,
//! on a thread of the service.

use std::{
    io::{self, Write},
    mem,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use anyhow::anyhow;

use super::reload::Asked;
use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    commands::{
        enforce::follow::{Follower, Looked, Ready, TICK, tell_problem},
        told::note,
    },
    consume::enforced,
    policy::Policy,
};

/// How long whoever asks waits for files to be read: somebody may be writing one, or changing the
/// policy.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of files that somebody asked to be read: the policy in force, or why it was
/// refused.
type Answer = Result<Arc<Policy>, String>;

/// What the thread is asked.
enum Ask {
    /// To read the files.
    Read(Sender<Answer>),
    /// To come to its end.
    End,
}

/// Asks the thread that follows the policy.
#[derive(Clone)]
pub(super) struct Enforcing(Sender<Ask>);

impl Enforcing {
    /// Puts the policy into force, and follows it. Other policies come to `news`, and how it stands
    /// to the board.
    pub(super) fn start(
        ready: Ready,
        news: Sender<Asked>,
        board: &Arc<enforced::Board>,
    ) -> Result<Self, Failure> {
        let (asks, asked) = channel();
        let follower = ready.start(Journal::default())?;
        board.note(follower.standing());
        let policy = Arc::clone(follower.policy());
        let following = Following {
            follower,
            policy,
            waiting: None,
            news,
            board: Arc::clone(board),
        };
        thread::Builder::new()
            .name("follow".to_owned())
            .spawn(move || following.run(&asked))
            .or_exit(ExitCode::CannotAttach)?;
        Ok(Self(asks))
    }

    /// Has the files read, and waits for what they say to be in force; `None` where enforcement
    /// was ended.
    pub(super) fn read(&self) -> Result<Option<Arc<Policy>>, Failure> {
        let (reply, answer) = channel();
        if self.0.send(Ask::Read(reply)).is_err() {
            return Ok(None);
        }
        let refused = |why| Failure::new(ExitCode::PolicyInvalid, anyhow!("{why}"));
        match answer.recv_timeout(PATIENCE) {
            Ok(answer) => answer.map(Some).map_err(refused),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(refused(format!(
                "the policy's files were not read within {} s: somebody writes one, or changes \
                 the policy",
                PATIENCE.as_secs()
            ))),
        }
    }

    /// Has the thread end. The policy stays in force, as its `on_daemon_exit` says.
    pub(super) fn end(&self) {
        // It may have ended before.
        let _ = self.0.send(Ask::End);
    }
}

/// The thread.
struct Following {
    follower: Follower<Journal>,
    /// The one that was told of last.
    policy: Arc<Policy>,
    /// Who waits for the files to be read.
    waiting: Option<Sender<Answer>>,
    news: Sender<Asked>,
    board: Arc<enforced::Board>,
}

impl Following {
    fn run(mut self, asked: &Receiver<Ask>) {
        loop {
            match asked.recv_timeout(TICK) {
                Ok(Ask::Read(reply)) => {
                    self.follower.ask();
                    self.waiting = Some(reply);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Ask::End) | Err(RecvTimeoutError::Disconnected) => break,
            }
            let looked = self.follower.look();
            self.board.note(self.follower.standing());
            match looked {
                Looked::Over => return,
                Looked::Followed(problem) => self.tell(problem.as_deref()),
            }
        }
        self.follower.end();
        self.board.note(self.follower.standing());
    }

    /// Tells what came of a look to whoever waits for it, or else to the journal.
    fn tell(&mut self, problem: Option<&str>) {
        let in_force = self.follower.policy();
        let is_other = !Arc::ptr_eq(in_force, &self.policy);
        self.policy = Arc::clone(in_force);
        let waiting = self.waiting.take_if(|_| !self.follower.is_asked());
        let refusal = self.follower.refusal();
        match (&waiting, refusal) {
            (Some(_), Some(_)) => {}
            _ => problem.into_iter().for_each(tell_problem),
        }
        let answer = match refusal {
            Some(why) => Err(why.to_owned()),
            None => Ok(Arc::clone(&self.policy)),
        };
        let is_answered = waiting.is_some_and(|reply| {
            // Whoever asked may have had enough of waiting.
            let is_policy = answer.is_ok();
            reply.send(answer).is_ok() && is_policy
        });
        if is_other && !is_answered {
            // Nobody judges any more where the service ends.
            let _ = self.news.send(Asked::Judge(Arc::clone(&self.policy)));
        }
    }
}

/// Has each line in the journal.
#[derive(Default)]
struct Journal(Vec<u8>);

impl Write for Journal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte == b'\n' {
                note(String::from_utf8_lossy(&mem::take(&mut self.0)));
            } else {
                self.0.push(*byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
