//! Whose connections are, by what the kernel tells.

use port_monitor_common::{
    event,
    listener::{HOLDER_LOOKED, HOLDER_OPENED, HOLDER_PASSES, Holder},
};

use super::{answers::answer, closers::Closers};
use crate::{host::holding::Seen, pipeline::inbound::*};

mod looks;

const LISTENER: u32 = 7;
const PORT: u32 = 80;
const CAME_NS: u64 = 1_000;

/// A process that has a socket of the listener open.
fn holder(pid: u32, parent: u32, socket: u32) -> Holder {
    Holder {
        owner: event::Owner {
            tgid: pid,
            tid: pid,
            start_ns: pid.into(),
            exe_inode: 5,
            cgroup_id: 9,
            ..event::Owner::default()
        },
        listener: LISTENER,
        port: PORT,
        parent_tgid: parent,
        flags: HOLDER_PASSES,
        socket,
        ..Holder::default()
    }
}

fn closer(pid: u32, socket: u32, closed_ns: u64) -> Holder {
    Holder {
        closed_ns,
        flags: HOLDER_PASSES | HOLDER_OPENED,
        ..holder(pid, 1, socket)
    }
}

fn question() -> Question {
    Question {
        listener: LISTENER,
        port: PORT,
        ts_ns: CAME_NS,
    }
}

/// Who is named, or why nobody is; and how many have the listener open.
fn judged(holders: &[Holder], closer: Option<Holder>) -> (Result<u32, Missing>, u32) {
    judged_after(holders, closer.as_slice(), &[])
}

/// After these have closed it, one after the other, where a look before has shown `before`.
fn judged_after(
    holders: &[Holder],
    closed: &[Holder],
    before: &[Holder],
) -> (Result<u32, Missing>, u32) {
    let found = found(holders, closed, before);
    (found.owner.map(|owner| owner.pid), found.holders)
}

fn found(holders: &[Holder], closed: &[Holder], before: &[Holder]) -> Found {
    let mut closers = Closers::default();
    let mut seen = Seen::new(holders.to_vec(), closed.to_vec());
    let before = [Seen::new(before.to_vec(), vec![])];
    closers.take(&mut seen, &before);
    answer(&question(), &seen, &closers)
}

#[test]
fn the_only_holder_is_named_however_often_it_has_the_socket() {
    let other_listener = Holder {
        listener: 8,
        ..holder(20, 1, 1)
    };
    let other_port = Holder {
        port: 81,
        ..holder(21, 1, 1)
    };
    let holders = [
        holder(10, 1, 1),
        holder(10, 1, 1),
        other_listener,
        other_port,
    ];
    assert_eq!(judged(&holders, None), (Ok(10), 1));
}

#[test]
fn of_a_family_the_one_that_all_others_have_it_from_is_named() {
    let family = [holder(12, 10, 1), holder(10, 1, 1), holder(13, 12, 1)];
    assert_eq!(judged(&family, None), (Ok(10), 3));
    // It is gone: none of the others comes first.
    let orphans = [holder(12, 10, 1), holder(13, 10, 1)];
    assert_eq!(judged(&orphans, None), (Err(Missing::Shared), 2));
}

#[test]
fn of_different_programs_or_cgroups_none_is_named() {
    let mut child = holder(12, 10, 1);
    child.owner.exe_inode = 6;
    let holders = [holder(10, 1, 1), child];
    assert_eq!(judged(&holders, None), (Err(Missing::Shared), 2));
    child.owner = holder(12, 10, 1).owner;
    child.owner.cgroup_id = 8;
    let holders = [holder(10, 1, 1), child];
    assert_eq!(judged(&holders, None), (Err(Missing::Shared), 2));
}

/// A process that exits: its memory is gone, and its files are still open.
fn exiting(holder: Holder) -> Holder {
    Holder {
        owner: event::Owner {
            exe_inode: 0,
            ..holder.owner
        },
        ..holder
    }
}

