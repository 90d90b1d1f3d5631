//! Names of units that patterns match: of each set of patterns that match a name together,
//! and that no other set is smaller than, one name. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use super::TooManyOverlaps;
use crate::{base::order, host::units};

/// What a name may be made of, the plainest first.
const LETTERS: &[u8] = b"xyzabcdefghijklmnopqrstuvw0123456789XYZABCDEFGHIJKLMNOPQRSTUVW_:-.@\\";

/// No unit that runs has such a name: templates, families of slices with the root, and
/// types alone.
const NONE: [&str; 13] = [
    "*-.slice",
    "*@.service",
    "*@.scope",
    "*@.slice",
    "*@.socket",
    "*@.mount",
    "*@.swap",
    ".service",
    ".scope",
    ".slice",
    ".socket",
    ".mount",
    ".swap",
];

/// States of the automaton before the search gives up.
const MAX_STATES: usize = 20_000;
/// How much longer than the shortest name others are looked for.
const LONGER: usize = 8;
/// What a step of one place costs, in comparisons of rules.
const STEP: usize = 5;

/// A place in a pattern, by the pattern's number.
type Place = (usize, usize);

/// The patterns as one automaton that reads names which all of the first ones match. It
/// guesses how those match, which takes as many states as they have places; as many as sets
/// of places, 2^15 for `*a` and 15 `?`, it takes to know which of the others match.
struct Automaton<'p> {
    patterns: Vec<&'p [u8]>,
    /// How many of the patterns must match.
    required: usize,
    /// How many of them, those that come next, must not.
    refused: usize,
    /// One place of each that must match, and all places of the others.
    states: Vec<Vec<Place>>,
    edges: Vec<Edges>,
}

/// Where a state leads to.
#[derive(Default)]
struct Edges {
    by_letter: BTreeMap<u8, Vec<usize>>,
    /// By any letter that no pattern asks for there.
    other: Vec<usize>,
}

impl Edges {
    fn to(&self, letter: u8) -> &[usize] {
        self.by_letter.get(&letter).unwrap_or(&self.other)
    }
}

/// Names that all of `required` match: for each set of `others` that may match with them
/// and holds no smaller such set, one that is not `taken`, or all if each of them is.
///
/// An automaton of many patterns is large. So it is one of those alone that names which were
/// found without them turn out to match: where no other matches a name, the sets of names
/// are as small among all.
pub(crate) fn least(
    required: &[&str],
    others: &[String],
    taken: impl Fn(&str) -> bool,
    spend: impl Fn(usize) -> Result<(), TooManyOverlaps>,
) -> Result<Vec<String>, TooManyOverlaps> {
    spend(STEP * others.len())?;
    // What holds all that a required one matches is in every set.
    let is_implied = |other: &str| {
        let mut required = required.iter();
        required.any(|required| units::matches(other, required))
    };
    let others = others.iter().map(String::as_str);
    let mut others: Vec<&str> = others
        .filter(|other| may_meet_all(other, required) && !is_implied(other))
        .collect();
    let mut told_apart: Vec<&str> = Vec::new();
    loop {
        let names = Search::run(required, (&told_apart, &others), &taken, &spend)?;
        let matches_one = |other: &str| names.iter().any(|name| units::matches(other, name));
        spend(STEP * others.len() * names.len())?;
        let (met, left): (Vec<&str>, Vec<&str>) =
            others.into_iter().partition(|other| matches_one(other));
        if met.is_empty() {
            return Ok(names);
        }
        told_apart.extend(met);
        others = left;
    }
}

/// As far as their beginnings and their ends tell, some name matches both patterns.
pub(crate) fn may_meet(a: &str, b: &str) -> bool {
    let wild = ['*', '?'];
    let begin = |pattern: &'_ str| pattern.find(wild).unwrap_or(pattern.len());
    let end = |pattern: &'_ str| pattern.rfind(wild).map_or(0, |at| at + 1);
    let (begin_a, begin_b) = (&a[..begin(a)], &b[..begin(b)]);
    let (end_a, end_b) = (&a[end(a)..], &b[end(b)..]);
    (begin_a.starts_with(begin_b) || begin_b.starts_with(begin_a))
        && (end_a.ends_with(end_b) || end_b.ends_with(end_a))
}

fn may_meet_all(other: &str, required: &[&str]) -> bool {
    required.iter().all(|required| may_meet(other, required))
}

