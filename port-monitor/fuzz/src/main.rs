//! Runs the target that is named in the environment in libFuzzer. `cargo xtask fuzz` builds
//! and starts this.

#![no_main]

use std::{env, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use port_monitor::fuzz::{TARGETS, Target};

/// Environment variable: the target's name.
const TARGET: &str = "PORT_MONITOR_FUZZ_TARGET";

/// The target of this run.
fn target() -> &'static Target {
    static CHOSEN: OnceLock<&Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = env::var(TARGET).unwrap_or_default();
        let found = TARGETS.iter().find(|target| target.name == name);
        found.unwrap_or_else(|| panic!("{TARGET}: no target `{name}`"))
    })
}

fuzz_target!(|bytes: &[u8]| (target().run)(bytes));
