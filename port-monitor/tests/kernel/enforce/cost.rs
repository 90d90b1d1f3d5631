//! What a verdict costs, by the kernel's own measure.

use std::{fmt::Write as _, net::IpAddr};

use anyhow::{Context as _, Result, ensure};

use super::{
    Enforced, beside,
    hammer::{Hammer, Ports},
    networks::{self, Network},
};
use crate::{
    bpf,
    lab::Lab,
    numbers::Numbers,
    report::Verdict,
    socket::{V4, V6},
};

/// Most rules a policy may have.
const RULES: u16 = 1_024;
/// Runs of each, one after the other in turn.
const TURNS: usize = 15;
/// Rounds of ten connects in each.
const ROUNDS: u32 = 1_000;

/// Most networks that are compared with one.
const NETWORKS: usize = 262_144;

/// The families, each with the program that judges its connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const fn program(self) -> &'static str {
        match self {
            Self::V4 => "pm_connect4",
            Self::V6 => "pm_connect6",
        }
    }

    /// Where the hammer connects to, and a network that has it.
    const fn loopback(self) -> (IpAddr, &'static str) {
        match self {
            Self::V4 => (V4, "127.0.0.0/8"),
            Self::V6 => (V6, "::1"),
        }
    }

    /// A network that is no part of it.
    const fn other(self) -> &'static str {
        match self {
            Self::V4 => "127.0.1.0/24",
            Self::V6 => "2001:db8::/32",
        }
    }

    /// As many networks as that: for IPv4 every other one is of IPv6.
    fn networks(self, count: usize) -> Vec<Network> {
        let mut numbers = Numbers::new();
        std::iter::repeat_with(|| numbers.network())
            .filter(|network| self == Self::V4 || !network.is_v4)
            .take(count)
            .collect()
    }
}

/// A policy of as many rules, of which the last decides. Every rule asks the same: a
/// port, a network, a user.
fn policy(family: Family, rules: u16, denied: u16) -> String {
    let rule = |number: u16, port: u16, network: &str| {
        format!(
            "[[rule]]\nname = \"r{number}\"\ndirection = \"out\"\naction = \"deny\"\nuser = \
             0\nport = {port}\nto = \"{network}\"\n"
        )
    };
    // Ports that nobody connects to.
    let others = (1..rules).map(|number| rule(number, number, family.other()));
    let last = rule(rules, denied, family.loopback().1);
    format!(
        "version = 1\nmode = \"enforce\"\n{}{last}",
        others.collect::<String>()
    )
}

/// A policy of one rule that decides, and of two that do not, which have as many networks.
fn networks_policy(family: Family, networks: usize, denied: u16) -> String {
    let all = family.networks(networks);
    let halves = all.chunks(networks.div_ceil(2));
    let mut text = policy(family, 1, denied);
    for (half, port) in halves.zip(1..) {
        // Writing to a string does not fail.
        _ = write!(
            text,
            "[[rule]]\nname = \"n{port}\"\ndirection = \"out\"\naction = \"deny\"\nport = {port}\n\
             to = {}\n",
            networks::array(half)
        );
    }
    text
}

/// Nanoseconds that the family's program took for each of the hammer's connects.
fn cost(hammer: &mut Hammer, family: Family) -> Result<u64> {
    let program = || {
        let programs = bpf::programs(&bpf::all()?)?;
        let mut programs = programs.into_iter();
        programs
            .find(|program| program.name == family.program())
            .with_context(|| format!("{} is not loaded", family.program()))
    };
    let before = program()?;
    hammer.begin(ROUNDS)?;
    let tally = hammer.end()?;
    let after = program()?;
    let runs = after.runs - before.runs;
    ensure!(runs == tally.connects(), "{runs} runs, {tally:?}");
    ensure!(tally.leaked == 0 && tally.blocked == 0, "{tally:?}");
    Ok((after.run_time_ns - before.run_time_ns) / runs)
}

/// The costs of three policies, one rule's, [`RULES`] rules' and [`NETWORKS`] networks', in
/// turn.
fn costs(enforced: &Enforced<'_>, family: Family, ports: &Ports) -> Result<[u64; 3]> {
    let paths = [
        enforced.write(&policy(family, 1, ports.denied()))?,
        enforced.write(&policy(family, RULES, ports.denied()))?,
        enforced.write(&networks_policy(family, NETWORKS, ports.denied()))?,
    ];
    let mut hammer = Hammer::start(enforced, ports)?;
    let mut costs = [const { Vec::new() }; 3];
    for _ in 0..TURNS {
        for (path, costs) in paths.iter().zip(&mut costs) {
            let mut apply = enforced.command("apply");
            super::expect_success(&apply.arg(path).args(enforced.place()).output()?)?;
            costs.push(cost(&mut hammer, family)?);
        }
    }
    Ok(costs.map(|mut costs| {
        costs.sort_unstable();
        costs[TURNS / 2]
    }))
}

/// A thousand rules cost what one does, and so do hundreds of thousands of networks, of
/// either family.
pub(crate) fn is_flat(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let [one, many] = [1, RULES].map(|rules| policy(Family::V4, rules, ports.denied()));
    let enforced = Enforced::new(lab, &one)?;
    let measuring = bpf::measure()?;
    let mut text = Vec::new();
    for family in [Family::V4, Family::V6] {
        let of_family = Ports::of(family.loopback().0)?;
        let [one, many, networks] = costs(&enforced, family, &of_family)?;
        let told = format!(
            "{}: {many} ns with {RULES} rules, {one} ns with one; {networks} ns with {NETWORKS} \
             networks",
            family.program()
        );
        // 1.10, in whole numbers.
        ensure!(many.max(networks) * 10 <= one * 11, "{told}");
        text.push(told);
    }
    drop(measuring);
    let paths = [enforced.write(&one)?, enforced.write(&many)?];
    let beside = beside::compare(lab, &enforced, [&paths[0], &paths[1]], &ports)?;
    Ok(Verdict::Pass(format!("{}{beside}", text.join("; "))))
}
