//! `history sql`: where the history is, and how to ask it by hand.

use std::{io::Write, path::absolute};

use super::place::FileArgs;
use crate::{
    base::{
        exit_code::{ExitCode, Failure},
        sanitize::Quoted,
    },
    commands::told::written,
};

/// A question by hand.
const EXAMPLE: &str = "SELECT time, process, remote, port, state FROM connections \
                       ORDER BY time_ns DESC LIMIT 10";

/// Arguments of `history sql`.
#[derive(Debug, clap::Args)]
pub(super) struct SqlArgs {
    #[command(flatten)]
    file: FileArgs,
}

/// Prints the path of a history that can be read, and a command that asks it.
pub(super) fn run(args: &SqlArgs, mut out: impl Write) -> Result<ExitCode, Failure> {
    args.file.open()?;
    let path = absolute(&args.file.file).unwrap_or_else(|_| args.file.file.clone());
    let path = path.to_string_lossy();
    let path = Quoted(&path);
    written(writeln!(
        out,
        "{path}\nsqlite3 -readonly -box {path} \"{EXAMPLE}\""
    ))
}
