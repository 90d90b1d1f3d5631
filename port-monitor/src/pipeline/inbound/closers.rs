//! Who has closed listeners that connections have come to, as looks have shown it: kept until
//! those are asked about.

use std::{
    collections::{HashMap, VecDeque},
    iter, mem,
};

use port_monitor_common::{
    event::OWNER_KERNEL,
    listener::{HOLDER_LOOKED, HOLDER_OPENED, Holder},
};

use super::{answers::Question, judge::key};
use crate::host::holding::Seen;

/// How long one is kept: questions come in the order of the ring, which is that of the
/// connections but for programs that were interrupted between their clock and the ring.
const KEPT_NS: u64 = 10_000_000_000;
/// How many are kept; then the first of them are forgotten.
const MOST: usize = 1 << 17;

/// Who closed a listener last.
#[derive(Clone, Copy)]
pub(super) struct Closer {
    pub(super) last: Holder,
    /// Nobody else can have had it.
    pub(super) had_it: bool,
    /// When another closed a socket of it last; zero: none did.
    other_ns: u64,
}

impl Closer {
    /// Nobody else has closed a socket of it since.
    pub(super) const fn is_alone_since(&self, ns: u64) -> bool {
        self.other_ns < ns
    }
}

/// Those who are remembered, by listener and port: numbers alone are not quite unique.
#[derive(Default)]
pub(super) struct Closers {
    by_listener: HashMap<(u32, u32), Closer>,
    order: VecDeque<(u64, (u32, u32))>,
    /// Of those who closed one by then, not all are known.
    lost_ns: u64,
}

impl Closers {
    /// Takes those in whom a look has shown; `before` are those before it, the last one last.
    pub(super) fn take(&mut self, seen: &mut Seen, before: &[Seen]) {
        for (&listener, holders) in &mut seen.open {
            know_programs(holders, |exiting| {
                let looks = before.iter().rev();
                with_program(exiting, looks.flat_map(|look| look.of(listener)))
            });
        }
        for closer in mem::take(&mut seen.closed) {
            let before = before.iter().rev().map(|look| look.of(closer.listener));
            let looks = iter::once(seen.of(closer.listener)).chain(before.clone());
            let closer = with_program(in_place_of_us(closer, looks.clone()), before.flatten());
            self.add(closer, had_it(&closer, looks));
        }
        self.lost_ns = self.lost_ns.max(seen.lost_ns.unwrap_or(0));
        while self.order.len() > MOST {
            self.lost_ns = self.lost_ns.max(self.forget_first());
        }
    }

    fn add(&mut self, last: Holder, had_it: bool) {
        let listener = (last.listener, last.port);
        let earlier = self.by_listener.get(&listener);
        let other_ns = earlier.map_or(0, |earlier| {
            if key(&earlier.last) == key(&last) {
                earlier.other_ns
            } else {
                earlier.last.closed_ns
            }
        });
        let closer = Closer {
            last,
            had_it,
            other_ns,
        };
        self.by_listener.insert(listener, closer);
        self.order.push_back((last.closed_ns, listener));
    }

    /// Forgets those that no later question is about than those up to this time.
    pub(super) fn forget_before(&mut self, asked_ns: u64) {
        let until = asked_ns.saturating_sub(KEPT_NS);
        while self.order.front().is_some_and(|&(ns, _)| ns < until) {
            self.lost_ns = self.lost_ns.max(self.forget_first());
        }
    }

    fn forget_first(&mut self) -> u64 {
        let Some((ns, listener)) = self.order.pop_front() else {
            return 0;
        };
        let is_last = |closer: &Closer| closer.last.closed_ns == ns;
        if self.by_listener.get(&listener).is_some_and(is_last) {
            self.by_listener.remove(&listener);
        }
        ns
    }

    /// Who has closed a socket of the listener since the connection came.
    pub(super) fn since(&self, question: &Question) -> Option<&Closer> {
        let closer = self.by_listener.get(&(question.listener, question.port))?;
        (closer.last.closed_ns >= question.ts_ns).then_some(closer)
    }

