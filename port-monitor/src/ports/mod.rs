//! What a port number means: names of services, ranges and sets of ports.
//!
//! Reads no file and asks no system.

pub mod class;
pub mod port_set;
pub mod services;
