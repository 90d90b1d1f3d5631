//! The programs that watch: loaded, proved, attached; what they report and count.

use std::{sync::Arc, time::Duration};

use aya::{
    Ebpf,
    maps::{HashMap, MapError},
};
use aya_log::EbpfLogger;
use port_monitor_common::{
    config::FILTER_CGROUP,
    counters::{Extra, Hook},
    event::EventKind,
    offsets::Offsets,
    site::Site,
};

use super::{
    aya_workarounds::forged_btf::LazyBtf,
    backend::{Backend, BackendError},
    backends::{self, Links, Needs},
    btf::{self, Need},
    counters::{self, Counters},
    error::{KernelError, SYSTEM_BTF, chain, kernel_release},
    executables::{self, Noted},
    groups,
    holders::{self, Holders},
    host_btf::Types,
    judge::Judge,
    left::{self, Left},
    maps,
    object::{self, Sizes},
    preflight,
    progress::{self, Progress},
    records::Records,
    ring, run,
    self_test::{self, Findings, Prepared, Watchers},
    settings::{MIN_MAX_CONNECTIONS, Settings},
    skips, snapshot,
};
use crate::events::record::HookCount;

impl Kernel {
    /// Beginnings of connections that were told for the sake of their ends: nobody asked
    /// for them.
    pub fn aside(&self) -> u64 {
        if self.kinds.contains(&EventKind::Accept) {
            return 0;
        }
        self.counters.hook(Hook::Accept).submitted
    }
}

/// What becomes of an attempt.
const OUTCOMES: [EventKind; 3] = [EventKind::Connected, EventKind::Failed, EventKind::Restored];

/// The attached programs. Dropping it detaches them.
pub struct Kernel {
    ebpf: Ebpf,
    links: Links,
    /// The programs that were attached, also when they are no more: one that was loaded and
    /// could not be attached was never skipped, and misses all.
    attached: Vec<&'static str>,
    backend: Backend,
    kinds: Vec<EventKind>,
    blind_spots: Vec<String>,
    waiting: Vec<String>,
    self_test: Findings,
    counters: Counters,
    executables: Option<Arc<Noted>>,
    progress: Option<Progress>,
    left: Left,
    logger: Option<Logger>,
    judge: Option<Judge>,
}

impl Kernel {
    /// Loads, attaches and proves the programs; nothing stays attached on error.
    pub fn start(settings: &Settings) -> Result<(Self, Records), KernelError> {
        preflight::check()?;
        // It finds its place while the programs are loaded.
        let prepared = Prepared::prepare(&settings.self_test)?;
        let path = settings.btf.clone().unwrap_or_else(|| SYSTEM_BTF.into());
        let types = Types::read(&path)?;
        check_needs(&types, settings).map_err(|error| KernelError::Btf { path, error })?;
        let needs = run::needs(&types, settings);
        let lazy_btf = types.lazy_btf(backends::trampolines(&needs));
        let ((mut ebpf, judge), backend, (links, mut blind_spots), waiting) =
            choose(settings.backend, |backend| {
                attach(&types.offsets, &needs, settings, &lazy_btf, backend)
            })?;
        let left = Left::wanted(&needs, &mut ebpf, &lazy_btf)?;
        let mut ask = || Holders::of(&types, &mut ebpf, &lazy_btf, &mut blind_spots);
        let inbound = settings.asks_for_holders(backend).map(|how| (how, ask()));
        // As large as the ring: where it is needed no more, the two are never both there.
        let older = settings.wants_older().then_some(lazy_btf);
        let logger = start_logger(settings, &mut ebpf)?;
        let counters = Counters::map(&ebpf)?;
        let mut records = ring::take(&mut ebpf, ring::EVENTS)?;
        let violations = settings.policy.as_ref();
        let violations = violations.map(|_| ring::take(&mut ebpf, ring::VIOLATIONS));
        let violations = violations.transpose()?;
        let mut early = Vec::new();
        let older_listeners = older.as_ref().filter(|_| backend != Backend::Tracepoint);
        older_listeners.map_or(Ok(()), |btf| snapshot::listeners(&mut ebpf, btf))?;
        let attached = self_test::Attached::of(backend, &needs, &blind_spots);
        // Before connections that are open fill the table.
        let watchers = Watchers::of(&links, backends::sees_twice(backend, &needs), &counters);
        let keep = |record: &[u8]| early.push(record.to_vec());
        let self_test = prepared.run(&mut records, attached, &watchers, keep)?;
        drop(watchers);
        let executables = Noted::trusted(&ebpf, &mut blind_spots);
        settings.faults.begin(&counters);
        if let Some(btf) = &older {
            let drain = || ring::drain_into(&mut records, &mut early);
            snapshot::connections(&mut ebpf, btf, drain)?;
        }
        let progress = Progress::wanted(settings, &mut ebpf, older.as_ref())?;
        let kernel = Self {
            ebpf,
            attached: links.programs().to_vec(),
            links,
            backend,
            kinds: settings.kinds.clone(),
            blind_spots,
            waiting,
            self_test,
            counters,
            executables,
            progress,
            left,
            logger,
            judge,
        };
        let records = Records {
            ring: records,
            violations,
            latency: settings.latency,
            inbound,
            early,
        };
        Ok((kernel, records))
    }

