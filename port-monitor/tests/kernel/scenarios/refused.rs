//! What this host's own queue refuses, it does not send.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::net::sockopt;

use crate::{
    fact::Witness,
    process::poll_until,
    scenarios::{
        closing::{FROM_CLIENT, connect, swapped},
        places,
    },
    socket::{V4, any_port},
};

/// What is written when the queue takes nothing.
const REFUSED: usize = 5_000;

/// The client's segments are tried again and again, and none leaves; a
/// reset ends it. What had come before counts.
pub(super) fn by_queue(witness: &Witness) -> Result<()> {
    places::enter_loopback_netns()?;
    let listener = witness.listen(any_port(V4))?;
    let (mut client, mut server, ends) = connect(witness, &listener, V4)?;
    client.write_all(&[1; FROM_CLIENT])?;
    server.read_exact(&mut [0; FROM_CLIENT])?;
    queue("add")?;
    client.write_all(&[1; REFUSED])?;
    await_refusals()?;
    reset(client)?;
    queue("del")?;
    reset(server)?;
    witness.closed(ends, (FROM_CLIENT, 0), ("local-reset", ""))?;
    witness.closed(swapped(ends), (0, FROM_CLIENT), ("local-reset", ""))
}

/// Ends it by a reset.
fn reset(stream: TcpStream) -> Result<()> {
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// Adds the queue that holds nothing, or takes it away.
fn queue(verb: &str) -> Result<()> {
    let mut tc = Command::new("tc");
    tc.args(["qdisc", verb, "dev", "lo", "root"]);
    if verb == "add" {
        tc.args(["pfifo", "limit", "0"]);
    }
    let status = tc.status().context("run tc")?;
    ensure!(status.success(), "tc qdisc {verb}: {status}");
    Ok(())
}

/// Waits until the queue has refused a segment more than once.
fn await_refusals() -> Result<()> {
    let is_refused = || {
        let mut tc = Command::new("tc");
        let said = tc.args(["-s", "qdisc", "show", "dev", "lo"]).output()?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let dropped = said.split("(dropped ").nth(1).context("no drops")?;
        let number = dropped.split(',').next().context("no number")?;
        Ok(number.parse::<u32>()? > 2)
    };
    poll_until(Duration::from_secs(30), is_refused).context("wait for refusals")
}
