//! Parse, run, print the error, exit.

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

use port_monitor::{commands, usage};

fn main() -> ExitCode {
    let result = usage::parse(env::args_os()).and_then(commands::run);
    match result {
        Ok(code) => code.into(),
        Err(failure) => {
            // Where nobody can read it, the exit status still tells.
            let _ = writeln!(io::stderr(), "port-monitor: {:#}", failure.error);
            failure.code.into()
        }
    }
}
