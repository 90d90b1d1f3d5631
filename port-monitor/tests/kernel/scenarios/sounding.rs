//! Connections made to measure other programs by.

use std::thread::available_parallelism;

use anyhow::Result;

use crate::{
    fact::Witness,
    process::pin,
    scenarios::closing::client_first_for,
    socket::{V4, V6},
};

/// In kilobytes with two decimals five bytes are 0.00, and six are 0.01: a
/// count that is off by one shows.
const FEW: usize = 5;

pub(crate) fn few_bytes(witness: &Witness) -> Result<()> {
    client_first_for(witness, V4, V4, (FEW, FEW))?;
    client_first_for(witness, V6, V6, (FEW, FEW))
}

/// One connection on each CPU: what came before on that CPU is in its buffers
/// before this.
pub(crate) fn every_cpu(witness: &Witness) -> Result<()> {
    for cpu in 0..available_parallelism()?.get() {
        pin(cpu)?;
        client_first_for(witness, V4, V4, (0, 0))?;
    }
    Ok(())
}
