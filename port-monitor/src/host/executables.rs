//! Who knows what processes execute.

use std::{fmt, path::PathBuf};

use crate::events::decode::Owner;

/// Who knows what processes execute that are gone by now.
pub trait Executables: fmt::Debug {
    /// The path of what the owner of an event executed when that was told, as /proc had it;
    /// `None` where that is not known.
    fn path(&self, owner: &Owner) -> Option<PathBuf>;
}
