//! Multipath TCP: the program's socket is not the one that connects or accepts.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use anyhow::Result;

use crate::{
    fact::Witness,
    scenarios::closing::{FROM_CLIENT, expect_end},
    socket::{V4, V6, any_port, bind, local, open_mptcp},
};

pub(super) fn ipv4(witness: &Witness) -> Result<()> {
    connect(witness, V4)
}

pub(super) fn ipv6(witness: &Witness) -> Result<()> {
    connect(witness, V6)
}

/// Its own process closes it; a worker of the kernel closes the TCP socket beneath.
pub(super) fn close(witness: &Witness) -> Result<()> {
    let socket = open_mptcp(V4)?;
    bind(&socket, any_port(V4))?;
    let listener = witness.listen_on(socket, 16)?;
    let client = open_mptcp(V4)?;
    rustix::net::connect(&client, &listener.at)?;
    witness.connected(&client, false)?;
    let server = witness.accept(&listener)?;
    let (client_at, server_at) = (local(&client)?, local(&server)?);
    let (mut client, mut server) = (TcpStream::from(client), TcpStream::from(server));
    client.write_all(&[1; FROM_CLIENT])?;
    server.read_exact(&mut [0; FROM_CLIENT])?;
    drop(client);
    expect_end(&mut server)?;
    drop(server);
    // Which end's subflow closes first is the kernel's choice.
    witness.ended((client_at, server_at), (FROM_CLIENT, 0))?;
    witness.ended((server_at, client_at), (0, FROM_CLIENT))
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
