//! Random sequences of all that can happen to the policies of an instance, against a
//! model that knows no generations.

use std::cell::{Cell, RefCell};

use crate::{
    base::seeded::{Random, seeded},
    kernel::enforcer::generations::*,
};

/// How many sequences.
const SEQUENCES: u64 = 100_000;
/// How much happens in each.
const LENGTH: u64 = 14;

/// What is in a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Policy(u64),
    /// What comes when nobody follows it.
    Exit(u64),
    /// Half written.
    Torn,
}

/// No policy: what an installation begins with.
const NONE: Content = Content::Policy(0);

/// What should happen, without generations and states.
#[derive(Clone, Copy, Debug)]
struct Model {
    current: u64,
    before: Option<u64>,
    /// When it is undone, what then comes into force, and what is before that.
    pending: Option<(u64, u64, Option<u64>)>,
    /// Until when it is followed.
    lease: Option<u64>,
}

impl Model {
    const START: Self = Self {
        current: 0,
        before: None,
        pending: None,
        lease: None,
    };

    fn pass(&mut self, now_ms: u64) {
        if let Some((deadline, ..)) = self.pending
            && now_ms >= deadline
        {
            self.undo();
        }
    }

    fn undo(&mut self) {
        if let Some((_, current, before)) = self.pending {
            (self.current, self.before) = (current, before);
            (self.pending, self.lease) = (None, None);
        }
    }

    fn apply(&mut self, policy: u64, terms: Terms, now_ms: u64) {
        self.undo();
        let pending = |confirm_ms| (now_ms + confirm_ms, self.current, self.before);
        let pending = terms.confirm_ms.map(pending);
        let lease = terms.lease_ms.filter(|_| pending.is_none());
        *self = Self {
            current: policy,
            before: Some(self.current),
            pending,
            lease: lease.map(|lease_ms| now_ms + lease_ms),
        };
    }

    fn rollback(&mut self) -> Result<(), Refused> {
        if self.pending.is_some() {
            self.undo();
            return Ok(());
        }
        let before = self.before.ok_or(Refused::NothingBefore)?;
        (self.before, self.current, self.lease) = (Some(self.current), before, None);
        Ok(())
    }

    fn in_force(&self, now_ms: u64) -> Content {
        if self.lease.is_some_and(|deadline| now_ms >= deadline) {
            Content::Exit(self.current)
        } else {
            Content::Policy(self.current)
        }
    }
}

/// An error of a step that was to fail.
#[derive(Debug)]
struct Failed;

/// Generations in memory. Time passes at every step, and whoever follows a policy renews its
/// lease at any of them.
struct Memory<'r> {
    random: &'r Random,
    now_ms: Cell<u64>,
    state: Cell<State>,
    contents: [Content; GENERATIONS as usize],
    /// What programs that have not ended look at.
    looked_at: RefCell<Vec<u32>>,
    /// Steps until one fails.
    fails_in: Cell<Option<u64>>,
    /// How long the lease of the policy in force is, and when it was renewed.
    lease_ms: Option<u64>,
    renewed: Cell<Option<u64>>,
}

impl<'r> Memory<'r> {
    fn new(random: &'r Random) -> Self {
        Self {
            random,
            now_ms: Cell::new(1),
            state: Cell::new(State(0)),
            contents: [NONE; GENERATIONS as usize],
            looked_at: RefCell::default(),
            fails_in: Cell::new(None),
            lease_ms: None,
            renewed: Cell::new(None),
        }
    }

    fn in_force(&self) -> Content {
        self.contents[self.state.get().generation_at(self.now_ms.get()) as usize]
    }

    fn step(&self) -> Result<(), Failed> {
        let generation = self.state.get().generation_at(self.now_ms.get());
        self.looked_at.borrow_mut().push(generation);
        self.now_ms.set(self.now_ms.get() + self.random.below(40));
        if self.random.below(4) == 0 {
            self.renew();
        }
        match self.fails_in.get() {
            Some(0) => return Err(Failed),
            steps => self.fails_in.set(steps.map(|steps| steps - 1)),
        }
        Ok(())
    }

    fn renew(&self) {
        let (state, now_ms) = (self.state.get(), self.now_ms.get());
        if let Some(lease_ms) = self.lease_ms
            && state.is_leased()
        {
            self.state.set(state.leased_until(now_ms + lease_ms));
            self.renewed.set(Some(now_ms + lease_ms));
        }
    }

