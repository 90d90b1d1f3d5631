//! Follows a policy, for `apply --follow` and for a service: keeps what is in force in step
//! with the policy's file, with the lists of networks that it names, and with this host.
//!
//! It never undoes what somebody else did: a policy that was rolled back, replaced or
//! not confirmed in time stays so until a file changes or somebody asks. When it ends,
//! the policy stays in force, or gives way in time to what `on_daemon_exit` says.
//! Meanwhile it tells what is denied, each rule at most every ten seconds.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use port_monitor_common::generation::ASKS_SELF;
use tokio::{
    signal::unix::SignalKind,
    time::{self, MissedTickBehavior},
};

use super::{
    Applied, ApplyArgs, Occasion, Prepared,
    denials::DenialLog,
    failure,
    file::{Look, Watched},
    keeper::Keeper,
    lower, now_ns, report,
};
use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    commands::{
        systemd,
        told::note,
        watch::{session::block_on, stop},
    },
    consume::enforced::Standing,
    host::units::{FilesStamp, Units},
    kernel::enforcer::{Attempt, Counts, Enforcer, EnforcerError, Following, Unlocked},
    policy::{Host, Policy, Source},
};

/// How often the files and the host are to be looked at.
pub(in crate::commands) const TICK: Duration = Duration::from_secs(1);

/// At every which look it is checked that all programs are attached.
const LOOKS_AT_LINKS: u32 = 5;

/// A rule's end that has moved by more has moved with the wall clock, in ns.
const CLOCK_SET_NS: u64 = 1_000_000_000;

/// What a look at the kernel found.
enum Found {
    /// A policy, this one or another.
    Policy,
    /// Programs that are attached to nothing.
    Detached(String),
    /// Nothing: enforcement was ended.
    Nothing,
}

/// What came of a look.
pub(in crate::commands) enum Looked {
    /// There is nothing left to follow, which was told.
    Over,
    /// It is followed, with a problem that is to be told, if there is a new one.
    Followed(Option<String>),
}

/// Puts the policy into force and keeps it so until a signal comes.
pub(super) fn run(args: &ApplyArgs, out: impl Write) -> Result<ExitCode, Failure> {
    block_on(async {
        // Before anything else: a signal that comes meanwhile is heard.
        let heed = |kind| stop::heed(kind).or_exit(ExitCode::CannotAttach);
        let mut interrupt = heed(SignalKind::interrupt())?;
        let mut terminate = heed(SignalKind::terminate())?;
        let mut hangup = heed(SignalKind::hangup())?;
        let mut follower = Ready::read(args)?.start(out)?;
        systemd::ready(&format!("following {}", args.path.display()));
        let mut ticks = time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop::heard(&mut interrupt) => break,
                () = stop::heard(&mut terminate) => break,
                () = stop::heard(&mut hangup) => follower.ask(),
                _ = ticks.tick() => {}
            }
            match follower.look() {
                Looked::Over => return Ok(ExitCode::Ok),
                Looked::Followed(problem) => problem.iter().for_each(|text| tell_problem(text)),
            }
        }
        systemd::stopping();
        follower.end();
        Ok(ExitCode::Ok)
    })
}

/// Tells what keeps it from following, and that this changes nothing.
pub(in crate::commands) fn tell_problem(text: &str) {
    note(format_args!(
        "{text}\nport-monitor: the policy in force stays"
    ));
}

/// A policy that can be put into force, and followed from then on.
pub(in crate::commands) struct Ready {
    args: ApplyArgs,
    prepared: Prepared,
    attempt: Attempt,
    files: Watched,
    unit_files: FilesStamp,
}

impl Ready {
    /// The file as it is now. Nothing changes by that.
    pub(in crate::commands) fn read(args: &ApplyArgs) -> Result<Self, Failure> {
        // Before it is read: what changes meanwhile is seen then.
        let mut files = Watched::new(&args.path);
        let unit_files = FilesStamp::of_host();
        let attempt = Attempt::begin(&args.instance.name);
        let prepared = Prepared::new(args, Occasion::Apply)?;
        files.began_with(prepared.policy.list_files());
        Ok(Self {
            args: args.clone(),
            prepared,
            attempt,
            files,
            unit_files,
        })
    }

