//! Monitors of other people beside ours: what they print of the same
//! connections, and why it differs.

use std::path::Path;

pub(crate) mod account;
pub(crate) mod end;
pub(crate) mod judge;
pub(crate) mod line;
pub(crate) mod tool;

/// The kernel whose guest has them: without them the case fails there.
const SERIES: &str = "6.12.";

/// Whether they are here, or should be.
pub(crate) fn is_expected() -> bool {
    let release = rustix::system::uname();
    let is_series = release.release().to_string_lossy().starts_with(SERIES);
    is_series || Path::new("/bin/tcptracer").exists()
}
