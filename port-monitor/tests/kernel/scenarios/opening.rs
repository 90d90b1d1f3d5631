//! Connections that are opened all the time, and kept.

use std::{
    net::{self, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use rustix::{
    io::Errno,
    net::{Shutdown, SocketFlags},
    process::{Resource, getrlimit, setrlimit},
};

use crate::{
    bulk::{End, Many},
    fact::{Fact, Witness},
    process::{await_go, say, wait_until},
    scenarios::{closing::expect_end, reuse::await_gone},
    socket::{Listener, V4, any_port},
};

/// Threads that connect.
const OPENERS: usize = 2;

/// Between two connections of a thread: a process can hold only so many.
const PACE: Duration = Duration::from_millis(20);

/// Opens connections until told to go on, then closes them all. Both ends are
/// this process's.
pub(crate) fn open_and_hold(witness: &Witness) -> Result<()> {
    allow_files()?;
    let listener = witness.listen(any_port(V4))?;
    let (clients, servers) = open(&listener)?;
    tell(witness, false, &clients)?;
    tell(witness, true, &servers)?;
    for client in &clients {
        client.shutdown(net::Shutdown::Write)?;
    }
    for mut server in servers {
        expect_end(&mut server)?;
        server.shutdown(net::Shutdown::Write)?;
        await_gone(&server)?;
    }
    clients.iter().try_for_each(await_gone)
}

/// Lets this process have as many files open as it may.
pub(super) fn allow_files() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raise the limit of open files")
}

fn open(listener: &Listener) -> Result<(Vec<TcpStream>, Vec<TcpStream>)> {
    let (enough, accepted) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let openers: Vec<_> = (0..OPENERS)
            .map(|_| scope.spawn(|| open_until(&enough, listener.at)))
            .collect();
        let acceptor = scope.spawn(|| accept_all(listener, &accepted));
        say("ready")?;
        let told = await_go();
        enough.store(true, Ordering::Relaxed);
        let mut clients = Vec::new();
        for opener in openers {
            clients.extend(opener.join().map_err(|_| anyhow!("thread panicked"))??);
        }
        let all_are_in = || Ok(accepted.load(Ordering::Relaxed) == clients.len());
        wait_until(all_are_in).context("accept them all")?;
        rustix::net::shutdown(&listener.socket, Shutdown::Read)?;
        let servers = acceptor.join().map_err(|_| anyhow!("thread panicked"))??;
        told?;
        Ok((clients, servers))
    })
}

fn open_until(enough: &AtomicBool, to: SocketAddr) -> Result<Vec<TcpStream>> {
    let mut clients = Vec::new();
    while !enough.load(Ordering::Relaxed) {
        clients.push(TcpStream::connect(to).context("connect")?);
        thread::sleep(PACE);
    }
    Ok(clients)
}

/// Accepts until the listener is shut down.
fn accept_all(listener: &Listener, accepted: &AtomicUsize) -> Result<Vec<TcpStream>> {
    let mut servers = Vec::new();
    loop {
        match rustix::net::accept_with(&listener.socket, SocketFlags::CLOEXEC) {
            Ok(socket) => servers.push(socket.into()),
            Err(Errno::INVAL) => return Ok(servers),
            Err(error) => return Err(error).context("accept"),
        }
        accepted.fetch_add(1, Ordering::Relaxed);
    }
}

fn tell(witness: &Witness, inbound: bool, streams: &[TcpStream]) -> Result<()> {
    let end = |stream: &TcpStream| -> Result<End> {
        Ok(End {
            local: stream.local_addr()?,
            remote: stream.peer_addr()?,
            sent: 0,
            received: 0,
            closes_first: !inbound,
        })
    };
    witness.tell(&Fact::Many(Many {
        owner: witness.owner()?,
        inbound,
        ends: streams.iter().map(end).collect::<Result<_>>()?,
    }))
}
