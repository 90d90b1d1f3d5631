//! The kernel side of the monitor: the only user of aya.

pub mod btf;
