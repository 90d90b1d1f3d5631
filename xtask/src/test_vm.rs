//! `cargo xtask test-vm`: the kernel tests in a guest of each kernel.

use std::{num::NonZero, thread, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    artifacts::{self, Artifacts},
    guest::{self, Clock, Machine, Outcome, Task},
    kernels::{self, Kernel, Series},
    login, oracle, paths,
    report::{self, KernelReport, Tally},
    room::side_by_side,
    tools,
};

/// Boot and all cases of one kernel: what takes longer hangs, also where other work keeps
/// the processors busy. An idle host of two needs 15 to 20 minutes, beside other guests.
const GUEST_DEADLINE: Duration = Duration::from_hours(1);
/// Boot and the cases that somebody asks for, which may be those that take long.
const ASKED_DEADLINE: Duration = Duration::from_hours(3);
/// The memory of a guest.
const GUEST_MEMORY_MIB: u32 = 1024;

/// A guest that some cases run in once more.
struct Variant {
    series: Series,
    processors: u32,
    kernel_arguments: &'static str,
    cases: &'static [&'static str],
}

/// What every other kernel is tried with, by parts of names: the account at full speed,
/// whose a connection is under steered packets, outcomes and ends, reload under fire, and
/// the ways around a policy.
const CHOSEN: &[&str] = &[
    "account-full-speed",
    "softirq-elsewhere",
    "accept-64-threads",
    "accept-prefork",
    "refused-",
    "close-by-",
    "enforce-reload",
    "enforce-in-",
    "bypass-",
];

/// Where waiting for running programs is something else: where there is no processor to
/// wait for, and where processors are not to be disturbed. Then what users run beyond the
/// kernels that every case runs on, and runs clean.
const VARIANTS: [Variant; 4] = [
    variant(
        Series::V7_2,
        1,
        "",
        &["enforce-reload", "enforce-panic-open-apply"],
    ),
    variant(
        Series::V6_12,
        2,
        "nohz_full=1",
        &["enforce-reload", "enforce-panic-open"],
    ),
    variant(Series::V7_3, 2, "", CHOSEN),
    variant(Series::Rt6_12, 2, "", CHOSEN),
];

/// What only `--all` runs.
const MORE_VARIANTS: [Variant; 7] = [
    variant(Series::V6_1, 2, "preempt=full", CHOSEN),
    variant(Series::V6_12, 2, "preempt=full", CHOSEN),
    variant(Series::V7_2, 4, "", CHOSEN),
    variant(Series::Generic6_12, 2, "threadirqs", CHOSEN),
    // Its ring buffer can hang the machine.
    variant(Series::Rt5_10, 2, "", &["ring-that-sleeps"]),
    variant(Series::Rt6_1, 2, "", CHOSEN),
    variant(Series::Rt7_2, 2, "", CHOSEN),
];

const fn variant(
    series: Series,
    processors: u32,
    kernel_arguments: &'static str,
    cases: &'static [&'static str],
) -> Variant {
    Variant {
        series,
        processors,
        kernel_arguments,
        cases,
    }
}

impl Variant {
    /// Whether it is nothing but another kernel.
    fn is_plain(&self) -> bool {
        !Series::MATRIX.contains(&self.series) && self.kernel_arguments.is_empty()
    }

    /// What heads its columns: the kernel, and what else it is told.
    fn name(&self) -> String {
        let series = self.series.name();
        let space = if self.kernel_arguments.is_empty() {
            ""
        } else {
            " "
        };
        let processors = if self.processors == Part::Parallel.processors() {
            String::new()
        } else {
            format!(" -smp {}", self.processors)
        };
        format!("{series}{space}{}{processors}", self.kernel_arguments)
    }
}

/// What to run, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    /// The kernels that every case runs on.
    kernels: &'a [Series],
    /// Their variants, and those of kernels that only chosen cases run on.
    variants: Variants,
    /// Only the cases whose names contain one of these.
    filters: &'a [String],
}

/// Which variants run, and how much of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variants {
    /// Every one, with the cases chosen for it.
    Chosen,
    /// Every one, with every case.
    Whole,
    /// Those of the kernels named, with the cases chosen for them.
    OfNamed,
    /// Nothing else: every one, or those of the kernels named.
    Only,
}

/// What `cargo xtask test` runs.
pub(crate) const CHOSEN_PLAN: Plan<'static> = Plan {
    kernels: &Series::MATRIX,
    variants: Variants::Chosen,
    filters: &[],
};

