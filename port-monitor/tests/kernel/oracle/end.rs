//! Our records of one end of a connection, put together.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    fact::{Closed, Fact},
    json::Line,
};

/// One end of a connection, as we report it.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) pid: u32,
    pub(crate) comm: String,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) v4_mapped: bool,
    pub(crate) began: Began,
    pub(crate) close: Option<Close>,
}

/// How it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Began {
    Accepted,
    /// With the µs its handshake took.
    Connected(u64),
    /// With the errno's name; empty when the program gave up.
    Failed(String),
}

/// How it ended.
#[derive(Clone, Debug)]
pub(crate) struct Close {
    pub(crate) by: String,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) duration_ns: u64,
}

/// The ends in a stream.
pub(crate) fn ends<'a>(lines: impl Iterator<Item = &'a Line>) -> Result<Vec<End>> {
    let mut ends = BTreeMap::<&str, End>::new();
    let mut closes = Vec::new();
    for line in lines {
        match line.action() {
            "connect" => {}
            "close" => closes.push(line),
            _ => {
                ends.insert(line.id(), beginning(line)?);
            }
        }
    }
    for line in closes {
        let end = ends.get_mut(line.id()).context("an end of nothing")?;
        let (sent, received) = line.bytes_out_and_in().context("an end without bytes")?;
        end.close = Some(Close {
            by: line.text("port_monitor.closed_by").to_owned(),
            sent,
            received,
            duration_ns: line.number("event.duration").context("no duration")?,
        });
    }
    // A failed attempt may share its addresses with a connection, whose lines are
    // then not its own.
    let mut ends: Vec<End> = ends.into_values().collect();
    ends.sort_by_key(|end| matches!(end.began, Began::Failed(_)));
    Ok(ends)
}

fn beginning(line: &Line) -> Result<End> {
    let began = match line.action() {
        "accept" => Began::Accepted,
        "connected" => {
            let took = line.number("port_monitor.handshake_us");
            Began::Connected(took.with_context(|| format!("no handshake: {}", line.text))?)
        }
        "failed" => Began::Failed(line.text("error.code").to_owned()),
        other => bail!("`{other}` begins nothing: {}", line.text),
    };
    let addresses = addresses(line);
    let (local, remote) = addresses.with_context(|| format!("no address: {}", line.text))?;
    Ok(End {
        pid: line
            .pid()
            .with_context(|| format!("no pid: {}", line.text))?,
        comm: line.text("process.thread.name").to_owned(),
        local,
        remote,
        v4_mapped: line.flag("port_monitor.v4_mapped") == Some(true),
        began,
        close: None,
    })
}

/// This host's end, with port 0 where none was chosen, and the peer's.
fn addresses(line: &Line) -> Option<(SocketAddr, SocketAddr)> {
    line.local_and_remote().or_else(|| {
        let local = SocketAddr::new(line.source_ip()?, line.source_port().unwrap_or(0));
        Some((local, line.destination()?))
    })
}

/// Every end's bytes are what its program counted: nothing, where it does not
/// say so.
pub(crate) fn check_bytes(ends: &[End], facts: &[Fact]) -> Result<u32> {
    let mut checked = 0;
    for end in ends {
        let Some(close) = &end.close else { continue };
        let counted = facts.iter().find_map(|fact| match fact {
            Fact::Closed(Closed {
                local,
                remote,
                sent,
                received,
                ..
            }) if (*local, *remote) == (end.local, end.remote) => Some((*sent, *received)),
            _ => None,
        });
        ensure!(
            (close.sent, close.received) == counted.unwrap_or_default(),
            "the program counted {counted:?}: {end:?}"
        );
        checked += 1;
    }
    Ok(checked)
}
