//! Another policy takes the place of the one that events are judged by, between two of them:
//! no program is detached, and each event is told with the names of its own policy.

use std::{mem, sync::Arc};

use port_monitor_common::judging::{FIRST_NUMBER, Judging, MAX_NUMBER};
use tokio::sync::{
    mpsc::UnboundedSender,
    oneshot::{self, Receiver},
};

use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    commands::watch::{self, policy::PolicyRequest},
    events::record::LoadedPolicy,
    kernel::Judge,
    policy::Policy,
};

/// The policy that events are judged by.
pub(super) struct Judges {
    in_force: Arc<Policy>,
    number: u16,
    /// `None` where it was too large for the programs at the start.
    judge: Option<Judge>,
    requests: UnboundedSender<PolicyRequest>,
    before: Before,
}

/// What is known of the policy before.
enum Before {
    /// There is none, or nothing is left of it.
    Gone,
    /// Programs may still judge by it.
    InUse,
    /// None does. Told when no event that it has judged is on its way any more.
    Settling(Receiver<()>),
}

/// A policy that could take its place.
pub(super) struct Next {
    policy: Arc<Policy>,
    number: u16,
    tables: Option<Judging>,
}

impl Judges {
    /// By the first one.
    pub(super) fn new(
        policy: Arc<Policy>,
        judge: Option<Judge>,
        requests: UnboundedSender<PolicyRequest>,
    ) -> Self {
        Self {
            in_force: policy,
            number: FIRST_NUMBER,
            judge,
            requests,
            before: Before::Gone,
        }
    }

    /// Makes a policy ready to take the place of the one in force; `None` where it says the
    /// same. Nothing changes by that.
    pub(super) fn prepare(&mut self, policy: Arc<Policy>) -> Result<Option<Next>, Failure> {
        if policy.is_same_as(&self.in_force) {
            return Ok(None);
        }
        if self.number == MAX_NUMBER {
            return Err(Failure::usage(format_args!(
                "the policy has changed {} times since the start, which is as many as events \
                 can name: restart the service",
                MAX_NUMBER - 1
            )));
        }
        self.wait_for_events()?;
        let number = self.number + 1;
        let lowered = watch::for_kernel(&policy);
        let judge = self.judge.as_mut();
        let tables = judge.map(|judge| judge.prepare(number, lowered.as_deref()));
        Ok(Some(Next {
            policy,
            number,
            tables: tables.transpose().or_exit(ExitCode::CannotAttach)?,
        }))
    }

    /// Puts it in the place of the one in force.
    pub(super) fn put(&mut self, next: Next) -> Result<(), Failure> {
        let Next {
            policy,
            number,
            tables,
        } = next;
        let loaded = LoadedPolicy {
            number,
            ..watch::loaded(&policy)
        };
        let (done, is_done) = oneshot::channel();
        self.ask(PolicyRequest::Introduce(Arc::clone(&policy), loaded, done))?;
        is_done.blocking_recv().map_err(|_| over())?;
        if let (Some(judge), Some(tables)) = (&mut self.judge, tables) {
            judge.put(tables);
        }
        (self.in_force, self.number) = (policy, number);
        self.before = Before::InUse;
        // It is in force by now. The next one waits for what is left to do.
        if let Err(failure) = self.settle() {
            log::warn!("{:#}", failure.error);
        }
        Ok(())
    }

    /// Waits until no program judges by the policy before, which is not long.
    fn settle(&mut self) -> Result<(), Failure> {
        if let (Before::InUse, Some(_)) = (&self.before, &self.judge) {
            Judge::wait_for_programs().or_exit(ExitCode::CannotAttach)?;
        }
        let (done, is_done) = oneshot::channel();
        self.ask(PolicyRequest::Settle(done))?;
        self.before = Before::Settling(is_done);
        Ok(())
    }

    /// Waits until no event is on its way that the policy before has judged.
    fn wait_for_events(&mut self) -> Result<(), Failure> {
        if let Before::InUse = self.before {
            self.settle()?;
        }
        if let Before::Settling(settled) = mem::replace(&mut self.before, Before::Gone) {
            settled.blocking_recv().map_err(|_| over())?;
        }
        Ok(())
    }

    fn ask(&self, request: PolicyRequest) -> Result<(), Failure> {
        self.requests.send(request).map_err(|_| over())
    }
}

/// Nobody reads the rings any more.
pub(super) fn over() -> Failure {
    Failure::usage("the service comes to its end")
}
