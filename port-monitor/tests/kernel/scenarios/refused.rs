//! What this host's own queue or filter refuses, it does not send.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;

use crate::{
    fact::Witness,
    process::wait_until,
    qdisc,
    scenarios::{
        breaking::expect_error,
        closing::{FROM_CLIENT, connect, swapped},
        places,
        sent::{attempted, flood, reset, unsent},
    },
    socket::{Ends, V4, any_port},
};

/// What is written when nothing leaves.
const REFUSED: usize = 5_000;
/// What is written when nothing leaves, and a buffer takes it.
const LARGE: usize = 2_000_000;

/// A queue that takes nothing.
pub(super) fn by_queue(witness: &Witness) -> Result<()> {
    let (mut server, ends) = refuses(witness, REFUSED, qdisc::add_of_nothing)?;
    qdisc::remove()?;
    unheard(witness, &mut server, ends)
}

/// A queue that has a rate, and takes no segment as large as these.
pub(super) fn by_rate(witness: &Witness) -> Result<()> {
    let rate = "qdisc add dev lo root tbf rate 8kbit burst 3000 limit 3000";
    let (mut server, ends) = refuses(witness, LARGE, || run("tc", rate))?;
    // The reset is small.
    expect_error(&mut server, Errno::CONNRESET)?;
    let server_saw = ("peer-reset", "ECONNRESET");
    witness.closed(swapped(ends), (0, FROM_CLIENT), server_saw)
}

/// A filter of the host's output.
pub(super) fn by_filter(witness: &Witness) -> Result<()> {
    let add = || {
        run("nft", "add table inet t")?;
        let chain = "{ type filter hook output priority 0; }";
        run("nft", &format!("add chain inet t out {chain}"))?;
        run("nft", "add rule inet t out drop")
    };
    let (mut server, ends) = refuses(witness, REFUSED, add)?;
    run("nft", "delete table inet t")?;
    unheard(witness, &mut server, ends)
}

/// The server does not hear the client's reset.
fn unheard(witness: &Witness, server: &mut TcpStream, ends: Ends) -> Result<()> {
    server.write_all(b"?")?;
    expect_error(server, Errno::CONNRESET)?;
    let server_saw = ("peer-reset", "ECONNRESET");
    witness.closed(swapped(ends), (1, FROM_CLIENT), server_saw)
}

/// The client's segments are tried again and again, and none leaves; a reset ends it. What
/// had come before counts.
fn refuses(
    witness: &Witness,
    bytes: usize,
    shut: impl FnOnce() -> Result<()>,
) -> Result<(TcpStream, Ends)> {
    places::enter_loopback_netns()?;
    let listener = witness.listen(any_port(V4))?;
    let (mut client, mut server, ends) = connect(witness, &listener, V4)?;
    client.write_all(&[1; FROM_CLIENT])?;
    server.read_exact(&mut [0; FROM_CLIENT])?;
    shut()?;
    let written = flood(&client, bytes)?;
    let first = attempted(&client)?;
    let is_tried_again = || Ok(attempted(&client)? > first);
    wait_until(is_tried_again).context("wait for refusals")?;
    ensure!(unsent(&client)? == written, "something left");
    reset(client)?;
    witness.closed(ends, (FROM_CLIENT, 0), ("local-reset", ""))?;
    Ok((server, ends))
}

fn run(program: &str, words: &str) -> Result<()> {
    let mut command = Command::new(program);
    let status = command.args(words.split(' ')).status();
    let status = status.with_context(|| format!("run {program}"))?;
    ensure!(status.success(), "{program} {words}: {status}");
    Ok(())
}
