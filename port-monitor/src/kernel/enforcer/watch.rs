//! What is in force, seen and renewed without the lock: somebody else may hold that for
//! as long as he likes.

use std::path::Path;

use aya::maps::MapData;
use port_monitor_common::generation::{Header, State};
use rustix::mm::ProtFlags;

use super::{
    super::{error::KernelError, mapped::Mapped},
    EnforcerError, PolicyId,
    generations::{self, StateWord},
    now_ms,
};

/// The state of an instance, mapped.
#[derive(Debug)]
pub struct Watch {
    state: Mapped<u64>,
    policies: Mapped<Header>,
}

impl Watch {
    /// Of what is pinned in `dir`.
    pub(super) fn open(dir: &Path) -> Result<Self, EnforcerError> {
        let open = |name| MapData::from_pin(dir.join(name)).map_err(KernelError::from);
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        Ok(Self {
            state: Mapped::new(&open("pm_state")?, protection)?,
            policies: Mapped::new(&open("pm_policies")?, protection)?,
        })
    }

    /// The policy decides now.
    pub fn is_in_force(&self, policy: PolicyId) -> bool {
        self.is_in(self.state().generation_at(self.now_ms()), policy)
    }

    /// A sign that the policy is followed. One that had to give way because there was none
    /// comes into force again; one that is not in force for good stays as it is.
    pub fn renew(&self, policy: PolicyId) {
        generations::renew(self, |generation| {
            let header = self.policies.get(generation as usize)?;
            (PolicyId::of(&header) == policy).then(|| generations::lease_ms(&header))
        });
    }

    fn is_in(&self, generation: u32, policy: PolicyId) -> bool {
        let header = self.policies.get(generation as usize);
        header.is_some_and(|header| PolicyId::of(&header) == policy)
    }
}

impl StateWord for Watch {
    fn now_ms(&self) -> u64 {
        now_ms()
    }

    fn state(&self) -> State {
        State(self.state.get(0).unwrap_or(0))
    }

    fn exchange(&self, from: State, to: State) -> bool {
        self.state.exchange(0, 0, from.0, to.0)
    }
}
