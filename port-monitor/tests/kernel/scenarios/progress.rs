//! Connections that stay open for a while, in steps that the runner decides on.

use std::{
    io::{Read as _, Write as _},
    thread,
};

use anyhow::{Result, anyhow};

use super::{
    closing::{FROM_CLIENT, FROM_SERVER, connect, expect_end},
    places,
};
use crate::{
    fact::Witness,
    process::{await_go, say},
    socket::{V4, V6, any_port},
};

/// One connection is older than the monitor, one is idle and in another network namespace,
/// and one carries something in each step.
pub(crate) fn steps(witness: &Witness) -> Result<()> {
    let listener = witness.listen(any_port(V4))?;
    let older = connect(witness, &listener, V4)?;
    say("ready")?;
    await_go()?;
    let idle = thread::scope(|scope| {
        let elsewhere = scope.spawn(|| {
            places::enter_loopback_netns()?;
            let listener = witness.listen(any_port(V6))?;
            connect(witness, &listener, V6)
        });
        elsewhere.join().map_err(|_| anyhow!("a thread panicked"))?
    })?;
    let (mut client, mut server, _) = connect(witness, &listener, V4)?;
    client.write_all(&[1; FROM_CLIENT])?;
    server.read_exact(&mut [0; FROM_CLIENT])?;
    say("sent")?;
    await_go()?;
    server.write_all(&[2; FROM_SERVER])?;
    client.read_exact(&mut [0; FROM_SERVER])?;
    say("answered")?;
    await_go()?;
    drop(client);
    expect_end(&mut server)?;
    drop(server);
    for (client, mut server, _) in [idle, older] {
        drop(client);
        expect_end(&mut server)?;
    }
    Ok(())
}