impl<'p> Automaton<'p> {
    fn new(
        required: &[&'p str],
        others: &[&'p str],
        spend: impl Fn(usize) -> Result<(), TooManyOverlaps>,
    ) -> Result<Self, TooManyOverlaps> {
        let none = NONE.into_iter().filter(|none| may_meet_all(none, required));
        let none: Vec<&str> = none.collect();
        let all = [required, &none, others].concat();
        let mut automaton = Self {
            patterns: all.into_iter().map(str::as_bytes).collect(),
            required: required.len(),
            refused: none.len(),
            states: Vec::new(),
            edges: Vec::new(),
        };
        let mut begin = order::set((0..automaton.required).map(|at| (at, 0)));
        for pattern in automaton.required..automaton.patterns.len() {
            automaton.add((pattern, 0), &mut begin);
        }
        let begin: Vec<Place> = begin.into_iter().collect();
        let mut known = HashMap::from([(begin.clone(), 0)]);
        automaton.states.push(begin);
        while let Some(state) = automaton.states.get(automaton.edges.len()).cloned() {
            let mut places = BTreeSet::new();
            for &place in &state {
                automaton.add(place, &mut places);
            }
            let asked = places.iter().filter_map(|place| automaton.part(*place));
            let asked = order::set(asked.filter(|part| !b"*?".contains(part)));
            spend(STEP * places.len() * (1 + asked.len()))?;
            let mut edges = Edges::default();
            for &letter in &asked {
                let next = automaton.step(&places, letter).into_iter();
                let next = next.map(|next| automaton.number(next, &mut known));
                edges.by_letter.insert(letter, next.collect());
            }
            if let Some(&other) = LETTERS.iter().find(|letter| !asked.contains(letter)) {
                let next = automaton.step(&places, other).into_iter();
                let next = next.map(|next| automaton.number(next, &mut known));
                edges.other = next.collect();
            }
            automaton.edges.push(edges);
            if automaton.states.len() > MAX_STATES {
                return Err(TooManyOverlaps);
            }
        }
        Ok(automaton)
    }

    fn part(&self, (pattern, at): Place) -> Option<u8> {
        self.patterns.get(pattern)?.get(at).copied()
    }

    /// Adds a place, and the one behind a star that matches nothing.
    fn add(&self, place: Place, state: &mut BTreeSet<Place>) {
        let (pattern, at) = place;
        state.insert(place);
        if self.part(place) == Some(b'*') {
            self.add((pattern, at + 1), state);
        }
    }

    /// Where the letter leads to from these places, by every guess; nowhere where
    /// something required no longer matches.
    fn step(&self, places: &BTreeSet<Place>, letter: u8) -> Vec<Vec<Place>> {
        let mut guesses: Vec<BTreeSet<Place>> = vec![BTreeSet::new(); self.required];
        let mut others = BTreeSet::new();
        for &(pattern, at) in places {
            let next = match self.part((pattern, at)) {
                Some(b'*') => (pattern, at),
                Some(part) if part == b'?' || part == letter => (pattern, at + 1),
                _ => continue,
            };
            match guesses.get_mut(pattern) {
                Some(guesses) => _ = guesses.insert(next),
                None => self.add(next, &mut others),
            }
        }
        let mut states: Vec<Vec<Place>> = vec![Vec::new()];
        for guesses in guesses {
            let with = |state: &Vec<Place>, guess: &Place| [&state[..], &[*guess]].concat();
            let longer = states.iter();
            let longer =
                longer.flat_map(|state| guesses.iter().map(move |guess| with(state, guess)));
            states = longer.collect();
        }
        for state in &mut states {
            state.extend(&others);
        }
        states
    }

    fn number(&mut self, state: Vec<Place>, known: &mut HashMap<Vec<Place>, usize>) -> usize {
        let new = self.states.len();
        *known.entry(state).or_insert_with_key(|state| {
            self.states.push(state.clone());
            new
        })
    }

    /// The other patterns that match a name that ends in the state, if one may end there.
    fn accepted(&self, state: &[Place]) -> Option<Vec<usize>> {
        let has_ended = |&(pattern, at): &Place| {
            let rest = self.patterns.get(pattern).and_then(|parts| parts.get(at..));
            rest.is_some_and(|rest| rest.iter().all(|part| *part == b'*'))
        };
        let ended = state.iter().filter(|place| has_ended(place));
        let ended = order::set(ended.map(|(pattern, _)| *pattern));
        let others = self.required + self.refused;
        let is_name = (0..self.required).all(|pattern| ended.contains(&pattern))
            && ended.range(self.required..others).next().is_none();
        is_name.then(|| ended.range(others..).copied().collect())
    }

    /// The sets of others that match a name together, the smallest first, and the states
    /// where such names end.
    fn sets(&self) -> Vec<(Vec<usize>, Vec<usize>)> {
        let mut sets: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
        for (index, state) in self.states.iter().enumerate() {
            if let Some(matching) = self.accepted(state) {
                sets.entry(matching).or_default().push(index);
            }
        }
        let mut sets: Vec<_> = sets.into_iter().collect();
        order::sort_by_key(&mut sets, |(matching, _)| matching.len());
        sets
    }

    /// How many letters each state is away from one of `ends`.
    fn distances(&self, ends: &[usize]) -> Vec<Option<usize>> {
        let mut from: Vec<Vec<usize>> = vec![Vec::new(); self.states.len()];
        for (index, edges) in self.edges.iter().enumerate() {
            for &next in edges.by_letter.values().chain([&edges.other]).flatten() {
                from[next].push(index);
            }
        }
        let mut distances = vec![None; self.states.len()];
        let mut queue = VecDeque::new();
        for &end in ends {
            distances[end] = Some(0);
            queue.push_back((end, 0));
        }
        while let Some((state, distance)) = queue.pop_front() {
            for &before in &from[state] {
                if distances[before].is_none() {
                    distances[before] = Some(distance + 1);
                    queue.push_back((before, distance + 1));
                }
            }
        }
        distances
    }
}

/// The search for a name that ends in certain states.
struct Search<'s, F> {
    automaton: &'s Automaton<'s>,
    distances: Vec<Option<usize>>,
    /// The preferred first.
    letters: &'s [u8],
    taken: &'s F,
    /// Names that were found and are taken.
    passed: Vec<String>,
    /// States that letters lead to, and how many more of these lead to no name from there.
    dead: HashSet<(Vec<usize>, usize)>,
}

impl<F: Fn(&str) -> bool> Search<'_, F> {
    /// The names of [`least`], where those of `others` are told apart that come first;
    /// letters that the rest asks for are avoided.
    fn run(
        required: &[&str],
        (told_apart, rest): (&[&str], &[&str]),
        taken: &F,
        spend: impl Fn(usize) -> Result<(), TooManyOverlaps>,
    ) -> Result<Vec<String>, TooManyOverlaps> {
        let automaton = Automaton::new(required, told_apart, &spend)?;
        let asked: HashSet<u8> = rest.iter().flat_map(|other| other.bytes()).collect();
        let mut letters = LETTERS.to_vec();
        order::sort_by_key(&mut letters, |letter| asked.contains(letter));
        let mut settled: Vec<Vec<usize>> = Vec::new();
        let mut names = Vec::new();
        for (matching, ends) in automaton.sets() {
            spend(STEP * settled.len())?;
            let is_within =
                |set: &Vec<usize>| set.iter().all(|at| matching.binary_search(at).is_ok());
            if settled.iter().any(is_within) {
                continue;
            }
            spend(STEP * automaton.states.len())?;
            let mut search = Search {
                automaton: &automaton,
                distances: automaton.distances(&ends),
                letters: &letters,
                taken,
                passed: Vec::new(),
                dead: HashSet::new(),
            };
            match search.name() {
                Some(name) => {
                    settled.push(matching);
                    names.push(name);
                }
                None => names.append(&mut search.passed),
            }
        }
        Ok(names)
    }

