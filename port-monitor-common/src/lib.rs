//! Types both halves of port-monitor speak: the wire record, the settings the
//! loader hands to the eBPF object, the counters, and the policy decision.
//!
//! `no_std`, no I/O, no aya: the crate is compiled into the eBPF object and
//! into the program that reads it, so one definition serves both.
#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
pub mod config;
pub mod counters;
pub mod decision;
pub mod denial;
pub mod event;
pub mod executable;
pub mod generation;
pub mod groups;
pub mod judging;
pub mod listener;
pub mod mask;
mod numbered;
pub mod offsets;
pub mod pages;
pub mod policy;
pub mod site;
pub mod tcp_state;
pub mod transport;

pub use event::{ABI_VERSION, TcpEvent};