    /// From when on these say something else of a connection that came to the listener.
    pub(super) fn turns(&self, question: &Question) -> impl Iterator<Item = u64> {
        let known = self.by_listener.get(&(question.listener, question.port));
        let after = |ns: u64| ns.saturating_add(1);
        let of_closer = known.map_or([0; 3], |closer| {
            let Closer { last, other_ns, .. } = closer;
            [last.owner.start_ns, after(last.closed_ns), after(*other_ns)]
        });
        of_closer.into_iter().chain([after(self.lost_ns)])
    }

    /// Somebody may have who is not known.
    pub(super) const fn may_lack(&self, question: &Question) -> bool {
        self.lost_ns >= question.ts_ns
    }
}

/// Where the monitor closed it while it looked, the process that had it until then: the one
/// that this look has shown last, or one before it, if it was closed in that. The last look
/// comes first.
fn in_place_of_us<'a>(closer: Holder, looks: impl Iterator<Item = &'a [Holder]>) -> Holder {
    if closer.flags & HOLDER_LOOKED == 0 {
        return closer;
    }
    let mut holders = looks.flat_map(|look| look.iter().rev());
    let last = holders.find(|holder| (holder.socket, holder.port) == (closer.socket, closer.port));
    last.map_or(closer, |last| Holder {
        closed_ns: closer.closed_ns,
        ..*last
    })
}

/// Finds the programs of processes that exit with the listener open: those that they were `seen`
/// with, or those of their parents, if they have executed none since.
fn know_programs(holders: &mut [Holder], seen: impl Fn(Holder) -> Holder) {
    let is_exiting =
        |holder: &Holder| holder.owner.exe_inode == 0 && holder.owner.flags & OWNER_KERNEL == 0;
    for place in 0..holders.len() {
        let Some(&exiting) = holders.get(place).filter(|holder| is_exiting(holder)) else {
            continue;
        };
        let mut known = seen(exiting);
        // Both have executed as many programs since the one forked the other, and a name
        // comes with each: none.
        let is_parent = |other: &&Holder| {
            other.owner.tgid == exiting.parent_tgid
                && other.owner.start_ns <= exiting.owner.start_ns
                && other.exec_id == exiting.exec_id
                && other.owner.process_comm == exiting.owner.process_comm
        };
        if is_exiting(&known)
            && let Some(parent) = holders.iter().find(is_parent)
        {
            known.owner.exe_inode = parent.owner.exe_inode;
            known.owner.exe_device = parent.owner.exe_device;
        }
        if let Some(holder) = holders.get_mut(place) {
            *holder = known;
        }
    }
}

/// A process that exits has no program any more when its sockets are closed: it is the one
/// that it was seen with, if it has executed none since.
pub(super) fn with_program<'a>(
    mut closer: Holder,
    before: impl IntoIterator<Item = &'a Holder>,
) -> Holder {
    let same = |other: &&Holder| {
        key(other) == key(&closer) && other.exec_id == closer.exec_id && other.owner.exe_inode != 0
    };
    if closer.owner.exe_inode == 0
        && let Some(other) = before.into_iter().find(same)
    {
        closer.owner.exe_inode = other.owner.exe_inode;
        closer.owner.exe_device = other.owner.exe_device;
    }
    closer
}

/// Of a listener that nobody has open any more, others may have had it with the one that
/// closed it last, unless that is the one that made it listen, or had it alone in the last of
/// these looks, the last first, that has shown it.
fn had_it<'a>(closer: &Holder, mut looks: impl Iterator<Item = &'a [Holder]>) -> bool {
    let is_listener = |other: &&Holder| other.port == closer.port && other.owner.tgid != 0;
    let mut last = looks.find_map(|look| {
        let mut holders = look.iter().filter(is_listener).peekable();
        holders.peek().is_some().then_some(holders)
    });
    let mut holders = last.iter_mut().flatten();
    let first = holders.next().map(key);
    let is_alone = first == Some(key(closer)) && holders.all(|other| key(other) == key(closer));
    is_alone || closer.flags & HOLDER_OPENED != 0
}
