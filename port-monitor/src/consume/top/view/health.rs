//! What was seen and lost, and what cannot be seen.

use crate::{
    base::sanitize::Escaped,
    consume::{
        consumer::{Room, Standing},
        lines::table::loss_cause,
        socket::report::Events,
        top::model::{ENDED_ROOM, Model},
    },
};

/// Events that this view lacks, wherever they were lost: a run of its own counts them, a
/// service tells of them.
pub(super) fn lost(model: &Model) -> u64 {
    let stats = &model.overview.stats;
    let told = model.told_losses.iter();
    let told = told.fold(0, |sum: u64, (_, total)| sum.saturating_add(*total));
    let counted = stats.ring_full + stats.skipped + stats.undecodable + stats.owner_late;
    (counted + model.queue_full).saturating_add(told)
}

/// What stands in the place of listeners where no line tells of one.
pub(super) const NO_LISTENERS: [&str; 2] = [
    "The recording has no line about a listener: who listened then is not known.",
    "A run tells of them unless --events leaves `listen` and `preexisting` out.",
];

/// What a recording tells, and what it cannot tell.
fn recorded(model: &Model, lines: &mut Vec<String>) {
    let Some(recorded) = &model.recorded else {
        return;
    };
    let name = Escaped(recorded.name.as_bytes());
    lines.push(String::new());
    lines.push(format!("played from   {name}: nothing is watched now"));
    if let Some(end) = recorded.end {
        lines.push(format!(
            "the run then  had seen {}, filtered {}, lost {}, by its own account",
            end.seen, end.filtered, end.lost
        ));
    }
    lines.push(match recorded.progress {
        0 => {
            "cannot tell: what open connections carry, and how fast; no line of --progress is in it"
                .to_owned()
        }
        lines => format!(
            "what open connections carry is told by {lines} lines of progress, and not between them"
        ),
    });
    if recorded.listeners == 0 {
        lines.push("cannot tell: who listened; the recording has no line about a listener".into());
    }
    if recorded.unknown > 0 {
        lines.push(format!(
            "passed over   {} lines that this version does not know, or that tell too little",
            recorded.unknown
        ));
    }
}

/// All of it, a line each.
pub(super) fn lines(model: &Model) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(header) = &model.header {
        let kernel = Escaped(header.kernel.as_bytes());
        lines.push(format!(
            "port-monitor {} on kernel {kernel}, backend {}",
            header.version, header.backend
        ));
    }
    lines.push(String::new());
    account(model, &mut lines);
    service(model, &mut lines);
    recorded(model, &mut lines);
    lines.push(String::new());
    lines.push(format!(
        "connections   {} told of, {} open, {} failed, {} against the policy",
        model.total.all, model.total.open, model.total.failed, model.total.violations
    ));
    lines.push(format!(
        "bytes         {} received, {} sent, as far as they were told",
        model.total.received, model.total.sent
    ));
    for (name, groups) in [
        ("processes", &model.processes),
        ("services", &model.services),
        ("remotes", &model.remotes),
    ] {
        let others = groups.others().all;
        if others > 0 {
            lines.push(format!(
                "{name}: {others} connections are of some that there is no room for"
            ));
        }
    }
    if model.ended_by_key > 0 {
        let ended = model.ended_by_key;
        lines.push(format!("ended by Ctrl-K {ended} of them"));
    }
    lines.push(format!(
        "of those that have ended, the last {ENDED_ROOM} are kept"
    ));
    if let Some(header) = &model.header {
        spots(&header.blind_spots, "cannot see", &mut lines);
        spots(&header.unproven, "not proven", &mut lines);
        spots(&header.waiting, "waiting for", &mut lines);
    }
    lines
}

fn spots(all: &[String], what: &str, lines: &mut Vec<String>) {
    if !all.is_empty() {
        lines.push(String::new());
    }
    for spot in all {
        lines.push(format!("{what}: {}", Escaped(spot.as_bytes())));
    }
}

/// The account of the run, and of each consumer.
fn account(model: &Model, lines: &mut Vec<String>) {
    let stats = &model.overview.stats;
    // Of a service nobody tells it here.
    if stats.seen == 0 {
        lines.push(format!("events        {} taken here", model.events()));
    } else {
        lines.push(format!(
            "events        seen {}, filtered in the kernel {}, taken here {}",
            stats.seen,
            stats.filtered,
            model.events()
        ));
        lines.push(format!(
            "lost          ring full {}, program skipped {}, undecodable {}, owner late {}, view too slow {}",
            stats.ring_full, stats.skipped, stats.undecodable, stats.owner_late, model.queue_full
        ));
    }
    for (cause, total) in &model.told_losses {
        lines.push(format!("lost, as told {}: {total}", loss_cause(*cause)));
    }
    let others = model.overview.standings.iter();
    // What nobody looks at has nothing to tell.
    for standing in others.filter(|standing| standing.name != "output") {
        lines.push(standing_line(standing));
    }
}

fn standing_line(standing: &Standing) -> String {
    let account = &standing.account;
    let messages = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let waiting = match standing.waiting {
        Room::Lines(lines) => (lines, None),
        Room::Queue(length, room) => (messages(length), Some(messages(room))),
    };
    consumer_line(
        standing.name,
        [
            account.delivered,
            account.taken,
            account.hidden,
            account.dropped.total(),
        ],
        waiting,
        account.error.as_deref(),
    )
}

fn consumer_line(
    name: &str,
    [delivered, taken, hidden, dropped]: [u64; 4],
    (waiting, room): (u64, Option<u64>),
    error: Option<&str>,
) -> String {
    let name = Escaped(name.as_bytes()).to_string();
    let room = room.map_or(String::new(), |room| format!(" of {room}"));
    let error = error.map_or(String::new(), |error| {
        format!("; failed: {}", Escaped(error.as_bytes()))
    });
    format!(
        "{name:<13} delivered {delivered} = taken {taken} + hidden {hidden} + dropped {dropped}; \
         {waiting}{room} waiting{error}"
    )
}

/// How the service stands whose events these are, since its own beginning.
fn service(model: &Model, lines: &mut Vec<String>) {
    let Some(report) = &model.service else {
        return;
    };
    let Events {
        seen,
        filtered,
        lost,
    } = report.events;
    lines.push(String::new());
    lines.push(format!(
        "service       port-monitor {}, pid {}, since {:.0}",
        Escaped(report.version.as_bytes()),
        report.pid,
        report.began
    ));
    lines.push(format!(
        "its events    seen {seen}, filtered for all {filtered}"
    ));
    lines.push(format!(
        "its losses    ring full {}, program skipped {}, undecodable {}, owner late {}",
        lost.ring_full, lost.program_skipped, lost.undecodable, lost.owner_late
    ));
    for consumer in &report.consumers {
        let dropped = &consumer.dropped;
        let dropped = dropped.queue_full + dropped.failed + dropped.unfinished;
        lines.push(consumer_line(
            &consumer.name,
            [consumer.delivered, consumer.taken, consumer.hidden, dropped],
            (consumer.waiting, consumer.room),
            consumer.error.as_deref(),
        ));
    }
}
