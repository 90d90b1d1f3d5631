//! Connections at full speed, counted exactly.

use std::{
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use rustix::net::sockopt;

use crate::{
    process::say,
    socket::{V4, V6, any_port},
};

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
    /// Connections a second of each thread, in place of as many as there can be
    #[arg(long)]
    rate: Option<u32>,
    /// From and to `::1`
    #[arg(long)]
    ipv6: bool,
}

impl Args {
    /// So many connections, one after the other.
    pub(crate) const fn of_one_thread(connections: u64) -> Self {
        Self {
            threads: 1,
            connections,
            millis: u64::MAX,
            rate: None,
            ipv6: false,
        }
    }

    /// Not faster than this many a second.
    pub(crate) fn at_rate(self, rate: u32) -> Self {
        Self {
            rate: Some(rate),
            ..self
        }
    }

    /// By so many threads.
    pub(crate) fn of_threads(self, threads: u64) -> Self {
        Self { threads, ..self }
    }

    /// From and to `::1`.
    pub(crate) fn over_ipv6(self) -> Self {
        Self { ipv6: true, ..self }
    }
}

/// Makes the connections and prints how many there were.
pub(crate) fn run(args: &Args) -> Result<()> {
    say(&connect(args)?.to_string())
}

/// Makes the connections and says how many there were.
pub(crate) fn connect(args: &Args) -> Result<u64> {
    let deadline = Instant::now().checked_add(Duration::from_millis(args.millis));
    let begun = AtomicU64::new(0);
    thread::scope(|scope| -> Result<u64> {
        let threads: Vec<_> = (0..args.threads)
            .map(|_| scope.spawn(|| connect_and_accept(args, &begun, deadline)))
            .collect();
        let mut total = 0;
        for thread in threads {
            total += thread.join().map_err(|_| anyhow!("thread panicked"))??;
        }
        Ok(total)
    })
}

/// Each connection is connected, accepted, and reset by whoever accepted it, so that
/// nothing of it stays behind to use up ports.
fn connect_and_accept(args: &Args, begun: &AtomicU64, deadline: Option<Instant>) -> Result<u64> {
    let listener = TcpListener::bind(any_port(if args.ipv6 { V6 } else { V4 }))?;
    // What it accepts inherits this: a close is a reset.
    sockopt::set_socket_linger(&listener, Some(Duration::ZERO))?;
    let address = listener.local_addr()?;
    let mut done = 0;
    let start = Instant::now();
    while deadline.is_none_or(|deadline| Instant::now() < deadline)
        && begun.fetch_add(1, Ordering::Relaxed) < args.connections
    {
        if let Some(rate) = args.rate {
            // On time, not a period after the last one.
            let due = start + Duration::from_secs(done) / rate;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let client = TcpStream::connect(address).context("connect")?;
        let (server, _) = listener.accept().context("accept")?;
        drop(server);
        drop(client);
        done += 1;
    }
    Ok(done)
}