    /// The backend in use.
    pub const fn backend(&self) -> Backend {
        self.backend
    }

    /// What this backend cannot see on this kernel, a sentence each.
    pub fn blind_spots(&self) -> &[String] {
        &self.blind_spots
    }

    /// Units and cgroups of the filter that were not there yet at the start.
    pub fn waiting(&self) -> &[String] {
        &self.waiting
    }

    /// What the self-test could not prove, and why, a sentence each.
    pub fn unproven(&self) -> &[String] {
        &self.self_test.unproven
    }

    /// How long the self-test waited for packets that did not arrive.
    pub const fn waited(&self) -> Duration {
        self.self_test.waited
    }

    /// The policy that the programs judge by, for who may replace it.
    pub const fn take_judge(&mut self) -> Option<Judge> {
        self.judge.take()
    }

    /// The kernel's accounting.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The paths of what processes execute; `None` where they cannot be trusted.
    pub fn executables(&self) -> Option<Arc<Noted>> {
        self.executables.clone()
    }

    /// The look at what open connections have carried so far, where that is wanted.
    pub const fn progress(&self) -> Option<&Progress> {
        self.progress.as_ref()
    }

    /// Adds a process to the watched tree; its descendants follow by themselves.
    pub fn watch_process(&mut self, pid: u32) -> Result<(), MapError> {
        let map = maps::map(&mut self.ebpf, "pm_tree")?;
        HashMap::<_, u32, u8>::try_from(map)?.insert(pid, 1, 0)
    }

    /// Names and verified-instruction counts of the loaded programs; the count
    /// is `None` before Linux 5.16.
    pub fn programs(&self) -> Vec<(String, Option<u32>)> {
        let loaded = self.ebpf.programs().filter_map(|(name, program)| {
            let info = program.info().ok()?;
            Some((name.to_owned(), info.verified_instruction_count()))
        });
        loaded.collect()
    }

    /// Detaches every program; maps and counts of skipped runs stay readable.
    pub fn detach(&mut self) {
        self.left.look();
        self.links = Links::default();
        self.progress = None;
    }

    /// Counts what all programs missed and nothing else has found out. None of them is in
    /// the middle of anything any more: they were detached before.
    pub fn count_left(&self) {
        self.left.look();
    }

    /// Every hook's row, with the runs that were skipped.
    pub fn hooks(&self) -> Vec<(Hook, HookCount)> {
        let row = |hook| {
            let skipped = self.skipped_of(hook);
            let mut count = self.counters.hook(hook);
            if hook == Hook::Accept {
                let aside = self.aside();
                count.hit -= aside;
                count.submitted -= aside;
            }
            (hook, HookCount { skipped, ..count })
        };
        Hook::ALL.into_iter().map(row).collect()
    }

    /// Events that are lost because the kernel skipped a program. Asks the kernel about
    /// every program, which costs more than to read all counters.
    pub fn skipped(&self) -> u64 {
        Hook::ALL
            .into_iter()
            .map(|hook| self.skipped_of(hook))
            .sum()
    }

