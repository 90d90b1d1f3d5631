//! More clients than the accept queue holds.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use anyhow::{Context as _, Result};
use rustix::io::Errno;

use crate::{
    fact::{Resent, Witness},
    process::wait_until,
    scenarios::{
        breaking::expect_error,
        closing::{expect_end, swapped},
        places,
    },
    socket::{Listener, V4, any_port, bind, open, set_tcp, waiting},
};

/// The length of the queue as listen asks for it; it holds one more.
const BACKLOG: i32 = 2;
const HELD: u32 = 3;

/// The queue is full when the server would learn that a client is there: that one
/// is connected, what it says is dropped, and heard when it says it again.
pub(super) fn overflows(witness: &Witness) -> Result<()> {
    places::enter_loopback_netns()?;
    let listener = patient_listener(witness)?;
    let (late, early) = overflow(witness, &listener)?;
    let drops = || Ok(counter("ListenOverflows")? > 0);
    wait_until(drops).context("wait for the overflow")?;
    for client in early {
        serve(witness, &listener, client, false)?;
    }
    serve(witness, &listener, late, true)
}

/// A queue overflows where the server answers by RST what it has no room for.
pub(super) fn refuses(witness: &Witness) -> Result<()> {
    const SWITCH: &str = "/proc/sys/net/ipv4/tcp_abort_on_overflow";
    places::enter_loopback_netns()?;
    fs::write(SWITCH, "1").with_context(|| format!("write {SWITCH}"))?;
    let listener = patient_listener(witness)?;
    let (mut late, early) = overflow(witness, &listener)?;
    let ends = (late.local_addr()?, listener.at);
    expect_error(&mut late, Errno::CONNRESET)?;
    witness.closed(ends, (1, 0), ("peer-reset", "ECONNRESET"))?;
    for client in early {
        serve(witness, &listener, client, false)?;
    }
    let next = talking(witness.connect(listener.at)?.into())?;
    serve(witness, &listener, next, false)
}

/// A listener to which a client is there only when it says something.
fn patient_listener(witness: &Witness) -> Result<Listener> {
    const SECONDS: libc::c_int = 30;
    let socket = open(V4)?;
    bind(&socket, any_port(V4))?;
    set_tcp(&socket, libc::TCP_DEFER_ACCEPT, SECONDS)?;
    witness.listen_on(socket, BACKLOG)
}

/// A client that says something when the queue is full, and those who fill it.
fn overflow(witness: &Witness, listener: &Listener) -> Result<(TcpStream, Vec<TcpStream>)> {
    let late = witness.connect(listener.at)?;
    let early = (1..=HELD)
        .map(|number| {
            let client = talking(witness.connect(listener.at)?.into())?;
            let is_held = || Ok(waiting(listener)? == number);
            wait_until(is_held).context("wait in the queue")?;
            Ok(client)
        })
        .collect::<Result<Vec<_>>>()?;
    Ok((talking(late.into())?, early))
}

fn talking(mut client: TcpStream) -> Result<TcpStream> {
    client.write_all(b"?")?;
    Ok(client)
}

/// Accepts the client and hears what it has said.
fn serve(
    witness: &Witness,
    listener: &Listener,
    client: TcpStream,
    said_again: bool,
) -> Result<()> {
    let mut server = TcpStream::from(witness.accept(listener)?);
    server.read_exact(&mut [0])?;
    let ends = (client.local_addr()?, listener.at);
    drop(client);
    expect_end(&mut server)?;
    drop(server);
    if said_again {
        witness.closed_resending(ends, (1, 0), ("local", ""), Resent::Some)?;
    } else {
        witness.closed(ends, (1, 0), ("local", ""))?;
    }
    witness.closed(swapped(ends), (0, 1), ("peer", ""))
}

/// A counter of this network namespace: a line of names, then one of values.
fn counter(name: &str) -> Result<u64> {
    const PATH: &str = "/proc/self/net/netstat";
    let text = fs::read_to_string(PATH).with_context(|| format!("read {PATH}"))?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let names = lines.next().context("no names")?.split(' ');
    let mut values = names.zip(lines.next().context("no values")?.split(' '));
    let (_, value) = values
        .find(|&(found, _)| found == name)
        .with_context(|| format!("no {name}"))?;
    Ok(value.parse()?)
}
