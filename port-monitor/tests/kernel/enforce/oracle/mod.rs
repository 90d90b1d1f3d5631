//! Random policies and random tries: what the kernel decides against the first rule that
//! matches, found one by one. Every fact is drawn that a rule can ask of: direction,
//! transport, port, network in every spelling of an address, this host, user, unit, cgroup,
//! executable and end, and the defaults with and without loopback. The kernel's own
//! connections, which no test can begin, are drawn in userspace.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::Enforced;
use crate::{lab::Lab, process::pin, report::Verdict};

mod inbound;
mod walker;
mod words;

pub(crate) use walker::{Args, Walker, walk};

use inbound::{Always, come};
use words::{EXES, FIRST_PORT, Named, Numbers, Policy, Try, Who};

/// Policies about what this host does, tries of each walker under each of them.
const POLICIES: usize = 20;
const EACH: usize = 600;
/// Policies about what comes, peers of each walker under each of them.
const INBOUND_POLICIES: usize = 10;
const INBOUND_EACH: usize = 50;
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Copies of this program, each another file.
fn copies(lab: &Lab) -> Result<Vec<String>> {
    let copy = |_| {
        let path = lab.new_path("copy");
        fs::copy(std::env::current_exe()?, &path).context("copy this program")?;
        Ok(path.to_str().context("the path is not UTF-8")?.to_owned())
    };
    (0..EXES).map(copy).collect()
}

/// What was tried, and what of it was refused.
#[derive(Default)]
struct Tally {
    made: u32,
    refused: u32,
    rules: usize,
    /// The policy in force.
    text: String,
}

impl Tally {
    fn check(&mut self, policy: &Policy, tries: &[Try], who: Who, refused: &[bool]) -> Result<()> {
        for (tried, &refused) in tries.iter().zip(refused) {
            ensure!(
                refused == policy.refuses(tried, who),
                "{tried:?} by {who:?}: refused {refused}, seed {SEED:#x}, not by {:?}:\n{}",
                policy.deciders(tried, who),
                self.text
            );
            self.made += 1;
            self.refused += u32::from(refused);
        }
        Ok(())
    }
}

/// The port at which a walker listens.
fn port_of(walker: usize) -> u16 {
    FIRST_PORT + 5 * u16::try_from(walker).unwrap_or(0)
}

/// A hundred thousand tries, and every verdict as it must be.
pub(crate) fn compare(lab: &Lab) -> Result<Verdict> {
    let enforced = Enforced::new(lab, "version = 1\nmode = \"enforce\"\n")?;
    let always = Always::new()?;
    let cgroup = &enforced.cgroup;
    let named = Named {
        copies: copies(lab)?,
        unit: lab.cgroups.held_unit(cgroup),
        cgroup: if cgroup.is_empty() {
            "/".to_owned()
        } else {
            cgroup.clone()
        },
    };
    let everybody = Who::all();
    let start = |&who| Walker::start(&named, who);
    let mut walkers = everybody.iter().map(start).collect::<Result<Vec<_>>>()?;
    let mut numbers = Numbers(SEED);
    let mut tally = Tally::default();
    let apply = |policy: &Policy, tally: &mut Tally| {
        tally.text = policy.text(&named, always.port)?;
        tally.rules += policy.rules.len();
        let applied = enforced.apply(&tally.text, &[]);
        applied.with_context(|| tally.text.clone())
    };
    for _ in 0..POLICIES {
        let policy = Policy::random(&mut numbers, false);
        apply(&policy, &mut tally)?;
        for (walker, &who) in walkers.iter_mut().zip(&everybody) {
            let tries: Vec<_> = (0..EACH).map(|_| Try::outgoing(&mut numbers)).collect();
            let refused = walker.try_all(&tries)?;
            tally.check(&policy, &tries, who, &refused)?;
        }
    }
    enforced.apply("version = 1\nmode = \"enforce\"\n", &[])?;
    for (at, walker) in walkers.iter_mut().enumerate() {
        walker.listen(port_of(at))?;
    }
    // Where one packet comes after the other.
    pin(0)?;
    for _ in 0..INBOUND_POLICIES {
        let policy = Policy::random(&mut numbers, true);
        apply(&policy, &mut tally)?;
        for (at, (walker, &who)) in walkers.iter_mut().zip(&everybody).enumerate() {
            let peer = |_| Try::inbound(&mut numbers, port_of(at));
            let tries: Vec<_> = (0..INBOUND_EACH).map(peer).collect();
            tally.check(&policy, &tries, who, &come(&tries, &always)?)?;
            walker.take()?;
        }
    }
    Ok(Verdict::Pass(format!(
        "{} tries, {} refused, {} policies of {} rules, seed {SEED:#x}",
        tally.made,
        tally.refused,
        POLICIES + INBOUND_POLICIES,
        tally.rules
    )))
}
