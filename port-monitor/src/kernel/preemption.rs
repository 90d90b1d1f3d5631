//! Whether the kernel may preempt a task in the middle of a BPF trampoline. Other
//! tasks' runs of that program on the CPU are skipped until it comes back
//! (`recursion_misses`), so hooks on trampolines lose events then.

use std::{
    fs::File,
    io::{self, Read as _},
};

use rustix::{
    fs::{Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

/// The kernel may preempt its own code. Where it does not tell, it may.
pub(super) fn is_possible() -> bool {
    match dynamic_model() {
        Ok(models) => is_preemptible(&models),
        Err(error) => {
            log::debug!("preemption model: {error}");
            // Without the file the model is the one the kernel was built with;
            // where the file cannot be read, it may be any.
            let uname = rustix::system::uname();
            uname.version().to_string_lossy().contains("PREEMPT")
        }
    }
}

/// The preemption models the kernel can switch between, the active one in
/// parentheses (`CONFIG_PREEMPT_DYNAMIC`). Read from a debugfs mounted for this
/// process alone: it need not be mounted anywhere.
fn dynamic_model() -> io::Result<String> {
    let filesystem = fsopen("debugfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&filesystem)?;
    let root = fsmount(
        &filesystem,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(root, "sched/preempt", flags, Mode::empty())?;
    let mut models = String::new();
    File::from(file).read_to_string(&mut models)?;
    Ok(models)
}

pub(super) fn is_preemptible(models: &str) -> bool {
    !(models.contains("(none)") || models.contains("(voluntary)"))
}

#[cfg(test)]
mod tests {
    use crate::kernel::preemption::*;

    #[test]
    fn the_active_model_is_the_one_in_parentheses() {
        assert!(!is_preemptible("none (voluntary) full \n"));
        assert!(!is_preemptible("(none) voluntary full lazy \n"));
        assert!(is_preemptible("none voluntary (full) \n"));
        assert!(is_preemptible("full (lazy) \n"));
    }
}
