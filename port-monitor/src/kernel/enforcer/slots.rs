//! Which of the slots are in use, and which a policy may be written into.

use port_monitor_common::generation::{Header, SLOTS, State};

/// The policy in force waits to be confirmed.
pub(super) const fn is_unconfirmed(state: State, now_ms: u64) -> bool {
    !state.is_leased() && now_ms < state.deadline_ms()
}

/// The slot of the policy in force, or that would be if somebody followed it.
pub(super) const fn current_slot(state: State, now_ms: u64) -> u32 {
    if state.is_leased() {
        state.slot()
    } else {
        state.slot_at(now_ms)
    }
}

/// Two slots that neither decide nor will.
pub(super) fn free_slots(state: State, now_ms: u64) -> [u32; 2] {
    let current = current_slot(state, now_ms);
    let next = if state.is_leased() || is_unconfirmed(state, now_ms) {
        state.fallback()
    } else {
        current
    };
    let first = slot_but(&[current, next]);
    [first, slot_but(&[current, next, first])]
}

/// A slot other than these, of which there are at most three.
pub(super) fn slot_but(used: &[u32]) -> u32 {
    (0..SLOTS).find(|slot| !used.contains(slot)).unwrap_or(0)
}

/// How long a policy stays without a sign of whoever follows it.
pub(super) fn lease_ms(header: &Header) -> u64 {
    u64::from(header.exit_after_s) * 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_never_written_where_one_is_in_force_or_would_be() {
        let leased = State::confirmed_after(1, 0).with_exit(2);
        for (state, in_use) in [
            (State::confirmed(0), vec![0]),
            (State::confirmed_after(2, 1), vec![2]),
            (State::until(1, 0, 100), vec![0, 1]),
            (State::until(1, 2, 100).with_exit(3), vec![1, 2]),
            (State::until(1, 2, 10), vec![2]),
            (leased.leased_until(100), vec![1, 2]),
            (leased.leased_until(10), vec![1, 2]),
        ] {
            let [first, second] = free_slots(state, 50);
            assert_ne!(first, second);
            assert!(!in_use.contains(&first), "{state:?}");
            assert!(!in_use.contains(&second), "{state:?}");
        }
    }
}
