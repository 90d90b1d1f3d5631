//! Which of the generations are in use, which a policy may be written into, and how the state
//! changes when one is applied, confirmed, rolled back, renewed or looked up anew.
//!
//! Nothing here knows where policies are kept or what the time is: [`Generations`] does.

use port_monitor_common::generation::{GENERATIONS, Header, State};

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
pub(super) trait Generations: StateWord {
    /// A policy as it can be written.
    type Policy;
    /// Why it could not be.
    type Error;

    /// Waits until every program that runs now has ended.
    fn wait_for_programs(&self) -> Result<(), Self::Error>;
    /// Writes the policy into a generation that no program looks at.
    fn write(&mut self, generation: u32, policy: &Self::Policy) -> Result<(), Self::Error>;
    /// Writes what comes when nobody follows the policy into such a generation.
    fn write_exit(&mut self, generation: u32, policy: &Self::Policy) -> Result<(), Self::Error>;
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

/// A change of the generation in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// The generation that was.
    pub(super) from: u32,
    /// The generation that is.
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
pub(super) fn apply<S: Generations>(
    generations: &mut S,
    policy: &S::Policy,
    terms: Terms,
) -> Result<Change, S::Error> {
    put(generations, policy, terms, |state, generation, now_ms| {
        // What waits to be confirmed is not what one goes back to.
        let (before, its_before) = if state.is_unconfirmed() {
            (state.fallback(), state.before_fallback())
        } else {
            (state.generation(), state.before())
        };
        match terms.confirm_ms {
            Some(confirm_ms) => State::until(generation, before, its_before, now_ms + confirm_ms),
            None => State::confirmed_after(generation, before),
        }
    })
}

/// Puts the policy in force into force anew. What was before stays what one can go back
/// to.
pub(super) fn refresh<S: Generations>(
    generations: &mut S,
    policy: &S::Policy,
    lease_ms: Option<u64>,
) -> Result<Change, S::Error> {
    let terms = Terms {
        confirm_ms: None,
        lease_ms,
    };
    put(generations, policy, terms, |state, generation, _| {
        let before = state.before();
        State::confirmed_after(
            generation,
            if before == state.generation() {
                generation
            } else {
                before
            },
        )
    })
}

/// Writes first, then changes the state by one store, at one point in time.
fn put<S: Generations>(
    generations: &mut S,
    policy: &S::Policy,
    terms: Terms,
    next: impl Fn(State, u32, u64) -> State,
) -> Result<Change, S::Error> {
    let [generation, exit] = free_generations(generations.state());
    // Programs that began while these generations were in force.
    generations.wait_for_programs()?;
    if terms.lease_ms.is_some() {
        generations.write_exit(exit, policy)?;
    }
    generations.write(generation, policy)?;
    let from = change(generations, |state, now_ms| {
        let state = next(state, generation, now_ms);
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
    let from = from.map_or(generation, State::generation);
    Ok(Change {
        from,
        to: generation,
    })
}

/// Changes the state, which others renew meanwhile; gives what it was, settled. `None`
/// where `next` wants no change.
fn change<S: StateWord>(
    generations: &S,
    next: impl Fn(State, u64) -> Option<State>,
) -> Option<State> {
    let next = |state, now_ms| next(state, now_ms).ok_or(());
    try_change(generations, next).ok()
}

fn try_change<S: StateWord, E>(
    generations: &S,
    next: impl Fn(State, u64) -> Result<State, E>,
) -> Result<State, E> {
    loop {
        let (state, now_ms) = (generations.state(), generations.now_ms());
        let settled = state.settled(now_ms);
        if generations.exchange(state, next(settled, now_ms)?) {
            return Ok(settled);
        }
    }
}

/// A sign that the policy in the generation in force is followed, if `is_followed` says it is.
/// One that had to give way because there was none comes into force again.
pub(super) fn renew<S: StateWord>(generations: &S, lease_of: impl Fn(u32) -> Option<u64>) {
    change(generations, |state, now_ms| {
        let lease_ms = lease_of(state.generation()).filter(|_| state.is_leased())?;
        Some(state.leased_until(now_ms + lease_ms))
    });
}

/// Keeps what waits to be confirmed; `lease_of` is how long it then stays without a sign.
pub(super) fn confirm<S: StateWord>(
    generations: &S,
    lease_of: impl Fn(u32) -> u64,
) -> Result<(), Refused> {
    let is_waiting = generations.state().is_unconfirmed();
    try_change(generations, |state, now_ms| {
        if state.is_unconfirmed() {
            return Ok(state.leased_until(now_ms + lease_of(state.generation())));
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
pub(super) fn rollback<S: StateWord>(generations: &S) -> Result<(), Refused> {
    try_change(generations, |state, _| {
        let (generation, before) = (state.generation(), state.before());
        if state.is_unconfirmed() {
            Ok(State::confirmed_after(before, state.before_fallback()))
        } else if generation == before {
            Err(Refused::NothingBefore)
        } else {
            Ok(State::confirmed_after(before, generation))
        }
    })
    .map(drop)
}

/// Two generations that neither decide, nor will, nor can be gone back to.
pub(super) fn free_generations(state: State) -> [u32; 2] {
    let used = state.used();
    let mut free = (0..GENERATIONS).filter(|generation| !used.contains(generation));
    const { assert!(GENERATIONS as usize >= 4 + 2) };
    [free.next().unwrap_or(0), free.next().unwrap_or(0)]
}

/// How long a policy stays without a sign of whoever follows it.
pub(super) fn lease_ms(header: &Header) -> u64 {
    u64::from(header.exit_after_s) * 1_000
}

#[cfg(test)]
mod tests;