impl Plan<'_> {
    /// The kernels that every case runs on.
    fn whole(&self) -> &[Series] {
        match self.variants {
            Variants::Only => &[],
            Variants::Chosen | Variants::Whole | Variants::OfNamed => self.kernels,
        }
    }

    fn variants(&self) -> impl Iterator<Item = &'static Variant> {
        let more = match self.variants {
            Variants::Whole | Variants::Only => &MORE_VARIANTS[..],
            Variants::Chosen | Variants::OfNamed => &[],
        };
        VARIANTS.iter().chain(more).filter(|variant| {
            let is_named = self.kernels.contains(&variant.series);
            match self.variants {
                Variants::Chosen | Variants::Whole => true,
                // Its plain variant is what runs anyway.
                Variants::OfNamed => is_named && !variant.is_plain(),
                Variants::Only => is_named || self.kernels.is_empty(),
            }
        })
    }

    /// The task with everything in it that runs on request, where all is to run, and with
    /// time for that.
    fn adapt(&self, mut task: Task) -> Task {
        if self.variants == Variants::Whole {
            task.command.push("--on-request".to_owned());
        }
        if self.variants != Variants::Chosen {
            task.deadline = ASKED_DEADLINE;
        }
        task
    }

    /// The cases of `variant` that somebody wants, by parts of their names; `None` if
    /// none are.
    fn cases(&self, variant: &Variant) -> Option<Vec<String>> {
        match self.variants {
            Variants::Whole => return Some(self.filters.to_vec()),
            Variants::Only if !self.filters.is_empty() => return Some(self.filters.to_vec()),
            _ => {}
        }
        let cases = narrow(variant.cases, self.filters);
        (!cases.is_empty()).then_some(cases)
    }
}

/// The parts of names that meet one of `chosen` and one of `filters`, if there are any.
fn narrow(chosen: &[&str], filters: &[String]) -> Vec<String> {
    if filters.is_empty() {
        return chosen.iter().map(|&case| case.to_owned()).collect();
    }
    let mut cases = Vec::new();
    for &case in chosen {
        for filter in filters {
            if case.contains(filter.as_str()) {
                cases.push(case.to_owned());
            } else if filter.contains(case) {
                cases.push(filter.clone());
            }
        }
    }
    cases
}

/// Arguments of `test-vm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kernels to test on; those of the matrix when none is named
    #[arg(value_enum)]
    kernels: Vec<Series>,
    /// Run every case on every kernel and variant, which takes hours
    #[arg(long, conflicts_with = "kernels")]
    all: bool,
    /// Run only what is chosen for variants of the kernels named, or of all: other
    /// flavours, kernel arguments and numbers of processors
    #[arg(long, conflicts_with = "all")]
    variants: bool,
    /// Run only the cases whose names contain one of these
    #[arg(last = true)]
    filters: Vec<String>,
}

impl Args {
    fn plan(&self) -> Plan<'_> {
        let is_named = !self.kernels.is_empty();
        let variants = match (self.all, self.variants) {
            (true, _) => Variants::Whole,
            (false, true) => Variants::Only,
            (false, false) if is_named => Variants::OfNamed,
            (false, false) => Variants::Chosen,
        };
        Plan {
            kernels: if is_named || self.variants {
                &self.kernels
            } else {
                &Series::MATRIX
            },
            variants,
            filters: &self.filters,
        }
    }
}

/// Runs the command and prints its matrix and closing line.
pub(crate) fn run(args: &Args) -> Result<Tally> {
    let reports = test_in_guests(args.plan(), &artifacts::build_all()?)?;
    let mut tally = Tally::default();
    for report in &reports {
        tally += report.tally();
    }
    println!("\n{}", report::render(&reports)?);
    for failure in report::failures(&reports) {
        println!("{failure}");
    }
    println!("{tally}");
    Ok(tally)
}

/// Brings everything that guests of all kernels need into the cache.
pub(crate) fn fetch_all() -> Result<()> {
    let variants = VARIANTS.iter().map(|variant| variant.series);
    for kernel in kernels::fetch(Series::MATRIX.into_iter().chain(variants))? {
        oracle::programs(kernel.series)?;
    }
    login::fetch()?;
    Ok(())
}

