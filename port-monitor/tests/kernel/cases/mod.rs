//! The cases that need a monitor of their own.

use anyhow::Result;

use crate::{
    backend::Backend,
    enforce::{self, asked, datagram, follow, life},
    lab::Lab,
    report::Verdict,
    scenarios::{Place, Traits},
};

mod accounting;
mod audit;
mod command;
mod crowd;
mod early;
mod ending;
mod executables;
mod fastopen;
mod faults;
mod filters;
mod learn;
mod log;
mod opening;
mod oracle;
mod owners;
mod policy;
mod progress;
mod refusals;
mod reload;
mod starting;
pub(crate) mod together;
#[cfg(feature = "top")]
mod view;

/// How a case is run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Run {
    /// On every backend.
    EachBackend(fn(&Lab, Backend) -> Result<Verdict>),
    /// Once per kernel.
    Once(fn(&Lab) -> Result<Verdict>),
}

/// A case of the matrix.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    /// What it shows happens only where threads run at the same time.
    pub(crate) parallel: bool,
    pub(crate) run: Run,
}

const fn each_backend(name: &'static str, run: fn(&Lab, Backend) -> Result<Verdict>) -> Case {
    Case {
        name,
        place: Place::Anywhere,
        parallel: false,
        run: Run::EachBackend(run),
    }
}

const fn once(name: &'static str, run: fn(&Lab) -> Result<Verdict>) -> Case {
    Case {
        name,
        place: Place::Anywhere,
        parallel: false,
        run: Run::Once(run),
    }
}

impl Case {
    pub(crate) const fn traits(&self) -> Traits {
        (self.name, self.place, self.parallel)
    }

    const fn native_only(self) -> Self {
        Self {
            place: Place::NativeOnly,
            ..self
        }
    }

    const fn oracle_guest(self) -> Self {
        Self {
            place: Place::OracleGuest,
            ..self
        }
    }

    const fn parallel(self) -> Self {
        Self {
            parallel: true,
            ..self
        }
    }

    const fn on(self, kernels: &'static [&'static str]) -> Self {
        Self {
            place: Place::GuestsOf(kernels),
            ..self
        }
    }

    const fn on_request(self) -> Self {
        Self {
            place: Place::OnRequest,
            ..self
        }
    }

    const fn guest_on_request(self) -> Self {
        Self {
            place: Place::GuestOnRequest,
            ..self
        }
    }

    const fn guest_only(self) -> Self {
        Self {
            place: Place::GuestOnly,
            ..self
        }
    }
}

