//! What monitors of other people see of our connections.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};

use crate::{
    backend::Backend,
    check::Stream,
    expect::Action,
    fact::{Attempt, Fact},
    lab::Lab,
    monitor::Watch,
    oracle::{
        account::Account,
        end, judge,
        line::{Line, Told},
        tool::Tool,
    },
    report::{self, Verdict},
};

/// What is watched: connections that begin and end in every way.
const WORKLOADS: &[&str] = &[
    "connect-ipv4",
    "connect-ipv6",
    "mapped-client",
    "mapped-server",
    "non-blocking",
    "refused",
    "refused-ipv6",
    "given-up",
    "timed-out",
    "v6-only",
    "not-permitted",
    "address-taken",
    "never-accepted",
    "accept-prefork",
    "thread",
    "renamed",
    "close-by-client",
    "close-by-server",
    "close-ipv6",
    "close-mapped",
    "close-half-1-mib",
    "close-zero-bytes",
    "close-by-reset",
    "close-with-data-unread",
    "close-by-kill",
    "close-before-accept",
    "softirq-elsewhere",
    "few-bytes",
];

/// The workload whose connections come last, on every CPU: a tool that shows
/// them has shown everything before.
const LAST: &str = "every-cpu";

/// A tool, how its lines are read, and how many it has for each connection of
/// [`LAST`].
struct Reader {
    tool: Tool,
    read: fn(&str) -> Result<Line>,
    lines_each: usize,
}

/// All of them, attached.
fn start(lab: &Lab) -> Result<[Reader; 3]> {
    let tracer = "T PID COMM IP SADDR DADDR SPORT DPORT";
    let life = "PID COMM LADDR LPORT RADDR RPORT TX_KB RX_KB MS";
    let latency = "PID COMM IP SADDR LPORT DADDR DPORT LAT(ms)";
    Ok([
        Reader {
            tool: Tool::start(lab, "tcptracer", &[], tracer)?,
            read: Line::of_tcptracer,
            lines_each: 4,
        },
        Reader {
            tool: Tool::start(lab, "tcplife", &["-w"], life)?,
            read: Line::of_tcplife,
            lines_each: 2,
        },
        Reader {
            tool: Tool::start(lab, "tcpconnlat", &["-L"], latency)?,
            read: Line::of_tcpconnlat,
            lines_each: 1,
        },
    ])
}

impl Reader {
    /// Reads until it has shown all connections of `last`, ends it, and returns
    /// what it told.
    fn finish(mut self, last: &[Fact]) -> Result<Told> {
        let last: Vec<_> = last.iter().filter_map(addresses).collect();
        let read = self.read;
        let is_last = |text: &&String| {
            read(text).is_ok_and(|line| {
                last.contains(&(line.local, line.remote))
                    || last.contains(&(line.remote, line.local))
            })
        };
        let wanted = last.len() * self.lines_each;
        self.tool
            .read_until(|lines| lines.iter().filter(is_last).count() >= wanted)?;
        let skipped = self.tool.skipped()?;
        let lines: Result<_> = self.tool.stop()?.iter().map(|text| read(text)).collect();
        Ok(Told {
            lines: lines?,
            skipped,
        })
    }
}

/// A connection's two ends, as its client has them.
fn addresses(fact: &Fact) -> Option<(SocketAddr, SocketAddr)> {
    match fact {
        Fact::Attempt(Attempt {
            local_ip,
            local_port: Some(local_port),
            remote,
            ..
        }) => Some((SocketAddr::new(*local_ip, *local_port), *remote)),
        _ => None,
    }
}

/// All three beside ours: every line of theirs belongs to a record of ours and
/// every record of ours to a line of theirs, or it is known why not.
pub(super) fn compare(lab: &Lab) -> Result<Verdict> {
    // Ours first: its self-test is none of their business.
    let mut monitor = Watch::json(lab, Backend::Fentry)
        .args(["--events", "connect,connected,failed,accept,close"])
        .start()?;
    let readers = start(lab)?;
    let mut workloads = Vec::new();
    for name in WORKLOADS.iter().chain(&[LAST]) {
        let mut workload = lab.workload(name)?;
        // What went wrong stands in its facts.
        let _ = workload.hear("done");
        workloads.push((name, workload));
    }
    let mut facts = Vec::new();
    for (name, workload) in &workloads {
        let told = workload.facts();
        facts.push(told.with_context(|| format!("workload {name}"))?);
    }
    let last = facts.last().context("no workload")?;
    let [tracer, life, latency] = readers.map(|reader| reader.finish(last));
    let run = monitor.stop()?;

    let mut stream = Stream::of(&run)?;
    for told in &facts {
        // None of the tools tells of what listens.
        stream.check_kept(told, Backend::Fentry.sight(), |record| {
            record.action != Action::Listen
        })?;
    }
    stream.expect_nothing_else()?;
    let facts: Vec<Fact> = facts.into_iter().flatten().collect();
    let (events, _) = run.read()?;
    let ends = end::ends(events.iter())?;
    let counted = end::check_bytes(&ends, &facts)?;

    let mut account = Account::default();
    judge::tcptracer(&ends, tracer?, &mut account);
    judge::tcplife(&ends, life?, &mut account);
    judge::tcpconnlat(&ends, latency?, &mut account);
    for line in account.lines() {
        report::info(format_args!("oracle: {line}"))?;
    }
    account.settle()?;
    Ok(Verdict::Pass(format!(
        "{} ends, bytes of {counted} as counted by the programs, {} facts the same, explained: {}",
        ends.len(),
        account.agreed(),
        account.lines().collect::<Vec<_>>().join(", ")
    )))
}
