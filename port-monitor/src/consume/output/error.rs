//! Why there is no output.

use std::io;

use thiserror::Error;

/// Why there is no output.
#[derive(Debug, Error)]
pub enum TargetError {
    /// Standard output is closed, or there are no descriptors left.
    #[error("standard output: {0}")]
    Stdout(io::Error),
    /// There are no descriptors left for standard error.
    #[error("standard error: {0}")]
    Stderr(io::Error),
    /// The file cannot be opened.
    #[error("output file {path}: {error}")]
    Open {
        /// As given.
        path: String,
        /// The system's error.
        error: io::Error,
    },
    /// Whoever made the link would choose the file we write to.
    #[error("output file {0} is a symbolic link: name the file itself")]
    Symlink(String),
    /// A pipe, socket or block device.
    #[error("output file {0} is not a regular file: redirect standard output to it")]
    NotRegular(String),
    /// What is written here would appear under the other name.
    #[error("output file {0} has several hard links: remove it first")]
    HardLinked(String),
}
