//! `--fail-on-loss` fails of every loss that a summary can tell.

use std::collections::BTreeSet;

use port_monitor_common::site::Site;
use serde_json::Value;

use super::*;
use crate::events::record::{Account, Dropped, Failed, Summary};

/// A change of a summary whose account adds up as before.
type Lose = fn(&mut Summary);

/// A loss of each cause, by the name that it has in JSON.
const CAUSES: [(&str, Lose); 8] = [
    ("lost_by_cause/ring_full", |summary| {
        let (_, count) = &mut summary.hooks[0];
        count.submitted -= 1;
        count.reserve_failed += 1;
        summary.shown -= 1;
    }),
    ("lost_by_cause/program_skipped", |summary| {
        let (_, count) = &mut summary.hooks[0];
        count.skipped += 1;
    }),
    ("lost_by_cause/undecodable", |summary| {
        summary.shown -= 1;
        summary.undecodable += 1;
    }),
    ("lost_by_cause/output_slow", |summary| {
        summary.shown -= 1;
        summary.lost_at_output += 1;
    }),
    ("lost_by_cause/owner_late", |summary| {
        summary.shown -= 1;
        summary.unowned += 1;
    }),
    ("dropped_by_cause/queue_full", |summary| {
        drop_one(summary, |dropped| dropped.queue_full = 1);
    }),
    ("dropped_by_cause/failed", |summary| {
        drop_one(summary, |dropped| dropped.failed = 1);
    }),
    ("dropped_by_cause/unfinished", |summary| {
        drop_one(summary, |dropped| dropped.unfinished = 1);
    }),
];

/// Places in the kernel that may fail without a loss.
const HARMLESS: [&str; 10] = [
    "forget",
    "forget_listener",
    "forget_owner",
    "forget_call",
    "unfollow",
    "progress",
    "forget_group",
    "executable",
    "tell_closer",
    "note_told",
];

/// Of what came to a recording, one is missing.
fn drop_one(summary: &mut Summary, lose: fn(&mut Dropped)) {
    let mut account = Account {
        delivered: 1,
        ..Account::default()
    };
    lose(&mut account.dropped);
    summary.consumers.push(("record", account));
}

/// A summary with a failure at `site`.
fn failed_at(site: Site) -> Summary {
    let gave_up = u64::from(site.gives_up());
    let sample = summary();
    Summary {
        looks: sample.looks + gave_up,
        failures: vec![Failed {
            site,
            errno: 7,
            count: 1,
        }],
        ..sample
    }
}

/// The causes that `line` tells, and whether each of them has happened.
fn causes(line: &str) -> Vec<(String, bool)> {
    let line: Value = serde_json::from_str(line).unwrap();
    let facts = &line["port_monitor"];
    let consumers = facts["consumers"].as_object().unwrap().values();
    let counts = consumers
        .chain([facts])
        .filter_map(|counts| counts.as_object())
        .flatten();
    let by_cause = counts.filter(|(name, _)| name.ends_with("_by_cause"));
    let mut causes = Vec::new();
    for (name, counts) in by_cause {
        for (cause, count) in counts.as_object().unwrap() {
            causes.push((format!("{name}/{cause}"), count.as_u64() != Some(0)));
        }
    }
    causes
}

#[test]
fn every_loss_in_a_summary_is_one_for_fail_on_loss() {
    assert!(!summary().has_losses());
    let known: BTreeSet<String> = CAUSES.map(|(name, _)| name.to_owned()).into();
    let told = causes(&line(Item::Summary(&summary())));
    assert_eq!(
        told.into_iter()
            .map(|(name, _)| name)
            .collect::<BTreeSet<_>>(),
        known,
        "a cause without a case here"
    );
    for (name, lose) in CAUSES {
        let mut summary = summary();
        lose(&mut summary);
        assert!(summary.adds_up(), "{name}");
        let told = causes(&line(Item::Summary(&summary)));
        assert!(told.contains(&(name.to_owned(), true)), "{name}: {told:?}");
        assert!(summary.has_losses(), "{name}");
    }
}

#[test]
fn what_the_kernel_could_not_keep_is_a_loss_unless_it_costs_no_event() {
    let harmless = Site::ALL.into_iter().filter(|&site| {
        let summary = failed_at(site);
        assert!(summary.adds_up(), "{}", site.name());
        // A table that is full always costs something.
        assert!(summary.table_full() == 0 || summary.has_losses());
        !summary.has_losses()
    });
    let harmless: BTreeSet<&str> = harmless.map(Site::name).collect();
    assert_eq!(harmless, HARMLESS.into());
}

#[test]
fn an_account_that_does_not_add_up_is_a_loss() {
    let summary = Summary {
        shown: 1,
        ..summary()
    };
    assert!(!summary.adds_up() && summary.has_losses());
}
