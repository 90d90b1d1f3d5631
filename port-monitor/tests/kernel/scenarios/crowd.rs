//! Connections by the number, all of them open at once.

use std::{os::fd::OwnedFd, time::Duration};

use anyhow::{Context as _, Result};
use rustix::{
    net::sockopt,
    process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit},
};

use crate::{
    fact::Witness,
    process::{Forked, Gate, await_go, exit_now, fork, say, set_comm},
    socket::{V4, any_port, bind, local, open},
};

/// Connections that a small table has no room for.
pub(crate) const SMALL: u32 = 100;

/// Connections that are looked at again and again.
pub(crate) const MANY: u32 = 10_000;

/// Connections that have to be cheap.
pub(crate) const LARGE: u32 = 100_000;

/// Connections of one process, few enough for its limit of open files. Their
/// events fit into the default ring, and their lines into the monitor's queue:
/// nothing is lost, however slowly either is read.
pub(crate) const SHARE: u32 = 2_000;

// Whichever process comes first, it has a whole share.
const _: () = assert!(LARGE.is_multiple_of(SHARE));

/// Files a process needs beside its connections, more or less.
const OTHER_FILES: u32 = 100;

/// How many connections each process of a crowd has.
pub(crate) fn shares(connections: u32) -> impl Iterator<Item = u32> {
    let starts = (0..connections).step_by(SHARE as usize);
    starts.map(move |start| SHARE.min(connections - start))
}

/// The name of a crowd's threads, by the pid of its first process.
pub(crate) fn name(pid: u32) -> String {
    format!("crowd-{pid}")
}

pub(crate) fn small(_: &Witness) -> Result<()> {
    gather(SMALL)
}

pub(crate) fn many(_: &Witness) -> Result<()> {
    gather(MANY)
}

pub(crate) fn large(_: &Witness) -> Result<()> {
    gather(LARGE)
}

/// Opens the connections and resets them, a share whenever told to go.
fn gather(connections: u32) -> Result<()> {
    set_comm(name(std::process::id()).as_bytes())?;
    raise_limit()?;
    let [go, opened, end, ended] = [Gate::new()?, Gate::new()?, Gate::new()?, Gate::new()?];
    let children: Vec<Forked> = shares(connections)
        .map(|count| {
            fork(|| {
                // The gates are its own: nobody else would let it go.
                set_parent_process_death_signal(Some(Signal::KILL))?;
                go.pass()?;
                let pairs = connect(count)?;
                opened.open()?;
                end.pass()?;
                drop(pairs);
                ended.open()?;
                // Its standard input is the parent's, whose words are not for it.
                exit_now()
            })
        })
        .collect::<Result<_>>()?;
    say("ready")?;
    for (begin, done, word) in [(&go, &opened, "opened"), (&end, &ended, "ended")] {
        for _ in &children {
            await_go()?;
            begin.open()?;
            done.pass()?;
            say(word)?;
        }
    }
    Ok(())
}

/// Lets this process and its children have files enough.
fn raise_limit() -> Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let needed = u64::from(2 * SHARE + OTHER_FILES);
    let limit = Rlimit {
        current: current.map(|current| current.max(needed)),
        maximum: maximum.map(|maximum| maximum.max(needed)),
    };
    setrlimit(Resource::Nofile, limit).context("raise the limit of open files")
}

/// Both ends of so many connections.
fn connect(count: u32) -> Result<Vec<(OwnedFd, OwnedFd)>> {
    let listener = open(V4)?;
    bind(&listener, any_port(V4))?;
    rustix::net::listen(&listener, 1)?;
    let at = local(&listener)?;
    (0..count)
        .map(|_| {
            let client = open(V4)?;
            // No TIME_WAIT: others on this host need the ports, too.
            sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
            rustix::net::connect(&client, &at).context("connect")?;
            let server = rustix::net::accept(&listener).context("accept")?;
            Ok((client, server))
        })
        .collect()
}
