//! A command and its descendants, for `-- CMD` and `--pid`.

use anyhow::{Context as _, Result};

use crate::{
    fact::Witness,
    process::{Gate, await_go, exit_now, fork, wait_until},
    socket::V4,
};

/// The command, its child, its grandchild and a daemon whose parent is gone all
/// connect.
pub(crate) fn descendants(witness: &Witness) -> Result<()> {
    witness.pair(V4)?;
    let child = fork(|| {
        witness.pair(V4)?;
        fork(|| witness.pair(V4))?.join()
    })?;
    child.join()?;
    let connected = Gate::new()?;
    // Nobody reports: the parent ends as soon as the daemon is born.
    let _parent = fork(|| {
        rustix::process::setsid()?;
        let parent = rustix::process::getpid();
        let _daemon = fork(|| {
            wait_until(|| Ok(rustix::process::getppid() != Some(parent)))?;
            witness.pair(V4)?;
            connected.open()
        })?;
        exit_now()
    })?;
    connected.pass()
}

/// A parent and its child, which begin when they are told to; the parent's pid
/// is the one a filter names.
pub(crate) fn parent_and_child(witness: &Witness) -> Result<()> {
    await_go().context("wait for the monitor")?;
    witness.pair(V4)?;
    fork(|| witness.pair(V4))?.join()
}
