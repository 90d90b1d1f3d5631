//! The self-test: before the first event is shown, the monitor connects to itself
//! and compares every field the kernel reports with the truth.
//!
//! An offset that is wrong by one field is a lie nobody sees; here it is a
//! refusal to start. Where no connection can be made the monitor starts all the same,
//! and says what it could not prove, and why.
//!
//! The connection is made by a thread of its own, in a network namespace of its own:
//! no firewall of the host stands in its way there, and no interface that is down. The
//! namespace is made while the programs are loaded. What still judges its sockets is
//! what judges their cgroup: our own policy, or systemd's `IPAddressDeny=`.

use std::{
    io::{self},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use port_monitor_common::counters::{Extra, Watcher};

use super::{
    backend::Backend,
    backends::{self, Links, Needs},
    counters::Counters,
    enforcer::hindrance,
    error::SelfTestError,
    settings::SelfTest,
};
use crate::events::decode::{Event, decode};

mod expected;
mod netns;
mod play;
mod unproven;

use expected::{Expected, Proved, Truth};
use play::{Obstacle, Patience, Played, Reached, play};

/// How long the self-test's events may take: they are in the ring by the time its
/// system calls return, unless another CPU is in the middle of a record.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often the ring is read while the self-test connects.
const LOOK: Duration = Duration::from_millis(1);
/// How long the kernel may take to make a network namespace: it waits where others are
/// being made and removed.
const NAMESPACE_LIMIT: Duration = Duration::from_secs(1);
/// How often to connect again for a program that has not seen it.
const PROOF_TRIES: usize = 10;

/// How often to connect for records that the kernel may have kept a program from.
const RECORD_TRIES: usize = 10;
/// How long events may take where it connects once more for what did not come.
const TRY_LIMIT: Duration = Duration::from_millis(500);

/// connect and accept; with the hooks for them, connected and a close of each end, and
/// listen and unlisten.
const EVENTS: usize = 2;
const OUTCOME_EVENTS: usize = 3;
const LISTEN_EVENTS: usize = 2;

/// Where the self-test connects to.
const LOOPBACKS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// What is attached, as far as it makes a difference here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attached {
    pub(super) backend: Backend,
    /// The hooks for outcomes and ends.
    pub(super) outcomes: bool,
    /// The hooks for sockets that begin to listen.
    pub(super) listen: bool,
    /// The hooks for attempts that fail before their SYN.
    pub(super) unsent: bool,
    /// The program at the return of accept, where another one stands in for it.
    pub(super) accept: Option<&'static str>,
}

/// The programs that see changes of sockets' states beside others: whether each sees them
/// is hidden by the others' records.
pub(super) struct Watchers<'a> {
    /// Those that are attached.
    pub(super) attached: Vec<(Watcher, &'static str)>,
    /// What is proved by now.
    pub(super) proofs: Box<dyn Fn() -> u128 + 'a>,
}

impl<'a> Watchers<'a> {
    /// Of a backend.
    pub(super) fn of(links: &Links, sees_twice: bool, counters: &'a Counters) -> Self {
        Self {
            attached: links.watchers(sees_twice),
            proofs: Box::new(|| {
                let further = u128::from(counters.extra(Extra::FurtherProofs));
                further << u64::BITS | u128::from(counters.extra(Extra::Proofs))
            }),
        }
    }

    /// The first that is not proved.
    fn blind(&self) -> Option<&'static str> {
        let proofs = (self.proofs)();
        let mut attached = self.attached.iter();
        let blind = attached.find(|(watcher, _)| !watcher.is_proved(proofs))?;
        Some(blind.1)
    }
}

/// What the self-test proved, and did not.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What could not be proved, and why, a sentence each.
    pub(super) unproven: Vec<String>,
    /// How long it waited for packets that did not come.
    pub(super) waited: Duration,
}

/// A thread that is ready to connect.
pub(super) struct Prepared {
    /// Where to connect to, and how long to wait.
    orders: Sender<(IpAddr, Patience)>,
    /// What came of it, for each order.
    results: Receiver<Option<Played>>,
    place: Receiver<Result<Place, SelfTestError>>,
    patience: Patience,
}

/// Where the thread is.
struct Place {
    truth: Truth,
    /// In a network namespace of its own.
    is_private: bool,
}

impl Prepared {
    /// Starts the thread, and lets it find a place to connect in.
    pub(super) fn prepare(limits: &SelfTest) -> Result<Self, SelfTestError> {
        let SelfTest { patience, stop } = limits.clone();
        let limit = patience;
        Self::spawn(Patience { limit, stop }, find_place)
    }

    /// Starts a thread that connects from where `find_place` leads it.
    fn spawn(
        patience: Patience,
        find_place: fn() -> Result<Place, SelfTestError>,
    ) -> Result<Self, SelfTestError> {
        let (orders, ordered) = mpsc::channel();
        let (played, results) = mpsc::channel();
        let (found, place) = mpsc::channel();
        thread::Builder::new()
            .spawn(move || {
                let place = find_place();
                let is_private = place.as_ref().is_ok_and(|place| place.is_private);
                // Whoever does not listen any more needs no answer.
                let _ = found.send(place);
                for (addr, patience) in ordered {
                    let _ = played.send(connect(addr, &patience, is_private));
                }
            })
            .map_err(SelfTestError::Thread)?;
        Ok(Self {
            orders,
            results,
            place,
            patience,
        })
    }