    fn fill(&mut self, generation: u32, content: Content) -> Result<(), Failed> {
        assert!(
            !self.state.get().used().contains(&generation),
            "generation {generation} is in use: {:?}",
            self.state.get()
        );
        assert!(
            !self.looked_at.borrow().contains(&generation),
            "a program looks at generation {generation}"
        );
        self.contents[generation as usize] = Content::Torn;
        self.step()?;
        self.contents[generation as usize] = content;
        Ok(())
    }
}

impl StateWord for Memory<'_> {
    fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    fn state(&self) -> State {
        self.state.get()
    }

    fn exchange(&self, from: State, to: State) -> bool {
        if self.random.below(8) == 0 {
            self.renew();
        }
        let is_there = self.state.get() == from;
        if is_there {
            self.state.set(to);
        }
        is_there
    }
}

impl Generations for Memory<'_> {
    type Policy = u64;
    type Error = Failed;

    fn wait_for_programs(&self) -> Result<(), Failed> {
        self.step()?;
        // Programs that begin while it waits look at what is in force.
        self.looked_at.borrow_mut().clear();
        Ok(())
    }

    fn write(&mut self, generation: u32, policy: &u64) -> Result<(), Failed> {
        self.fill(generation, Content::Policy(*policy))
    }

    fn write_exit(&mut self, generation: u32, policy: &u64) -> Result<(), Failed> {
        self.fill(generation, Content::Exit(*policy))
    }
}

/// One thing that happens, to both.
fn happen(memory: &mut Memory<'_>, model: &mut Model, policy: u64) -> String {
    let random = memory.random;
    memory.fails_in.set(None);
    match random.below(8) {
        0..=2 => happen_apply(memory, model, policy),
        3 => happen_confirm(memory, model),
        4 => happen_rollback(memory, model),
        5 => {
            memory.now_ms.set(memory.now_ms.get() + random.below(120));
            "time passes".to_owned()
        }
        6 if model.pending.is_none() => happen_refresh(memory, model),
        6 => {
            memory.renew();
            "renew".to_owned()
        }
        _ if random.below(4) > 0 => {
            renew(&*memory, |_| memory.lease_ms);
            if model.lease.is_some() {
                model.lease = memory.lease_ms.map(|ms| memory.now_ms.get() + ms);
            }
            "renew".to_owned()
        }
        _ => {
            let now_ms = memory.now_ms.get();
            *memory = Memory::new(random);
            memory.now_ms.set(now_ms);
            *model = Model::START;
            "panic-open".to_owned()
        }
    }
}

fn happen_apply(memory: &mut Memory<'_>, model: &mut Model, policy: u64) -> String {
    let random = memory.random;
    let time = |of: u64| (random.below(of) == 0).then(|| 1 + random.below(100));
    let terms = Terms {
        confirm_ms: time(2),
        lease_ms: time(3),
    };
    let fails_in = (random.below(3) == 0).then(|| random.below(4));
    memory.fails_in.set(fails_in);
    let applied = apply(memory, &policy, terms);
    take_renewal(memory, model);
    if applied.is_ok() {
        model.pass(memory.now_ms.get());
        model.apply(policy, terms, memory.now_ms.get());
        memory.lease_ms = terms.lease_ms;
    }
    format!("apply {policy} {terms:?}, fails in {fails_in:?}: {applied:?}")
}

fn happen_confirm(memory: &Memory<'_>, model: &mut Model) -> String {
    let now_ms = memory.now_ms.get();
    let confirmed = confirm(memory, |_| memory.lease_ms.unwrap_or(0));
    let expected = match model.pending {
        None => Err(Refused::NothingToConfirm),
        Some((deadline, ..)) if now_ms >= deadline => Err(Refused::TooLate),
        Some(_) => {
            model.pending = None;
            model.lease = memory.lease_ms.map(|lease_ms| now_ms + lease_ms);
            Ok(())
        }
    };
    assert_eq!(confirmed, expected, "confirm");
    format!("confirm: {expected:?}")
}

fn happen_rollback(memory: &Memory<'_>, model: &mut Model) -> String {
    let went_back = rollback(memory);
    let mut next = *model;
    next.pass(memory.now_ms.get());
    let expected = next.rollback();
    if expected.is_ok() {
        *model = next;
    }
    assert_eq!(went_back, expected, "rollback");
    format!("rollback: {expected:?}")
}