/// The report of each kernel of `plan` and of each variant, in that order.
pub(crate) fn test_in_guests(plan: Plan<'_>, artifacts: &Artifacts) -> Result<Vec<KernelReport>> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "run the guests on x86_64: the programs of this host must run in them"
    );
    tools::ensure(&tools::GUEST_PACKAGES)?;
    let guests = guests(plan, artifacts)?;
    // A guest of one processor waits for a third of its time, one of two keeps no more than
    // one and a half busy: so there is room for one processor more than the host has. The
    // small ones first: they take longest, and of them the newest.
    let (small, large): (Vec<&Guest>, Vec<&Guest>) = guests
        .iter()
        .rev()
        .partition(|guest| guest.processors() == 1);
    let host = thread::available_parallelism().map_or(1, NonZero::get);
    let room = u32::try_from(host).unwrap_or(u32::MAX).saturating_add(1);
    let queue: Vec<&Guest> = small.into_iter().chain(large).collect();
    let reports = side_by_side(
        &queue,
        room,
        |guest| guest.processors(),
        |guest| guest.run(),
    )?;
    Ok(join(guests.iter().map(|guest| &guest.name), reports))
}

/// One report for each name, in the order of `names`, with what all of that name have.
fn join<'a>(
    names: impl Iterator<Item = &'a String>,
    reports: Vec<KernelReport>,
) -> Vec<KernelReport> {
    let mut joined: Vec<KernelReport> = Vec::new();
    for name in names {
        if !joined.iter().any(|report| report.name() == name) {
            joined.push(KernelReport::new(name));
        }
    }
    for report in reports {
        if let Some(whole) = joined.iter_mut().find(|one| one.name() == report.name()) {
            whole.add(report);
        }
    }
    joined.iter_mut().for_each(KernelReport::expect_cases);
    joined
}

/// A guest that is to run.
struct Guest {
    /// What heads its columns.
    name: String,
    kernel: Kernel,
    task: Task,
}

/// The guests of `plan`: kernels first.
fn guests(plan: Plan<'_>, artifacts: &Artifacts) -> Result<Vec<Guest>> {
    let mut wanted = Vec::new();
    for &series in plan.whole() {
        for part in [Part::Serial, Part::Parallel] {
            let task = task(artifacts, plan.filters, series, part)?;
            wanted.push((series, series.name().to_owned(), task));
        }
    }
    for variant in plan.variants() {
        if let Some(cases) = plan.cases(variant) {
            let task = variant_task(artifacts, &cases, variant)?;
            wanted.push((variant.series, variant.name(), task));
        }
    }
    let kernels = kernels::fetch(wanted.iter().map(|(series, ..)| *series))?;
    let guests = kernels.into_iter().zip(wanted);
    let guests = guests.map(|(kernel, (_, name, task))| Guest {
        name,
        kernel,
        task: plan.adapt(task),
    });
    Ok(guests.collect())
}

/// A part of the cases, as the runner names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Those that one processor is enough for.
    Serial,
    /// Those that need two.
    Parallel,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Serial => "serial",
            Self::Parallel => "parallel",
        }
    }

    const fn processors(self) -> u32 {
        match self {
            Self::Serial => 1,
            Self::Parallel => 2,
        }
    }
}

fn variant_task(artifacts: &Artifacts, cases: &[String], variant: &Variant) -> Result<Task> {
    let machine = machine(variant.processors, variant.kernel_arguments);
    task_with(artifacts, cases, variant.series, machine)
}

fn task(artifacts: &Artifacts, filters: &[String], series: Series, part: Part) -> Result<Task> {
    let part_of_cases = ["--part".to_owned(), part.name().to_owned()];
    let arguments = [&part_of_cases, filters].concat();
    let machine = machine(part.processors(), "");
    let mut task = task_with(artifacts, &arguments, series, machine)?;
    if part == Part::Serial {
        let login = login::fetch()?;
        task.programs.extend(login.programs);
        task.library_dir = Some(login.library_dir);
    }
    Ok(task)
}

const fn machine(processors: u32, kernel_arguments: &'static str) -> Machine {
    Machine {
        processors,
        memory_mib: GUEST_MEMORY_MIB,
        clock: Clock::Real,
        kernel_arguments,
    }
}

fn task_with(
    artifacts: &Artifacts,
    arguments: &[String],
    series: Series,
    machine: Machine,
) -> Result<Task> {
    let runner = "/bin/kernel-tests";
    let program = "/bin/port-monitor";
    let mut command: Vec<String> = [runner, "--program", program].map(str::to_owned).to_vec();
    command.extend_from_slice(arguments);
    let mut programs = vec![
        (artifacts.kernel_tests.clone(), runner.to_owned()),
        (artifacts.program.clone(), program.to_owned()),
    ];
    programs.extend(oracle::programs(series)?);
    Ok(Task {
        programs,
        library_dir: None,
        files: Vec::new(),
        modules: Vec::new(),
        command,
        machine,
        deadline: GUEST_DEADLINE,
    })
}

