//! Both ends connect, and nobody listens: here one socket to itself.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpStream},
};

use anyhow::{Result, ensure};

use crate::{
    fact::Witness,
    scenarios::closing::FROM_CLIENT,
    socket::{V4, V6, any_port, bind, local, open, peer},
};

pub(super) fn ipv4(witness: &Witness) -> Result<()> {
    with_itself(witness, V4)
}

pub(super) fn ipv6(witness: &Witness) -> Result<()> {
    with_itself(witness, V6)
}

/// What it sends it receives, and it closes both ends at once.
fn with_itself(witness: &Witness, at: IpAddr) -> Result<()> {
    let socket = open(at)?;
    bind(&socket, any_port(at))?;
    let own = local(&socket)?;
    rustix::net::connect(&socket, &own)?;
    ensure!(peer(&socket)? == own, "connected to another");
    witness.connected(&socket, true)?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(&[1; FROM_CLIENT])?;
    stream.read_exact(&mut [0; FROM_CLIENT])?;
    drop(stream);
    witness.closed((own, own), (FROM_CLIENT, FROM_CLIENT), ("local", ""))
}
