//! The tables of policies as the monitor has them: of an object that is not pinned, and without
//! what only enforcement asks.

use std::os::fd::AsFd as _;

use aya::{
    Ebpf,
    maps::{Map, MapData, MapError},
};
use port_monitor_common::judging::Judging;

use super::{ARRAY, Tables, like};
use crate::{
    kernel::{bpf::MapShape, enforcer::grace, error::KernelError},
    policy::tables::lower::Lowered,
};

impl Tables {
    /// Those of an object, which keeps them too.
    pub(in crate::kernel) fn of_object(ebpf: &Ebpf) -> Result<Self, KernelError> {
        Self::of(|name| {
            let Some(Map::Array(data) | Map::HashMap(data) | Map::ArrayOfMaps(data)) =
                ebpf.map(name)
            else {
                return Err(KernelError::from(MapError::InvalidName {
                    name: name.to_owned(),
                }));
            };
            let descriptor = data.fd().as_fd().try_clone_to_owned();
            let descriptor = descriptor.map_err(|error| KernelError::Map(error.to_string()))?;
            Ok(MapData::from_fd(descriptor)?)
        })
    }

    /// Writes a policy into a generation that no program looks at.
    pub(in crate::kernel) fn write_for_monitor(
        &mut self,
        generation: u32,
        policy: &Lowered,
    ) -> Result<(), KernelError> {
        self.fill(generation, policy)?;
        self.ends.set(generation as usize, &policy.ends);
        self.policies.set(generation as usize, &policy.header);
        Ok(())
    }

    /// By what the programs judge from now on: one store of one word.
    pub(in crate::kernel) fn judge_by(&self, judging: Judging) {
        self.state.set(0, &judging.0);
    }

    /// Waits until every program that runs now has ended.
    pub(in crate::kernel) fn wait_for_programs() -> Result<(), KernelError> {
        let any = like(MapShape {
            map_type: ARRAY,
            key_size: 4,
            value_size: 8,
            max_entries: 1,
            map_flags: 0,
        })?;
        grace::wait_for_programs(any.fd().as_fd())
            .map_err(|error| KernelError::Map(error.to_string()))
    }
}