    /// Waits until the thread has found its place. One that takes too long is left
    /// behind, and another one connects from where the user is.
    fn settle(self) -> Result<(Self, Place), SelfTestError> {
        match self.place.recv_timeout(NAMESPACE_LIMIT) {
            Ok(place) => Ok((self, place?)),
            Err(RecvTimeoutError::Disconnected) => Err(thread_failed()),
            Err(RecvTimeoutError::Timeout) => {
                log::info!("no network namespace for the self-test in {NAMESPACE_LIMIT:?}");
                let other = Self::spawn(self.patience, || place(false))?;
                let place = other.place.recv().map_err(|_| thread_failed())??;
                Ok((other, place))
            }
        }
    }

    /// Connects to itself and checks what the kernel reports. Events of others that
    /// arrive meanwhile go to `others`.
    pub(super) fn run(
        self,
        records: &mut RingBuf<MapData>,
        attached: Attached,
        watchers: &Watchers,
        mut others: impl FnMut(&[u8]),
    ) -> Result<Findings, SelfTestError> {
        let (prepared, here) = self.settle()?;
        let mut patience = prepared.patience.clone();
        let mut whole = None;
        let mut blocked = Vec::new();
        let mut waited = Duration::ZERO;
        for addr in LOOPBACKS {
            let begin = Instant::now();
            let mut read = |events: &mut _| read(records, events, &mut others);
            let played = prepared.check(addr, &patience, attached, &here.truth, &mut read)?;
            let Some(attempt) = played else {
                log::info!("no IPv6 on loopback: the self-test is IPv4 only");
                continue;
            };
            if let Some(obstacle) = attempt.obstacle {
                waited += begin.elapsed();
                patience.limit = patience.limit.min(SelfTest::BRIEF);
                blocked.push((addr, attempt.reached, obstacle));
            } else {
                whole = Some(addr);
            }
        }
        if let Some(addr) = whole {
            prepared.prove(addr, watchers, || {
                let mut events = Vec::new();
                let count = attached.wanted(Reached::End, false);
                collect(count, DEADLINE, &mut events, |events| {
                    read(records, events, &mut others);
                });
            })?;
        }
        let rules = prepared.rules_in_the_way(&blocked);
        Ok(Findings {
            unproven: unproven::sentences(&blocked, attached, &rules, here.is_private),
            waited,
        })
    }

    /// Has the thread connect, and compares what is reported with what it did: again where
    /// something of it was not reported by the program that is to.
    fn check(
        &self,
        addr: IpAddr,
        patience: &Patience,
        attached: Attached,
        truth: &Truth,
        mut read: impl FnMut(&mut Vec<Event>),
    ) -> Result<Option<Played>, SelfTestError> {
        let mut proved = Proved::default();
        let mut earlier = Vec::new();
        let mut tries = RECORD_TRIES;
        loop {
            tries -= 1;
            let mut events = Vec::new();
            let order = (addr, patience.clone());
            let Some(attempt) = self.order(order, || read(&mut events))? else {
                return Ok(None);
            };
            let wanted = attached.wanted(attempt.reached, attempt.unsent.is_some());
            let limit = if tries > 0 { TRY_LIMIT } else { DEADLINE };
            let own = |event: &Event| !is_of(&earlier, event);
            collect(wanted, limit, &mut events, |events| {
                read(events);
                events.retain(own);
            });
            let expected = Expected::new(truth, &attempt, attached);
            match expected.check_as_far_as(attempt.reached, &events, &mut proved) {
                Err(error) if error.is_of_skips() && tries > 0 => {
                    log::info!("once more: {error}");
                }
                Err(error) => return Err(error),
                Ok(()) => return Ok(Some(attempt)),
            }
            earlier.push(attempt.server.port());
        }
    }

    /// Has the thread connect, and calls `meanwhile` again and again.
    fn order(
        &self,
        order: (IpAddr, Patience),
        mut meanwhile: impl FnMut(),
    ) -> Result<Option<Played>, SelfTestError> {
        self.orders.send(order).map_err(|_| thread_failed())?;
        loop {
            match self.results.recv_timeout(LOOK) {
                Ok(played) => return Ok(played),
                Err(RecvTimeoutError::Disconnected) => return Err(thread_failed()),
                Err(RecvTimeoutError::Timeout) => meanwhile(),
            }
        }
    }

    /// Connects until every program has seen that, a few times at most: where the kernel
    /// interrupts one in the middle, it skips the next. `take` takes what is reported.
    fn prove(
        &self,
        addr: IpAddr,
        watchers: &Watchers,
        mut take: impl FnMut(),
    ) -> Result<(), SelfTestError> {
        for _ in 0..PROOF_TRIES {
            if watchers.blind().is_none() {
                break;
            }
            self.order((addr, self.patience.clone()), || ())?;
            take();
        }
        match watchers.blind() {
            Some(program) => Err(SelfTestError::Blind {
                kernel: crate::kernel::error::kernel_release(),
                program,
            }),
            None => Ok(()),
        }
    }

