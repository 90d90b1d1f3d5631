//! What there is to attach: programs, their places in the kernel, and what a backend does
//! not see where one of them cannot be had.

/// Where a program is attached.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    FEntry(&'static str),
    FExit(&'static str),
    /// Also a kretprobe: the program knows which. One program may have several.
    KProbe(&'static str),
    RawTracePoint(&'static str),
    /// A raw tracepoint whose arguments have the kernel's types: its name, and that of the type
    /// which has them.
    BtfTracePoint(&'static str, &'static str),
    /// One program may have several.
    TracePoint(&'static str, &'static str),
}

/// One program of the object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hook {
    pub(super) program: &'static str,
    pub(super) place: Place,
    /// What the backend does not see with this hook.
    pub(super) blind: Option<&'static str>,
    /// What becomes of the backend when this hook cannot be attached.
    pub(super) otherwise: Otherwise,
}

impl Hook {
    /// The hook, or what stands in for it where perf events of state changes cannot be
    /// read; without it the backend may be blind.
    pub(super) fn without_state_events(self, blind: &mut Vec<String>) -> Option<Self> {
        if !matches!(self.place, Place::TracePoint("sock", _)) {
            return Some(self);
        }
        match self.otherwise {
            Otherwise::Instead(substitute) => Some(*substitute),
            Otherwise::Blind(spot) => {
                if blind.iter().all(|known| known != spot) {
                    blind.push(spot.to_owned());
                }
                None
            }
            // None of them is: they stand beside raw tracepoints.
            Otherwise::Refuse | Otherwise::Second => None,
        }
    }
}

/// What becomes of a backend without one of its hooks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Otherwise {
    /// It is refused.
    Refuse,
    /// It is taken, and does not see this.
    Blind(&'static str),
    /// Another hook stands in.
    Instead(&'static Hook),
    /// Another one sees as much, but for what [`CONNECT_PREEMPTIBLE`] sees alone.
    Second,
}

pub(super) const fn required(program: &'static str, place: Place) -> Hook {
    Hook {
        program,
        place,
        blind: None,
        otherwise: Otherwise::Refuse,
    }
}

/// In no backend of its own: follows the process tree of a watched command.
pub(super) const TREE: [Hook; 3] = [
    required("pm_free_rt", Place::RawTracePoint("sched_process_free")),
    required("pm_fork_rt", Place::RawTracePoint("sched_process_fork")),
    required("pm_exit_rt", Place::RawTracePoint("sched_process_exit")),
];

/// In no backend of its own: follows the cgroups of the filter.
pub(super) const GROUPS: [Hook; 2] = [
    required("pm_mkdir_rt", Place::RawTracePoint("cgroup_mkdir")),
    required("pm_rmdir_rt", Place::RawTracePoint("cgroup_rmdir")),
];

/// Beside those: follows cgroups whose names the patterns of the filter match.
pub(super) const PATTERNS: Hook = required("pm_match_rt", Place::RawTracePoint("cgroup_mkdir"));

/// Every change of a TCP socket's state.
const STATE: Place = Place::RawTracePoint("inet_sock_set_state");

/// Every change of a TCP socket's state, with the socket's type.
const TYPED_STATE: Place =
    Place::BtfTracePoint("inet_sock_set_state", "btf_trace_inet_sock_set_state");

/// Every change of a TCP socket's state, by perf events: they run with preemption off.
const STATE_EVENT: Place = Place::TracePoint("sock", "inet_sock_set_state");

/// Those that see inbound connections on the tracepoint backend.
pub(super) const SEE_INBOUND: [&str; 3] = ["pm_before_rt", "pm_remote_tp", "pm_remote_rt"];

/// What softirqs do in the middle of [`REMOTE`].
pub(super) const BEFORE: Hook = required("pm_before_rt", STATE);
pub(super) const LOCAL: Hook = required("pm_local_rt", STATE);
pub(super) const REMOTE: Hook = required("pm_remote_rt", STATE);

/// Before those of the tracepoint backend where the kernel skips a raw tracepoint's program
/// while a preempted task is in the middle of it. What these miss of softirqs that interrupt
/// them, or while a preempted task is in a bpf(2), is seen after them.
pub(super) const STATE_EVENTS: [Hook; 2] = [
    Hook {
        otherwise: Otherwise::Blind(NO_PERF_EVENTS),
        ..required("pm_remote_tp", STATE_EVENT)
    },
    Hook {
        otherwise: Otherwise::Blind(NO_PERF_EVENTS),
        ..required("pm_local_tp", STATE_EVENT)
    },
];

/// How attempts and connections end, and what softirqs do in the middle of the first.
pub(super) const OUTCOMES: [Hook; 2] = [
    required("pm_outcome_rt", STATE),
    required("pm_again_rt", STATE),
];

/// Those that see the same as [`OUTCOMES`], with arguments of the kernel's types.
pub(super) const TYPED_OUTCOMES: [Hook; 2] = [
    required("pm_outcome_bt", TYPED_STATE),
    required("pm_again_bt", TYPED_STATE),
];

/// What is skipped while a preempted task is in the middle of each of them: a perf event
/// is skipped only where it interrupts a kprobe's program or another perf event's.
pub(super) const AGAIN_PREEMPTIBLE: Hook = Hook {
    otherwise: Otherwise::Blind(NO_PERF_EVENTS),
    ..required("pm_again_tp", STATE_EVENT)
};

pub(super) const CONNECT: Hook = required("pm_connect_fe", Place::FEntry("tcp_connect"));

/// Beside the fexit of `inet_csk_accept`.
pub(super) const GRAFT: Hook = Hook {
    otherwise: Otherwise::Blind(NO_GRAFT),
    ..required("pm_graft_fe", Place::FEntry("security_sock_graft"))
};

/// On a preemptible kernel a trampoline program is skipped while a preempted
/// task is in it; a kprobe runs with preemption off. It is skipped while a task is preempted in a
/// bpf(2), when [`CONNECT`], after it, sees the attempt. What both miss is counted.
pub(super) const CONNECT_PREEMPTIBLE: Hook = Hook {
    otherwise: Otherwise::Blind(NO_PERF_EVENTS),
    ..required("pm_connect_kp", Place::KProbe("tcp_connect"))
};

/// For the same reason, beside the fexit of `inet_csk_accept`.
pub(super) const GRAFT_PREEMPTIBLE: Hook = Hook {
    otherwise: Otherwise::Instead(&GRAFT),
    ..required("pm_graft_mkp", Place::KProbe("security_sock_graft"))
};

/// By itself. The kernel has about ten return probes for a function, and a
/// thread asleep in accept keeps one: the entry hook comes first.
pub(super) const GRAFT_ALONE: Hook = Hook {
    otherwise: Otherwise::Instead(&Hook {
        blind: Some(FEW_RETURN_PROBES),
        ..required("pm_accept_krp", Place::KProbe("inet_csk_accept"))
    }),
    ..required("pm_graft_kp", Place::KProbe("security_sock_graft"))
};

/// Attempts that fail before `tcp_connect`: a program for each function on
/// trampolines, else two probes.
pub(super) const UNSENT: [Hook; 5] = [
    unsent("pm_denied_fe", "security_socket_connect"),
    unsent("pm_refused4_fe", "tcp_v4_pre_connect"),
    unsent("pm_refused6_fe", "tcp_v6_pre_connect"),
    unsent("pm_unsent4_fe", "tcp_v4_connect"),
    unsent("pm_unsent6_fe", "tcp_v6_connect"),
];
pub(super) const UNSENT_PROBES: [Hook; 10] = [
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

/// By probes for the same reason as [`CONNECT_PREEMPTIBLE`]. Both of a function see nothing
/// without each other: for either the trampoline stands in.
pub(super) const UNSENT_PREEMPTIBLE: [Hook; 10] = [
    either(UNSENT_PROBES[0], &UNSENT[0]),
    either(UNSENT_PROBES[1], &UNSENT[0]),
    either(UNSENT_PROBES[2], &UNSENT[1]),
    either(UNSENT_PROBES[3], &UNSENT[1]),
    either(UNSENT_PROBES[4], &UNSENT[2]),
    either(UNSENT_PROBES[5], &UNSENT[2]),
    either(UNSENT_PROBES[6], &UNSENT[3]),
    either(UNSENT_PROBES[7], &UNSENT[3]),
    either(UNSENT_PROBES[8], &UNSENT[4]),
    either(UNSENT_PROBES[9], &UNSENT[4]),
];

const fn either(probe: Hook, trampoline: &'static Hook) -> Hook {
    Hook {
        otherwise: Otherwise::Instead(trampoline),
        ..probe
    }
}

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
pub(super) const LISTEN: [Hook; 2] = [
    listen("pm_listen4_fe", Place::FEntry("inet_hash")),
    listen("pm_listen6_fe", Place::FEntry("inet6_hash")),
];
pub(super) const LISTEN_PROBES: [Hook; 2] = [
    listen("pm_listen_kp", Place::KProbe("inet_hash")),
    listen("pm_listen_kp", Place::KProbe("inet6_hash")),
];
/// Before [`LISTEN`], like [`CONNECT_PREEMPTIBLE`].
pub(super) const LISTEN_PREEMPTIBLE: [Hook; 2] = [first(LISTEN_PROBES[0]), first(LISTEN_PROBES[1])];

/// A program that sees what another one sees after it.
const fn first(hook: Hook) -> Hook {
    Hook {
        otherwise: Otherwise::Second,
        ..hook
    }
}

const fn listen(program: &'static str, place: Place) -> Hook {
    Hook {
        otherwise: Otherwise::Blind(NO_LISTEN),
        ..required(program, place)
    }
}

/// What is missing where `inet_hash` has no hook.
pub(in crate::kernel) const NO_LISTEN: &str = "some sockets that begin to listen";

/// What the tracepoint backend knows of them.
pub(super) const LISTEN_BLIND: &str =
    "the port of a listener that never called bind, and whether the kernel then refused it";

/// What is missing where a function of `connect` has no hook.
pub(in crate::kernel) const NO_UNSENT: &str =
    "some attempts that fail before their SYN, or wait with it for the first write";

/// What the tracepoint backend knows of them.
pub(super) const UNSENT_BLIND: &str =
    "attempts that fail before their SYN; for want of a local address or port: their errno";

/// What is missing without `security_sock_graft` (`CONFIG_SECURITY_NETWORK`).
pub(super) const NO_GRAFT: &str = "accepts by threads that were waiting in accept before the start";

/// What a kretprobe does not see.
pub(super) const FEW_RETURN_PROBES: &str =
    "accepts by threads that were waiting before the start or found no return probe free";

/// What an attempt does not tell on the tracepoint backend.
pub(super) const NO_LOCAL_PORT: &str =
    "the local port of an attempt; the event of its outcome has it";

/// What is missing on a preemptible kernel without perf events for tracepoints.
pub(super) const NO_PERF_EVENTS: &str = "some connections, where a task is preempted in the middle of a \
                              program and there are no perf events";

/// What the tracepoint backend does not see of accepts.
pub(super) const LISTENER_BLIND: [&str; 2] = [
    "who accepts: established connections are shown, with the process that has the listener open",
    "who owns a listener that several programs share or that never called bind",
];

/// What the tracepoint backend does not see of connections that are older than it: they belong
/// to no process yet, and no state of theirs changes when they do.
pub(super) const QUEUE_BLIND: &str =
    "connections that have waited to be accepted since before the start";
