//! The scenarios one monitor watches together: each is a process of its own
//! that makes connections and writes down what is true of them.

use crate::{backend::Blind, workload::Perform};

pub(crate) mod accepting;
pub(crate) mod begun;
pub(crate) mod breaking;
pub(crate) mod closing;
pub(crate) mod connecting;
pub(crate) mod crowd;
pub(crate) mod early;
pub(crate) mod executables;
pub(crate) mod fastopen;
pub(crate) mod holding;
pub(crate) mod identity;
pub(crate) mod listeners;
pub(crate) mod listening;
pub(crate) mod mixture;
pub(crate) mod mptcp;
pub(crate) mod opening;
pub(crate) mod owners;
pub(crate) mod passing;
pub(crate) mod places;
pub(crate) mod progress;
pub(crate) mod queue;
pub(crate) mod refused;
pub(crate) mod repair;
pub(crate) mod reuse;
pub(crate) mod sent;
pub(crate) mod simultaneous;
pub(crate) mod sounding;
pub(crate) mod tree;
pub(crate) mod uring;
pub(crate) mod wire;

/// Where a scenario may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a guest, and on a host it shares with others.
    Anywhere,
    /// Changes settings of the whole machine, or needs it to itself.
    GuestOnly,
    /// In the guest that has monitors of other people.
    OracleGuest,
    /// In the guests whose kernels' releases begin with one of these.
    GuestsOf(&'static [&'static str]),
    /// Not on the guests' kernels.
    NativeOnly,
    /// Only when its whole name is asked for: it measures time, which an emulated or busy
    /// machine cannot.
    OnRequest,
    /// In a guest, when its whole name is asked for: it takes long.
    GuestOnRequest,
}

