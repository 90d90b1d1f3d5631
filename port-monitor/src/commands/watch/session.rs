//! One run of the monitor: the event loop, the orderly end, the final account.

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use port_monitor_common::counters::{Extra, Hook};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, mpsc::UnboundedReceiver},
    time::{Interval, MissedTickBehavior, interval},
};

use super::{
    policy::{PolicyRequest, Settling},
    progress::Ticks,
    stop::{StopSignals, Wish, heard},
};
use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    commands::child::{self, Child},
    consume::{
        consumer::{END_GRACE, Stats},
        fan_out::Request,
    },
    events::record::{Failed, HookCount, Summary},
    host::clock,
    kernel::{
        Kernel, Records,
        ring::{BATCH, Ring},
    },
    pipeline::{Pipeline, inbound::Inbound},
};

/// How often losses are looked for: a gap is shown within a second.
const CHECK_PERIOD: Duration = Duration::from_millis(500);
/// How often events that are held back are looked at while no others come.
const HELD_PERIOD: Duration = Duration::from_millis(5);

/// Bytes of lines about what was there before the start that are written at once, and how
/// long the output may keep the start waiting in all: events gather in the ring meanwhile.
const EARLY_BYTES: usize = 1 << 20;
const START_GRACE: Duration = Duration::from_secs(2);

/// Runs what makes and runs a session, on a runtime of one thread.
pub(in crate::commands) fn block_on<T>(
    run: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .or_exit(ExitCode::CannotAttach)?;
    runtime.block_on(run)
}

/// How a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::commands) enum News {
    /// It goes on. Comes about twice a second.
    GoesOn,
    /// SIGHUP asks for the configuration to be read again.
    Reload,
    /// It comes to its end.
    Ends,
}

/// Told how a run goes, by the thread that reads the ring. It must not wait.
pub(in crate::commands) type Attendant = Box<dyn FnMut(News)>;

/// What is asked of a run while it goes on.
pub(in crate::commands) struct Requests {
    /// Consumers are to come and go.
    pub(in crate::commands) consumers: UnboundedReceiver<Request>,
    /// The policy is to become another one.
    pub(in crate::commands) policies: UnboundedReceiver<PolicyRequest>,
}

/// Everything a run needs until its end.
pub(in crate::commands) struct Session {
    /// Stop after this long: what the self-test waited for is over already.
    duration: Option<Duration>,
    kernel: Kernel,
    ring: Ring,
    pipeline: Pipeline,
    child: Option<Child>,
    command_status: Option<i32>,
    started: Instant,
    /// Events seen, and events lost for programs that were skipped, at the last look.
    hits: u64,
    skipped: u64,
    /// Looks at what is skipped that are due.
    due_looks: u8,
    signals: StopSignals,
    /// Looks at what open connections have carried.
    ticks: Option<Ticks>,
    /// Told when events that waited for their owners can be shown.
    owners: Option<Arc<Notify>>,
    /// The terminal's, where the output is one.
    resized: Option<Signal>,
    attendant: Option<Attendant>,
    requests: Option<UnboundedReceiver<Request>>,
    policies: Option<UnboundedReceiver<PolicyRequest>>,
    settling: Settling,
    /// How long the end waits for consumers.
    patience: Duration,
}

/// What the event loop woke up for.
enum Wake {
    Records,
    Known,
    Progress,
    Owners,
    Check,
    Change(Request),
    Policy(PolicyRequest),
    Reload,
    Stop,
    CommandEnded(i32),
}

