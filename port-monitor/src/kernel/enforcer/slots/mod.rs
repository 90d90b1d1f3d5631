//! Which of the slots are in use, which a policy may be written into, and how the state
//! changes when one is applied, confirmed, rolled back, renewed or looked up anew.
//!
//! Nothing here knows where policies are kept or what the time is: [`Slots`] does.

use port_monitor_common::generation::{Header, SLOTS, State};

/// What is in force, which others change at the same time, and the clock it is read by.
pub(super) trait StateWord {
    /// `CLOCK_BOOTTIME`.
    fn now_ms(&self) -> u64;
    /// What is in force.
    fn state(&self) -> State;
    /// Puts `to` in the place of `from`, unless that is no longer there.
    fn exchange(&self, from: State, to: State) -> bool;
}

/// Where policies are kept.
pub(super) trait Slots: StateWord {
    /// A policy as it can be written.
    type Policy;
    /// Why it could not be.
    type Error;

    /// Waits until every program that runs now has ended.
    fn wait_for_programs(&self) -> Result<(), Self::Error>;
    /// Writes the policy into a slot that no program looks at.
    fn write(&mut self, slot: u32, policy: &Self::Policy) -> Result<(), Self::Error>;
    /// Writes what comes when nobody follows the policy into such a slot.
    fn write_exit(&mut self, slot: u32, policy: &Self::Policy) -> Result<(), Self::Error>;
}

/// On which terms a policy is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// It is undone unless it is confirmed within this time.
    pub(super) confirm_ms: Option<u64>,
    /// It gives way unless somebody follows it, this long after the last sign; `None` where
    /// it stays.
    pub(super) lease_ms: Option<u64>,
}

/// A change of the slot in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// The slot that was.
    pub(super) from: u32,
    /// The slot that is.
    pub(super) to: u32,
}

/// Why the state stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    NothingToConfirm,
    TooLate,
    NothingBefore,
}

/// Puts a policy into force. Where it fails, nothing has changed: neither what is in force
/// nor what can be gone back to.
pub(super) fn apply<S: Slots>(
    slots: &mut S,
    policy: &S::Policy,
    terms: Terms,
) -> Result<Change, S::Error> {
    put(slots, policy, terms, |state, slot, now_ms| {
        // What waits to be confirmed is not what one goes back to.
        let (before, its_before) = if state.is_unconfirmed() {
            (state.fallback(), state.before_fallback())
        } else {
            (state.slot(), state.before())
        };
        match terms.confirm_ms {
            Some(confirm_ms) => State::until(slot, before, its_before, now_ms + confirm_ms),
            None => State::confirmed_after(slot, before),
        }
    })
}

/// Puts the policy in force into force anew. What was before stays what one can go back
/// to.
pub(super) fn refresh<S: Slots>(
    slots: &mut S,
    policy: &S::Policy,
    lease_ms: Option<u64>,
) -> Result<Change, S::Error> {
    let terms = Terms {
        confirm_ms: None,
        lease_ms,
    };
    put(slots, policy, terms, |state, slot, _| {
        let before = state.before();
        State::confirmed_after(slot, if before == state.slot() { slot } else { before })
    })
}

/// Writes first, then changes the state by one store, at one point in time.
fn put<S: Slots>(
    slots: &mut S,
    policy: &S::Policy,
    terms: Terms,
    next: impl Fn(State, u32, u64) -> State,
) -> Result<Change, S::Error> {
    let [slot, exit] = free_slots(slots.state());
    // Programs that began while these slots were in force.
    slots.wait_for_programs()?;
    if terms.lease_ms.is_some() {
        slots.write_exit(exit, policy)?;
    }
    slots.write(slot, policy)?;
    let from = change(slots, |state, now_ms| {
        let state = next(state, slot, now_ms);
        let Some(lease_ms) = terms.lease_ms else {
            return Some(state);
        };
        let state = state.with_exit(exit);
        Some(if terms.confirm_ms.is_some() {
            state
        } else {
            state.leased_until(now_ms + lease_ms)
        })
    });
    let from = from.map_or(slot, State::slot);
    Ok(Change { from, to: slot })
}

/// Changes the state, which others renew meanwhile; gives what it was, settled. `None`
/// where `next` wants no change.
fn change<S: StateWord>(slots: &S, next: impl Fn(State, u64) -> Option<State>) -> Option<State> {
    let next = |state, now_ms| next(state, now_ms).ok_or(());
    try_change(slots, next).ok()
}

fn try_change<S: StateWord, E>(
    slots: &S,
    next: impl Fn(State, u64) -> Result<State, E>,
) -> Result<State, E> {
    loop {
        let (state, now_ms) = (slots.state(), slots.now_ms());
        let settled = state.settled(now_ms);
        if slots.exchange(state, next(settled, now_ms)?) {
            return Ok(settled);
        }
    }
}

/// A sign that the policy in the slot in force is followed, if `is_followed` says it is.
/// One that had to give way because there was none comes into force again.
pub(super) fn renew<S: StateWord>(slots: &S, lease_of: impl Fn(u32) -> Option<u64>) {
    change(slots, |state, now_ms| {
        let lease_ms = lease_of(state.slot()).filter(|_| state.is_leased())?;
        Some(state.leased_until(now_ms + lease_ms))
    });
}

/// Keeps what waits to be confirmed; `lease_of` is how long it then stays without a sign.
pub(super) fn confirm<S: StateWord>(
    slots: &S,
    lease_of: impl Fn(u32) -> u64,
) -> Result<(), Refused> {
    let is_waiting = slots.state().is_unconfirmed();
    try_change(slots, |state, now_ms| {
        if state.is_unconfirmed() {
            return Ok(state.leased_until(now_ms + lease_of(state.slot())));
        }
        Err(if is_waiting {
            Refused::TooLate
        } else {
            Refused::NothingToConfirm
        })
    })
    .map(drop)
}

/// Goes back to what was before. What was waiting to be confirmed is not remembered;
/// anything else can be gone back to in its turn.
pub(super) fn rollback<S: StateWord>(slots: &S) -> Result<(), Refused> {
    try_change(slots, |state, _| {
        let (slot, before) = (state.slot(), state.before());
        if state.is_unconfirmed() {
            Ok(State::confirmed_after(before, state.before_fallback()))
        } else if slot == before {
            Err(Refused::NothingBefore)
        } else {
            Ok(State::confirmed_after(before, slot))
        }
    })
    .map(drop)
}

/// Two slots that neither decide, nor will, nor can be gone back to.
pub(super) fn free_slots(state: State) -> [u32; 2] {
    let used = state.used();
    let mut free = (0..SLOTS).filter(|slot| !used.contains(slot));
    const { assert!(SLOTS as usize >= 4 + 2) };
    [free.next().unwrap_or(0), free.next().unwrap_or(0)]
}

/// How long a policy stays without a sign of whoever follows it.
pub(super) fn lease_ms(header: &Header) -> u64 {
    u64::from(header.exit_after_s) * 1_000
}

#[cfg(test)]
mod tests;
