//! SIGHUP: the configuration is read again by a thread of its own, while events go on. What is
//! wrong with it, or cannot change in place, leaves everything as it is.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use tokio::sync::{mpsc::UnboundedSender, oneshot};

use super::{
    config::{Beside, Config},
    consumers_of,
    enforce::Enforcing,
    exports::Exports,
    policy::{Judges, Next, over},
};
use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    commands::{load, systemd, told::note},
    consume::{
        fan_out::{Change, Left, Request},
        lines::table::account_lines,
    },
    policy::Policy,
};

/// What the reloader is asked.
pub(super) enum Asked {
    /// To read the configuration again.
    Reload,
    /// To have events judged by this policy, which is in force.
    Judge(Arc<Policy>),
}

/// Reads the configuration again as often as it is asked to.
pub(super) struct Reloader {
    /// What is in force.
    pub(super) config: Config,
    pub(super) exports: Exports,
    /// `None` without a policy.
    pub(super) judges: Option<Judges>,
    /// `None` where no policy is enforced.
    pub(super) enforcing: Option<Enforcing>,
    pub(super) beside: Beside,
    /// What the service manager shows besides the consumers.
    pub(super) status: String,
    pub(super) requests: UnboundedSender<Request>,
}

/// Told when the reloader has ended.
pub(super) struct Ended(Receiver<()>);

impl Ended {
    /// Waits for consumers that have left and are not done yet, but not for ever.
    pub(super) fn wait(self, patience: Duration) {
        // Its sender is gone when it has ended, which is the only news.
        let _ = self.0.recv_timeout(patience);
    }
}

impl Reloader {
    /// Starts it. It ends when nobody can ask it any more.
    pub(super) fn start(mut self, asked: Receiver<Asked>) -> io::Result<Ended> {
        let (ended, ends) = channel();
        thread::Builder::new()
            .name("reload".to_owned())
            .spawn(move || {
                let _ended: Sender<()> = ended;
                for asked in asked {
                    match asked {
                        Asked::Reload => self.reload(),
                        Asked::Judge(policy) => self.follow(policy),
                    }
                }
                // All that the run has told is in the history by now.
                self.exports.finish();
            })?;
        Ok(Ended(ends))
    }

    fn reload(&mut self) {
        systemd::reloading();
        let left = self.change();
        // What is in force is so whether the reload went well or not.
        systemd::ready(&format!("{}; {}", self.status, consumers_of(&self.config)));
        match left {
            Ok(left) => left.into_iter().for_each(tell_account),
            Err(failure) => note(format_args!("not reloaded: {:#}", failure.error)),
        }
    }

    /// Puts the configuration into force as the file has it by now: all of it, or nothing.
    fn change(&mut self) -> Result<Vec<Left>, Failure> {
        let next = Config::load(self.config.path())?;
        let policy = next.observed().map(load::load).transpose()?;
        let steps = self.config.steps_to(&next).map_err(|fixed| {
            Failure::usage(format_args!(
                "{fixed} changed, which takes a restart; nothing was changed"
            ))
        })?;
        let policy = self.prepare(policy.map(Arc::new))?;
        let mut change = Change::reopening();
        for section in &steps.leaving {
            change.leave(section);
        }
        for section in &steps.joining {
            for consumer in next.open(section, &self.beside)? {
                change.join(consumer).or_exit(ExitCode::OutputFailed)?;
            }
        }
        let is_other = if let Some(enforcing) = &self.enforcing {
            let policy = enforcing.read()?;
            if policy.is_none() {
                note("enforcement was ended: a restart of the service applies the policy again");
            }
            let policy = self.prepare(policy)?;
            self.judge_by(policy)?
        } else {
            self.judge_by(policy)?
        };
        let (done, is_done) = oneshot::channel();
        let request = Request { change, done };
        self.requests.send(request).map_err(|_| over())?;
        let left = is_done.blocking_recv().map_err(|_| over())?;
        note(format_args!(
            "reloaded {}: {}{}",
            self.config.path().display(),
            steps.in_words(),
            if is_other { "; another policy" } else { "" }
        ));
        self.config = next;
        // The consumers are those of the new configuration already.
        if let Err(failure) = self.exports.change(&self.config) {
            note(format_args!("{:#}", failure.error));
        }
        Ok(left)
    }

    /// Has events judged by the policy that is in force by now.
    fn follow(&mut self, policy: Arc<Policy>) {
        let prepared = self.prepare(Some(policy));
        if let Err(failure) = prepared.and_then(|next| self.judge_by(next)) {
            note(format_args!(
                "events are judged by the policy before: {:#}",
                failure.error
            ));
        }
    }

    /// The policy, ready to take the place of the one in force; `None` where it says the same.
    fn prepare(&mut self, policy: Option<Arc<Policy>>) -> Result<Option<Next>, Failure> {
        let both = self.judges.as_mut().zip(policy);
        let next = both.map(|(judges, policy)| judges.prepare(policy));
        Ok(next.transpose()?.flatten())
    }

    /// Puts the policy in the place of the one in force; whether there was one to put.
    fn judge_by(&mut self, policy: Option<Next>) -> Result<bool, Failure> {
        let both = self.judges.as_mut().zip(policy);
        let put = both.map(|(judges, next)| judges.put(next));
        Ok(put.transpose()?.is_some())
    }
}

/// Tells what became of the events that a consumer was given, as soon as it has left.
fn tell_account(left: Left) {
    let name = left.name();
    let account = left.finish(super::DRAIN);
    for line in account_lines(name, &account) {
        note(line);
    }
}
