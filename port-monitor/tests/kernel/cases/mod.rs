//! The cases that need a monitor of their own.

use anyhow::Result;

use crate::{
    enforce::{self, asked, datagram, follow, life},
    lab::Lab,
    report::Verdict,
    rung::Rung,
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
mod starting;
pub(crate) mod together;

/// How a case is run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Run {
    /// On every rung.
    EachRung(fn(&Lab, Rung) -> Result<Verdict>),
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

const fn each_rung(name: &'static str, run: fn(&Lab, Rung) -> Result<Verdict>) -> Case {
    Case {
        name,
        place: Place::Anywhere,
        parallel: false,
        run: Run::EachRung(run),
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
    each_rung("asleep-in-accept", early::asleep_in_accept),
    each_rung("already-listening", early::already_listening),
    each_rung("shared-before", early::shared_before),
    each_rung("already-open", early::already_open),
    each_rung("half-begun", early::half_begun),
    each_rung("already-restored", early::already_restored),
    each_rung("command-tree", command::tree),
    each_rung("filter-pid", filters::pid),
    each_rung("filter-user", filters::user),
    each_rung("filter-comm", filters::comm),
    each_rung("filter-comm-of-thread", filters::comm_of_thread),
    each_rung("filter-port", filters::port),
    each_rung("filter-port-name", filters::port_name),
    each_rung("filter-local-port", filters::local_port),
    each_rung("filter-remote-port-range", filters::remote_port_range),
    each_rung("filter-remote-net", filters::remote_net),
    each_rung("filter-direction-in", filters::inbound),
    each_rung("filter-direction-out", filters::outbound),
    each_rung("filter-ipv4", filters::ipv4),
    each_rung("filter-ipv6", filters::ipv6),
    each_rung("filter-cgroup", filters::cgroup),
    each_rung("filter-unit", filters::unit),
    each_rung("filter-events", filters::events),
    each_rung("filter-beginnings", filters::beginnings),
    each_rung("progress", progress::adds_up),
    each_rung("progress-filter", progress::filtered),
    once("progress-10000", progress::of_many).native_only(),
    each_rung("end-sigterm", ending::sigterm),
    each_rung("end-sigkill", ending::sigkill),
    each_rung("executables", executables::are_told),
    each_rung("audit", audit::doors),
    each_rung("fastopen-door", fastopen::door),
    each_rung("fastopen-deferred-before", fastopen::deferred_before),
    each_rung("open-during-start", opening::during_start),
    each_rung("open-during-many-starts", opening::many_starts).on_request(),
    each_rung("start-loopback-down", starting::loopback_down),
    each_rung("start-packets-dropped", starting::packets_dropped),
    each_rung("start-own-policy", starting::own_policy),
    once("start-firewall", starting::firewall).native_only(),
    once("start-without-ipv6", starting::without_ipv6).guest_only(),
    once("start-namespaces-refused", starting::namespaces_refused).guest_only(),
    once("start-signal", starting::signal),
    once("start-duration", starting::duration),
    once("start-doctor", starting::doctor),
    once("start-audit", starting::audit),
    each_rung("policy-stream", policy::stream).guest_only(),
    each_rung("policy-owners", policy::owners).guest_only(),
    // What depends neither on the rung nor on the kernel: this one will do.
    once("end-sigint", |lab| ending::sigint(lab, lab.sure_rung())).native_only(),
    once("end-sigabrt", |lab| ending::sigabrt(lab, lab.sure_rung())).native_only(),
    once("end-count", |lab| ending::count(lab, lab.sure_rung())).native_only(),
    once("end-duration", |lab| ending::duration(lab, lab.sure_rung())).native_only(),
    each_rung("faults", faults::are_counted),
    each_rung("unseen-ends", faults::unseen_ends_are_counted),
    each_rung("fault-calls-stay", faults::calls_stay),
    each_rung("start-proves-programs", faults::programs_are_proved),
    each_rung("small-tables", faults::full_tables_are_counted),
    once("table-full", |lab| crowd::table_full(lab, lab.sure_rung())).native_only(),
    once("bpf-log", |lab| {
        log::costs_nothing_when_off(lab, lab.sure_rung())
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
        owners::are_right(lab, lab.sure_rung())
    })
    .on(&["7.2."])
    .parallel(),
    each_rung("owners-of-each-rung", owners::are_right)
        .guest_on_request()
        .parallel(),
    once("account-full-speed", |lab| {
        accounting::full_speed(lab, 50_000)
    })
    .guest_only()
    .parallel(),
    once("account-1000000", |lab| {
        accounting::full_speed(lab, 1_000_000)
    })
    .guest_on_request()
    .parallel(),
    once("account-overload", accounting::overload)
        .guest_only()
        .parallel(),
];
