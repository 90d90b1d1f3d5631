//! What began before the monitor: listeners, and threads asleep in accept.

use std::{fs, net::SocketAddr, os::fd::OwnedFd, sync::mpsc, thread};

use anyhow::{Context as _, Result, anyhow};
use rustix::net::sockopt;

use crate::{
    fact::Witness,
    process::{Gate, await_go, fork, say, set_comm, wait_until},
    socket::{Listener, V4, any_port, bind, local, open},
};

/// Threads asleep in accept when the monitor attaches.
const SLEEPERS: usize = 4;

/// Threads fall asleep in accept, then the monitor starts, then clients come.
pub(crate) fn asleep_in_accept(witness: &Witness) -> Result<()> {
    let listener = witness.listen(any_port(V4))?;
    let (send_tid, tids) = mpsc::channel();
    thread::scope(|scope| {
        let sleepers: Vec<_> = (0..SLEEPERS)
            .map(|index| {
                let (listener, send_tid) = (&listener, send_tid.clone());
                scope.spawn(move || -> Result<()> {
                    set_comm(format!("sleeper-{index}").as_bytes())?;
                    send_tid.send(rustix::thread::gettid().as_raw_nonzero().get())?;
                    accept_early(witness, listener)
                })
            })
            .collect();
        for tid in tids.iter().take(SLEEPERS) {
            wait_until(|| is_in_accept(tid))?;
        }
        say("ready")?;
        await_go()?;
        let clients: Result<Vec<_>> = (0..SLEEPERS)
            .map(|_| witness.connect(listener.at))
            .collect();
        let clients = clients?;
        for sleeper in sleepers {
            sleeper.join().map_err(|_| anyhow!("thread panicked"))??;
        }
        drop(clients);
        Ok(())
    })
}

fn accept_early(witness: &Witness, listener: &Listener) -> Result<()> {
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let socket = rustix::net::accept_with(&listener.socket, flags).context("accept")?;
    witness.accepted(listener, &socket, true)
}

/// `/proc/PID/task/TID/syscall` begins with the number of the system call a
/// sleeping thread is in.
fn is_in_accept(tid: i32) -> Result<bool> {
    let path = format!("/proc/self/task/{tid}/syscall");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let number = text.split(' ').next().and_then(|word| word.parse().ok());
    Ok(matches!(number, Some(libc::SYS_accept | libc::SYS_accept4)))
}

/// The listener is older than the monitor, its connections are not.
pub(crate) fn already_listening(witness: &Witness) -> Result<()> {
    let listener = witness.listen(any_port(V4))?;
    say("ready")?;
    await_go()?;
    let _client = witness.connect(listener.at)?;
    witness.accept(&listener)?;
    listener.keep();
    Ok(())
}

/// Two sockets listen at one port, in two processes that share them; then the monitor
/// starts, all of them are closed, and the first process listens there alone.
pub(crate) fn shared_before(witness: &Witness) -> Result<()> {
    let first = shared(any_port(V4))?;
    let at = local(&first)?;
    let second = shared(at)?;
    let gate = Gate::new()?;
    let child = fork(|| gate.pass())?;
    say("ready")?;
    await_go()?;
    child.kill()?;
    drop((first, second));
    let listener = witness.listen(at)?;
    let _client = witness.connect(at)?;
    witness.accept(&listener)?;
    Ok(())
}

fn shared(at: SocketAddr) -> Result<OwnedFd> {
    let socket = open(at.ip())?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, at)?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}
