//! What a verdict costs, by the kernel's own measure.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};

use super::{
    Enforced, beside,
    hammer::{Hammer, Ports},
    networks,
};
use crate::{bpf, lab::Lab, numbers::Numbers, report::Verdict};

/// Most rules a policy may have.
const RULES: u16 = 1_024;
/// Runs of each, one after the other in turn.
const TURNS: usize = 15;
/// Rounds of ten connects in each.
const ROUNDS: u32 = 1_000;

/// Most networks that are compared with one.
const NETWORKS: usize = 262_144;

/// A policy of as many rules, of which the last decides. Every rule asks the same: a
/// port, a network, a user.
fn policy(rules: u16, denied: u16) -> String {
    let rule = |number: u16, port: u16, network: &str| {
        format!(
            "[[rule]]\nname = \"r{number}\"\ndirection = \"out\"\naction = \"deny\"\nuser = \
             0\nport = {port}\nto = \"{network}\"\n"
        )
    };
    // Ports that nobody connects to.
    let others = (1..rules).map(|number| rule(number, number, "127.0.1.0/24"));
    let last = rule(rules, denied, "127.0.0.0/8");
    format!(
        "version = 1\nmode = \"enforce\"\n{}{last}",
        others.collect::<String>()
    )
}

/// Nanoseconds that `pm_connect4` took for each of the hammer's connects.
fn cost(hammer: &mut Hammer) -> Result<u64> {
    let program = || {
        let programs = bpf::programs(&bpf::all()?)?;
        let mut programs = programs.into_iter();
        programs
            .find(|program| program.name == "pm_connect4")
            .context("pm_connect4 is not loaded")
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

/// A policy of one rule that decides, and of two that do not, which have as many networks.
fn networks_policy(networks: usize, denied: u16) -> String {
    let mut numbers = Numbers::new();
    let all: Vec<_> = (0..networks).map(|_| numbers.network()).collect();
    let halves = all.chunks(networks.div_ceil(2));
    let mut text = policy(1, denied);
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

/// A thousand rules cost what one does, and so do hundreds of thousands of networks.
pub(crate) fn is_flat(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let one = policy(1, ports.denied());
    let enforced = Enforced::new(lab, &one)?;
    let paths = [
        enforced.write(&one)?,
        enforced.write(&policy(RULES, ports.denied()))?,
        enforced.write(&networks_policy(NETWORKS, ports.denied()))?,
    ];
    let mut hammer = Hammer::start(&enforced, &ports)?;
    let measuring = bpf::measure()?;
    let mut costs = [const { Vec::new() }; 3];
    for _ in 0..TURNS {
        for (path, costs) in paths.iter().zip(&mut costs) {
            let mut apply = enforced.command("apply");
            super::expect_success(&apply.arg(path).args(enforced.place()).output()?)?;
            costs.push(cost(&mut hammer)?);
        }
    }
    let [one, many, networks] = costs.map(|mut costs| {
        costs.sort_unstable();
        costs[TURNS / 2]
    });
    // 1.10, in whole numbers.
    ensure!(
        many * 10 <= one * 11,
        "{many} ns with {RULES} rules, {one} ns with one"
    );
    ensure!(
        networks * 10 <= one * 11,
        "{networks} ns with {NETWORKS} networks, {one} ns with one"
    );
    drop(measuring);
    let beside = beside::compare(lab, &enforced, [&paths[0], &paths[1]], &ports)?;
    Ok(Verdict::Pass(format!(
        "{many} ns with {RULES} rules, {one} ns with one; {networks} ns with {NETWORKS} \
         networks{beside}"
    )))
}