impl Session {
    /// Takes over what was set up; the events of the set-up come first.
    pub(in crate::commands) fn new(
        duration: Option<Duration>,
        kernel: Kernel,
        mut records: Records,
        mut pipeline: Pipeline,
        child: Option<Child>,
        signals: StopSignals,
    ) -> Result<Self, Failure> {
        pipeline.note_gaps(kernel.counters().gaps());
        if let Some(executables) = kernel.executables() {
            pipeline.ask_executables(executables);
        }
        if let Some((wanted, holders)) = records.inbound.take() {
            let inbound = Inbound::new(holders, wanted).or_exit(ExitCode::CannotAttach)?;
            pipeline.ask(inbound);
        }
        // There may be very many: written one part after the other they take less memory,
        // as long as their processes are known soon and the output takes them.
        let mut patience = START_GRACE;
        let mut is_taken = true;
        for record in mem::take(&mut records.early) {
            pipeline.make_room();
            pipeline.take(&record);
            patience = pipeline.hold_few(patience);
            let consumers = pipeline.consumers();
            if is_taken && consumers.are_behind(EARLY_BYTES) {
                consumers.flush_early();
                let pushed = Instant::now();
                is_taken = consumers.are_idle_within(patience);
                patience = patience.saturating_sub(pushed.elapsed());
            }
        }
        pipeline.catch_up();
        let consumers = pipeline.consumers();
        consumers.flush_early();
        let is_on_terminal = consumers.shown().is_on_terminal();
        let resized = is_on_terminal.then(|| signal(SignalKind::window_change()));
        let waited = kernel.waited();
        Ok(Self {
            resized: resized.transpose().or_exit(ExitCode::CannotAttach)?,
            owners: pipeline.answered(),
            duration: duration.map(|limit| limit.saturating_sub(waited)),
            kernel,
            ring: records.into_ring().or_exit(ExitCode::CannotAttach)?,
            pipeline,
            child,
            command_status: None,
            started: Instant::now(),
            hits: 0,
            skipped: 0,
            due_looks: 0,
            ticks: None,
            signals,
            attendant: None,
            requests: None,
            policies: None,
            settling: Settling::default(),
            patience: END_GRACE,
        })
    }

    /// Tells `attendant` how the run goes, lets consumers come and go and the policy become
    /// another one as `requests` ask for, and waits for consumers at the end for so long.
    pub(in crate::commands) fn attended_by(
        self,
        attendant: Attendant,
        requests: Requests,
        patience: Duration,
    ) -> Self {
        Self {
            attendant: Some(attendant),
            requests: Some(requests.consumers),
            policies: Some(requests.policies),
            patience,
            ..self
        }
    }

    /// Tells every `interval` what the connections that are open have carried.
    pub(in crate::commands) fn tell_progress(mut self, interval: Option<Duration>) -> Self {
        self.ticks = interval.map(Ticks::new);
        self
    }

    /// Watches until something ends it, then settles the account.
    pub(in crate::commands) async fn run(mut self) -> Result<Summary, Failure> {
        let watched = self.watch().await;
        self.tell(News::Ends);
        self.end_command().await;
        watched?;
        self.finish()
    }

