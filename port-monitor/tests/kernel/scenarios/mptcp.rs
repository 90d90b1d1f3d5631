//! Multipath TCP: the program's socket is not the one that connects or accepts.

use anyhow::Result;

use crate::{
    fact::Witness,
    socket::{V4, V6, any_port, bind, open_mptcp},
};

pub(super) fn ipv4(witness: &Witness) -> Result<()> {
    connect(witness, V4)
}

pub(super) fn ipv6(witness: &Witness) -> Result<()> {
    connect(witness, V6)
}

fn connect(witness: &Witness, at: std::net::IpAddr) -> Result<()> {
    let socket = open_mptcp(at)?;
    bind(&socket, any_port(at))?;
    let listener = witness.listen_on(socket, 16)?;
    let client = open_mptcp(at)?;
    rustix::net::connect(&client, &listener.at)?;
    witness.connected(&client, false)?;
    witness.accept(&listener)?;
    Ok(())
}
