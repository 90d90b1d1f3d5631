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

use anyhow::{Result, ensure};

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
/// The memory of a guest.
const GUEST_MEMORY_MIB: u32 = 1024;

/// A guest that some cases run in once more.
struct Variant {
    series: Series,
    processors: u32,
    kernel_arguments: &'static str,
    cases: &'static [&'static str],
}

/// Where waiting for running programs is something else: where there is no processor to
/// wait for, and where processors are not to be disturbed.
const VARIANTS: [Variant; 2] = [
    Variant {
        series: Series::V7_2,
        processors: 1,
        kernel_arguments: "",
        cases: &["enforce-reload", "enforce-panic-open-apply"],
    },
    Variant {
        series: Series::V6_12,
        processors: 2,
        kernel_arguments: "nohz_full=1",
        cases: &["enforce-reload", "enforce-panic-open"],
    },
];

impl Variant {
    /// Its cases that somebody wants.
    fn wanted(&self, filters: &[String]) -> Vec<String> {
        let is_wanted = |case: &&&str| {
            filters.is_empty() || filters.iter().any(|filter| case.contains(filter.as_str()))
        };
        let cases = self.cases.iter().filter(is_wanted);
        cases.map(|&case| case.to_owned()).collect()
    }
}

/// Arguments of `test-vm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kernels to test on; all of them when none is named
    #[arg(value_enum)]
    kernels: Vec<Series>,
    /// Run only the cases whose names contain one of these
    #[arg(last = true)]
    filters: Vec<String>,
}

/// Runs the command and prints its matrix and closing line.
pub(crate) fn run(args: &Args) -> Result<Tally> {
    let wanted = if args.kernels.is_empty() {
        &Series::ALL
    } else {
        args.kernels.as_slice()
    };
    let reports = test_in_guests(wanted, &artifacts::build_all()?, &args.filters)?;
    let mut tally = Tally::default();
    for report in &reports {
        tally += report.tally();
    }
    println!("\n{}\n{tally}", report::render(&reports)?);
    Ok(tally)
}

/// Brings everything that guests of all kernels need into the cache.
pub(crate) fn fetch_all() -> Result<()> {
    for kernel in kernels::fetch(&Series::ALL)? {
        oracle::programs(kernel.series)?;
    }
    login::fetch()?;
    Ok(())
}

/// The report of each kernel in `wanted`, in that order.
pub(crate) fn test_in_guests(
    wanted: &[Series],
    artifacts: &Artifacts,
    filters: &[String],
) -> Result<Vec<KernelReport>> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "run the guests on x86_64: the programs of this host must run in them"
    );
    tools::ensure(&tools::GUEST_PACKAGES)?;
    let kernels = kernels::fetch(wanted)?;
    let run = |kernel: &Kernel, part| {
        test_in_guest(kernel, &task(artifacts, filters, kernel.series, part)?)
    };
    // An emulated processor keeps one of the host's busy. Most cases leave a second
    // one idle, so guests of one processor each run at a time, as many as the host has.
    // The newest take longest.
    let newest_first: Vec<&Kernel> = kernels.iter().rev().collect();
    let serial = side_by_side(&newest_first, |kernel| run(kernel, Part::Serial))?;
    let reports = kernels.iter().zip(serial.into_iter().rev());
    let reports = reports.map(|(kernel, mut report)| {
        report.add(run(kernel, Part::Parallel)?);
        for variant in VARIANTS.iter().filter(|v| v.series == kernel.series) {
            let cases = variant.wanted(filters);
            if !cases.is_empty() {
                let task = variant_task(artifacts, &cases, variant)?;
                report.add(test_in_guest(kernel, &task)?);
            }
        }
        report.expect_cases();
        Ok(report)
    });
    reports.collect()
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

fn test_in_guest(kernel: &Kernel, task: &Task) -> Result<KernelReport> {
    let name = kernel.series.name();
    println!(
        "[{name}] boots {}, {} processors {}",
        kernel.release, task.machine.processors, task.machine.kernel_arguments
    );
    let mut report = KernelReport::new(name);
    let dir = paths::workspace().join("target/guests").join(name);
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
