//! What a pinned link is attached to.

use std::{fs, path::Path};

use aya::programs::links::{FdLink, PinnedLink};

use super::EnforcerError;
use crate::kernel::error::{KernelError, chain};

/// What a pinned link attaches its program to: a cgroup's id, or the inode number of a
/// network namespace. `None` where the kernel has left the link there, attached to
/// nothing, because its cgroup was removed or somebody detached it.
pub(super) fn attached_to(path: &Path) -> Result<Option<u64>, EnforcerError> {
    let link = PinnedLink::from_pin(path).map_err(|error| KernelError::Map(chain(&error)))?;
    let link = FdLink::from(link);
    let info = link
        .info()
        .map_err(|error| KernelError::Map(chain(&error)))?;
    let in_proc = |error| EnforcerError::File {
        path: "/proc/self/fdinfo".into(),
        error,
    };
    let entries = fs::read_dir("/proc/self/fdinfo").map_err(in_proc)?;
    let entries: Vec<_> = entries.flatten().collect();
    // It was opened last, and most often has the highest number.
    let texts = entries
        .iter()
        .rev()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let places = texts.into_iter().map(|text| place_of(&text, info.id()));
    Ok(places.flatten().next())
}

/// What a descriptor's `fdinfo` says that this link is attached to, if it is this
/// link's.
pub(in crate::kernel) fn place_of(fdinfo: &str, link_id: u32) -> Option<u64> {
    let value = |key: &str| {
        let mut lines = fdinfo.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(name, _)| *name == key)?;
        value.trim().parse::<u64>().ok()
    };
    if value("link_id") != Some(link_id.into()) {
        return None;
    }
    let place = value("cgroup_id").or_else(|| value("netns_ino"));
    place.filter(|place| *place != 0)
}

#[cfg(test)]
mod tests {
    use crate::kernel::enforcer::links::*;

    #[test]
    fn a_link_attached_to_nothing_is_told_from_one_that_is() {
        let text = |place| format!("pos:\t0\nlink_id:\t7\nprog_id:\t9\n{place}\n");
        assert_eq!(place_of(&text("cgroup_id:\t4"), 7), Some(4));
        let netns = text("netns_ino:\t4026531840");
        assert_eq!(place_of(&netns, 7), Some(4_026_531_840));
        assert_eq!(place_of(&text("cgroup_id:\t0"), 7), None);
        assert_eq!(place_of(&text("cgroup_id:\t4"), 8), None);
        assert_eq!(place_of("pos:\t0\n", 7), None);
    }
}
