//! What was dropped stays so.

use crate::consume::fan_out::tests::*;

#[test]
fn what_was_dropped_at_the_end_is_not_taken_after_all() {
    let (go, gate) = channel();
    let (mut all, _file, has_started, taken) = with(Way::Hangs(gate), Needs::EVENTS);
    give(&mut all, 300);
    has_started.recv().unwrap();
    let accounts = all.accounts(Duration::ZERO);
    let account = &accounts[1].1;
    assert_eq!((account.taken, account.dropped.unfinished), (0, 300));
    drop(go);
    all.end(&summary()).unwrap();
    while Arc::strong_count(&taken) > 1 {
        std::thread::yield_now();
    }
    // The one that it had in its hands.
    assert_eq!(*taken.lock().unwrap(), 1);
}