/// What decides whether a case runs: its name, where it may, and whether it needs
/// threads to run at the same time.
pub(crate) type Traits = (&'static str, Place, bool);

/// A workload and what it is there to show.
#[derive(Debug)]
pub(crate) struct Scenario {
    /// The case's name in the matrix.
    pub(crate) name: &'static str,
    /// Makes the connections; runs in a process of its own.
    pub(crate) run: Perform,
    /// Where it may run.
    pub(crate) place: Place,
    /// The blind spot it shows on a backend that has it.
    pub(crate) shows: Option<Blind>,
    /// It waits for the kernel to give something up: it runs beside the others.
    pub(crate) waits: bool,
    /// What it shows happens only where threads run at the same time.
    pub(crate) parallel: bool,
}

const fn scenario(name: &'static str, run: Perform) -> Scenario {
    Scenario {
        name,
        run,
        place: Place::Anywhere,
        shows: None,
        waits: false,
        parallel: false,
    }
}

impl Scenario {
    pub(crate) const fn traits(&self) -> Traits {
        (self.name, self.place, self.parallel)
    }

    const fn shows(self, blind: Blind) -> Self {
        Self {
            shows: Some(blind),
            ..self
        }
    }

    const fn waits(self) -> Self {
        Self {
            waits: true,
            ..self
        }
    }

    const fn parallel(self) -> Self {
        Self {
            parallel: true,
            ..self
        }
    }

    const fn guest_only(self) -> Self {
        Self {
            place: Place::GuestOnly,
            ..self
        }
    }

    const fn native_only(self) -> Self {
        Self {
            place: Place::NativeOnly,
            ..self
        }
    }
}

/// Every scenario, in the order of the matrix.
pub(crate) const ALL: &[Scenario] = &[
    scenario("connect-ipv4", connecting::ipv4),
    scenario("connect-ipv6", connecting::ipv6),
    scenario("mapped-client", connecting::mapped_client),
    scenario("mapped-server", connecting::mapped_server),
    scenario("local-port-chosen-late", connecting::ipv4).shows(Blind::LocalPort),
    scenario("local-port-bound", connecting::bound),
    scenario("non-blocking", connecting::non_blocking),
    scenario("refused", connecting::refused),
    scenario("refused-ipv6", connecting::refused_ipv6),
    scenario("refused-unbound", connecting::refused_unbound),
    scenario("port-zero", connecting::port_zero),
    scenario("given-up", connecting::given_up),
    scenario("timed-out", connecting::timed_out).waits(),
    scenario("unreachable", connecting::unreachable).shows(Blind::Unsent),
    scenario("v6-only", connecting::v6_only).shows(Blind::Unsent),
    scenario("not-permitted", connecting::not_permitted).shows(Blind::Unsent),
    scenario("address-taken", connecting::address_taken).shows(Blind::Unsent),
    scenario("never-accepted", accepting::never_accepted).shows(Blind::NeverAccepted),
    scenario("accept-64-threads", accepting::threads)
        .shows(Blind::Acceptor)
        .parallel(),
    scenario("accept-polled", accepting::polled)
        .shows(Blind::Acceptor)
        .parallel(),
    scenario("accept-prefork", accepting::prefork)
        .shows(Blind::Acceptor)
        .parallel(),
    scenario("accept-reuseport", accepting::reuseport)
        .shows(Blind::Listener)
        .parallel(),
    scenario("accept-unbound-listener", accepting::unbound_listener).shows(Blind::Listener),
    scenario("accept-wildcard", accepting::wildcard),
    scenario("held-by-daemon", holding::daemon).waits(),
    scenario("held-by-orphans", holding::orphans).shows(Blind::Listener),
    scenario("held-by-other-user", holding::dropped),
    scenario("held-over-exec", holding::executed),
    scenario("held-by-activated", holding::activated),
    scenario("held-by-activated-too", holding::activated_and_kept).shows(Blind::Listener),
    scenario("held-by-receiver", holding::handed_over),
    scenario("held-by-taker", holding::taken),
    scenario("held-by-one-left", holding::left_alone),
    scenario("held-by-killed", holding::killed),
    scenario("held-by-child-that-exits", holding::left_by_child),
    scenario("listen-and-stop", listening::and_stop),
    scenario("listen-refused", listening::refused).shows(Blind::EarlyListen),
    scenario("exits-at-once", identity::exits_at_once),
    scenario("thread", identity::thread),
    scenario("renamed", identity::renamed),
    scenario("hostile-name", identity::hostile_name),
    scenario("other-user", identity::other_user),
    scenario("other-netns", places::other_netns),
    scenario("cgroup-unit", places::cgroup_unit),
    scenario("cgroup-container", places::cgroup_container),
    scenario("io-uring-ready", uring::ready),
    scenario("io-uring-waiting", uring::waiting),
    scenario("fastopen-sendto", fastopen::sendto),
    scenario("fastopen-connect", fastopen::deferred),
    scenario("fastopen-data-in-syn", fastopen::data_in_syn).guest_only(),
    scenario("fastopen-closed-early", fastopen::closed_early).waits(),
    scenario("fastopen-reset-early", fastopen::reset_early),
    scenario("fastopen-listener-closed", fastopen::listener_closed).shows(Blind::NeverAccepted),
    scenario("fastopen-one-alone", fastopen::one_alone).waits(),
    scenario("fastopen-bytes", fastopen::bytes),
    scenario(
        "fastopen-reset-by-peer-early",
        fastopen::reset_by_peer_early,
    ),
    scenario("fastopen-deferred-closed", fastopen::deferred_and_closed),
    scenario("fastopen-deferred-written", fastopen::deferred_and_written),
    scenario("self-connect-ipv4", simultaneous::ipv4),
    scenario("self-connect-ipv6", simultaneous::ipv6),
    scenario("mptcp-ipv4", mptcp::ipv4),
    scenario("mptcp-ipv6", mptcp::ipv6),
    scenario("mptcp-close", mptcp::close),
    scenario("close-by-client", closing::by_client),
    scenario("close-by-server", closing::by_server),
    scenario("close-ipv6", closing::ipv6),
    scenario("close-mapped", closing::mapped),
    scenario("close-half-1-mib", closing::half),
    scenario("close-zero-bytes", closing::zero_bytes),
    scenario("close-by-reset", closing::reset),
    scenario("close-with-data-unread", closing::unread),
    scenario("close-by-kill", closing::killed),
    scenario("close-before-accept", closing::before_accept),
    scenario("close-by-listener", breaking::listener).shows(Blind::NeverAccepted),
    scenario("close-by-destroy", breaking::destroyed),
    scenario("close-by-timeout", breaking::timed_out).waits(),
    scenario("close-by-unreachable", breaking::unreachable).waits(),
    scenario("accept-queue-overflow", queue::overflows),
    scenario("accept-queue-refuses", queue::refuses),
    scenario("queue-refuses-segments", refused::by_queue),
    // The guests have neither tc's queues nor nft.
    scenario("rate-refuses-segments", refused::by_rate).native_only(),
    scenario("filter-refuses-segments", refused::by_filter).native_only(),
    scenario("sent-urgent", sent::urgent),
    scenario("sent-on-the-way", sent::on_the_way),
    scenario("sent-keepalive", sent::keepalive).waits(),
    scenario("sent-window-shut", sent::window_shut).waits(),
    scenario("repair-taken", repair::taken),
    scenario("repair-taken-half-closed", repair::taken_half_closed),
    scenario("repair-restored", repair::restored),
    scenario("repair-restored-queues", repair::restored_queues),
    scenario("repair-moved", repair::moved),
    scenario("repair-listening", repair::listening),
    scenario("time-wait-reuse-client", reuse::by_client).waits(),
    scenario("time-wait-reuse-server", reuse::by_server).waits(),
    scenario("wire-answers", wire::answers),
    scenario("wire-unreachable", wire::unreachable),
    scenario("wire-inbound", wire::inbound),
    scenario("wire-crossing", wire::crossing),
    scenario("wire-data-in-syn", wire::data_in_syn),
    scenario("wire-losses", wire::losses),
    scenario("wire-window", wire::window),
    scenario("wire-oddities", wire::oddities),
    scenario("wire-errors", wire::errors),
    scenario("wire-too-big", wire::too_big),
    scenario("wire-in-order", wire::in_order),
    scenario("wire-resets", wire::resets),
    scenario("wire-late", wire::late),
    scenario("wire-silence", wire::silence).waits(),
    scenario("wire-again", wire::again),
    scenario("passed-socket", passing::passed),
    scenario("passed-socket-orphan", passing::inherited),
    scenario("softirq-elsewhere", places::softirq_elsewhere)
        .guest_only()
        .parallel(),
];
