//! The policy becomes another one.

use super::{
    Way,
    noted::{Told, noted},
    with,
};
use crate::consume::{
    consumer::Needs,
    fan_out::{Change, FanOut, LoadedPolicy},
    lines::sample::{header, summary},
};

/// Has them be told by another policy.
fn judge(all: &mut FanOut, file: &str, number: u16) {
    let loaded = LoadedPolicy {
        number,
        ..header().policy_loaded.unwrap()
    };
    all.judged_by(file.to_owned(), loaded);
}

#[test]
fn another_policy_is_told_to_all_and_is_that_of_those_that_join() {
    let (mut all, _, _, _) = with(Way::Good, Needs::EVENTS);
    all.begin(&header());
    let join = |all: &mut FanOut| {
        let (consumer, told) = noted();
        let mut change = Change::default();
        change.join(consumer).unwrap();
        all.change(change, 7, 8);
        told
    };
    let first = join(&mut all);
    judge(&mut all, "other.toml", 2);
    let second = join(&mut all);
    judge(&mut all, "third.toml", 3);
    all.end(&summary()).unwrap();
    let policy = |name: &str, number| Told::Policy(Some(name.to_owned()), number);
    let told: Vec<Told> = first.iter().collect();
    assert_eq!(
        told,
        [
            Told::Header(7, 8),
            policy("other.toml", 2),
            policy("third.toml", 3)
        ]
    );
    let told: Vec<Told> = second.iter().collect();
    assert_eq!(told, [Told::Header(7, 8), policy("third.toml", 3)]);
}
