//! Finds rules that never decide, and rules that contradict an earlier one on a
//! part of what they match.
//!
//! The first is exact: what earlier rules cover *together* counts. The
//! connections a rule matches form a box, owners × uids × ports × peers, whose
//! sides `cells` cuts up. A cell that no earlier rule matches proves that the
//! rule decides something; when there is none, it never does.

use std::{cell::Cell, collections::HashSet};

use port_monitor_common::policy::{Accepts, Decider, OwnerCondition, Rule, Rules};

pub(crate) mod overlap;

use super::cells::{self, RuleSet};
use crate::policy::{
    rules::{compile::Compiler, info::RuleInfo, table::Scopes},
    text::{problem::Problem, value},
};
use overlap::{Witness, covers_peers, covers_ports, covers_uids};

/// Borders and rules to look at before the analysis gives up: well under a
/// second, and far more than a policy written by hand takes.
const BUDGET: usize = 20_000_000;

/// Reports what it finds.
pub(crate) fn report(compiler: &mut Compiler<'_>) {
    let analysis = Analysis {
        rules: compiler.tables.view(),
        infos: &compiler.rules,
        scopes: &compiler.scopes,
        now_ns: value::saturating_ns(compiler.env.now_ns()),
        budget: Cell::new(BUDGET),
    };
    let mut problems = Vec::new();
    for (index, (rule, info)) in analysis.rules.rules.iter().zip(analysis.infos).enumerate() {
        let found = analysis.problem(index, rule);
        let exhausted = found.is_err();
        let problem = found.unwrap_or(Some(Problem::NotAnalysed));
        problems.extend(problem.map(|problem| (info.span.clone(), problem)));
        if exhausted {
            break;
        }
    }
    for (span, problem) in problems {
        compiler.diagnostics.report(span, problem);
    }
}

/// The budget is used up.
struct Exhausted;

pub(crate) struct Analysis<'a> {
    pub(crate) rules: Rules<'a>,
    infos: &'a [RuleInfo],
    pub(crate) scopes: &'a Scopes,
    now_ns: i64,
    budget: Cell<usize>,
}

impl<'a> Analysis<'a> {
    fn problem(&self, index: usize, rule: &Rule) -> Result<Option<Problem>, Exhausted> {
        if !self.is_live(rule) {
            return Ok(None);
        }
        let name = self.name(index).to_owned();
        let earlier = self.meeting(index, rule)?;
        // An earlier rule that ends sooner leaves the rest of the time to this.
        let lasting = self.those(&earlier, |other| other.until_ns >= rule.until_ns);
        if !self.decides_something(rule, &lasting)? {
            let by = self.fewest_cover(rule, lasting);
            return Ok(Some(Problem::Shadowed {
                name,
                by: self.listed(&by),
                witness: overlap::common(self, rule, rule).map(|witness| self.told(&witness)),
            }));
        }
        let opposite = self.those(&earlier, |other| other.action != rule.action);
        let found = overlap::find(self, rule, &opposite);
        Ok(found.map(|(other, witness)| Problem::Overlap {
            name,
            earlier: self.name(other).to_owned(),
            witness: self.told(&witness),
        }))
    }

    /// It can match a TCP connection from now on.
    fn is_live(&self, rule: &Rule) -> bool {
        let has_ports = rule
            .ports
            .of(self.rules.ports)
            .is_none_or(|ports| !ports.is_empty());
        has_ports && self.now_ns < rule.until_ns
    }

    /// The live rules before `index` that share ports, peers and uids with it.
    fn meeting(&self, index: usize, rule: &Rule) -> Result<RuleSet, Exhausted> {
        let mut set = RuleSet::default();
        for (at, other) in self.rules.rules.iter().enumerate().take(index) {
            if other.direction != rule.direction || !self.is_live(other) {
                continue;
            }
            // Comparing a pair is far less work than a step of a search.
            let pairs =
                |side: fn(&Rule) -> Accepts| 1 + length(side(rule)) * length(side(other)) / 16;
            self.spend(pairs(|rule| rule.ports))?;
            // Peers are compared in one walk over both lists.
            self.spend((length(rule.peers) + length(other.peers)) / 16)?;
            self.spend(pairs(|rule| rule.owner(OwnerCondition::User)))?;
            set.set(at, overlap::meet(rule, other, &self.rules));
        }
        Ok(set)
    }

    fn those(&self, rules: &RuleSet, test: impl Fn(&Rule) -> bool) -> RuleSet {
        rules.filtered(|index| self.rule(index).is_some_and(&test))
    }

    /// Takes `work` from the budget.
    fn spend(&self, work: usize) -> Result<(), Exhausted> {
        let left = self.budget.get().checked_sub(work).ok_or(Exhausted)?;
        self.budget.set(left);
        Ok(())
    }