    /// Events of a hook that are lost because the kernel skipped a program.
    ///
    /// It skips a trampoline program on a CPU where a preempted task is in the
    /// middle of it (Linux 5.12 counts that), and a kprobe where one is in the
    /// middle of a bpf(2). What has two hooks is lost only if both were
    /// skipped: at most as often as either.
    fn skipped_of(&self, hook: Hook) -> u64 {
        let skips = |names: &[&str]| {
            let attached = names.iter().filter(|name| self.attached.contains(name));
            let programs = attached.filter_map(|name| self.ebpf.program(name));
            programs.filter_map(skips::of).reduce(u64::saturating_add)
        };
        let fewest = |hooks: &[&[&str]]| {
            let attached = hooks.iter().filter_map(|names| skips(names));
            attached.min().unwrap_or(0)
        };
        let is_wanted = |kind: &EventKind| self.kinds.contains(kind);
        match hook {
            Hook::Connect if !is_wanted(&EventKind::Connect) => 0,
            Hook::Accept if !is_wanted(&EventKind::Accept) => 0,
            Hook::Listen if !is_wanted(&EventKind::Listen) => 0,
            Hook::Outcome if !OUTCOMES.iter().any(is_wanted) => 0,
            // An attempt that was not seen has no outcome either.
            Hook::Connect | Hook::Outcome => {
                let attempts = [Extra::AttemptsSecond, Extra::AttemptsUnseen];
                self.begun_unseen(
                    attempts,
                    skips(&["pm_connect_kp"]),
                    skips(&["pm_connect_fe"]),
                )
            }
            Hook::Accept => match self.backend {
                Backend::Fentry => fewest(&[
                    &["pm_accept_fe4", "pm_accept_fe2"],
                    &["pm_graft_fe", "pm_graft_mkp"],
                ]),
                Backend::Kprobe => fewest(&[&["pm_graft_kp", "pm_accept_krp"]]),
                // What those that come before cannot note is left to the last one.
                Backend::Tracepoint => {
                    let unnoted = self.counters.failures_at(Site::NoteTold);
                    fewest(&[&["pm_remote_rt"]]).min(unnoted)
                }
            },
            Hook::Listen => {
                let listens = [Extra::ListensSecond, Extra::ListensUnseen];
                let second = skips(&["pm_listen4_fe", "pm_listen6_fe"]);
                self.begun_unseen(listens, skips(&["pm_listen_kp"]), second)
            }
            // The programs of a close run for every change of state, and stand in for each
            // other: what all of them missed is found out by what it leaves.
            Hook::Close => self.counters.extra(Extra::Unseen),
            Hook::Snapshot => 0,
        }
    }

    /// How often the kernel skipped all programs that tell that something begins, of which a
    /// first and a second one were skipped so often. `counts` are what the second has told
    /// alone, and what a third one has found told by nobody.
    fn begun_unseen(&self, counts: [Extra; 2], first: Option<u64>, second: Option<u64>) -> u64 {
        let [told, unseen] = counts.map(|extra| self.counters.extra(extra));
        match (first, second) {
            // What the first missed, and the second did not tell.
            (Some(first), Some(second)) => second.min(first.saturating_sub(told)),
            (first, second) => first.or(second).unwrap_or(unseen),
        }
    }

    /// Hands what the eBPF programs have logged so far to the `log` facade.
    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }
}

/// A backend's programs: the object, the links with what the backend does not see, and which
/// cgroups of the filter are not there yet.
type Attached = (Loaded, Backend, (Links, Vec<String>), Vec<String>);

/// The object, and what its programs judge by.
type Loaded = (Ebpf, Option<Judge>);

/// Loads and attaches a backend.
fn attach(
    offsets: &Offsets,
    needs: &Needs,
    settings: &Settings,
    btf: &LazyBtf,
    backend: Backend,
) -> Result<Result<Attached, BackendError>, KernelError> {
    let (mut ebpf, judge) = load(offsets, needs, settings, backend)?;
    let groups = &settings.filters.groups;
    let (links, waiting) = if groups.is_empty() {
        (Links::default(), Vec::new())
    } else {
        let links = match backends::follow(&mut ebpf, btf, backend, groups) {
            Ok(links) => links,
            Err(refusal) => return Ok(Err(refusal)),
        };
        // Before anything is filtered by them.
        (links, groups::find(&mut ebpf, groups)?)
    };
    let links = links.without(settings.faults.program);
    let attached = backends::attach(&mut ebpf, btf, backend, needs, links);
    Ok(attached.map(|attached| ((ebpf, judge), backend, attached, waiting)))
}

