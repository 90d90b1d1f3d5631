//! How the policy stands that a service holds its host to, for those who tell it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// Where it is noted; nothing is where no policy is enforced.
#[derive(Debug, Default)]
pub struct Board(Mutex<Option<Standing>>);

/// How the policy stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its mode is to refuse what it denies.
    pub enforces: bool,
    /// It is in force as it was applied last, and no other one is.
    pub is_in_force: bool,
    /// What its file says now is refused.
    pub is_refused: bool,
    /// What the policy in force has denied, by its rules.
    pub denied: BTreeMap<String, u64>,
}

impl Board {
    /// How it stands.
    pub fn standing(&self) -> Option<Standing> {
        let standing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        standing.clone()
    }

    /// It stands like this from now on.
    pub fn note(&self, standing: Standing) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(standing);
    }
}