    /// The policy that it is about.
    pub(in crate::commands) const fn policy(&self) -> &Arc<Policy> {
        &self.prepared.policy
    }

    /// Installs what is needed, and puts it into force.
    pub(in crate::commands) fn start<W: Write>(self, mut out: W) -> Result<Follower<W>, Failure> {
        let mut enforcer = self.prepared.install(&self.attempt)?;
        drop(self.attempt);
        let following = enforcer.follow().map_err(failure)?;
        let keeper = Keeper::start().or_exit(ExitCode::CannotAttach)?;
        let applied = self
            .prepared
            .put_into_force(&mut enforcer)
            .map_err(failure)?;
        keeper.follow(Arc::clone(&applied.watch), applied.id());
        let installation = enforcer.installation();
        let kept = enforcer.unlock();
        applied.finish(&mut out)?;
        Ok(Follower {
            args: self.args,
            out,
            log: applied.log(),
            applied,
            keeper,
            _following: following,
            installation,
            kept: Some(kept),
            files: self.files,
            is_asked: false,
            refusal: None,
            denied: BTreeMap::new(),
            is_in_force: true,
            unit_files: self.unit_files,
            looks: 0,
            is_detached: false,
            problem: None,
        })
    }
}

/// Follows a policy that is in force. It has to be asked to look, about once in [`TICK`].
pub(in crate::commands) struct Follower<W> {
    args: ApplyArgs,
    out: W,
    applied: Applied,
    log: DenialLog,
    /// Renews the lease meanwhile.
    keeper: Keeper,
    /// Keeps others from following it too.
    _following: Following,
    /// Which installation is followed: another is somebody else's.
    installation: Option<u64>,
    /// Its maps, since the last look.
    kept: Option<Unlocked>,
    files: Watched,
    /// Somebody has asked, and the files were not read since.
    is_asked: bool,
    /// Why the files, as they were read last, are not in force.
    refusal: Option<String>,
    /// What the policy in force has denied, by its rules.
    denied: BTreeMap<String, u64>,
    /// The policy that was applied is in force, and no other one.
    is_in_force: bool,
    /// When the unit files were looked at last.
    unit_files: FilesStamp,
    /// How often the kernel was looked at.
    looks: u32,
    /// A program was attached to nothing the last time.
    is_detached: bool,
    /// What was told last: the same is told once.
    problem: Option<String>,
}

impl<W: Write> Follower<W> {
    /// Has the files read by one of the next looks, whether they have changed or not.
    pub(in crate::commands) const fn ask(&mut self) {
        self.is_asked = true;
    }

    /// Somebody has asked, and the files were not read since.
    pub(in crate::commands) const fn is_asked(&self) -> bool {
        self.is_asked
    }

    /// Why the files, as they were read last, are not in force.
    pub(in crate::commands) fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// The policy that was applied last.
    pub(in crate::commands) const fn policy(&self) -> &Arc<Policy> {
        &self.applied.policy
    }

    /// How it stood at the last look.
    pub(in crate::commands) fn standing(&self) -> Standing {
        Standing {
            enforces: self.applied.policy.names().enforces(),
            is_in_force: self.is_in_force,
            is_refused: self.refusal.is_some(),
            denied: self.denied.clone(),
        }
    }

    /// Looks at the files and the host.
    pub(in crate::commands) fn look(&mut self) -> Looked {
        let problem = match self.keep_in_step() {
            Ok(Found::Nothing) => {
                self.is_in_force = false;
                self.say("enforcement was ended: no longer following");
                return Looked::Over;
            }
            Ok(Found::Policy) => None,
            Ok(Found::Detached(names)) => Some(format!(
                "somebody has detached {names}: apply the policy anew after `panic-open`"
            )),
            // Somebody else is changing the policy: the next look will do.
            Err(error) if error.code == ExitCode::Locked => return Looked::Followed(None),
            Err(error) => Some(format!("{:#}", error.error)),
        };
        let is_new = self.problem != problem;
        self.problem.clone_from(&problem);
        Looked::Followed(problem.filter(|_| is_new))
    }