    /// What of our own policy denied the connections that were blocked: what counts one
    /// more denial when they are tried again.
    fn rules_in_the_way(&self, blocked: &[(IpAddr, Reached, Obstacle)]) -> Vec<String> {
        let is_stopped = |(_, _, obstacle): &(_, _, _)| matches!(obstacle, Obstacle::Stopped);
        if blocked.is_empty() || blocked.iter().any(is_stopped) {
            return Vec::new();
        }
        hindrance::denied_while(|| {
            for (addr, ..) in blocked {
                let patience = Patience {
                    limit: SelfTest::BRIEF.min(self.patience.limit),
                    ..self.patience.clone()
                };
                // What it runs into is known already.
                let _ = self.order((*addr, patience), || ());
            }
        })
    }
}

fn thread_failed() -> SelfTestError {
    SelfTestError::Thread(io::Error::other("it ended too early"))
}

/// Moves the calling thread to where nothing stands in its way, if that is allowed.
fn find_place() -> Result<Place, SelfTestError> {
    let moved = netns::enter_private();
    if let Err(error) = &moved {
        log::info!("no network namespace of its own for the self-test: {error}");
    }
    place(moved.is_ok())
}

/// Where the calling thread is.
fn place(is_private: bool) -> Result<Place, SelfTestError> {
    Ok(Place {
        truth: Truth::read()?,
        is_private,
    })
}

/// One connection of the calling thread to itself.
fn connect(addr: IpAddr, patience: &Patience, is_private: bool) -> Option<Played> {
    let played = play(addr, patience);
    // Other network namespaces may have what is off by default.
    if played.is_none() && is_private && netns::allow_ipv6().is_ok() {
        return play(addr, patience);
    }
    played
}

impl Attached {
    /// Of a backend with what it does not see.
    pub(super) fn of(backend: Backend, needs: &Needs, blind_spots: &[String]) -> Self {
        let sees = |lack: &str| blind_spots.iter().all(|spot| spot != lack);
        let is_tracepoint = backend == Backend::Tracepoint;
        Self {
            backend,
            outcomes: is_tracepoint || needs.wants_outcomes(),
            listen: is_tracepoint || needs.wants_listeners() && sees(backends::NO_LISTEN),
            unsent: !is_tracepoint && needs.wants_unsent() && sees(backends::NO_UNSENT),
            accept: match backend {
                Backend::Fentry => backends::accept_program(needs).ok(),
                Backend::Kprobe | Backend::Tracepoint => None,
            },
        }
    }

    /// How many events come of a connection, and of an attempt beside it.
    fn wanted(self, reached: Reached, unsent: bool) -> usize {
        let listen = if self.listen { LISTEN_EVENTS } else { 0 };
        match reached {
            Reached::Nothing => 0,
            Reached::Listening => listen,
            Reached::Connecting => listen + 1,
            Reached::End => {
                let outcome = if self.outcomes { OUTCOME_EVENTS } else { 0 };
                listen + EVENTS + outcome + usize::from(unsent && self.unsent)
            }
        }
    }
}

/// It comes late, of a connection whose listener had one of these ports.
fn is_of(ports: &[u16], event: &Event) -> bool {
    let local = event.local_port.is_some_and(|port| ports.contains(&port));
    local || ports.contains(&event.remote_port)
}

/// Reads until as many of the self-test's events are there as are wanted, or the time is over.
fn collect(
    wanted: usize,
    limit: Duration,
    events: &mut Vec<Event>,
    mut read: impl FnMut(&mut Vec<Event>),
) {
    let deadline = Instant::now() + limit;
    loop {
        read(events);
        if events.len() >= wanted || Instant::now() >= deadline {
            break;
        }
        thread::yield_now();
    }
}

/// Takes what is in the ring.
fn read(ring: &mut RingBuf<MapData>, events: &mut Vec<Event>, others: &mut impl FnMut(&[u8])) {
    while let Some(record) = ring.next() {
        match decode(&record) {
            Ok(event) if event.self_test => {
                log::debug!("self-test: {event:?}");
                events.push(event);
            }
            _ => others(&record),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kernel::self_test::*;

    #[test]
    fn each_program_is_proved_by_itself() {
        let again = u128::from(Watcher::Again.proof());
        let both = vec![
            (Watcher::Again, "pm_again_rt"),
            (Watcher::Remote, "pm_remote_rt"),
        ];
        let blind = |proofs: u128| {
            let watchers = Watchers {
                attached: both.clone(),
                proofs: Box::new(move || proofs),
            };
            watchers.blind()
        };
        assert_eq!(blind(0), Some("pm_again_rt"));
        assert_eq!(blind(2 * again), Some("pm_remote_rt"));
        assert_eq!(blind(again + u128::from(Watcher::Remote.proof())), None);
    }
}