/// The object with a backend's programs, and its maps as the run needs them, filters and
/// policy written.
fn load(
    offsets: &Offsets,
    needs: &Needs,
    settings: &Settings,
    backend: Backend,
) -> Result<Loaded, KernelError> {
    let counters = counters::of_each_cpu(1)?;
    // Where nobody asks for more than beginnings, only the self-test's own are remembered.
    let connections = if needs.wants_outcomes() {
        settings.max_connections
    } else {
        MIN_MAX_CONNECTIONS
    };
    let mut sizes = Sizes::monitor(settings.ring_bytes, connections, counters);
    if !settings.filters.tree {
        sizes = sizes.without_tree();
    }
    let groups = &settings.filters.groups;
    if groups.is_empty() {
        sizes = sizes.without_groups();
    } else {
        let count = |entries: usize| u32::try_from(entries).unwrap_or(u32::MAX);
        let rows = groups.rows().unwrap_or_default();
        sizes = sizes.with_groups(count(groups.wanted().len()), count(rows.len()));
    }
    if settings.faults.listeners > 0 {
        sizes = sizes.with_listeners(settings.faults.listeners);
    }
    if settings.policy.is_some() {
        sizes = sizes.with_policies(settings.policy_places(), settings.ring_bytes);
    }
    let log_level = settings.log_level.map_or(0, |level| level as u8);
    let mut programs = backends::programs(backend, needs);
    if !groups.is_empty() {
        programs.extend(backends::following(groups));
    }
    if settings.wants_older() || backend == Backend::Tracepoint {
        programs.extend(snapshot::PROGRAMS);
        programs.push(progress::PROGRAM);
    }
    if needs.wants_outcomes() {
        programs.push(left::PROGRAM);
    }
    if settings.asks_for_holders(backend).is_some() {
        programs.push(holders::PROGRAM);
        sizes = sizes.with_closers(settings.ring_bytes);
    }
    let (executables, slots) = executables::slots_for(offsets)?;
    let sizes = sizes.with_executables(slots);
    let config = run::config(settings, backend, needs, executables);
    let mut ebpf = object::load(offsets, &config, &sizes, log_level, &programs)?;
    settings.filters.write(&mut ebpf)?;
    let policy = settings.policy.as_ref();
    let judge = policy.map(|policy| Judge::begin(&ebpf, policy, settings.policy_places()));
    Ok((ebpf, judge.transpose()?))
}

type Logger = EbpfLogger<&'static dyn log::Log>;

/// What the programs log, if the user wants it.
fn start_logger(settings: &Settings, ebpf: &mut Ebpf) -> Result<Option<Logger>, KernelError> {
    let logger = settings.log_level.map(|_| EbpfLogger::init(ebpf));
    let logger = logger.transpose();
    logger.map_err(|error| KernelError::Load(chain(&error)))
}

/// Attaches the backend asked for, or the best one that attaches.
fn choose<T>(
    backend: Option<Backend>,
    attach: impl Fn(Backend) -> Result<Result<T, BackendError>, KernelError>,
) -> Result<T, KernelError> {
    let kernel = kernel_release();
    if let Some(backend) = backend {
        return attach(backend)?.map_err(|refusal| KernelError::Backend { kernel, refusal });
    }
    let mut reasons = Vec::new();
    for backend in Backend::ALL {
        match attach(backend)? {
            Ok(attached) => return Ok(attached),
            Err(error) => {
                log::info!("{error}");
                reasons.push(error.to_string());
            }
        }
    }
    let reasons = reasons.join("; ");
    Err(KernelError::NoBackend { kernel, reasons })
}

/// What this run asks for, this kernel has, or says what is missing.
fn check_needs(types: &Types, settings: &Settings) -> Result<(), btf::BtfError> {
    let filters_cgroups = settings.filters.bits() & FILTER_CGROUP != 0;
    let wanted = [
        (Need::Tree, settings.filters.tree),
        (Need::CgroupFilter, filters_cgroups),
    ];
    let mut wanted = wanted.into_iter().filter(|(_, is_wanted)| *is_wanted);
    match wanted.find_map(|(need, _)| types.lacks(need)) {
        Some(error) => Err(error.clone()),
        None => Ok(()),
    }
}