    fn keep_in_step(&mut self) -> Result<Found, Failure> {
        if let Some(look) = self.files.is_due(self.is_asked, Instant::now())
            && !self.reload(look)?
        {
            return Ok(Found::Nothing);
        }
        let Some(mut enforcer) = self.enforcer()? else {
            return Ok(Found::Nothing);
        };
        self.tell_denials(&mut enforcer)?;
        self.looks += 1;
        if self.looks.is_multiple_of(LOOKS_AT_LINKS) || self.is_detached {
            let links = enforcer.links().map_err(failure)?;
            let detached = links.iter().filter(|(_, is_attached)| !is_attached);
            let names: Vec<_> = detached.map(|(name, _)| name.as_str()).collect();
            self.is_detached = !names.is_empty();
            if self.is_detached {
                return Ok(Found::Detached(names.join(" ")));
            }
        }
        // Applied here, and for good.
        if enforcer.confirmed() == Some(self.applied.id()) {
            self.refresh(&mut enforcer)?;
        }
        self.kept = Some(enforcer.unlock());
        Ok(Found::Policy)
    }

    /// Applies the files. What is wrong with them changes nothing. It never installs anything:
    /// false where there is nothing to apply it to.
    fn reload(&mut self, look: Look) -> Result<bool, Failure> {
        let unit_files = FilesStamp::of_host();
        let (lists, prepared) = Prepared::read(&self.args, Occasion::Reload);
        if !look.is_still() {
            // Somebody writes one just now: nobody knows what was read.
            return Ok(true);
        }
        // Of a policy that is refused too: what is wrong may be put right in a list.
        if !self.files.has_seen(&lists, Instant::now()) {
            return Ok(true);
        }
        match self.replace(prepared) {
            // Somebody else is changing the policy: the next look reads it again.
            Err(error) if error.code == ExitCode::Locked => Err(error),
            replaced => {
                self.files.was_read(look);
                self.is_asked = false;
                self.refusal = replaced
                    .as_ref()
                    .err()
                    .map(|why| format!("{:#}", why.error));
                self.unit_files = unit_files;
                replaced
            }
        }
    }

    fn replace(&mut self, prepared: Result<Prepared, Failure>) -> Result<bool, Failure> {
        let Some(mut enforcer) = self.enforcer()? else {
            return Ok(false);
        };
        let applied = match prepared?.put_into_force(&mut enforcer) {
            Err(EnforcerError::Ended) => return Ok(false),
            applied => applied.map_err(failure)?,
        };
        self.keeper.follow(Arc::clone(&applied.watch), applied.id());
        let log = applied.log();
        self.applied = applied;
        self.tell_rest(&mut enforcer)?;
        self.log = log;
        // Nobody has to wait for what follows.
        self.kept = Some(enforcer.unlock());
        self.applied.finish(&mut self.out)?;
        Ok(true)
    }

    /// Tells what was denied, and of another policy only what it denies from now on.
    fn tell_denials(&mut self, enforcer: &mut Enforcer) -> Result<(), Failure> {
        let now = Instant::now();
        self.tell(enforcer, |log, counts| log.due(counts, now))?;
        let in_force = enforcer.in_force();
        self.is_in_force = in_force == self.applied.id();
        if in_force != self.log.policy {
            self.tell_rest(enforcer)?;
            if let Some(counts) = enforcer.counts_of(in_force) {
                self.log = DenialLog::after(&counts);
            }
        }
        Ok(())
    }

    fn tell_rest(&mut self, enforcer: &mut Enforcer) -> Result<(), Failure> {
        self.tell(enforcer, DenialLog::rest)
    }

    fn tell(
        &mut self,
        enforcer: &mut Enforcer,
        lines: impl FnOnce(&mut DenialLog, &Counts) -> Vec<String>,
    ) -> Result<(), Failure> {
        // Counted first: what is counted is in the ring by then.
        let Some(counts) = enforcer.counts_of(self.log.policy) else {
            return Ok(());
        };
        self.denied = report::denied(&counts);
        let denials = enforcer.take_denials(self.log.policy).map_err(failure)?;
        for denial in &denials {
            self.log.note(denial);
        }
        for line in lines(&mut self.log, &counts) {
            self.say(&line);
        }
        Ok(())
    }