impl Guest {
    const fn processors(&self) -> u32 {
        self.task.machine.processors
    }

    fn run(&self) -> Result<KernelReport> {
        let Self { name, kernel, task } = self;
        let Machine {
            processors,
            kernel_arguments,
            ..
        } = task.machine;
        println!(
            "[{name}] boots {}, {processors} processors {kernel_arguments}",
            kernel.release
        );
        let mut report = KernelReport::new(name);
        let dir = format!("{name} {processors}").replace(' ', "-");
        let dir = paths::workspace().join("target/guests").join(dir);
        let outcome = guest::boot(kernel, task, &dir, |line| {
            println!("[{name}] {line}");
            report.take_line(line);
        })?;
        conclude(name, &outcome, &mut report);
        Ok(report)
    }
}

/// Says how the guest ended, and takes what was wrong into the report.
fn conclude(name: &str, outcome: &Outcome, report: &mut KernelReport) {
    let boot_s = outcome.boot_time.unwrap_or_default().as_secs_f32();
    let total_s = outcome.total_time.as_secs_f32();
    let busy_s = outcome.processor_time.as_secs_f32();
    println!(
        "[{name}] ended after {total_s:.1} s, {boot_s:.1} s of it to boot; {busy_s:.1} s of a \
         processor"
    );
    report.finish();
    match &outcome.status {
        Ok(0) => {}
        Ok(_) if report.tally().failed > 0 => {}
        Ok(status) => report.problem(format!("the runner exited with status {status}")),
        Err(breakdown) => {
            for line in &breakdown.console_tail {
                println!("[{name}] | {line}");
            }
            report.problem(&*breakdown.reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_parts_of_a_name_the_narrower_is_taken() {
        let narrow = |filters: &[&str]| {
            let filters: Vec<String> = filters.iter().map(|&filter| filter.to_owned()).collect();
            narrow(&["enforce-in-", "refused"], &filters)
        };
        assert_eq!(narrow(&[]), ["enforce-in-", "refused"]);
        assert_eq!(narrow(&["enforce"]), ["enforce-in-"]);
        assert_eq!(narrow(&["enforce-in-user"]), ["enforce-in-user"]);
        assert!(narrow(&["account"]).is_empty());
    }

    #[test]
    fn what_runs_on_variants_is_what_was_asked_for() {
        let names = |line: &[&str]| {
            let args = [&["test-vm"], line].concat();
            let command = <Args as clap::Args>::augment_args(clap::Command::new("test-vm"));
            let matches = command.try_get_matches_from(args).unwrap();
            let args = <Args as clap::FromArgMatches>::from_arg_matches(&matches).unwrap();
            let plan = args.plan();
            let whole = plan.whole().iter().map(|series| series.name().to_owned());
            let variants = plan.variants().filter(|&one| plan.cases(one).is_some());
            whole.chain(variants.map(Variant::name)).collect::<Vec<_>>()
        };
        assert_eq!(names(&["6.12"]), ["6.12", "6.12 nohz_full=1"]);
        assert_eq!(names(&["7.3"]), ["7.3"]);
        assert_eq!(names(&["7.3", "--variants"]), ["7.3"]);
        assert_eq!(names(&["6.1", "--variants"]), ["6.1 preempt=full"]);
        assert_eq!(
            names(&["--", "bypass"]),
            ["5.10", "6.1", "6.12", "7.2", "7.3", "6.12-rt"]
        );
        assert_eq!(
            names(&["--all"]).len(),
            4 + VARIANTS.len() + MORE_VARIANTS.len()
        );
    }

    #[test]
    fn guests_of_one_name_make_one_report() {
        let report = |name: &str, line: &str| {
            let mut report = KernelReport::new(name);
            report.take_line(line);
            report
        };
        let names = ["a", "a", "b", "c"].map(str::to_owned);
        let reports = vec![
            report("b", "CASE auto one PASS [1s]"),
            report("a", "CASE auto one PASS [1s]"),
            report("a", "CASE auto two FAIL [1s]"),
        ];
        let joined = join(names.iter(), reports);
        let joined: Vec<_> = joined
            .iter()
            .map(|report| (report.name(), report.tally().to_string()))
            .collect();
        let expected = [
            ("a", "1 passed, 1 failed"),
            ("b", "1 passed, 0 failed"),
            // No case is no success.
            ("c", "0 passed, 1 failed"),
        ];
        assert_eq!(
            joined,
            expected.map(|(name, tally)| (name, tally.to_owned()))
        );
    }
}
