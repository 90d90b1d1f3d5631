//! Very many short connections between processes, each written down by the thread
//! that made it and by the thread that accepted it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

use rustix::event::PollFlags;

use crate::{
    bulk::{End, Many},
    fact::{Fact, Witness},
    process::{Forked, await_go, fork, pin, say, set_comm, wait_until},
    scenarios::{closing::expect_end, places},
    socket::{self, Listener},
    workload::{limit_time, unlimit_time},
};

const PEERS: u32 = 8;
/// Connections each of them makes.
const EACH: u32 = 1_250;
/// All of them.
pub(crate) const CONNECTIONS: u32 = PEERS * EACH;

/// Between two connections of a process: what is asked is whose they are, not how
/// fast JSON is written beside two spinners.
const PACE: Duration = Duration::from_millis(5);

/// Every connection goes to an address of its own, counted from here.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 0);

/// Each process connects to the next one's listener, on a CPU on which no packet
/// is handled; both CPUs are busy.
pub(crate) fn exchange(witness: &Witness) -> Result<()> {
    let listeners = (0..PEERS)
        .map(|_| witness.listen("0.0.0.0:0".parse()?))
        .collect::<Result<Vec<_>>>()?;
    let before = orphans()?;
    places::steer_softirqs(&[0, 1], || {
        let peers = (0..PEERS)
            .zip(listeners.iter().zip(listeners.iter().cycle().skip(1)))
            .map(|(number, (own, next))| fork(|| peer(witness, number, own, next.at.port())))
            .collect::<Result<Vec<_>>>()?;
        // However long: each ends by itself once it stands still.
        unlimit_time();
        peers.into_iter().try_for_each(Forked::join)?;
        limit_time();
        // Others' may take longer: of peers that do not answer.
        let is_over = || Ok(orphans()? <= before);
        wait_until(is_over).context("wait for the ends")
    })?;
    // A busy monitor may still have to look for who holds them.
    std::mem::forget(listeners);
    Ok(())
}

/// Connections that are closed but not over, on the whole machine.
fn orphans() -> Result<u64> {
    const PATH: &str = "/proc/net/sockstat";
    let text = fs::read_to_string(PATH).with_context(|| format!("read {PATH}"))?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "orphan");
    let count = words.nth(1).context("no orphans")?;
    Ok(count.parse()?)
}

fn peer(witness: &Witness, number: u32, own: &Listener, next: u16) -> Result<()> {
    limit_time();
    pin(0)?;
    thread::scope(|scope| {
        let server = scope.spawn(move || serve(witness, number, own));
        connect(witness, number, next)?;
        server.join().map_err(|_| anyhow!("thread panicked"))?
    })
}

/// What the client sends in a connection, and whether it closes first.
const fn plan(index: u32) -> (usize, bool) {
    (1 + index as usize % 50, index.is_multiple_of(2))
}

fn connect(witness: &Witness, number: u32, port: u16) -> Result<()> {
    set_comm(format!("client-{number}").as_bytes())?;
    let mut ends = Vec::new();
    for index in number * EACH..(number + 1) * EACH {
        let to = Ipv4Addr::from(u32::from(FIRST_ADDRESS) + index);
        let remote = SocketAddr::from((to, port));
        let mut client = TcpStream::connect(remote).with_context(|| format!("to {remote}"))?;
        let local = client.local_addr()?;
        let (sent, closes_first) = plan(index);
        client.write_all(&vec![1; sent])?;
        if !closes_first {
            expect_end(&mut client)?;
        }
        drop(client);
        ends.push(End {
            local,
            remote,
            sent: sent.try_into()?,
            received: 0,
            closes_first,
        });
        limit_time();
        thread::sleep(PACE);
    }
    tell(witness, false, ends)
}

fn serve(witness: &Witness, number: u32, listener: &Listener) -> Result<()> {
    set_comm(format!("server-{number}").as_bytes())?;
    let mut ends = Vec::new();
    for _ in 0..EACH {
        let socket = rustix::net::accept(&listener.socket).context("accept")?;
        let mut server = TcpStream::from(socket);
        let (local, remote) = (server.local_addr()?, server.peer_addr()?);
        let SocketAddr::V4(at) = local else {
            anyhow::bail!("at {local}")
        };
        let index = u32::from(*at.ip()) - u32::from(FIRST_ADDRESS);
        let (sent, client_first) = plan(index);
        server.read_exact(&mut vec![0; sent])?;
        if client_first {
            expect_end(&mut server)?;
        }
        drop(server);
        ends.push(End {
            local,
            remote,
            sent: 0,
            received: sent.try_into()?,
            closes_first: !client_first,
        });
        // Its client may have come to its end long ago.
        limit_time();
    }
    tell(witness, true, ends)
}

fn tell(witness: &Witness, inbound: bool, ends: Vec<End>) -> Result<()> {
    witness.tell(&Fact::Many(Many {
        owner: witness.owner()?,
        inbound,
        ends,
    }))
}

/// Listeners that [`close_listeners`] opens and closes.
pub(crate) const CLOSED_LISTENERS: u32 = 4_000;

/// Listeners, one after the other: a connection comes to each, which is closed at once, before
/// anybody accepts it.
pub(crate) fn close_listeners(_: &Witness) -> Result<()> {
    say("ready")?;
    await_go()?;
    for _ in 0..CLOSED_LISTENERS {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let client = TcpStream::connect(listener.local_addr()?).context("connect")?;
        let listener = listener.into();
        socket::poll(&listener, PollFlags::IN)?;
        drop((listener, client));
    }
    Ok(())
}