/// Every case, in the order of the matrix.
pub(crate) const ALL: &[Case] = &[
    each_backend("asleep-in-accept", early::asleep_in_accept),
    each_backend("already-listening", early::already_listening),
    each_backend("shared-before", early::shared_before),
    each_backend("already-open", early::already_open),
    each_backend("half-begun", early::half_begun),
    each_backend("already-restored", early::already_restored),
    each_backend("command-tree", command::tree),
    each_backend("filter-pid", filters::pid),
    each_backend("filter-user", filters::user),
    each_backend("filter-comm", filters::comm),
    each_backend("filter-comm-of-thread", filters::comm_of_thread),
    each_backend("filter-port", filters::port),
    each_backend("filter-port-name", filters::port_name),
    each_backend("filter-local-port", filters::local_port),
    each_backend("filter-remote-port-range", filters::remote_port_range),
    each_backend("filter-remote-net", filters::remote_net),
    each_backend("filter-direction-in", filters::inbound),
    each_backend("filter-direction-out", filters::outbound),
    each_backend("filter-ipv4", filters::ipv4),
    each_backend("filter-ipv6", filters::ipv6),
    each_backend("filter-cgroup", filters::cgroup),
    each_backend("filter-unit", filters::unit),
    each_backend("filter-events", filters::events),
    each_backend("filter-beginnings", filters::beginnings),
    #[cfg(feature = "top")]
    each_backend("view-used", view::is_used).guest_only(),
    each_backend("progress", progress::adds_up),
    each_backend("progress-filter", progress::filtered),
    once("progress-10000", progress::of_many).native_only(),
    each_backend("end-sigterm", ending::sigterm),
    each_backend("end-sigkill", ending::sigkill),
    each_backend("executables", executables::are_told),
    each_backend("first-thread-ended", executables::first_thread_ended),
    each_backend("audit", audit::listeners),
    each_backend("fastopen-gone-early", fastopen::gone_early),
    each_backend("fastopen-let-go", fastopen::let_go),
    each_backend("fastopen-preempted", fastopen::preempted).guest_only(),
    each_backend("fastopen-deferred-before", fastopen::deferred_before),
    each_backend("open-during-start", opening::during_start),
    each_backend("open-during-many-starts", opening::many_starts).on_request(),
    each_backend("start-loopback-down", starting::loopback_down),
    each_backend("start-packets-dropped", starting::packets_dropped),
    each_backend("start-own-policy", starting::own_policy),
    once("start-firewall", starting::firewall).native_only(),
    once("start-without-ipv6", starting::without_ipv6).guest_only(),
    once("start-namespaces-refused", starting::namespaces_refused).guest_only(),
    once("start-signal", starting::signal),
    once("start-duration", starting::duration),
    once("start-doctor", starting::doctor),
    once("start-audit", starting::audit),
    each_backend("policy-stream", policy::stream).guest_only(),
    each_backend("policy-owners", policy::owners).guest_only(),
    each_backend("policy-reload", reload::under_fire).guest_only(),
    // What depends neither on the backend nor on the kernel: this one will do.
    once("end-sigint", |lab| ending::sigint(lab, lab.sure_backend())).native_only(),
    once("end-sigabrt", |lab| {
        ending::sigabrt(lab, lab.sure_backend())
    })
    .native_only(),
    once("end-count", |lab| ending::count(lab, lab.sure_backend())).native_only(),
    once("end-duration", |lab| {
        ending::duration(lab, lab.sure_backend())
    })
    .native_only(),
    each_backend("faults", faults::are_counted),
    once("close-while-looked", owners::close_while_looked),
    once("owners-of-closed-listeners", owners::of_closed_listeners),
    each_backend("unseen-ends", faults::unseen_ends_are_counted),
    each_backend("fault-calls-stay", faults::calls_stay),
    each_backend("fault-no-perf-events", faults::perf_events_are_refused),
    each_backend("start-proves-programs", faults::programs_are_proved),
    each_backend("small-tables", faults::full_tables_are_counted),
    once("table-full", |lab| {
        crowd::table_full(lab, lab.sure_backend())
    })
    .native_only(),
    once("bpf-log", |lab| {
        log::costs_nothing_when_off(lab, lab.sure_backend())
    }),
    once("policy-fail-on-violation", policy::fail_on_violation).guest_only(),
    once("policy-violations-only", policy::violations_only).guest_only(),
    once("policy-flood", policy::flood).guest_only(),
    once("policy-learn-live", learn::live).guest_only(),
    once("not-root", refusals::not_root),
    once("btf-missing", refusals::btf_missing),
    once("btf-damaged", refusals::btf_damaged),
    once("btf-of-another-kernel", refusals::btf_foreign),
    once("ring-that-sleeps", refusals::sleeping_ring).guest_on_request(),
    once("kprobe-without-kprobes", refusals::kprobe_missing).native_only(),
    once("enforce-deadline", life::deadline),
    once("enforce-confirm", life::confirmed),
    once("enforce-asked", asked::attached_when_asked),
    once("enforce-end", life::ended),
    once("enforce-observe", life::observed),
    once("enforce-udp-default", datagram::by_default),
    once("enforce-bad-policy", life::bad_policies),
    once("enforce-own-session", life::own_session),
    once("enforce-own-namespace", enforce::namespaces::lasting),
    once("enforce-ssh-session", enforce::login::under_sudo).guest_only(),
    once("enforce-lock", life::locked),
    once("enforce-other-cgroup", life::other_cgroup),
    once("enforce-detached", life::detached),
    once("enforce-follow-file", follow::file),
    once("enforce-follow-bad-file", follow::bad_files),
    once("enforce-follow-host", follow::host),
    once("enforce-follow-missing", follow::missing),
    once("enforce-follow-until", enforce::step::rule_that_ends),
    once("enforce-follow-alias", enforce::step::alias),
    once("enforce-follow-denials", follow::denials),
    once("enforce-follow-peers", follow::told_of),
    // 5.10 has no MPTCP.
    once("enforce-mptcp-subflow", enforce::subflow::is_judged).on(&["6.1.", "6.12.", "7.2."]),
    // The guests have neither nft nor pasta.
    once("enforce-nat", enforce::nat::is_seen_through).native_only(),
    once("enforce-pasta", enforce::nat::reaches_loopback_by_pasta).native_only(),
    once("enforce-panic-open", enforce::panic::is_unconditional),
    once("enforce-panic-open-left", enforce::panic::says_what_is_left),
    once("enforce-panic-open-apply", enforce::panic::during_apply).parallel(),
    once("enforce-panic-open-reload", enforce::panic::during_reload),
    once("enforce-counts-go-on", enforce::reload::counts_go_on),
    once("enforce-follow-lease", enforce::reload::lease_needs_no_lock),
    once("enforce-follow-hangup", enforce::reload::early_hangup),
    once("enforce-follow-writing", enforce::reload::written_in_place),
    once("enforce-follow-list", enforce::reload::list),
    once("serve-enforces", enforce::service::holds).guest_only(),
    once("serve-enforces-reload", enforce::service::reloads).guest_only(),
    once("serve-enforces-session", enforce::service::own_session).guest_only(),
    once("serve-enforces-followed", enforce::service::followed).guest_only(),
    once("serve-enforces-locked", enforce::service::refuses_to_start).guest_only(),
    once(
        "serve-enforces-confirm",
        enforce::service::waits_to_be_confirmed,
    )
    .guest_only(),
    once("enforce-unfollowed", enforce::unfollowed::gives_way),
    once("enforce-reload", life::reloads).parallel(),
    once("enforce-count", life::counted),
    once("enforce-oracle", enforce::oracle::compare),
    once("enforce-networks", enforce::networks::compare),
    once("enforce-open-connections", enforce::open::are_ended),
    once("enforce-open-unheld", enforce::open::is_not_guessed),
    once("enforce-flat-cost", enforce::cost::is_flat).on_request(),
    once("oracle", oracle::compare).oracle_guest().parallel(),
    once("live-100000", crowd::live).native_only(),
    // Packets are handled under other processes on every kernel: one will do, whose
    // tasks are preempted in the middle of a program too.
    once("owners-10000", |lab| {
        owners::are_right(lab, lab.sure_backend())
    })
    .on(&["7.2."])
    .parallel(),
    each_backend("owners-of-each-backend", owners::are_right)
        .guest_on_request()
        .parallel(),
    once("account-full-speed", |lab| {
        accounting::full_speed(lab, "auto", 50_000)
    })
    .guest_only()
    .parallel(),
    once("account-1000000", |lab| {
        accounting::full_speed(lab, "auto", 1_000_000)
    })
    .guest_on_request()
    .parallel(),
    each_backend("account-steered", accounting::steered)
        .guest_only()
        .parallel(),
    each_backend("start-beside-writers", starting::beside_writers)
        .on(&["7.2."])
        .parallel(),
    each_backend("account-beside-writers", accounting::beside_writers)
        .on(&["7.2."])
        .parallel(),
    once("account-overload", accounting::overload)
        .guest_only()
        .parallel(),
];
