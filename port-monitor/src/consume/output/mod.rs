//! Where the bytes of a consumer go: standard output, a file that is rotated, a thread of its own.

pub mod args;
pub mod error;
pub mod file;
pub mod stdout;
pub mod target;
pub mod writer;
