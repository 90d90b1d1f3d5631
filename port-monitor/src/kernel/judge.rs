//! The policy that the monitor's programs judge by, which may become another one while they do.

use aya::Ebpf;
use port_monitor_common::judging::{FIRST_NUMBER, Judging};

use super::{enforcer::tables::Tables, error::KernelError};
use crate::policy::tables::lower::Lowered;

/// The tables of the policies: those that the programs look at, and those of the next one.
#[derive(Debug)]
pub struct Judge {
    tables: Tables,
    in_use: Judging,
    /// How many policies there is room for.
    places: u32,
}

impl Judge {
    /// Of the object, in which no program judges yet; they do by this policy, the first one.
    pub(super) fn begin(ebpf: &Ebpf, policy: &Lowered, places: u32) -> Result<Self, KernelError> {
        let mut judge = Self {
            tables: Tables::of_object(ebpf)?,
            in_use: Judging::by_userspace(0),
            places,
        };
        let next = judge.prepare(FIRST_NUMBER, Some(policy))?;
        judge.put(next);
        Ok(judge)
    }

    /// Writes the policy of this number where no program looks; `None` is one that has no tables,
    /// which userspace judges by. Nothing changes by that.
    pub fn prepare(
        &mut self,
        number: u16,
        policy: Option<&Lowered>,
    ) -> Result<Judging, KernelError> {
        let Some(policy) = policy else {
            return Ok(Judging::by_userspace(number));
        };
        let place = (self.in_use.generation() + 1) % self.places;
        self.tables.write_for_monitor(place, policy)?;
        Ok(Judging::by_tables(place, number))
    }

    /// From now on programs judge by what was prepared.
    pub fn put(&mut self, next: Judging) {
        self.tables.judge_by(next);
        self.in_use = next;
    }

    /// Waits until no program judges by the policy before.
    pub fn wait_for_programs() -> Result<(), KernelError> {
        Tables::wait_for_programs()
    }
}
