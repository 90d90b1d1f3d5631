//! Who connects: threads, names, users, and processes that are gone at once.

use std::thread;

use anyhow::{Result, anyhow};

use crate::{
    fact::{Attempt, Ending, Fact, Reach, Witness, netns_ino},
    process::{become_user, exit_now, fork, set_comm},
    socket::{V4, any_port, bind, local, open},
};

/// A user no system has: nobody's files, nobody's name.
pub(crate) const OTHER_USER: u32 = 1234;

/// The process ends in the instruction after its connect.
pub(super) fn exits_at_once(witness: &Witness) -> Result<()> {
    let listener = witness.listen(any_port(V4))?;
    // The child never reports: it is gone before it could.
    let _child = fork(|| {
        let socket = open(V4)?;
        bind(&socket, any_port(V4))?;
        witness.tell(&Fact::Attempt(Attempt {
            owner: witness.of_the_dying()?.owner()?,
            local_ip: V4,
            local_port: Some(local(&socket)?.port()),
            bound: true,
            remote: listener.at,
            v4_mapped: false,
            netns_ino: netns_ino()?,
            ending: Ending::Connected,
            reach: Reach::Syn,
            within_ns: {
                let (begin, now) = witness.until_now()?;
                (begin, now.saturating_add(10_000_000_000))
            },
        }))?;
        // It might be the last to have it, and nobody would know who else had.
        listener.leave();
        rustix::net::connect(&socket, &listener.at)?;
        exit_now()
    })?;
    witness.accept(&listener)?;
    listener.keep();
    Ok(())
}

/// The thread that connects is not the one the process began with.
pub(super) fn thread(witness: &Witness) -> Result<()> {
    let listener = witness.listen(any_port(V4))?;
    thread::scope(|scope| {
        let client = scope.spawn(|| -> Result<()> {
            set_comm(b"second-thread")?;
            witness.connect(listener.at)?;
            Ok(())
        });
        witness.accept(&listener)?;
        client.join().map_err(|_| anyhow!("thread panicked"))?
    })
}

pub(super) fn renamed(witness: &Witness) -> Result<()> {
    set_comm(b"renamed-15-byte")?;
    witness.pair(V4)
}

/// A name made to fool terminals and parsers.
pub(super) fn hostile_name(witness: &Witness) -> Result<()> {
    set_comm(b"\x1b[2J\n\"\\\xff\xe2\x80\xae\t")?;
    witness.pair(V4)
}

pub(super) fn other_user(witness: &Witness) -> Result<()> {
    become_user(OTHER_USER)?;
    witness.pair(V4)
}