fn happen_refresh(memory: &mut Memory<'_>, model: &mut Model) -> String {
    let random = memory.random;
    let fails_in = (random.below(3) == 0).then(|| random.below(4));
    memory.fails_in.set(fails_in);
    let lease_ms = model.lease.and(memory.lease_ms);
    let refreshed = refresh(memory, &model.current, lease_ms);
    take_renewal(memory, model);
    if refreshed.is_ok() {
        model.lease = lease_ms.map(|lease_ms| memory.now_ms.get() + lease_ms);
    }
    format!("refresh, fails in {fails_in:?}: {refreshed:?}")
}

/// A lease that was renewed while something else went on.
fn take_renewal(memory: &Memory<'_>, model: &mut Model) {
    if let Some(deadline) = memory.renewed.take()
        && model.lease.is_some()
    {
        model.lease = Some(deadline);
    }
}

fn run(seed: u64) -> Result<(), String> {
    let random = Random::new(seed);
    let (mut memory, mut model) = (Memory::new(&random), Model::START);
    let mut story = Vec::new();
    for policy in 1..=LENGTH {
        story.push(happen(&mut memory, &mut model, policy));
        let now_ms = memory.now_ms.get();
        take_renewal(&memory, &mut model);
        if memory.in_force() != model_at(&model, now_ms) {
            return Err(format!(
                "{:?} in force, not {:?}, after {story:#?}\n{:?}\n{model:?}",
                memory.in_force(),
                model_at(&model, now_ms),
                memory.state()
            ));
        }
    }
    Ok(())
}

fn model_at(model: &Model, now_ms: u64) -> Content {
    let mut then = *model;
    then.pass(now_ms);
    then.in_force(now_ms)
}

#[test]
fn whatever_happens_in_force_is_what_a_model_without_generations_says() {
    seeded(|seed| {
        for nth in 0..SEQUENCES {
            let seed = seed.wrapping_add(nth);
            if let Err(problem) = run(seed) {
                panic!("sequence {nth}, by itself the first of the seed {seed}: {problem}");
            }
        }
    });
}

#[test]
fn a_policy_is_never_written_where_one_is_in_force_or_would_be() {
    let leased = State::confirmed_after(1, 0).with_exit(2);
    for state in [
        State::confirmed(0),
        State::confirmed_after(2, 1),
        State::until(1, 0, 0, 100),
        State::until(1, 2, 5, 100).with_exit(3),
        State::until(1, 2, 0, 10),
        leased.leased_until(100),
        leased.leased_until(10),
    ] {
        let [first, second] = free_generations(state);
        assert_ne!(first, second);
        assert!(!state.used().contains(&first), "{state:?}");
        assert!(!state.used().contains(&second), "{state:?}");
    }
}

/// Review 4.4a: C cannot be written, and A is still what is gone back to.
#[test]
fn an_apply_that_fails_leaves_what_rollback_goes_back_to() {
    let random = Random::new(1);
    for fails_in in 0..4 {
        let mut memory = Memory::new(&random);
        let terms = Terms {
            confirm_ms: None,
            lease_ms: Some(1 << 40),
        };
        apply(&mut memory, &1, terms).unwrap();
        apply(&mut memory, &2, terms).unwrap();
        memory.fails_in.set(Some(fails_in));
        assert!(fails_in == 3 || apply(&mut memory, &3, terms).is_err());
        rollback(&memory).unwrap();
        assert_eq!(memory.in_force(), Content::Policy(1));
    }
}

/// Review 4.4b and c: a policy that nobody confirmed is not what comes after the next,
/// whether its deadline passes before, while or after that is written.
#[test]
fn an_unconfirmed_policy_is_never_gone_back_to() {
    let random = Random::new(1);
    for (confirm_ms, next) in [(1, None), (50, None), (1 << 40, None), (60, Some(1))] {
        let mut memory = Memory::new(&random);
        let terms = |confirm_ms| Terms {
            confirm_ms,
            lease_ms: None,
        };
        apply(&mut memory, &1, terms(None)).unwrap();
        apply(&mut memory, &2, terms(Some(confirm_ms))).unwrap();
        apply(&mut memory, &3, terms(next)).unwrap();
        assert_eq!(memory.in_force(), Content::Policy(3));
        match next {
            Some(_) => memory.now_ms.set(memory.now_ms() + 1),
            None => rollback(&memory).unwrap(),
        }
        assert_eq!(memory.in_force(), Content::Policy(1));
    }
}