#[test]
fn a_child_that_exits_has_the_program_of_its_parent_unless_it_has_executed_another() {
    let child = exiting(holder(12, 10, 1));
    assert_eq!(judged(&[child, holder(10, 1, 1)], None), (Ok(10), 2));
    let shared = (Err(Missing::Shared), 2);
    let executed = Holder {
        exec_id: 1,
        ..child
    };
    assert_eq!(judged(&[holder(10, 1, 1), executed], None), shared);
    let mut renamed = child;
    renamed.owner.process_comm = *b"other\0\0\0\0\0\0\0\0\0\0\0";
    assert_eq!(judged(&[holder(10, 1, 1), renamed], None), shared);
    let orphan = exiting(holder(12, 1, 1));
    assert_eq!(judged(&[holder(10, 1, 1), orphan], None), shared);
}

#[test]
fn a_process_that_exits_has_the_program_it_was_seen_with() {
    let exits = exiting(holder(10, 1, 1));
    let named = |before: &[Holder]| found(&[exits], &[], before).owner.map(|owner| owner.exe);
    let program = named(&[holder(10, 1, 1)]);
    assert_eq!(program.map(|exe| exe.map(|exe| exe.inode)), Ok(Some(5)));
    let executed = Holder {
        exec_id: 1,
        ..holder(10, 1, 1)
    };
    assert_eq!(named(&[executed]), Ok(None));
}

#[test]
fn with_several_sockets_the_one_that_has_all_is_named() {
    let apart = [holder(10, 1, 1), holder(12, 10, 2)];
    assert_eq!(judged(&apart, None), (Err(Missing::Shared), 2));
    let all = [holder(10, 1, 1), holder(10, 1, 2), holder(12, 10, 2)];
    assert_eq!(judged(&all, None), (Ok(10), 2));
}

#[test]
fn whoever_closed_it_after_the_connection_came_had_it() {
    let late = closer(10, 1, CAME_NS);
    assert_eq!(judged(&[], Some(late)), (Ok(10), 1));
    let early = closer(10, 1, CAME_NS - 1);
    assert_eq!(judged(&[], Some(early)), (Err(Missing::Unheld), 0));
    // Another socket of the listener is still open elsewhere.
    let elsewhere = [holder(20, 1, 2)];
    assert_eq!(judged(&elsewhere, Some(late)), (Err(Missing::Shared), 2));
    assert_eq!(judged(&elsewhere, Some(early)), (Ok(20), 1));
    // Another closed a socket of it: before the connection came, or since.
    let other = closer(20, 2, CAME_NS - 1);
    assert_eq!(judged_after(&[], &[other, late], &[]), (Ok(10), 1));
    let other = closer(20, 2, CAME_NS);
    assert_eq!(
        judged_after(&[], &[other, late, late], &[]),
        (Err(Missing::Shared), 1)
    );
    let same = closer(10, 2, CAME_NS);
    assert_eq!(judged_after(&[], &[same, late], &[]), (Ok(10), 1));
    // The kernel itself closed it.
    let kernel = Holder {
        owner: event::Owner::default(),
        ..late
    };
    assert_eq!(judged(&[], Some(kernel)), (Err(Missing::Unheld), 0));
}

#[test]
fn whoever_closed_it_last_is_named_only_if_no_other_may_have_had_it() {
    let inherited = Holder {
        flags: HOLDER_PASSES,
        ..closer(10, 1, CAME_NS)
    };
    let named = |before: &[Holder]| judged_after(&[], &[inherited], before).0;
    assert_eq!(named(&[]), Err(Missing::Unheld));
    assert_eq!(named(&[holder(10, 1, 1)]), Ok(10));
    let with_another = [holder(10, 1, 1), holder(11, 1, 1)];
    assert_eq!(named(&with_another), Err(Missing::Unheld));
    // It is shown all the same where the filters let pass what that one does.
    let passes = |closer| found(&[], &[closer], &[]).passes;
    assert!(passes(inherited));
    let kept_back = Holder {
        flags: 0,
        ..inherited
    };
    assert!(!passes(kept_back));
}