    fn name(&mut self) -> Option<String> {
        let shortest = self.distances.first().copied().flatten()?;
        (shortest..=shortest + LONGER).find_map(|length| self.longer(&[0], length, &mut Vec::new()))
    }

    /// The first name of that many more letters that is not taken.
    fn longer(&mut self, states: &[usize], left: usize, name: &mut Vec<u8>) -> Option<String> {
        let is_near = |state: &usize| {
            let distance = self.distances.get(*state).copied().flatten();
            distance.is_some_and(|distance| distance <= left)
        };
        let near = order::set(states.iter().copied().filter(is_near));
        let near: (Vec<usize>, usize) = (near.into_iter().collect(), left);
        if near.0.is_empty() || self.dead.contains(&near) {
            return None;
        }
        if left == 0 {
            let name = String::from_utf8_lossy(name).into_owned();
            if !(self.taken)(&name) {
                return Some(name);
            }
            self.passed.push(name);
            return None;
        }
        let passed = self.passed.len();
        let found = self.letters.iter().find_map(|&letter| {
            let edges = near
                .0
                .iter()
                .filter_map(|&state| self.automaton.edges.get(state));
            let next: Vec<usize> = edges.flat_map(|edges| edges.to(letter)).copied().collect();
            name.push(letter);
            let found = self.longer(&next, left - 1, name);
            name.pop();
            found
        });
        if found.is_none() && self.passed.len() == passed {
            self.dead.insert(near);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::analysis::diff::names::*;

    fn least_of(required: &[&str], others: &[&str], taken: &[&str]) -> Vec<String> {
        let others: Vec<String> = others.iter().map(|&other| other.to_owned()).collect();
        least(required, &others, |name| taken.contains(&name), |_| Ok(())).unwrap()
    }

    #[test]
    fn name_that_two_patterns_match_is_found_whichever_holds_the_other() {
        assert_eq!(
            least_of(&["a?c*.service", "*b.service"], &[], &[]),
            ["axcb.service"]
        );
        assert_eq!(least_of(&["a*.service", "b*.service"], &[], &[]), [""; 0]);
        assert_eq!(least_of(&["a*.service", "a*.scope"], &[], &[]), [""; 0]);
    }

    #[test]
    fn patterns_that_must_match_may_have_a_star_before_many_question_marks() {
        let after = |letter: char, count: usize| format!("*{letter}{}.service", "?".repeat(count));
        let (a, b) = (after('a', 40), after('b', 30));
        let names = least_of(&[&a, &b], &["*.service", &after('a', 3)], &[]);
        assert_eq!(names.len(), 1);
        assert!(
            [a, b]
                .iter()
                .all(|pattern| units::matches(pattern, &names[0]))
        );
        assert!(!units::matches(&after('a', 3), &names[0]));
        // It takes no longer where the first names are taken.
        let begin = format!("ax{}", "x".repeat(38));
        let taken = LETTERS
            .iter()
            .map(|&letter| format!("{begin}{}.service", char::from(letter)));
        let taken: Vec<String> = taken.collect();
        let taken: Vec<&str> = taken.iter().map(String::as_str).collect();
        let names = least_of(&[&after('a', 40)], &[], &taken);
        assert!(names.iter().all(|name| !taken.contains(&name.as_str())));
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn least_sets_of_others_are_found_and_no_larger_one() {
        let others = ["w?*.service", "w.service", "w*a.service"];
        let names = least_of(&["w*.service"], &others, &[]);
        assert_eq!(names, ["w.service", "wx.service"]);
        // Some other always matches, and no name but that one is in it alone.
        assert_eq!(
            least_of(&["*?.service"], &["?*.service"], &[]),
            ["x.service"]
        );
    }

    #[test]
    fn patterns_that_a_name_can_stay_out_of_are_not_told_apart() {
        let others: Vec<String> = ('a'..='z')
            .map(|letter| format!("*{letter}*.service"))
            .collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        assert_eq!(least_of(&["w?*.service"], &others, &[]), ["ww.service"]);
        assert_eq!(
            least_of(&["*y*.service", "x*.service"], &others, &[]),
            ["xy.service"]
        );
        // Its letters are taken, so names are longer.
        assert_eq!(
            least_of(&["*.service"], &["?.service"], &["0.service"]),
            ["xx.service"]
        );
    }

    #[test]
    fn patterns_meet_as_far_as_their_ends_tell() {
        for (a, b, expected) in [
            ("a*.service", "*b.service", true),
            ("a*.service", "ab*.service", true),
            ("a*.service", "b*.service", false),
            ("a*.service", "a*.scope", false),
            ("*-a.slice", "*a.slice", true),
            ("a.service", "a*.service", true),
            ("?", "*", true),
        ] {
            assert_eq!(may_meet(a, b), expected, "{a} {b}");
            assert_eq!(may_meet(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn name_that_is_taken_is_told_where_there_is_no_other() {
        assert_eq!(
            least_of(&["a*.service"], &["a?*.service"], &["a.service"]),
            ["a.service", "ax.service"]
        );
        assert_eq!(least_of(&["?.service"], &[], &["x.service"]), ["y.service"]);
    }

    #[test]
    fn templates_and_the_root_are_no_names_of_what_runs() {
        assert_eq!(least_of(&["w@*.service"], &[], &[]), ["w@x.service"]);
        assert_eq!(least_of(&["?.slice"], &[], &[]), ["x.slice"]);
        assert_eq!(least_of(&["*@.service"], &[], &[]), [""; 0]);
    }
}
