//! What the eBPF programs are told of a run, and what a backend needs to know of it.

use port_monitor_common::{config::Config, event::EventKind};

use super::{
    backend::Backend,
    backends::{self, Needs},
    btf::Need,
    host_btf::Types,
    preemption,
    settings::Settings,
};

/// The settings; `executables` are the slots of each CPU for the paths of processes.
pub(super) fn config(
    settings: &Settings,
    backend: Backend,
    needs: &Needs,
    executables: u32,
) -> Config {
    let mut salt = [0; 8];
    if rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty()).is_err() {
        log::warn!("no random numbers: connection ids are not keyed");
    }
    Config {
        salt: u64::from_ne_bytes(salt),
        self_tgid: std::process::id(),
        kinds: match settings.asks_for_holders(backend) {
            // Whose a connection was is known from its beginning.
            Some(_) => bits(&settings.kinds) | EventKind::Accept.bit(),
            None => bits(&settings.kinds),
        },
        filters: settings.filters.bits(),
        trace: settings
            .log_level
            .is_some_and(|level| level >= log::Level::Debug)
            .into(),
        judge: settings.policy.is_some().into(),
        inject: settings.faults.site.is_some().into(),
        sees_calls: (backend != Backend::Tracepoint).into(),
        in_turn: (!needs.preemptible && settings.faults.site.is_none()).into(),
        twice: backends::sees_twice(backend, needs).into(),
        executables,
    }
}

/// What a backend needs to know.
pub(super) fn needs(types: &Types, settings: &Settings) -> Needs {
    let accept = types.function("inet_csk_accept");
    Needs {
        accept_params: accept.and_then(|accept| accept.params),
        tree: settings.filters.tree,
        preemptible: preemption::is_possible(),
        state_events: types.lacks(Need::StateEvents).is_none(),
        listen_functions: match types.function("inet6_hash") {
            Some(_) => 2,
            None => 1,
        },
        kinds: bits(&settings.kinds),
    }
}

/// A bit for each of these kinds of event.
pub(super) fn bits(kinds: &[EventKind]) -> u32 {
    kinds.iter().fold(0, |bits, kind| bits | kind.bit())
}