#[test]
fn whoever_let_go_of_it_while_the_monitor_looked_had_it() {
    let monitor = Holder {
        owner: event::Owner::default(),
        flags: HOLDER_LOOKED,
        ..closer(0, 1, CAME_NS)
    };
    let named = |before: &[Holder], now: &[Holder]| judged_after(now, &[monitor], before);
    let had = holder(10, 1, 1);
    // The look that it came in between.
    assert_eq!(named(&[], &[had]), (Ok(10), 1));
    // Also where it is asked about in a later one, which does not show it any more.
    let later = |before: &[Holder], now: &[Holder]| {
        let mut closers = Closers::default();
        let mut seen = Seen::new(now.to_vec(), vec![monitor]);
        closers.take(&mut seen, &[Seen::new(before.to_vec(), vec![])]);
        let found = answer(&question(), &Seen::default(), &closers);
        found.owner.map(|owner| owner.pid)
    };
    assert_eq!(later(&[], &[had]), Ok(10));
    assert_eq!(later(&[had], &[holder(12, 10, 1)]), Ok(12));
    assert_eq!(later(&[], &[had, holder(12, 10, 1)]), Err(Missing::Unheld));
    // The one before.
    assert_eq!(named(&[had], &[]), (Ok(10), 1));
    // The look before it has shown one who has passed it on.
    let heir = holder(12, 10, 1);
    assert_eq!(named(&[had], &[heir]), (Ok(12), 1));
    // Another had it as well.
    let other = holder(11, 1, 1);
    assert_eq!(named(&[other, had], &[]), (Err(Missing::Unheld), 0));
    // It was another socket.
    assert_eq!(named(&[holder(10, 1, 2)], &[]), (Err(Missing::Unheld), 0));
}

#[test]
fn whoever_is_younger_than_the_connection_did_not_have_it() {
    let mut child = holder(12, 10, 1);
    child.owner.start_ns = CAME_NS + 1;
    assert_eq!(judged(&[holder(10, 1, 1), child], None), (Ok(10), 1));
    assert_eq!(judged(&[child], None), (Err(Missing::Unheld), 0));
}

#[test]
fn filters_let_pass_what_they_let_pass_of_whoever_it_may_be() {
    let kept_back = Holder {
        flags: 0,
        ..holder(12, 1, 1)
    };
    let passes = |holders: &[Holder]| found(holders, &[], &[]).passes;
    assert!(passes(&[holder(10, 1, 1)]));
    assert!(passes(&[holder(10, 1, 1), holder(12, 1, 1)]));
    assert!(!passes(&[holder(10, 1, 1), kept_back]));
    assert!(!passes(&[kept_back]));
    assert!(!passes(&[]));
}

#[test]
fn a_program_is_lent_to_who_exits_unless_it_executed_another() {
    let mut exits = closer(10, 1, CAME_NS);
    exits.owner.exe_inode = 0;
    let before = [holder(10, 1, 1)];
    assert_eq!(closers::with_program(exits, &before).owner.exe_inode, 5);
    exits.exec_id += 1;
    assert_eq!(closers::with_program(exits, &before).owner.exe_inode, 0);
}

#[test]
fn of_an_owner_of_many_connections_there_is_one_copy() {
    let mut owners = Owners::default();
    let found = |pid| found(&[holder(pid, 1, 1)], &[], &[]);
    let remember = |owners: &mut Owners, id, pid| {
        let shared = owners.shared(found(pid));
        owners.remember(id, shared);
    };
    for id in 0..1_000 {
        remember(&mut owners, id, 10 + u32::try_from(id % 8).unwrap());
    }
    for id in 0..1_000 {
        assert_eq!(Arc::strong_count(&owners.young[&id]), 1_000 / 8 + 1);
    }
    for pid in 100..100 + u32::try_from(RECENT).unwrap() {
        remember(&mut owners, 2_000, pid);
    }
    assert_eq!(owners.recent.len(), RECENT);
    assert_eq!(owners.recall(7).as_deref(), Some(&found(17)));
    assert_eq!(owners.recall(7), None);
}

