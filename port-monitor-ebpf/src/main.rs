//! The eBPF programs of port-monitor.
#![no_std]
#![no_main]
