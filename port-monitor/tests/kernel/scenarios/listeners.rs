//! Listeners for an audit: of every scope, of another network namespace
//! and of another user, and clients that come from more than one address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use rustix::process::Signal;

use super::{identity::OTHER_USER, places};
use crate::{
    fact::Witness,
    process::{Forked, Gate, await_go, become_user, fork, say},
    socket::{Listener, V4, V6, any_port},
};

/// Where a second client comes from.
const OTHER_CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A process with a listener of its own, which takes a client when it is told to go on.
struct Neighbour {
    process: Forked,
    is_open: Gate,
    may_go: Gate,
}

impl Neighbour {
    /// Opens a listener at loopback after it has become what `become_it` makes of it;
    /// then lets one client in.
    fn start(witness: &Witness, become_it: fn() -> Result<()>) -> Result<Self> {
        let (is_open, may_go) = (Gate::new()?, Gate::new()?);
        let process = fork(|| {
            become_it()?;
            // It must not outlive a workload that is never told to go on.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            let listener = witness.listen(any_port(V4))?;
            is_open.open()?;
            may_go.pass()?;
            let _ends = visit(witness, &listener, listener.at, V4)?;
            std::mem::forget(listener);
            Ok(())
        })?;
        is_open.pass()?;
        Ok(Self {
            process,
            is_open,
            may_go,
        })
    }

    fn go(self) -> Result<()> {
        self.may_go.open()?;
        drop(self.is_open);
        self.process.join()
    }
}

/// Everything listens, then the audits start, then clients come.
pub(crate) fn listeners(witness: &Witness) -> Result<()> {
    // Before the listeners below, which they must not hold.
    let elsewhere = Neighbour::start(witness, places::enter_loopback_netns)?;
    let other_user = Neighbour::start(witness, || become_user(OTHER_USER))?;
    let loopback = witness.listen(any_port(V4))?;
    let any_v4 = witness.listen(any_port(Ipv4Addr::UNSPECIFIED.into()))?;
    let any_v6 = witness.listen(any_port(Ipv6Addr::UNSPECIFIED.into()))?;
    let unused = witness.listen(any_port(V4))?;
    say("ready")?;
    await_go()?;
    let mut ends = Vec::new();
    for from in [V4, V4, OTHER_CLIENT] {
        ends.push(visit(witness, &loopback, loopback.at, from)?);
    }
    ends.push(visit(witness, &any_v4, any_v4.reachable_at(), V4)?);
    ends.push(visit(witness, &any_v6, any_v6.reachable_at(), V6)?);
    let by_v4 = SocketAddr::new(V4, any_v6.at.port());
    ends.push(visit(witness, &any_v6, by_v4, OTHER_CLIENT)?);
    elsewhere.go()?;
    other_user.go()?;
    let late = witness.listen(any_port(V4))?;
    ends.push(visit(witness, &late, late.at, V4)?);
    std::mem::forget((ends, loopback, any_v4, any_v6, unused, late));
    Ok(())
}

/// One client, let in; its ends.
fn visit(
    witness: &Witness,
    listener: &Listener,
    at: SocketAddr,
    from: IpAddr,
) -> Result<[std::os::fd::OwnedFd; 2]> {
    let client = witness.connect_from(any_port(from), at)?;
    Ok([client, witness.accept(listener)?])
}