    /// Tells what was not told yet.
    pub(in crate::commands) fn end(&mut self) {
        let told = self.enforcer().and_then(|enforcer| {
            enforcer.map_or(Ok(()), |mut enforcer| self.tell_rest(&mut enforcer))
        });
        if let Err(error) = told {
            log::debug!("tell what was denied: {:#}", error.error);
        }
    }

    /// Reads the policy in force again where its units go by other names now.
    fn refresh_units(&mut self) -> Result<(), Failure> {
        if !self.applied.policy.asks_for_units() {
            return Ok(());
        }
        let unit_files = FilesStamp::of_host();
        if unit_files == self.unit_files {
            return Ok(());
        }
        self.unit_files = unit_files;
        if self.applied.policy.has_names_of(&Units::of_host()) {
            return Ok(());
        }
        let source = self.applied.policy.source();
        let source = Source::new(source.name.clone(), source.text.clone());
        let (policy, _) = Policy::parse(source, &Host).or_exit(ExitCode::PolicyInvalid)?;
        // A list that is another is read when nobody writes it any more, and the policy
        // with it.
        if policy.digest() == self.applied.policy.digest() {
            self.applied.policy = Arc::new(policy);
        }
        Ok(())
    }

    /// Looks the names of the policy up again.
    fn refresh(&mut self, enforcer: &mut Enforcer) -> Result<(), Failure> {
        self.refresh_units()?;
        let before = &self.applied.lowered.header;
        // As then: a rule that has ended since is no change.
        let mut lowered = lower(&self.applied.policy, now_ns().min(before.applied_ns))?;
        lowered.header.applied_ns = before.applied_ns;
        lowered.keep_ends(&self.applied.lowered, CLOCK_SET_NS);
        if lowered.header.asks & ASKS_SELF != 0 {
            enforcer.refresh_addresses().map_err(failure)?;
        }
        if lowered == self.applied.lowered {
            // It may have come into force again by what somebody else did.
            if enforcer.is_unleased() {
                enforcer.refresh(&lowered).map_err(failure)?;
            }
            return Ok(());
        }
        enforcer.refresh(&lowered).map_err(failure)?;
        self.tell_missing(&lowered.missing);
        let path = self.args.path.display();
        let what = if lowered.ends == self.applied.lowered.ends {
            "units, cgroups or executables have changed: looked up again"
        } else {
            "the clock was set: the ends of rules were looked up again"
        };
        self.applied.lowered = lowered;
        self.say(&format!("{path}: {what}"));
        Ok(())
    }

    /// Tells which names of the policy lead nowhere since the last look, and which lead
    /// somewhere again.
    fn tell_missing(&mut self, missing: &[String]) {
        for line in came_and_went(&self.applied.lowered.missing, missing) {
            self.say(&line);
        }
    }

    fn enforcer(&mut self) -> Result<Option<Enforcer>, Failure> {
        let found = match self.kept.take() {
            Some(kept) => kept.lock(),
            None => Enforcer::open(&self.args.instance.name),
        };
        let found = found.map_err(failure)?;
        Ok(found.filter(|enforcer| enforcer.installation() == self.installation))
    }

    fn say(&mut self, line: &str) {
        if let Err(error) = writeln!(self.out, "{line}") {
            log::debug!("write to the standard output: {error}");
        }
    }
}

/// What is told of names that lead nowhere now, and of those that led nowhere before.
fn came_and_went(before: &[String], now: &[String]) -> Vec<String> {
    let gone = now.iter().filter(|name| !before.contains(name));
    let back = before.iter().filter(|name| !now.contains(name));
    gone.map(|name| format!("{name} is not there: rules that name it match nothing until it is"))
        .chain(back.map(|name| format!("{name} is there now")))
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::commands::enforce::follow::*;

    #[test]
    fn a_name_that_leads_nowhere_is_told_when_that_changes() {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        let (before, now) = (
            names(&["cgroup /a", "cgroup /b"]),
            names(&["cgroup /b", "cgroup /c"]),
        );
        assert_eq!(
            came_and_went(&before, &now),
            [
                "cgroup /c is not there: rules that name it match nothing until it is",
                "cgroup /a is there now",
            ]
        );
        assert_eq!(came_and_went(&now, &now), [""; 0]);
    }
}
