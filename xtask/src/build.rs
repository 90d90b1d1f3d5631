//! `cargo xtask build [--target ARCH]`: port-monitor for release.

use anyhow::Result;

use crate::{arch::Arch, artifacts};

/// Arguments of `build`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// Build for hosts of this architecture [default: this machine's]
    #[arg(long, value_enum, value_name = "ARCH", default_value_t = Arch::HOST, hide_default_value = true)]
    target: Arch,
}

/// Builds it and says where it is.
pub(crate) fn run(args: Args) -> Result<()> {
    let program = artifacts::build_program_for(args.target, artifacts::RELEASE)?;
    println!("{}", program.display());
    Ok(())
}