#[test]
fn answers_that_came_too_late_are_nobody_elses() {
    /// Tells when it begins its first look, which lasts until it is told to go on.
    struct Slow {
        begun: Sender<()>,
        go: Receiver<()>,
        looks: u32,
    }
    impl Source for Slow {
        fn look(&mut self) -> io::Result<Seen> {
            self.looks += 1;
            if self.looks > 1 {
                let family = vec![holder(11, 1, 1), holder(12, 11, 1)];
                return Ok(Seen::new(family, vec![]));
            }
            self.begun.send(()).map_err(io::Error::other)?;
            self.go.recv().map_err(io::Error::other)?;
            Ok(Seen::new(vec![holder(12, 11, 1)], vec![]))
        }
    }
    let (begun, has_begun) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    let slow = Slow {
        begun,
        go: may_go,
        looks: 0,
    };
    let mut inbound = Inbound::new(Some(slow), ALL).unwrap();
    inbound.take(&accept(1));
    inbound.ask();
    has_begun.recv().unwrap();
    let many = u64::try_from(PATIENCE).unwrap();
    (2..=many).for_each(|id| inbound.take(&accept(id)));
    // There is no room for so many.
    let late = pop(&mut inbound).unwrap();
    assert_eq!((late.event.id, late.missing), (1, Missing::Late));
    assert!(pop(&mut inbound).is_none());
    go.send(()).unwrap();
    while inbound.wait() {
        while let Some(told) = pop(&mut inbound) {
            let owner = told.event.owner.map(|owner| owner.pid);
            assert_eq!(owner, Some(11), "{}", told.event.id);
        }
    }
}

/// Answers in turn.
#[derive(Default)]
struct Script(Vec<Vec<Holder>>);

impl Source for Script {
    fn look(&mut self) -> io::Result<Seen> {
        let holders = self.0.pop().unwrap_or_default();
        Ok(Seen::new(holders, vec![]))
    }
}

fn accept(id: u64) -> Event {
    let wire = port_monitor_common::TcpEvent {
        abi: port_monitor_common::ABI_VERSION,
        kind: 2,
        family: event::AF_INET,
        id,
        flags: event::FLAG_INBOUND,
        ts_ns: CAME_NS,
        detail: LISTENER,
        local_port: 80,
        ..port_monitor_common::TcpEvent::default()
    };
    crate::events::decode::decode(zerocopy::IntoBytes::as_bytes(&wire)).unwrap()
}

fn end(id: u64) -> Event {
    carried(id, event::EventKind::Close)
}

fn carried(id: u64, kind: event::EventKind) -> Event {
    let wire = event::CloseEvent {
        event: port_monitor_common::TcpEvent {
            abi: port_monitor_common::ABI_VERSION,
            kind: kind as u8,
            family: event::AF_INET,
            id,
            flags: event::FLAG_INBOUND,
            ..port_monitor_common::TcpEvent::default()
        },
        stats: event::CloseStats {
            closer_tgid: 10,
            ..event::CloseStats::default()
        },
    };
    crate::events::decode::decode(zerocopy::IntoBytes::as_bytes(&wire)).unwrap()
}

#[test]
fn where_the_kernel_refuses_to_tell_nobody_is_named_and_nothing_waits() {
    for filters in [false, true] {
        let wanted = Wanted { filters, ..ALL };
        let mut inbound = Inbound::new(None::<Script>, wanted).unwrap();
        for event in [accept(1), end(1)] {
            inbound.take(&event);
            let told = pop(&mut inbound).unwrap();
            assert_eq!((told.event.owner, told.missing), (None, Missing::NoOwner));
            assert_eq!(told.is_filtered, filters);
        }
        assert!(!inbound.wait());
    }
}

/// The next one that comes out. Its event stays, as in no program.
fn pop(inbound: &mut Inbound) -> Option<Told<'static>> {
    let mut next = None;
    let is_told = inbound.tell_next(|told| {
        next = Some(Told {
            event: Box::leak(Box::new(*told.event)),
            ..told
        });
    });
    assert_eq!(is_told, next.is_some());
    next
}

/// All that comes out of these events.
fn told(scans: Vec<Vec<Holder>>, wanted: Wanted, events: &[Event]) -> Vec<Told<'static>> {
    let mut inbound = Inbound::new(Some(Script(scans)), wanted).unwrap();
    for event in events {
        inbound.take(event);
    }
    let mut told = Vec::new();
    while inbound.wait() {
        told.extend(std::iter::from_fn(|| pop(&mut inbound)));
    }
    told
}

const ALL: Wanted = Wanted {
    filters: false,
    accepts: true,
    ends: true,
};

