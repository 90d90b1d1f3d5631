//! The backends: which programs each needs, and how they are
//! attached. A backend is chosen by really loading and attaching it.

use std::{any::Any, iter};

use aya::{
    Ebpf,
    programs::{BtfTracePoint, FEntry, FExit, KProbe, ProgramError, RawTracePoint, TracePoint},
};
use port_monitor_common::{counters::Watcher, event::EventKind};

use self::hooks::{
    AGAIN_PREEMPTIBLE, BEFORE, CONNECT, CONNECT_PREEMPTIBLE, FEW_RETURN_PROBES, GRAFT, GRAFT_ALONE,
    GRAFT_PREEMPTIBLE, GROUPS, Hook, LISTEN, LISTEN_BLIND, LISTEN_PREEMPTIBLE, LISTEN_PROBES,
    LISTENER_BLIND, LOCAL, NO_GRAFT, NO_LOCAL_PORT, NO_PERF_EVENTS, OUTCOMES, Otherwise, PATTERNS,
    Place, QUEUE_BLIND, REMOTE, SEE_INBOUND, STATE_EVENTS, TREE, TYPED_OUTCOMES, UNSENT,
    UNSENT_BLIND, UNSENT_PREEMPTIBLE, UNSENT_PROBES, required,
};
use super::{
    aya_workarounds::forged_btf::LazyBtf,
    backend::{Backend, BackendError},
    error::chain,
    executables::NO_EXECUTABLES,
    snapshot,
};
use crate::host::groups::Groups;

mod hooks;

pub(super) use self::hooks::{NO_LISTEN, NO_UNSENT};

impl Backend {
    /// Every sentence this backend may say of what it cannot see, as docs/kernels.md
    /// lists them. Which of them hold depends on the kernel.
    pub fn blind_spots(self) -> Vec<&'static str> {
        match self {
            Self::Fentry => vec![
                NO_GRAFT,
                NO_UNSENT,
                NO_LISTEN,
                NO_PERF_EVENTS,
                NO_EXECUTABLES,
            ],
            Self::Kprobe => vec![FEW_RETURN_PROBES, NO_UNSENT, NO_LISTEN, NO_EXECUTABLES],
            Self::Tracepoint => [
                NO_LOCAL_PORT,
                UNSENT_BLIND,
                LISTEN_BLIND,
                QUEUE_BLIND,
                NO_PERF_EVENTS,
                NO_EXECUTABLES,
            ]
            .into_iter()
            .chain(LISTENER_BLIND)
            .collect(),
        }
    }
}

/// Those for what only some kinds of event tell, where they are wanted; of the
/// pair those that this kernel has functions for.
fn further_hooks(unsent: &[Hook], listen: [Hook; 2], needs: &Needs) -> Vec<Hook> {
    let mut hooks = Vec::new();
    if needs.wants_unsent() {
        hooks.extend(unsent);
    }
    if needs.wants_listeners() {
        hooks.extend(listen.into_iter().take(needs.listen_functions));
    }
    hooks
}

/// What a backend needs to know of the kernel and of the run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    /// Parameters of `inet_csk_accept`: 4 before Linux 6.10, 2 since.
    pub(super) accept_params: Option<usize>,
    /// Follow a process tree.
    pub(super) tree: bool,
    /// The kernel may preempt a task in the middle of a trampoline program.
    pub(super) preemptible: bool,
    /// Perf events of state changes have their fields where they can be read.
    pub(super) state_events: bool,
    /// Functions that enter a listener into the kernel's table: `inet_hash`, and
    /// `inet6_hash` where IPv6 has one of its own.
    pub(super) listen_functions: usize,
    /// The kinds of event that are wanted: [`EventKind::bit`].
    pub(super) kinds: u32,
}

impl Needs {
    fn wants(&self, kinds: &[EventKind]) -> bool {
        kinds.iter().any(|kind| self.kinds & kind.bit() != 0)
    }

    /// Something is to be told, or remembered, beyond attempts and accepts.
    pub(super) fn wants_outcomes(&self) -> bool {
        let beginnings = EventKind::Connect.bit() | EventKind::Accept.bit();
        self.kinds & !beginnings != 0
    }

    /// Attempts are to be told that fail before their SYN, or wait with it for the first
    /// write.
    pub(super) fn wants_unsent(&self) -> bool {
        self.wants(&[EventKind::Connect, EventKind::Failed])
    }

