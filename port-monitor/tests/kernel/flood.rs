//! Connections at full speed, counted exactly.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use rustix::net::sockopt;

use crate::process::say;

/// How many, or how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Threads, each with a listener of its own: few enough that a reader's fair share of
    /// two processors is more than it needs
    #[arg(long, default_value_t = 4)]
    threads: u64,
    /// Connections altogether
    #[arg(long, default_value_t = u64::MAX)]
    connections: u64,
    /// Stop after this long
    #[arg(long, default_value_t = u64::MAX)]
    millis: u64,
}

/// Makes the connections and prints how many there were.
pub(crate) fn run(args: &Args) -> Result<()> {
    let deadline = Instant::now().checked_add(Duration::from_millis(args.millis));
    let begun = AtomicU64::new(0);
    let done = thread::scope(|scope| -> Result<u64> {
        let threads: Vec<_> = (0..args.threads)
            .map(|_| scope.spawn(|| connect_and_accept(args, &begun, deadline)))
            .collect();
        let mut done = 0;
        for thread in threads {
            done += thread.join().map_err(|_| anyhow!("thread panicked"))??;
        }
        Ok(done)
    })?;
    say(&done.to_string())
}

/// Each connection is connected, accepted, and reset by whoever accepted it, so that
/// nothing of it stays behind to use up ports.
fn connect_and_accept(args: &Args, begun: &AtomicU64, deadline: Option<Instant>) -> Result<u64> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    // What it accepts inherits this: a close is a reset.
    sockopt::set_socket_linger(&listener, Some(Duration::ZERO))?;
    let address = listener.local_addr()?;
    let mut done = 0;
    while deadline.is_none_or(|deadline| Instant::now() < deadline)
        && begun.fetch_add(1, Ordering::Relaxed) < args.connections
    {
        let client = TcpStream::connect(address).context("connect")?;
        let (server, _) = listener.accept().context("accept")?;
        drop(server);
        drop(client);
        done += 1;
    }
    Ok(done)
}
