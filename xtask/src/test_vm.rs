//! `cargo xtask test-vm`: the kernel tests in a guest of each kernel.

use std::{
    num::NonZero,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, bail, ensure};

use crate::{
    artifacts::{self, Artifacts},
    guest::{self, Clock, Machine, Outcome, Task},
    kernels::{self, Kernel, Series},
    login, oracle, paths,
    report::{self, KernelReport, Tally},
    tools,
};

/// Boot and all cases of one kernel; several times what an idle host needs.
const GUEST_DEADLINE: Duration = Duration::from_mins(15);
/// The same for what somebody asks for, which may be what takes long.
const ASKED_DEADLINE: Duration = Duration::from_hours(2);
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
    "refused",
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
    variant(Series::Rt5_10, 2, "", CHOSEN),
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
}

/// What `cargo xtask test` runs.
pub(crate) const CHOSEN_PLAN: Plan<'static> = Plan {
    kernels: &Series::MATRIX,
    variants: Variants::Chosen,
    filters: &[],
};

impl Plan<'_> {
    fn variants(&self) -> impl Iterator<Item = &'static Variant> {
        let more = match self.variants {
            Variants::Whole => &MORE_VARIANTS[..],
            Variants::Chosen | Variants::OfNamed => &[],
        };
        VARIANTS.iter().chain(more).filter(|variant| {
            let is_named = self.kernels.contains(&variant.series);
            match self.variants {
                Variants::Chosen | Variants::Whole => true,
                // Its plain variant is what runs anyway.
                Variants::OfNamed => is_named && !variant.is_plain(),
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

    /// The cases of `variant` that somebody wants, by parts of their names.
    fn cases(&self, variant: &Variant) -> Vec<String> {
        let chosen = variant.cases.iter().copied();
        if self.filters.is_empty() {
            return chosen.map(str::to_owned).collect();
        }
        let mut cases = Vec::new();
        for case in chosen {
            // The narrower of the two.
            for filter in self.filters {
                if case.contains(filter.as_str()) {
                    cases.push(case.to_owned());
                } else if filter.contains(case) {
                    cases.push(filter.clone());
                }
            }
        }
        cases
    }
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
    /// Run only the cases whose names contain one of these
    #[arg(last = true)]
    filters: Vec<String>,
}

impl Args {
    fn plan(&self) -> Plan<'_> {
        let is_named = !self.kernels.is_empty();
        Plan {
            kernels: if is_named {
                &self.kernels
            } else {
                &Series::MATRIX
            },
            variants: match (self.all, is_named) {
                (true, _) => Variants::Whole,
                (false, true) => Variants::OfNamed,
                (false, false) => Variants::Chosen,
            },
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
    println!("\n{}\n{tally}", report::render(&reports)?);
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
    let kernels = kernels::fetch(plan.kernels.iter().copied())?;
    let run = |kernel: &Kernel, part| {
        test_in_guest(
            kernel,
            kernel.series.name(),
            &plan.adapt(task(artifacts, plan.filters, kernel.series, part)?),
        )
    };
    // An emulated processor keeps one of the host's busy. Most cases leave a second
    // one idle, so guests of one processor each run at a time, as many as the host has.
    // The newest take longest.
    let newest_first: Vec<&Kernel> = kernels.iter().rev().collect();
    let serial = side_by_side(&newest_first, |kernel| run(kernel, Part::Serial))?;
    let mut reports = Vec::new();
    for (kernel, mut report) in kernels.iter().zip(serial.into_iter().rev()) {
        report.add(run(kernel, Part::Parallel)?);
        report.expect_cases();
        reports.push(report);
    }
    for variant in plan.variants() {
        reports.extend(test_variant(plan, artifacts, variant)?);
    }
    Ok(reports)
}

/// The report of a variant, if it has cases that somebody wants.
fn test_variant(
    plan: Plan<'_>,
    artifacts: &Artifacts,
    variant: &Variant,
) -> Result<Option<KernelReport>> {
    let is_whole = plan.variants == Variants::Whole;
    let cases = if is_whole {
        plan.filters.to_vec()
    } else {
        plan.cases(variant)
    };
    if cases.is_empty() && !is_whole {
        return Ok(None);
    }
    let kernels = kernels::fetch([variant.series])?;
    let [kernel] = &kernels[..] else {
        bail!("fetch kernel {}", variant.series.name());
    };
    let task = plan.adapt(variant_task(artifacts, &cases, variant)?);
    let mut report = test_in_guest(kernel, &variant.name(), &task)?;
    report.expect_cases();
    Ok(Some(report))
}

/// What `run` makes of each, in their order; as many at a time as this host has
/// processors.
fn side_by_side<T: Sync, R: Send>(
    items: &[T],
    run: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                while let index = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(item) = items.get(index)
                {
                    let result = run(item);
                    done.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
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

fn test_in_guest(kernel: &Kernel, name: &str, task: &Task) -> Result<KernelReport> {
    println!(
        "[{name}] boots {}, {} processors {}",
        kernel.release, task.machine.processors, task.machine.kernel_arguments
    );
    let mut report = KernelReport::new(name);
    let dir = paths::workspace()
        .join("target/guests")
        .join(name.replace(' ', "-"));
    let outcome = guest::boot(kernel, task, &dir, |line| {
        println!("[{name}] {line}");
        report.take_line(line);
    })?;
    conclude(name, &outcome, &mut report);
    Ok(report)
}

/// Says how the guest ended, and takes what was wrong into the report.
fn conclude(name: &str, outcome: &Outcome, report: &mut KernelReport) {
    let boot_s = outcome.boot_time.unwrap_or_default().as_secs_f32();
    let total_s = outcome.total_time.as_secs_f32();
    println!("[{name}] ended after {total_s:.1} s, {boot_s:.1} s of it to boot");
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
    fn what_runs_side_by_side_ends_in_order() {
        let slowest_first = [30, 10, 0];
        let results = side_by_side(&slowest_first, |&millis| {
            thread::sleep(Duration::from_millis(millis));
            Ok(millis)
        });
        assert_eq!(results.unwrap(), slowest_first);
    }

    #[test]
    fn one_that_fails_fails_all() {
        let result = side_by_side(&[1, 0, 1], |&count| {
            ensure!(count > 0, "nothing");
            Ok(())
        });
        assert_eq!(result.unwrap_err().to_string(), "nothing");
    }
}
