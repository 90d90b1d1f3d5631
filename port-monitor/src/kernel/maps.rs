//! The maps of a loaded object, by name.

use aya::{Ebpf, maps::MapError};

pub(super) fn map<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut aya::maps::Map, MapError> {
    ebpf.map_mut(name).ok_or_else(|| MapError::InvalidName {
        name: name.to_owned(),
    })
}