#[test]
fn the_end_is_of_whom_the_beginning_was_and_order_is_kept() {
    let scans = vec![vec![holder(10, 1, 1)]; 3];
    let told = told(scans, ALL, &[end(3), accept(1), end(1), end(2)]);
    let seen: Vec<_> = told
        .iter()
        .map(|told| (told.event.id, told.event.owner.map(|owner| owner.pid)))
        .collect();
    assert_eq!(seen, [(3, None), (1, Some(10)), (1, Some(10)), (2, None)]);
    let closing: Vec<_> = told
        .iter()
        .filter_map(|told| told.event.action.close()?.closing_pid)
        .collect();
    // Whoever closed it is told where that is not its owner.
    assert_eq!(closing, [10, 10]);
    assert!(!told.iter().any(|told| told.is_filtered || told.is_aside));
}

#[test]
fn progress_is_of_whom_the_beginning_was_as_often_as_it_is_told() {
    let progress = carried(1, event::EventKind::Progress);
    let events = [accept(1), progress, progress, end(1), progress];
    let told = told(vec![vec![holder(10, 1, 1)]; 2], ALL, &events);
    let seen: Vec<_> = told
        .iter()
        .map(|told| told.event.owner.map(|owner| owner.pid))
        .collect();
    assert_eq!(seen, [Some(10), Some(10), Some(10), Some(10), None]);
}

#[test]
fn what_is_over_when_it_is_told_has_its_end_too() {
    let over = Event {
        ended: true,
        ..accept(1)
    };
    let told = told(vec![vec![holder(10, 1, 1)]], ALL, &[over, end(1)]);
    let seen: Vec<_> = told
        .iter()
        .map(|told| told.event.owner.map(|owner| owner.pid))
        .collect();
    assert_eq!(seen, [Some(10), Some(10)]);
}

#[test]
fn what_nobody_asked_for_is_aside_and_what_filters_keep_back_is_so_to_the_end() {
    let wanted = Wanted {
        filters: true,
        accepts: false,
        ends: true,
    };
    let kept_back = Holder {
        flags: 0,
        ..holder(10, 1, 1)
    };
    let told = told(vec![vec![kept_back]; 2], wanted, &[accept(1), end(1)]);
    let seen: Vec<_> = told
        .iter()
        .map(|told| (told.is_aside, told.is_filtered))
        .collect();
    assert_eq!(seen, [(true, true), (false, true)]);
}

#[test]
fn what_a_filter_would_have_to_know_too_late_is_lost() {
    struct Failing;
    impl Source for Failing {
        fn look(&mut self) -> io::Result<Seen> {
            Err(io::Error::other("no more"))
        }
    }
    for filters in [false, true] {
        let wanted = Wanted { filters, ..ALL };
        let mut inbound = Inbound::new(Some(Failing), wanted).unwrap();
        inbound.take(&accept(1));
        inbound.take(&end(1));
        let mut told = Vec::new();
        while inbound.wait() {
            told.extend(std::iter::from_fn(|| pop(&mut inbound)));
        }
        assert_eq!(told.len(), 2);
        for told in told {
            assert_eq!((told.missing, told.event.owner), (Missing::Late, None));
            assert_eq!((told.is_lost, told.is_filtered), (filters, false));
        }
    }
}

#[test]
fn an_end_whose_beginning_was_lost_is_lost_to_a_filter_but_one_from_before_the_start_is_filtered() {
    let older = end(1);
    let mut seen = end(1);
    let Action::Close(close) = &mut seen.action else {
        panic!("no end");
    };
    close.duration_ns = Some(5);
    for filters in [false, true] {
        let wanted = Wanted { filters, ..ALL };
        let mut inbound = Inbound::new(Some(Script(vec![])), wanted).unwrap();
        let mut told = |event| {
            inbound.take(&event);
            let told = pop(&mut inbound).unwrap();
            (told.missing, told.is_filtered, told.is_lost)
        };
        assert_eq!(told(older), (Missing::NoOwner, filters, false));
        assert_eq!(told(seen), (Missing::Late, false, filters));
    }
}

#[test]
fn what_only_heirs_have_is_not_kept_back_where_all_of_them_pass() {
    let young = u32::try_from(CAME_NS).unwrap() + 1;
    let heir = holder(young, 10, 1);
    assert_eq!(judged(&[heir], None), (Err(Missing::Unheld), 0));
    assert!(found(&[heir], &[], &[]).passes);
    let other = Holder {
        flags: 0,
        ..holder(young + 1, 10, 1)
    };
    assert!(!found(&[heir, other], &[], &[]).passes);
}