    /// Something is to be told of sockets that begin to listen.
    pub(super) fn wants_listeners(&self) -> bool {
        self.wants(&[
            EventKind::Listen,
            EventKind::Unlisten,
            EventKind::Preexisting,
        ])
    }
}

/// Two programs see each attempt and each listener on this backend: the kernel may preempt a
/// task, and skips a trampoline's or a raw tracepoint's program while a preempted one is in it,
/// a kprobe's or a perf event's while a preempted one is in a bpf(2).
pub(super) const fn sees_twice(backend: Backend, needs: &Needs) -> bool {
    needs.preemptible && matches!(backend, Backend::Fentry | Backend::Tracepoint)
}

fn hooks_of(backend: Backend, needs: &Needs) -> Result<Vec<Hook>, BackendError> {
    let mut hooks = Vec::new();
    if needs.tree {
        hooks.extend(TREE);
    }
    match backend {
        Backend::Fentry => hooks.extend(fentry_hooks(needs)?),
        Backend::Kprobe => {
            hooks.push(GRAFT_ALONE);
            hooks.extend(outcome_hooks(OUTCOMES, needs));
            hooks.push(required("pm_connect_kp", Place::KProbe("tcp_connect")));
            hooks.extend(further_hooks(&UNSENT_PROBES, LISTEN_PROBES, needs));
        }
        Backend::Tracepoint => {
            // Attempts that are seen have their outcome seen: what sees it comes first.
            if needs.preemptible {
                hooks.extend(STATE_EVENTS);
            }
            hooks.extend([BEFORE, LOCAL, REMOTE]);
        }
    }
    Ok(hooks)
}

/// The kernel's functions that trampolines may be attached to, and the types of tracepoints
/// with typed arguments, on whatever kernel and in whatever run.
pub(super) const FUNCTIONS: [&str; 11] = [
    "btf_trace_inet_sock_set_state",
    "inet_csk_accept",
    "security_sock_graft",
    "tcp_connect",
    "security_socket_connect",
    "tcp_v4_pre_connect",
    "tcp_v6_pre_connect",
    "tcp_v4_connect",
    "tcp_v6_connect",
    "inet_hash",
    "inet6_hash",
];

/// Those of [`FUNCTIONS`] that programs may be attached to in this run.
pub(super) fn trampolines(needs: &Needs) -> Vec<&'static str> {
    let hooks = with_substitutes(Backend::Fentry, needs).into_iter();
    let functions = hooks.filter_map(|hook| match hook.place {
        Place::FEntry(name) | Place::FExit(name) | Place::BtfTracePoint(_, name) => Some(name),
        Place::KProbe(_) | Place::RawTracePoint(_) | Place::TracePoint(..) => None,
    });
    functions.collect()
}

/// The programs that may be attached on this backend.
pub(super) fn programs(backend: Backend, needs: &Needs) -> Vec<&'static str> {
    let hooks = with_substitutes(backend, needs).into_iter();
    hooks.map(|hook| hook.program).collect()
}

/// The hooks of a backend, and those that may stand in for them.
fn with_substitutes(backend: Backend, needs: &Needs) -> Vec<Hook> {
    let hooks = hooks_of(backend, needs).unwrap_or_default().into_iter();
    let substitutes = hooks.flat_map(|hook| {
        iter::successors(Some(hook), |hook| match hook.otherwise {
            Otherwise::Instead(substitute) => Some(*substitute),
            Otherwise::Refuse | Otherwise::Second | Otherwise::Blind(_) => None,
        })
    });
    substitutes.collect()
}

fn fentry_hooks(needs: &Needs) -> Result<Vec<Hook>, BackendError> {
    let accept = required(accept_program(needs)?, Place::FExit("inet_csk_accept"));
    let mut hooks = Vec::new();
    if needs.preemptible {
        hooks.extend([GRAFT_PREEMPTIBLE, accept]);
        hooks.extend(outcome_hooks(TYPED_OUTCOMES, needs));
        hooks.push(CONNECT_PREEMPTIBLE);
        hooks.extend(further_hooks(
            &UNSENT_PREEMPTIBLE,
            LISTEN_PREEMPTIBLE,
            needs,
        ));
        // What sees the same after them.
        hooks.push(CONNECT);
        hooks.extend(further_hooks(&[], LISTEN, needs));
    } else {
        hooks.extend([GRAFT, accept]);
        hooks.extend(outcome_hooks(TYPED_OUTCOMES, needs));
        hooks.push(CONNECT);
        hooks.extend(further_hooks(&UNSENT, LISTEN, needs));
    }
    Ok(hooks)
}

