//! `policy export`: a policy in the language of another program.

use std::{io::Write, path::PathBuf};

use clap::ValueEnum;

use crate::{
    base::exit_code::{ExitCode, Failure},
    commands::{load::load, told::written},
    policy::{Environment as _, Host, export::nft::Inexpressible},
};

/// Arguments of `policy export`.
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// The language
    #[arg(value_name = "FORMAT")]
    format: Format,
    /// Leave out what the language cannot express, with a comment in its place
    #[arg(long)]
    partial: bool,
    /// The policy
    #[arg(
        long = "policy",
        value_name = "FILE",
        allow_hyphen_values = true,
        default_value = "/etc/port-monitor/policy.toml"
    )]
    path: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// An nftables ruleset, as `nft -f` reads it
    Nft,
}

/// Prints the policy.
pub(super) fn run(args: &ExportArgs, mut out: impl Write) -> Result<ExitCode, Failure> {
    let policy = load(&args.path)?;
    let inexpressible = if args.partial {
        Inexpressible::LeaveOut
    } else {
        Inexpressible::Refuse
    };
    let path = args.path.display().to_string();
    let path = path.escape_debug();
    let text = match args.format {
        Format::Nft => policy.to_nft(inexpressible, Host.now_ns()),
    };
    let text = text.map_err(|error| Failure::usage(format!("{path}: {error}")))?;
    written(write!(out, "# Made by port-monitor from {path}.\n{text}"))
}