    /// Watches until something ends it.
    async fn watch(&mut self) -> Result<(), Failure> {
        let mut check = interval(CHECK_PERIOD);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.pipeline.consumers().shown().is_done() {
            match self.wake(&mut check).await? {
                Wake::Records => {
                    self.drain()?;
                }
                Wake::Known | Wake::Owners => {
                    self.pipeline.catch_up();
                    self.pipeline.consumers().flush();
                }
                Wake::Progress => self.look(),
                Wake::Check => {
                    self.check();
                    self.tell(News::GoesOn);
                }
                Wake::Change(request) => self.change(request),
                Wake::Policy(request) => {
                    if self.settling.begin(&mut self.pipeline, request) {
                        self.drain()?;
                    }
                }
                Wake::Reload => self.tell(News::Reload),
                Wake::Stop => break,
                Wake::CommandEnded(status) => {
                    self.command_status = Some(status);
                    break;
                }
            }
            self.settling.look(&mut self.pipeline);
            // Signals and timers get their turn however fast records come.
            if self.ring.is_busy() {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    async fn wake(&mut self, check: &mut Interval) -> Result<Wake, Failure> {
        let remaining = self
            .duration
            .map(|limit| limit.saturating_sub(self.started.elapsed()));
        // While there are records, their turn is soon enough.
        let is_holding = self.pipeline.is_holding() && !self.ring.is_busy();
        let wake = tokio::select! {
            biased;
            wish = self.signals.recv() => match wish {
                Wish::Stop => {
                    let command = self.child.as_ref().map(Child::pid);
                    super::stop::exit_on_next_signal(self.signals.on_hangup(), command);
                    Wake::Stop
                }
                Wish::Reopen => {
                    self.pipeline.consumers().reopen();
                    Wake::Check
                }
                Wish::Reload => Wake::Reload,
            },
            status = ended(&mut self.child) => Wake::CommandEnded(status),
            () = sleep(remaining) => Wake::Stop,
            () = heard(&mut self.resized) => Wake::Check,
            _ = check.tick() => Wake::Check,
            request = asked(&mut self.requests) => Wake::Change(request),
            request = asked(&mut self.policies) => Wake::Policy(request),
            () = due(self.ticks.as_ref()) => Wake::Progress,
            () = notified(self.owners.as_deref()) => Wake::Owners,
            () = sleep(is_holding.then_some(HELD_PERIOD)) => Wake::Known,
            ready = self.ring.readable() => {
                ready.or_exit(ExitCode::CannotAttach)?;
                Wake::Records
            }
        };
        Ok(wake)
    }

    fn tell(&mut self, news: News) {
        if let Some(attendant) = &mut self.attendant {
            attendant(news);
        }
    }

    /// Lets consumers come and go. What is lost by now is not told to those that come.
    fn change(&mut self, request: Request) {
        self.check();
        let boot_ns = clock::boot_ns();
        let wall_ns = self.pipeline.wall_ns(boot_ns);
        let consumers = self.pipeline.consumers();
        let left = consumers.change(request.change, wall_ns, boot_ns);
        // Whoever asked may be gone.
        let _ = request.done.send(left);
    }

    /// Looks at some of the open connections, and shows what is in the ring meanwhile.
    fn look(&mut self) {
        let (Some(ticks), Some(progress)) = (&mut self.ticks, self.kernel.progress()) else {
            return;
        };
        if !ticks.is_looking() {
            self.pipeline.begin_progress();
        }
        let (kernel, ring, pipeline) = (&self.kernel, &mut self.ring, &mut self.pipeline);
        let looked = ticks.step(progress, || {
            pipeline.note_gaps(kernel.counters().gaps());
            pipeline.make_room();
            ring.drain(|record| pipeline.take(record)).map(drop)
        });
        if let Err(error) = looked {
            log::warn!("look at the open connections: {error}");
        }
        self.pipeline.catch_up();
        self.pipeline.consumers().flush();
    }

    /// Shows the next batch of the ring; returns how many records that were.
    fn drain(&mut self) -> Result<usize, Failure> {
        if !self.pipeline.has_room() {
            self.pipeline.catch_up();
            self.pipeline.consumers().flush();
            if !self.pipeline.has_room() {
                return Ok(0);
            }
        }
        // What was lost before this batch came earlier than any record behind it.
        self.pipeline.note_gaps(self.kernel.counters().gaps());
        let pipeline = &mut self.pipeline;
        let taken = self
            .ring
            .drain(|record| pipeline.take(record))
            .or_exit(ExitCode::CannotAttach)?;
        self.settling.note_taken(taken);
        if taken < BATCH && !self.ticks.as_ref().is_some_and(Ticks::is_looking) {
            // All that the last look has told is taken.
            self.pipeline.end_progress();
        }
        self.pipeline.catch_up();
        self.pipeline.consumers().flush();
        Ok(taken)
    }

    /// Tells the consumers what was counted by now.
    fn check(&mut self) {
        self.pipeline.resample_clock();
        self.kernel.flush_log();
        let skipped = self.skipped();
        let hits = self.kernel.counters().hits();
        let stats = Stats {
            wall_ns: self.pipeline.wall_ns(clock::boot_ns()),
            seen: hits.saturating_sub(self.kernel.aside()) + skipped,
            filtered: self.kernel.counters().filtered() + self.pipeline.tally().hidden,
            ring_full: self.kernel.counters().ring_full(),
            skipped,
            undecodable: self.pipeline.tally().undecodable,
            owner_late: self.pipeline.tally().unowned,
            queue_full: 0,
        };
        self.pipeline.consumers().tick(&stats);
    }

    /// Events that are lost for programs that were skipped, as far as that has lasted
    /// from one look to the next: a call that one program was skipped of may still come
    /// to the other. A run is skipped in the middle of another one: where nothing was
    /// seen since the last looks, there is nothing to look for.
    fn skipped(&mut self) -> u64 {
        let hits = self.kernel.counters().hits();
        if hits != mem::replace(&mut self.hits, hits) {
            self.due_looks = 2;
        }
        if self.due_looks == 0 {
            return self.skipped;
        }
        self.due_looks -= 1;
        let skipped = self.kernel.skipped();
        skipped.min(mem::replace(&mut self.skipped, skipped))
    }

    /// Ends the command, if something else ended the run. One that does not heed that is left
    /// alone: what it does may be worth more than this run.
    async fn end_command(&mut self) {
        let Some(child) = &mut self.child else {
            return;
        };
        if self.command_status.is_none() {
            child.terminate();
            match tokio::time::timeout(END_GRACE, child.wait()).await {
                Ok(ended) => self.command_status = ended.ok(),
                Err(_) => child::tell_left(child.pid()),
            }
        }
    }

    /// Detaches, drains what is left, and writes the account.
    fn finish(mut self) -> Result<Summary, Failure> {
        let watched = self.started.elapsed();
        self.ticks = None;
        self.kernel.detach();
        let account = self.settle()?;
        self.pipeline.resume_all();
        while self.pipeline.is_holding() {
            self.pipeline.catch_up();
            self.pipeline.consumers().flush();
        }
        let consumers = self.pipeline.consumers().accounts(self.patience);
        // Nothing runs any more: what is skipped now has lasted.
        self.skipped = u64::MAX;
        self.due_looks = 1;
        self.check();
        let tally = self.pipeline.tally();
        let extra = |extra| self.kernel.counters().extra(extra);
        let shown = consumers.first().map(|(_, account)| account.clone());
        let shown = shown.unwrap_or_default();
        let summary = Summary {
            wall_ns: self.pipeline.wall_ns(clock::boot_ns()),
            duration: watched,
            looks: account.looks,
            not_ours: account.not_ours,
            failures: account.failures,
            hooks: account
                .hooks
                .into_iter()
                .map(|(hook, count)| (hook.name(), count))
                .collect(),
            received: tally.received,
            undecodable: tally.undecodable,
            hidden: tally.hidden + shown.hidden,
            shown: shown.taken,
            lost_at_output: shown.dropped.total(),
            unowned: tally.unowned,
            consumers,
            violations: self.pipeline.consumers().shown().violations(),
            accept_preattach: extra(Extra::AcceptPreattach),
            command_status: self.command_status,
        };
        let written = self.pipeline.into_consumers().end(&summary);
        if let Err(error) = written
            && error.exit_code() != ExitCode::Ok
        {
            return Err(Failure::new(error.exit_code(), error));
        }
        Ok(summary)
    }

    /// Settles what the kernel has counted, with what all programs missed.
    fn settle(&mut self) -> Result<Counted, Failure> {
        self.agree()?;
        self.kernel.count_left();
        // A program may have come to its end since: the account is of one moment.
        self.agree()
    }

    /// Drains the ring until the kernel's counters and ours agree: a program
    /// that was running when it was detached may still add a record.
    fn agree(&mut self) -> Result<Counted, Failure> {
        let mut deadline = Instant::now() + END_GRACE;
        loop {
            // A backlog takes as long as it takes: what stays in the ring would
            // be counted by the kernel and by nobody else.
            self.pipeline.make_room();
            if self.drain()? > 0 {
                deadline = Instant::now() + END_GRACE;
            }
            let account = Counted::of(&self.kernel);
            if account.agrees(self.pipeline.tally().received) || Instant::now() >= deadline {
                return Ok(account);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What the kernel has counted.
struct Counted {
    looks: u64,
    not_ours: u64,
    failures: Vec<Failed>,
    hooks: Vec<(Hook, HookCount)>,
}

impl Counted {
    fn of(kernel: &Kernel) -> Self {
        let (looks, not_ours) = kernel.counters().looks();
        Self {
            looks,
            not_ours: not_ours + kernel.aside(),
            failures: kernel.counters().failures(),
            hooks: kernel.hooks(),
        }
    }

    /// No program is in the middle of anything, and as many records were received as were
    /// written.
    fn agrees(&self, received: u64) -> bool {
        let counts = || self.hooks.iter().map(|(_, count)| count);
        let failures = self.failures.iter();
        let gave_up = failures.filter(|failed| failed.site.gives_up());
        let ended = self.not_ours
            + gave_up.map(|failed| failed.count).sum::<u64>()
            + counts().map(|count| count.hit).sum::<u64>();
        counts().map(|count| count.submitted).sum::<u64>() == received
            && counts().all(HookCount::adds_up)
            && self.looks == ended
    }
}

/// Waits for the command's end; without a command, for ever.
async fn ended(child: &mut Option<Child>) -> i32 {
    match child {
        Some(child) => match child.wait().await {
            Ok(status) => status,
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// Waits for the next look at the open connections; without any, for ever.
async fn due(ticks: Option<&Ticks>) {
    match ticks {
        Some(ticks) => ticks.wait().await,
        None => std::future::pending().await,
    }
}

/// Waits for the next request; where none can come, for ever. Cancel-safe.
async fn asked<T>(requests: &mut Option<UnboundedReceiver<T>>) -> T {
    if let Some(requests) = requests
        && let Some(request) = requests.recv().await
    {
        return request;
    }
    std::future::pending().await
}

/// Waits until there is something to look at; without a promise of it, for ever.
async fn notified(notify: Option<&Notify>) {
    match notify {
        Some(notify) => notify.notified().await,
        None => std::future::pending().await,
    }
}

/// Sleeps; without a duration, for ever.
pub(super) async fn sleep(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}