/// Those that see how attempts and connections end, and stand in for each other. Every
/// change of a socket's state runs them all: only for who wants to know.
fn outcome_hooks(outcomes: [Hook; 2], needs: &Needs) -> impl Iterator<Item = Hook> {
    let is_wanted = needs.wants_outcomes();
    let preemptible = needs.preemptible.then_some(AGAIN_PREEMPTIBLE);
    let hooks = outcomes.into_iter().chain(preemptible);
    hooks.filter(move |_| is_wanted)
}

/// The fexit program whose result slot fits this kernel's prototype.
pub(super) fn accept_program(needs: &Needs) -> Result<&'static str, BackendError> {
    match needs.accept_params {
        Some(4) => Ok("pm_accept_fe4"),
        Some(2) => Ok("pm_accept_fe2"),
        other => Err(BackendError {
            backend: Backend::Fentry,
            reason: format!("inet_csk_accept has {other:?} parameters; 2 and 4 are known"),
        }),
    }
}

/// The programs that follow the cgroups of a filter.
pub(super) fn following(groups: &Groups) -> impl Iterator<Item = &'static str> {
    group_hooks(groups).map(|hook| hook.program)
}

/// The one for patterns only where there are any.
fn group_hooks(groups: &Groups) -> impl Iterator<Item = &'static Hook> {
    let patterns = groups.has_patterns().then_some(&PATTERNS);
    GROUPS.iter().chain(patterns)
}

/// Loads and attaches what follows the cgroups of a filter: they are to be known before
/// anything is filtered.
pub(super) fn follow(
    ebpf: &mut Ebpf,
    btf: &LazyBtf,
    backend: Backend,
    groups: &Groups,
) -> Result<Links, BackendError> {
    let mut links = Links::default();
    for hook in group_hooks(groups) {
        attach_hook(ebpf, btf, hook, &mut links, &mut Vec::new())
            .map_err(|reason| BackendError { backend, reason })?;
    }
    Ok(links)
}

/// Loads and attaches every program of `backend`, beside those in `links`; all of them, or
/// none. Returns what the backend cannot see on this kernel.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    btf: &LazyBtf,
    backend: Backend,
    needs: &Needs,
    mut links: Links,
) -> Result<(Links, Vec<String>), BackendError> {
    let mut blind = match backend {
        Backend::Fentry | Backend::Kprobe => Vec::new(),
        Backend::Tracepoint => [NO_LOCAL_PORT, UNSENT_BLIND, LISTEN_BLIND, QUEUE_BLIND]
            .iter()
            .chain(&LISTENER_BLIND)
            .map(ToString::to_string)
            .collect(),
    };
    let mut knows_listeners = false;
    for hook in hooks_of(backend, needs)? {
        let hook = if needs.state_events {
            Some(hook)
        } else {
            hook.without_state_events(&mut blind)
        };
        let Some(hook) = hook else {
            continue;
        };
        if SEE_INBOUND.contains(&hook.program) && !knows_listeners {
            // Whoever listens is to be known before connections come in.
            knows_listeners = true;
            snapshot::listeners(ebpf, btf).map_err(|error| BackendError {
                backend,
                reason: error.to_string(),
            })?;
        }
        if let Err(reason) = attach_hook(ebpf, btf, &hook, &mut links, &mut blind) {
            return Err(BackendError { backend, reason });
        }
    }
    Ok((links, blind))
}

/// Attaches a hook or what stands in for it.
fn attach_hook(
    ebpf: &mut Ebpf,
    btf: &LazyBtf,
    hook: &Hook,
    links: &mut Links,
    blind: &mut Vec<String>,
) -> Result<(), String> {
    let failure = match attach_one(ebpf, btf, hook) {
        Ok(link) => {
            if links.without != Some(hook.program) {
                links.kept.push(link);
            }
            links.programs.push(hook.program);
            blind.extend(hook.blind.map(str::to_owned));
            return Ok(());
        }
        Err(error) => describe(hook, &error),
    };
    match hook.otherwise {
        Otherwise::Refuse => Err(failure),
        Otherwise::Second => {
            log::debug!("{failure}");
            Ok(())
        }
        Otherwise::Blind(blind_spot) => {
            log::debug!("{failure}");
            if blind.iter().all(|known| known != blind_spot) {
                blind.push(blind_spot.to_owned());
            }
            Ok(())
        }
        Otherwise::Instead(substitute) => {
            log::debug!("{failure}");
            if links.programs.contains(&substitute.program) {
                // It stands in for another one of them.
                return Ok(());
            }
            attach_hook(ebpf, btf, substitute, links, blind)
        }
    }
}

