//! Connections that have half begun when the monitor starts: what has happened of them
//! nobody has seen, and what is to come somebody will.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use anyhow::{Context as _, Result, ensure};
use rustix::net::SocketFlags;

use crate::{
    fact::Witness,
    process::{await_go, say},
    scenarios::{
        closing::expect_end,
        fastopen::{self, Early},
    },
    socket::{Ends, Listener, V4, any_port, local, open, set_tcp},
};

/// What each client sends.
const REQUEST: &[u8] = b"hello";

/// A client whose SYN waits for the first write, a Fast Open connection that is accepted
/// and whose handshake is not complete, and one that is complete and waits to be
/// accepted. Under the monitor all go on, to their ends.
pub(crate) fn half_begun(witness: &Witness) -> Result<()> {
    fastopen::without_cookies()?;
    let unsent = Unsent::begin(witness)?;
    let early = Early::begin_here(witness)?;
    let queued = Queued::begin(witness)?;
    say("ready")?;
    await_go()?;
    unsent.finish(witness)?;
    let ends = (early.client_at, early.server_at);
    let (client, server) = early.complete()?;
    finish_sent(witness, client, server, ends)?;
    queued.finish(witness)
}

/// A socket that is told to connect, and sends nothing yet.
struct Unsent {
    client: TcpStream,
    listener: Listener,
}

impl Unsent {
    fn begin(witness: &Witness) -> Result<Self> {
        let listener = fastopen::listener(witness)?;
        let client = open(V4)?;
        set_tcp(&client, libc::TCP_FASTOPEN_CONNECT, 1)?;
        rustix::net::connect(&client, &listener.at).context("connect")?;
        Ok(Self {
            client: client.into(),
            listener,
        })
    }

    fn finish(mut self, witness: &Witness) -> Result<()> {
        self.client.write_all(REQUEST)?;
        let ends = (self.client.local_addr()?, self.listener.at);
        let server = accept(&self.listener)?;
        finish_sent(witness, self.client, server, ends)
    }
}

/// A connection that is established, and not accepted.
struct Queued {
    client: TcpStream,
    listener: Listener,
}

impl Queued {
    fn begin(witness: &Witness) -> Result<Self> {
        let listener = witness.listen(any_port(V4))?;
        let client = TcpStream::connect(listener.at)?;
        Ok(Self { client, listener })
    }

    fn finish(self, witness: &Witness) -> Result<()> {
        let ends = (self.client.local_addr()?, self.listener.at);
        let server = accept(&self.listener)?;
        let mut client = self.client;
        client.write_all(REQUEST)?;
        finish_sent(witness, client, server, ends)
    }
}

fn accept(listener: &Listener) -> Result<TcpStream> {
    let server = rustix::net::accept_with(&listener.socket, SocketFlags::CLOEXEC)?;
    ensure!(local(&server)? == listener.at, "not of this listener");
    Ok(server.into())
}

/// A connection whose client has sent its request comes to its end: the client closes first.
fn finish_sent(
    witness: &Witness,
    client: TcpStream,
    mut server: TcpStream,
    (client_at, server_at): Ends,
) -> Result<()> {
    server.read_exact(&mut [0; REQUEST.len()])?;
    drop(client);
    expect_end(&mut server)?;
    drop(server);
    let sent = REQUEST.len();
    witness.closed((client_at, server_at), (sent, 0), ("local", ""))?;
    witness.closed((server_at, client_at), (0, sent), ("peer", ""))
}
