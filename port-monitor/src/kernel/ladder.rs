//! The ladder of backends: which programs each rung needs, and how they are
//! attached. A rung is chosen by really loading and attaching it.

use std::{any::Any, iter};

use aya::{
    Ebpf,
    programs::{FEntry, FExit, KProbe, Program, ProgramError, RawTracePoint, TracePoint},
};
use port_monitor_common::event::EventKind;
use thiserror::Error;

use super::{lazy_btf::LazyBtf, snapshot};

/// A backend: a set of hooks that yields the same records as the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Rung {
    /// BPF trampolines on `tcp_connect`, `inet_csk_accept`,
    /// `security_sock_graft`: cheapest and most complete
    Fentry,
    /// Kprobes on `tcp_connect` and `security_sock_graft`: where there are no
    /// trampolines
    Kprobe,
    /// The raw tracepoint `inet_sock_set_state` alone: where there are neither
    Tracepoint,
}

impl Rung {
    /// Every rung, best first.
    pub const ALL: [Self; 3] = [Self::Fentry, Self::Kprobe, Self::Tracepoint];

    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }

    /// Every sentence this rung may say of what it cannot see, as the README
    /// lists them. Which of them hold depends on the kernel and on `--acceptor`.
    pub fn blind_spots(self) -> Vec<&'static str> {
        match self {
            Self::Fentry => vec![NO_GRAFT, NO_UNSENT, NO_LISTEN],
            Self::Kprobe => vec![FEW_RETURN_PROBES, NO_UNSENT, NO_LISTEN],
            Self::Tracepoint => [NO_LOCAL_PORT, UNSENT_BLIND, LISTEN_BLIND, NO_PERF_EVENTS]
                .into_iter()
                .chain(LISTENER_BLIND)
                .chain(ACCEPTOR_BLIND)
                .collect(),
        }
    }
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug)]
enum Place {
    FEntry(&'static str),
    FExit(&'static str),
    /// Also a kretprobe: the program knows which. One program may have several.
    KProbe(&'static str),
    RawTracePoint(&'static str),
    TracePoint(&'static str, &'static str),
}

/// One program of the object.
#[derive(Clone, Copy, Debug)]
struct Hook {
    program: &'static str,
    place: Place,
    /// What the rung does not see with this hook.
    blind: Option<&'static str>,
    /// What becomes of the rung when this hook cannot be attached.
    otherwise: Otherwise,
}

/// What becomes of a rung without one of its hooks.
#[derive(Clone, Copy, Debug)]
enum Otherwise {
    /// It is refused.
    Refuse,
    /// It is taken, and does not see this.
    Blind(&'static str),
    /// Another hook stands in.
    Instead(&'static Hook),
}

const fn required(program: &'static str, place: Place) -> Hook {
    Hook {
        program,
        place,
        blind: None,
        otherwise: Otherwise::Refuse,
    }
}

/// In no rung of its own: follows the process tree of a watched command.
const TREE: [Hook; 2] = [
    required("pm_fork_rt", Place::RawTracePoint("sched_process_fork")),
    required("pm_exit_rt", Place::RawTracePoint("sched_process_exit")),
];

/// Every change of a TCP socket's state.
const STATE: Place = Place::RawTracePoint("inet_sock_set_state");

/// The same as perf events: they run with preemption off.
const STATE_EVENT: Place = Place::TracePoint("sock", "inet_sock_set_state");

/// Those that see inbound connections on the tracepoint rung.
const SEE_INBOUND: [&str; 2] = ["pm_remote_tp", "pm_remote_rt"];

const LOCAL: Hook = required("pm_local_rt", STATE);
const REMOTE: Hook = required("pm_remote_rt", STATE);

/// The tracepoint rung where the kernel skips a raw tracepoint's program while a
/// preempted task is in the middle of it. Perf events come first, and what they miss
/// of softirqs that interrupt them is seen after them.
const TRACEPOINT_PREEMPTIBLE: [Hook; 4] = [
    AGAIN_PREEMPTIBLE,
    Hook {
        otherwise: Otherwise::Instead(&LOCAL),
        ..required("pm_local_tp", STATE_EVENT)
    },
    Hook {
        otherwise: Otherwise::Blind(NO_PERF_EVENTS),
        ..required("pm_remote_tp", STATE_EVENT)
    },
    REMOTE,
];

const OUTCOME: Hook = required("pm_outcome_rt", STATE);

/// What softirqs do in the middle of the other programs there.
const AGAIN: Hook = required("pm_again_rt", STATE);

/// What is skipped while a preempted task is in the middle of them.
const AGAIN_PREEMPTIBLE: Hook = Hook {
    otherwise: Otherwise::Instead(&AGAIN),
    ..required("pm_again_tp", STATE_EVENT)
};

const CONNECT: Hook = required("pm_connect_fe", Place::FEntry("tcp_connect"));

/// Beside the fexit of `inet_csk_accept`.
const GRAFT: Hook = Hook {
    otherwise: Otherwise::Blind(NO_GRAFT),
    ..required("pm_graft_fe", Place::FEntry("security_sock_graft"))
};

/// On a preemptible kernel a trampoline program is skipped while a preempted
/// task is in it; a kprobe runs with preemption off. What is skipped where there
/// are no kprobes is counted.
const CONNECT_PREEMPTIBLE: Hook = Hook {
    otherwise: Otherwise::Instead(&CONNECT),
    ..required("pm_connect_kp", Place::KProbe("tcp_connect"))
};
const GRAFT_PREEMPTIBLE: Hook = Hook {
    otherwise: Otherwise::Instead(&GRAFT),
    ..required("pm_graft_mkp", Place::KProbe("security_sock_graft"))
};

/// By itself. The kernel has about ten return probes for a function, and a
/// thread asleep in accept keeps one: the entry hook comes first.
const GRAFT_ALONE: Hook = Hook {
    otherwise: Otherwise::Instead(&Hook {
        blind: Some(FEW_RETURN_PROBES),
        ..required("pm_accept_krp", Place::KProbe("inet_csk_accept"))
    }),
    ..required("pm_graft_kp", Place::KProbe("security_sock_graft"))
};

/// Attempts that fail before `tcp_connect`: a program for each function on
/// trampolines, else two probes.
const UNSENT: [Hook; 5] = [
    unsent("pm_denied_fe", "security_socket_connect"),
    unsent("pm_refused4_fe", "tcp_v4_pre_connect"),
    unsent("pm_refused6_fe", "tcp_v6_pre_connect"),
    unsent("pm_unsent4_fe", "tcp_v4_connect"),
    unsent("pm_unsent6_fe", "tcp_v6_connect"),
];
const UNSENT_PROBES: [Hook; 10] = [
    unsent_probe("pm_denied_krp", "security_socket_connect"),
    unsent_probe("pm_call_kp", "security_socket_connect"),
    unsent_probe("pm_unsent_krp", "tcp_v4_pre_connect"),
    unsent_probe("pm_call_kp", "tcp_v4_pre_connect"),
    unsent_probe("pm_unsent_krp", "tcp_v6_pre_connect"),
    unsent_probe("pm_call_kp", "tcp_v6_pre_connect"),
    unsent_probe("pm_unsent_krp", "tcp_v4_connect"),
    unsent_probe("pm_call_kp", "tcp_v4_connect"),
    unsent_probe("pm_unsent_krp", "tcp_v6_connect"),
    unsent_probe("pm_call_kp", "tcp_v6_connect"),
];

const fn unsent(program: &'static str, function: &'static str) -> Hook {
    Hook {
        otherwise: Otherwise::Blind(NO_UNSENT),
        ..required(program, Place::FExit(function))
    }
}

const fn unsent_probe(program: &'static str, function: &'static str) -> Hook {
    Hook {
        otherwise: Otherwise::Blind(NO_UNSENT),
        ..required(program, Place::KProbe(function))
    }
}

/// Sockets that begin to listen: IPv4, or both, and IPv6.
const LISTEN: [Hook; 2] = [
    listen("pm_listen4_fe", Place::FEntry("inet_hash")),
    listen("pm_listen6_fe", Place::FEntry("inet6_hash")),
];
const LISTEN_PROBES: [Hook; 2] = [
    listen("pm_listen_kp", Place::KProbe("inet_hash")),
    listen("pm_listen_kp", Place::KProbe("inet6_hash")),
];

const fn listen(program: &'static str, place: Place) -> Hook {
    Hook {
        otherwise: Otherwise::Blind(NO_LISTEN),
        ..required(program, place)
    }
}

/// Those for what only some kinds of event tell, where they are wanted; of the
/// pair those that this kernel has functions for.
fn further_hooks(unsent: &[Hook], listen: [Hook; 2], needs: &Needs) -> Vec<Hook> {
    let mut hooks = Vec::new();
    if needs.wants(&[EventKind::Failed]) {
        hooks.extend(unsent);
    }
    if needs.wants_listeners() {
        hooks.extend(listen.into_iter().take(needs.listen_functions));
    }
    hooks
}

/// What is missing where `inet_hash` has no hook.
pub(super) const NO_LISTEN: &str = "some sockets that begin to listen";

/// What the tracepoint rung knows of them.
const LISTEN_BLIND: &str =
    "the port of a listener that never called bind, and whether the kernel then refused it";

/// What is missing where a function of `connect` has no hook.
const NO_UNSENT: &str = "some attempts that fail before their SYN";

/// What the tracepoint rung knows of them.
const UNSENT_BLIND: &str =
    "attempts that fail before their SYN; for want of a local address or port: their errno";

/// What is missing without `security_sock_graft` (`CONFIG_SECURITY_NETWORK`).
const NO_GRAFT: &str = "accepts by threads that were waiting in accept before the start";

/// What a kretprobe does not see.
const FEW_RETURN_PROBES: &str =
    "accepts by threads that were waiting before the start or found no return probe free";

/// What an attempt does not tell on the tracepoint rung.
const NO_LOCAL_PORT: &str = "the local port of an attempt; the event of its outcome has it";

/// What is missing on a preemptible kernel without perf events for tracepoints.
const NO_PERF_EVENTS: &str = "some connections, where a task is preempted in the middle of a \
                              program and there are no perf events";

/// What the tracepoint rung does not see of accepts by itself.
const LISTENER_BLIND: [&str; 2] = [
    "who accepts: established connections are shown, with the process that listens (see \
     --acceptor)",
    "who owns a listener that several processes share or that never called bind",
];

/// What it does not see of them through the accept tracepoints (`--acceptor`).
const ACCEPTOR_BLIND: [&str; 1] = ["accepts through io_uring"];

/// What a rung needs to know of the kernel and of the run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    /// Parameters of `inet_csk_accept`: 4 before Linux 6.10, 2 since.
    pub(super) accept_params: Option<usize>,
    /// Accept tracepoints on the tracepoint rung.
    pub(super) acceptor: bool,
    /// Follow a process tree.
    pub(super) tree: bool,
    /// The kernel may preempt a task in the middle of a trampoline program.
    pub(super) preemptible: bool,
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

    /// Something is to be told of sockets that begin to listen.
    pub(super) fn wants_listeners(&self) -> bool {
        self.wants(&[
            EventKind::Listen,
            EventKind::Unlisten,
            EventKind::Preexisting,
        ])
    }
}

/// Why a rung was refused.
#[derive(Debug, Error)]
#[error("{}: {reason}", rung.name())]
pub struct RungError {
    /// The rung.
    pub rung: Rung,
    /// The hook that failed and the kernel's answer, one line.
    reason: String,
}

impl RungError {
    /// The hook that failed and the kernel's answer, without the rung's name.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

fn hooks(rung: Rung, needs: &Needs) -> Result<Vec<Hook>, RungError> {
    let mut hooks = Vec::new();
    if needs.tree {
        hooks.extend(TREE);
    }
    let again = if needs.preemptible {
        AGAIN_PREEMPTIBLE
    } else {
        AGAIN
    };
    match rung {
        Rung::Fentry => hooks.extend(fentry_hooks(needs, again)?),
        Rung::Kprobe => {
            hooks.extend([
                GRAFT_ALONE,
                OUTCOME,
                again,
                required("pm_connect_kp", Place::KProbe("tcp_connect")),
            ]);
            hooks.extend(further_hooks(&UNSENT_PROBES, LISTEN_PROBES, needs));
        }
        Rung::Tracepoint => {
            if needs.acceptor {
                hooks.extend([
                    required(
                        "pm_sys_accept",
                        Place::TracePoint("syscalls", "sys_exit_accept"),
                    ),
                    required(
                        "pm_sys_accept4",
                        Place::TracePoint("syscalls", "sys_exit_accept4"),
                    ),
                ]);
            }
            // Attempts that are seen have their outcome seen: what sees it comes first.
            if needs.preemptible {
                hooks.extend(TRACEPOINT_PREEMPTIBLE);
            } else {
                hooks.extend([AGAIN, LOCAL, REMOTE]);
            }
        }
    }
    Ok(hooks)
}

/// The functions that trampolines may be attached to.
pub(super) fn trampolines(needs: &Needs) -> Vec<&'static str> {
    let hooks = hooks(Rung::Fentry, needs).unwrap_or_default();
    let with_substitutes = hooks.iter().flat_map(|hook| {
        iter::successors(Some(hook), |hook| match hook.otherwise {
            Otherwise::Instead(substitute) => Some(substitute),
            Otherwise::Refuse | Otherwise::Blind(_) => None,
        })
    });
    let functions = with_substitutes.filter_map(|hook| match hook.place {
        Place::FEntry(function) | Place::FExit(function) => Some(function),
        Place::KProbe(_) | Place::RawTracePoint(_) | Place::TracePoint(..) => None,
    });
    functions.collect()
}

fn fentry_hooks(needs: &Needs, again: Hook) -> Result<Vec<Hook>, RungError> {
    let accept = required(accept_program(needs)?, Place::FExit("inet_csk_accept"));
    let mut hooks = if needs.preemptible {
        vec![
            GRAFT_PREEMPTIBLE,
            accept,
            OUTCOME,
            again,
            CONNECT_PREEMPTIBLE,
        ]
    } else {
        vec![GRAFT, accept, OUTCOME, again, CONNECT]
    };
    if needs.preemptible {
        hooks.extend(further_hooks(&UNSENT_PROBES, LISTEN_PROBES, needs));
    } else {
        hooks.extend(further_hooks(&UNSENT, LISTEN, needs));
    }
    Ok(hooks)
}

/// The fexit program whose result slot fits this kernel's prototype.
fn accept_program(needs: &Needs) -> Result<&'static str, RungError> {
    match needs.accept_params {
        Some(4) => Ok("pm_accept_fe4"),
        Some(2) => Ok("pm_accept_fe2"),
        other => Err(RungError {
            rung: Rung::Fentry,
            reason: format!("inet_csk_accept has {other:?} parameters; 2 and 4 are known"),
        }),
    }
}

/// Loads and attaches every program of `rung`; all of them, or none. Returns
/// what the rung cannot see on this kernel.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    btf: &LazyBtf<'_>,
    rung: Rung,
    needs: &Needs,
) -> Result<(Links, Vec<String>), RungError> {
    let mut links = Links::default();
    let mut blind = match rung {
        Rung::Fentry | Rung::Kprobe => Vec::new(),
        Rung::Tracepoint => {
            let accept: &[_] = if needs.acceptor {
                &ACCEPTOR_BLIND
            } else {
                &LISTENER_BLIND
            };
            [NO_LOCAL_PORT, UNSENT_BLIND, LISTEN_BLIND]
                .iter()
                .chain(accept)
                .map(ToString::to_string)
                .collect()
        }
    };
    let mut knows_listeners = false;
    for hook in hooks(rung, needs)? {
        if SEE_INBOUND.contains(&hook.program) && !knows_listeners {
            // Whoever listens is to be known before connections come in.
            knows_listeners = true;
            snapshot::listeners(ebpf, btf).map_err(|error| RungError {
                rung,
                reason: error.to_string(),
            })?;
        }
        if let Err(reason) = attach_hook(ebpf, btf, &hook, &mut links, &mut blind) {
            drop(links);
            unload(ebpf);
            return Err(RungError { rung, reason });
        }
    }
    Ok((links, blind))
}

/// Attaches a hook or what stands in for it.
fn attach_hook(
    ebpf: &mut Ebpf,
    btf: &LazyBtf<'_>,
    hook: &Hook,
    links: &mut Links,
    blind: &mut Vec<String>,
) -> Result<(), String> {
    let failure = match attach_one(ebpf, btf, hook) {
        Ok(link) => {
            links.0.push(link);
            blind.extend(hook.blind.map(str::to_owned));
            return Ok(());
        }
        Err(error) => describe(hook, &error),
    };
    match hook.otherwise {
        Otherwise::Refuse => Err(failure),
        Otherwise::Blind(blind_spot) => {
            log::debug!("{failure}");
            if blind.iter().all(|known| known != blind_spot) {
                blind.push(blind_spot.to_owned());
            }
            Ok(())
        }
        Otherwise::Instead(substitute) => {
            log::debug!("{failure}");
            attach_hook(ebpf, btf, substitute, links, blind)
        }
    }
}

/// The attachments of a rung; dropping it detaches its programs, which stay
/// loaded.
#[derive(Default)]
pub(super) struct Links(Vec<Box<dyn Any>>);

fn attach_one(
    ebpf: &mut Ebpf,
    btf: &LazyBtf<'_>,
    hook: &Hook,
) -> Result<Box<dyn Any>, ProgramError> {
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
            match program.load() {
                Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
                Err(error) => return Err(error),
            }
            let link = program.attach(function, 0)?;
            Box::new(program.take_link(link)?)
        }
        Place::RawTracePoint(name) => {
            let program: &mut RawTracePoint = program.try_into()?;
            program.load()?;
            let link = program.attach(name)?;
            Box::new(program.take_link(link)?)
        }
        Place::TracePoint(category, name) => {
            let program: &mut TracePoint = program.try_into()?;
            program.load()?;
            let link = program.attach(category, name)?;
            Box::new(program.take_link(link)?)
        }
    })
}

/// Unloads every program that is loaded, so that another rung can be tried.
fn unload(ebpf: &mut Ebpf) {
    for (name, program) in ebpf.programs_mut() {
        let unloaded = match program {
            Program::FEntry(program) => program.unload(),
            Program::FExit(program) => program.unload(),
            Program::KProbe(program) => program.unload(),
            Program::RawTracePoint(program) => program.unload(),
            Program::TracePoint(program) => program.unload(),
            _ => Ok(()),
        };
        match unloaded {
            Ok(()) | Err(ProgramError::NotLoaded) => {}
            Err(error) => log::warn!("unload {name}: {error}"),
        }
    }
}

/// The kernel's answer in one line: the verifier's log goes to the debug log.
fn describe(hook: &Hook, error: &ProgramError) -> String {
    let place = match hook.place {
        Place::FEntry(name)
        | Place::FExit(name)
        | Place::KProbe(name)
        | Place::RawTracePoint(name)
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

/// An error and its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}
