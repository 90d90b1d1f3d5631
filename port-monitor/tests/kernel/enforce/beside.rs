//! What a whole connect costs under a policy, and beside it under nftables' rules, one
//! by one and as a set. None of them matches.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    io::Errno,
    net::connect,
    time::{ClockId, clock_gettime},
};

use super::{Enforced, enter, expect_success, hammer::Ports, this_program};
use crate::{
    lab::Lab,
    scenarios::places::enter_loopback_netns,
    socket::{V4, open},
};

/// Runs of each, one after the other in turn.
const TURNS: usize = 15;
/// Connects in each.
const CONNECTS: u64 = 2_000;
/// A ruleset that is none.
const NO_RULES: &str = "flush ruleset\n";

/// What the process that connects is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The cgroup it is in
    #[arg(long)]
    cgroup: String,
    /// Where nobody listens
    #[arg(long)]
    port: u16,
}

/// In a network namespace of its own, takes the ruleset each line names, connects, and
/// says how many nanoseconds of processor time a connect took.
pub(crate) fn pace(args: &Args) -> Result<()> {
    enter(&args.cgroup)?;
    enter_loopback_netns()?;
    let to = SocketAddr::new(V4, args.port);
    for path in BufReader::new(std::io::stdin()).lines() {
        let nft = Command::new("nft").arg("-f").arg(path?).output();
        expect_success(&nft.context("run nft")?)?;
        let socket = open(V4)?;
        let begin = cpu_ns();
        for _ in 0..CONNECTS {
            match connect(&socket, &to) {
                Err(Errno::CONNREFUSED) => {}
                other => bail!("connect to {to}: {other:?}"),
            }
        }
        let each = (cpu_ns() - begin) / CONNECTS;
        crate::process::say(&each.to_string())?;
    }
    Ok(())
}

/// The processor time of this thread, with what of the network it handled.
fn cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap_or(0)
}

/// The process that connects.
struct Pacer {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Pacer {
    fn start(cgroup: &str, port: u16) -> Result<Self> {
        let mut child = this_program()?
            .args(["pace", "--cgroup", cgroup])
            .args(["--port", &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start one who connects")?;
        Ok(Self {
            to: child.stdin.take().context("no stdin")?,
            from: BufReader::new(child.stdout.take().context("no stdout")?),
            child,
        })
    }

    fn connect_under(&mut self, ruleset: &Path) -> Result<u64> {
        writeln!(self.to, "{}", ruleset.display())?;
        let mut answer = String::new();
        self.from.read_line(&mut answer)?;
        answer
            .trim()
            .parse()
            .with_context(|| format!("one who connects said {answer:?}"))
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        // It has nothing to clean up.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A list of rules.
fn list(rules: u16) -> Result<String> {
    let mut text = format!(
        "{NO_RULES}add table inet t\nadd chain inet t o {{ type filter hook output priority 0; }}\n"
    );
    for port in 1..=rules {
        writeln!(text, "add rule inet t o tcp dport {port} drop")?;
    }
    Ok(text)
}

/// A rule of nft for so many ports, which are a set.
fn set(rules: u16) -> String {
    let ports: Vec<_> = (1..=rules).map(|port| port.to_string()).collect();
    format!(
        "{NO_RULES}table inet t {{\nset s {{ type inet_service; elements = {{ {} }} }}\nchain o {{\n\
         type filter hook output priority 0\ntcp dport @s drop\n}}\n}}\n",
        ports.join(", ")
    )
}

/// Medians, told in a sentence; on a shared machine only, where the rest of it is held
/// to no policy.
pub(super) fn compare(
    lab: &Lab,
    enforced: &Enforced<'_>,
    policies: [&Path; 2],
    ports: &Ports,
) -> Result<String> {
    if !lab.native {
        return Ok(String::new());
    }
    let rulesets = [list(1)?, list(1_024)?, set(1), set(1_024)];
    let none = enforced.write(NO_RULES)?;
    let rulesets = rulesets
        .iter()
        .map(|text| enforced.write(text))
        .collect::<Result<Vec<_>>>()?;
    let mut held = Pacer::start(&enforced.cgroup, ports.allowed())?;
    let mut free = Pacer::start(&lab.cgroups.unit(), ports.allowed())?;
    let mut costs = [const { Vec::new() }; 7];
    for _ in 0..TURNS {
        costs[0].push(free.connect_under(&none)?);
        for (policy, costs) in policies.iter().zip(&mut costs[1..]) {
            let mut apply = enforced.command("apply");
            expect_success(&apply.arg(policy).args(enforced.place()).output()?)?;
            costs.push(held.connect_under(&none)?);
        }
        for (ruleset, costs) in rulesets.iter().zip(&mut costs[3..]) {
            costs.push(free.connect_under(ruleset)?);
        }
    }
    let [none, rest @ ..] = costs.map(|mut costs| {
        costs.sort_unstable();
        costs[TURNS / 2]
    });
    let [one, many, list_of_one, list, set_of_one, set] = rest.map(|cost| {
        let more = i128::from(cost) - i128::from(none);
        format!("{more:+}")
    });
    ensure!(none > 0, "connects cost nothing");
    Ok(format!(
        "; a refused connect costs {none} ns, with a policy {one} (1 rule) and {many} (1,024), with \
         nftables {list_of_one} and {list} as a list, {set_of_one} and {set} as a set"
    ))
}