    /// Some connection matches `rule` and none of `others`.
    fn decides_something(&self, rule: &Rule, others: &RuleSet) -> Result<bool, Exhausted> {
        let mut search = Search::new(self, rule, others);
        for owner in overlap::owners(self, rule) {
            let scopes = self.scopes.of(owner);
            self.spend(1 + others.len())?;
            let matching = others.filtered(|other| {
                self.rules.rules.get(other).is_some_and(|other| {
                    OwnerCondition::scopes().all(|condition| {
                        let named = other.owner(condition).of(self.rules.owners);
                        named.is_none_or(|named| named.iter().any(|scope| scopes.contains(scope)))
                    })
                })
            });
            if search.through_uids(&matching)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Rules out of `cover`, all of which are needed to cover `rule`; more when
    /// the budget ends first, for it is covered all the same.
    fn fewest_cover(&self, rule: &Rule, cover: RuleSet) -> Vec<usize> {
        let mut needed = cover;
        for other in cover.iter() {
            let mut without = needed;
            without.set(other, false);
            match self.decides_something(rule, &without) {
                Ok(false) => needed = without,
                Ok(true) => {}
                Err(Exhausted) => break,
            }
        }
        needed.iter().collect()
    }

    /// The entries that all `rules` have on one side.
    fn length(&self, rules: &RuleSet, side: fn(&Rule) -> Accepts) -> usize {
        let rules = rules.iter().filter_map(|index| self.rule(index));
        rules.map(|rule| length(side(rule))).sum()
    }

    pub(crate) fn rule(&self, index: usize) -> Option<&'a Rule> {
        self.rules.rules.get(index)
    }

    fn name(&self, index: usize) -> &'a str {
        self.infos.get(index).map_or("", |info| &info.name)
    }

    fn listed(&self, rules: &[usize]) -> String {
        const MOST: usize = 8;
        let names = rules.iter().take(MOST).map(|&index| {
            let line = self.infos.get(index).map_or(0, |info| info.line);
            format!("`{}` (line {line})", self.name(index))
        });
        let names = names.collect::<Vec<_>>().join(" and ");
        match rules.len().saturating_sub(MOST) {
            0 => names,
            more => format!("{names} and {more} more"),
        }
    }

    /// The witness and what decides it.
    fn told(&self, witness: &Witness<'_>) -> String {
        let scopes = self.scopes.of(witness.owner);
        let decision = self.rules.decide(&witness.facts(&scopes));
        match decision.by {
            Decider::Rule(index) => {
                format!("`{witness}` is decided by `{}`", self.name(index as usize))
            }
            Decider::Default | Decider::Loopback | Decider::Kernel => format!("`{witness}`"),
        }
    }
}

/// How many entries there are; none for "any".
const fn length(accepts: Accepts) -> usize {
    match accepts {
        Accepts::Any => 0,
        Accepts::OneOf { len, .. } => len as usize,
    }
}

/// The search for a connection that matches `rule` and no other, side by side.
struct Search<'a> {
    analysis: &'a Analysis<'a>,
    rule: &'a Rule,
    /// The rules that leave nothing of `rule` on the sides still to search:
    /// peers; ports and peers; uids, ports and peers.
    cover_peers: RuleSet,
    cover_ports: RuleSet,
    cover_uids: RuleSet,
    /// Sets whose cells have been searched in vain.
    seen_at_ports: HashSet<RuleSet>,
    seen_at_peers: HashSet<RuleSet>,
}

impl<'a> Search<'a> {
    fn new(analysis: &'a Analysis<'a>, rule: &'a Rule, others: &RuleSet) -> Self {
        let covers = |index: usize, side: fn(&Rule, &Rule, &Rules<'_>) -> bool| {
            analysis
                .rule(index)
                .is_some_and(|other| side(other, rule, &analysis.rules))
        };
        let cover_peers = others.filtered(|other| covers(other, covers_peers));
        let cover_ports = cover_peers.filtered(|other| covers(other, covers_ports));
        let cover_uids = cover_ports.filtered(|other| covers(other, covers_uids));
        Self {
            analysis,
            rule,
            cover_peers,
            cover_ports,
            cover_uids,
            seen_at_ports: HashSet::new(),
            seen_at_peers: HashSet::new(),
        }
    }

    fn through_uids(&mut self, others: &RuleSet) -> Result<bool, Exhausted> {
        if others.meets(&self.cover_uids) {
            return Ok(false);
        }
        let uids = self
            .analysis
            .length(others, |rule| rule.owner(OwnerCondition::User));
        self.analysis.spend((1 + uids) * (1 + others.len()))?;
        for (_, matching) in cells::uids(&self.analysis.rules, self.rule, others) {
            if self.through_ports(&matching)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn through_ports(&mut self, others: &RuleSet) -> Result<bool, Exhausted> {
        if others.meets(&self.cover_ports) || !self.seen_at_ports.insert(*others) {
            return Ok(false);
        }
        self.analysis
            .spend(1 + self.analysis.length(others, |rule| rule.ports))?;
        for (_, matching) in cells::ports(&self.analysis.rules, self.rule, others) {
            if self.through_peers(&matching)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn through_peers(&mut self, others: &RuleSet) -> Result<bool, Exhausted> {
        if others.meets(&self.cover_peers) || !self.seen_at_peers.insert(*others) {
            return Ok(false);
        }
        if others.is_empty() {
            return Ok(cells::some_peer(
                self.rule.peers.of(self.analysis.rules.peers),
            ));
        }
        let own = length(self.rule.peers);
        self.analysis
            .spend(1 + own + self.analysis.length(others, |rule| rule.peers))?;
        let cells = cells::peers(&self.analysis.rules, self.rule, others);
        Ok(cells.iter().any(|(_, matching)| matching.is_empty()))
    }
}
