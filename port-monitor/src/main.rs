//! Parse, run, print the error, exit.

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

#[cfg(target_feature = "crt-static")]
use port_monitor::host::nss;
use port_monitor::{consume::output::stdout, dispatch, usage};

/// What the C library runs before the standard library begins.
#[used]
// SAFETY: a function that takes nothing and asks for the flags of one descriptor, by a
// system call of its own; of the standard library it uses nothing that has to begin.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = stdout::note;

fn main() -> ExitCode {
    #[cfg(target_feature = "crt-static")]
    if let Err(error) = nss::without_libraries() {
        let _ = writeln!(
            io::stderr(),
            "port-monitor: names of users and hosts: {error}"
        );
        return port_monitor::base::exit_code::ExitCode::CannotAttach.into();
    }
    let result = usage::parse(env::args_os()).and_then(dispatch::run);
    match result {
        Ok(code) => code.into(),
        Err(failure) => {
            // Where nobody can read it, the exit status still tells.
            let _ = writeln!(io::stderr(), "port-monitor: {:#}", failure.error);
            failure.code.into()
        }
    }
}
