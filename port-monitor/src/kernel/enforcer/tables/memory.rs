//! What the maps of an instance take of the kernel's memory.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
};

use aya::maps::{HashOfMaps, Map, MapData, MapError};
use port_monitor_common::generation::GENERATIONS;

use super::{
    super::{Enforcer, EnforcerError, install::file_error},
    DENIALS,
};
use crate::kernel::{
    error::KernelError,
    object::{IN_EACH_GENERATION, POLICY_MAPS},
};

impl Enforcer {
    /// What its maps take of the kernel's memory, bytes.
    pub fn memory(&self) -> Result<u64, EnforcerError> {
        of(&self.dir)
    }
}

/// Of all maps pinned in `dir`, and of the tables in them.
fn of(dir: &Path) -> Result<u64, EnforcerError> {
    let open = |name: &str| MapData::from_pin(dir.join(name)).map_err(KernelError::from);
    let mut bytes = 0;
    for name in POLICY_MAPS.into_iter().chain(["pm_state", DENIALS]) {
        bytes += of_map(&open(name)?)?;
    }
    for name in IN_EACH_GENERATION {
        let generations = Map::HashOfMaps(open(name)?);
        let generations: HashOfMaps<_, u32> = generations.try_into().map_err(KernelError::from)?;
        for generation in 0..GENERATIONS {
            bytes += of_generation(&generations, generation)?;
        }
    }
    Ok(bytes)
}

/// Nothing where the generation is empty, or was emptied while this looked.
fn of_generation(
    generations: &HashOfMaps<MapData, u32>,
    generation: u32,
) -> Result<u64, EnforcerError> {
    match generations.get(&generation, 0) {
        Ok(map) => of_map(&map),
        Err(MapError::KeyNotFound) => Ok(0),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(0)
        }
        Err(error) => Err(KernelError::from(error).into()),
    }
}

fn of_map(map: &MapData) -> Result<u64, EnforcerError> {
    let descriptor = map.fd().as_fd().as_raw_fd();
    let path = PathBuf::from(format!("/proc/self/fdinfo/{descriptor}"));
    let text = fs::read_to_string(&path).map_err(|error| file_error(&path, error))?;
    Ok(in_fdinfo(&text).unwrap_or(0))
}

/// What a map's descriptor says of its memory: `memlock:`, a tab, `4096`.
pub(in crate::kernel) fn in_fdinfo(text: &str) -> Option<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("memlock:"))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use crate::kernel::enforcer::tables::memory::*;

    #[test]
    fn memory_is_what_the_descriptor_says() {
        let text = "pos:\t0\nmap_type:\t2\nmax_entries:\t4\nmemlock:\t8192\nmap_id:\t7\n";
        assert_eq!(in_fdinfo(text), Some(8_192));
        assert_eq!(in_fdinfo("pos:\t0\n"), None);
    }
}