/// The attachments of a backend; dropping it detaches its programs, which stay
/// loaded.
#[derive(Default)]
pub(super) struct Links {
    kept: Vec<Box<dyn Any>>,
    programs: Vec<&'static str>,
    /// One that is not to stay attached, for tests.
    without: Option<&'static str>,
}

impl Links {
    /// These links, but one program's, which does not work, for tests.
    pub(super) fn without(self, program: Option<&'static str>) -> Self {
        Self {
            without: program,
            ..self
        }
    }

    /// The programs that are attached.
    pub(super) fn programs(&self) -> &[&'static str] {
        &self.programs
    }

    /// The programs that are attached and see the changes of sockets' states beside others,
    /// or attempts where two see each, with their names.
    pub(super) fn watchers(&self, sees_twice: bool) -> Vec<(Watcher, &'static str)> {
        let of = |watcher: Watcher| watcher.programs().iter().map(move |&name| (watcher, name));
        let all = Watcher::ALL.into_iter().flat_map(of);
        let is_meant = |watcher: Watcher| sees_twice || !watcher.is_of_attempts();
        all.filter(|&(watcher, name)| self.programs.contains(&name) && is_meant(watcher))
            .collect()
    }
}

fn attach_one(ebpf: &mut Ebpf, btf: &LazyBtf, hook: &Hook) -> Result<Box<dyn Any>, ProgramError> {
    let program = ebpf
        .program_mut(hook.program)
        .ok_or(ProgramError::UnexpectedProgramType)?;
    Ok(match hook.place {
        Place::FEntry(function) => {
            let program: &mut FEntry = program.try_into()?;
            program.load(function, btf.get()?)?;
            let link = program.attach()?;
            Box::new(program.take_link(link)?)
        }
        Place::FExit(function) => {
            let program: &mut FExit = program.try_into()?;
            program.load(function, btf.get()?)?;
            let link = program.attach()?;
            Box::new(program.take_link(link)?)
        }
        Place::KProbe(function) => {
            let program: &mut KProbe = program.try_into()?;
            load_once(program.load())?;
            let link = program.attach(function, 0)?;
            Box::new(program.take_link(link)?)
        }
        Place::RawTracePoint(name) => {
            let program: &mut RawTracePoint = program.try_into()?;
            program.load()?;
            let link = program.attach(name)?;
            Box::new(program.take_link(link)?)
        }
        Place::BtfTracePoint(name, _) => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(name, btf.get()?)?;
            let link = program.attach()?;
            Box::new(program.take_link(link)?)
        }
        Place::TracePoint(category, name) => {
            let program: &mut TracePoint = program.try_into()?;
            load_once(program.load())?;
            let link = program.attach(category, name)?;
            Box::new(program.take_link(link)?)
        }
    })
}

/// A program that is at several places is loaded for the first of them.
fn load_once(loaded: Result<(), ProgramError>) -> Result<(), ProgramError> {
    match loaded {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        loaded => loaded,
    }
}

/// The kernel's answer in one line: the verifier's log goes to the debug log.
fn describe(hook: &Hook, error: &ProgramError) -> String {
    let place = match hook.place {
        Place::FEntry(name)
        | Place::FExit(name)
        | Place::KProbe(name)
        | Place::RawTracePoint(name)
        | Place::BtfTracePoint(name, _)
        | Place::TracePoint(_, name) => name,
    };
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            log::debug!("{}: verifier: {verifier_log}", hook.program);
            format!("load {} for {place}: {io_error}", hook.program)
        }
        error => format!("attach {} to {place}: {}", hook.program, chain(error)),
    }
}

#[cfg(test)]
mod tests {
    use crate::kernel::backends::*;

    #[test]
    fn every_function_of_a_trampoline_is_looked_up() {
        let kinds = EventKind::ALL
            .iter()
            .fold(0, |bits, kind| bits | kind.bit());
        for (accept_params, preemptible) in [(2, false), (2, true), (4, false), (4, true)] {
            let needs = Needs {
                accept_params: Some(accept_params),
                tree: true,
                preemptible,
                state_events: true,
                listen_functions: 2,
                kinds,
            };
            let mut wanted = trampolines(&needs);
            assert!(wanted.iter().all(|name| FUNCTIONS.contains(name)));
            wanted.dedup();
            assert_eq!(wanted.len(), FUNCTIONS.len());
        }
    }
}
