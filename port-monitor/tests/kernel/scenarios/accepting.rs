//! Arrivals: who listens and who accepts.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Result, anyhow};
use rustix::net::sockopt;

use crate::{
    fact::Witness,
    process::{Gate, fork, set_comm},
    socket::{Listener, V4, any_port, bind, open},
};

/// Threads in accept at one listener.
const THREADS: usize = 64;

/// Connections for threads that poll.
const POLLED: usize = 200;

/// Children that accept at their parent's listener.
const CHILDREN: usize = 4;

/// The connection is established, waits in the queue and is never taken.
pub(super) fn never_accepted(witness: &Witness) -> Result<()> {
    let listener = witness.listen(any_port(V4))?;
    let client = witness.connect(listener.at)?;
    witness.never_accepted(&listener, &client)
}

/// Every thread accepts one connection, under its own name.
pub(super) fn threads(witness: &Witness) -> Result<()> {
    let listener = witness.listen(any_port(V4))?;
    thread::scope(|scope| {
        let acceptors: Vec<_> = (0..THREADS)
            .map(|index| {
                let listener = &listener;
                scope.spawn(move || -> Result<()> {
                    set_comm(format!("acceptor-{index}").as_bytes())?;
                    witness.accept(listener)?;
                    Ok(())
                })
            })
            .collect();
        let clients: Result<Vec<_>> = (0..THREADS).map(|_| witness.connect(listener.at)).collect();
        let clients = clients?;
        for acceptor in acceptors {
            acceptor.join().map_err(|_| anyhow!("thread panicked"))??;
        }
        drop(clients);
        Ok(())
    })
}

/// Two threads ask for connections without waiting, so that most of what the kernel
/// skips of an accept call where it preempts the other is of calls that accept nothing.
pub(super) fn polled(witness: &Witness) -> Result<()> {
    let listener = witness.listen(any_port(V4))?;
    rustix::io::ioctl_fionbio(&listener.socket, true)?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let poll = || -> Result<()> {
            // Whatever has come before the end is accepted.
            while !done.load(Ordering::Acquire) {
                accept_waiting(witness, &listener)?;
            }
            accept_waiting(witness, &listener)
        };
        let pollers = [scope.spawn(poll), scope.spawn(poll)];
        let clients: Result<Vec<_>> = (0..POLLED).map(|_| witness.connect(listener.at)).collect();
        done.store(true, Ordering::Release);
        for poller in pollers {
            poller.join().map_err(|_| anyhow!("thread panicked"))??;
        }
        clients.map(drop)
    })
}

/// The parent listens, its children accept.
pub(super) fn prefork(witness: &Witness) -> Result<()> {
    let listener = witness.listen(any_port(V4))?;
    for _ in 0..CHILDREN {
        let child = fork(|| witness.accept(&listener).map(drop))?;
        let _client = witness.connect(listener.at)?;
        child.join()?;
    }
    // As a server does, its children's parent has it open as long as they have.
    listener.keep();
    Ok(())
}

/// Two processes listen at one address; the kernel chooses between them.
pub(super) fn reuseport(witness: &Witness) -> Result<()> {
    let first = shared_listener(witness, any_port(V4))?;
    let at = first.at;
    // Both listen before the first SYN: the choice is the kernel's.
    let (ready, go) = (Gate::new()?, Gate::new()?);
    let child = fork(|| {
        let second = shared_listener(witness, at)?;
        ready.open()?;
        go.pass()?;
        accept_waiting(witness, &second)?;
        second.keep();
        Ok(())
    })?;
    ready.pass()?;
    let clients: Result<Vec<_>> = (0..16).map(|_| witness.connect(at)).collect();
    let clients = clients?;
    go.open()?;
    accept_waiting(witness, &first)?;
    child.join()?;
    drop(clients);
    first.keep();
    Ok(())
}

fn shared_listener(witness: &Witness, at: SocketAddr) -> Result<Listener> {
    let socket = open(at.ip())?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, at)?;
    witness.listen_on(socket, 64)
}

/// Accepts what is in the queue of a listener that does not wait.
fn accept_waiting(witness: &Witness, listener: &Listener) -> Result<()> {
    loop {
        match rustix::net::accept_with(&listener.socket, rustix::net::SocketFlags::CLOEXEC) {
            Ok(socket) => witness.accepted(listener, &socket, false)?,
            Err(rustix::io::Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A listener at every address names the address the client used.
pub(super) fn wildcard(witness: &Witness) -> Result<()> {
    let listener = witness.listen("0.0.0.0:0".parse()?)?;
    let _client = witness.connect(listener.reachable_at())?;
    witness.accept(&listener)?;
    Ok(())
}

/// A socket that listens without bind gets its port from listen.
pub(super) fn unbound_listener(witness: &Witness) -> Result<()> {
    let listener = witness.listen_on(open(V4)?, 16)?;
    let _client = witness.connect(listener.reachable_at())?;
    witness.accept(&listener)?;
    Ok(())
}
