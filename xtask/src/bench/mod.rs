//! `cargo xtask bench`: what port-monitor costs, beside the peers and beside nothing.
//!
//! All that is compared runs in one guest whose time is the count of executed
//! instructions, so that a figure says the same on every host. What two processors
//! do at once cannot be counted so: that has a guest of its own.

mod baseline;
mod figures;
mod goals;
mod number;
mod plot;
mod programs;
mod report;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

use self::{baseline::Baseline, figures::Figures, programs::Supplies, report::Report};
use crate::{
    artifacts,
    guest::{self, Clock, Machine, Outcome, Task},
    kernels::{self, Kernel},
    paths, process, tools,
};

const RUNNER: &str = "/bin/kernel-tests";
const PROGRAM: &str = "/bin/port-monitor";

/// Boot and all runs of one guest.
const GUEST_DEADLINE: Duration = Duration::from_hours(1);

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure
    #[arg(value_enum)]
    what: What,
    /// How many times each subject is measured, in turn with the others
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// By the program as the tests have it; of `monitor`, only what a connection and the start
    /// cost beside the nearest peers, of `verdict` only what goals are about
    #[arg(long)]
    quick: bool,
    /// A report of an earlier run, from target/bench: fail where the value of a goal is worse by
    /// more than 3 %, or a ratio by more than 10 %, on the same kernel
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Watching connections, beside other monitors
    Monitor,
    /// Judging connections, beside packet filters
    Verdict,
    /// Watching very many connections
    Scale,
    /// Looking at open connections, beside another live view and `ss` in a loop
    Top,
    /// Keeping connections in a history, beside a bare loop of inserts, and looking back, on
    /// this host
    History,
}

impl What {
    /// As it is written, on the command line and in file names.
    const fn name(self) -> &'static str {
        match self {
            Self::Monitor => "monitor",
            Self::Verdict => "verdict",
            Self::Scale => "scale",
            Self::Top => "top",
            Self::History => "history",
        }
    }

    /// The guests it needs, in the order they are booted.
    fn guests(self, quick: bool) -> Vec<Guest> {
        match self {
            Self::Monitor if quick => vec![Guest::counted("monitor", 2048)],
            Self::Monitor => {
                let machine = Machine {
                    processors: 2,
                    memory_mib: 2048,
                    clock: Clock::Real,
                    kernel_arguments: "",
                };
                let what = "flood";
                vec![Guest::counted("monitor", 2048), Guest { what, machine }]
            }
            Self::Verdict => vec![Guest::counted("verdict", 2048)],
            Self::Scale => vec![Guest::counted("scale", 6144)],
            Self::Top => vec![Guest::counted("top", 6144)],
            Self::History => Vec::new(),
        }
    }
}

/// One guest of a measurement.
struct Guest {
    /// What the runner in it is told to measure.
    what: &'static str,
    machine: Machine,
}

impl Guest {
    /// A guest of one processor whose instructions are counted.
    const fn counted(what: &'static str, memory_mib: u32) -> Self {
        let machine = Machine {
            processors: 1,
            memory_mib,
            clock: Clock::Counted,
            kernel_arguments: "",
        };
        Self { what, machine }
    }

    fn task(&self, args: &Args, kernel: &Kernel, supplies: &Supplies) -> Result<Task> {
        let runs = args.runs.to_string();
        let words = [
            RUNNER,
            "bench",
            self.what,
            "--program",
            PROGRAM,
            "--runs",
            &runs,
        ];
        let quick = args.quick.then_some("--quick");
        Ok(Task {
            programs: supplies.programs.clone(),
            library_dir: supplies.library_dir.clone(),
            files: supplies.files.clone(),
            modules: match args.what {
                What::Verdict => kernel.bench_modules()?,
                What::Monitor | What::Scale | What::Top | What::History => Vec::new(),
            },
            command: words.into_iter().chain(quick).map(str::to_owned).collect(),
            machine: self.machine,
            deadline: GUEST_DEADLINE,
        })
    }
}

/// Measures, prints tables and goals, and writes the report and the plot.
///
/// A goal that is not met is no error: the figures are what was asked for.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(
        !args.quick || matches!(args.what, What::Monitor | What::Verdict | What::Top),
        "leave --quick out: only `bench monitor`, `bench verdict` and `bench top` have it"
    );
    let baseline = args.baseline.as_deref().map(Baseline::read).transpose()?;
    if args.what == What::History {
        ensure!(
            baseline.is_none(),
            "leave --baseline out: `bench history` has no goals"
        );
        // What it is compared with runs in turn with it: the ratio says the same everywhere.
        let bench = [
            "bench",
            artifacts::PROFILE,
            "--locked",
            "--package=port-monitor",
        ];
        return process::run(process::cargo().args(bench).arg("--bench=history"));
    }
    ensure!(
        cfg!(target_arch = "x86_64"),
        "run the guests on x86_64: the programs of this host must run in them"
    );
    tools::ensure(&tools::GUEST_PACKAGES)?;
    tools::ensure(&tools::BENCH_PACKAGES)?;
    if args.what == What::Top {
        tools::ensure(&tools::RUSTNET_PACKAGES)?;
    }
    let profile = if args.quick {
        artifacts::PROFILE
    } else {
        artifacts::RELEASE
    };
    let program = artifacts::build_program(profile)?;
    let runner = artifacts::build_kernel_tests()?;
    let kernel = kernels::fetch_for_bench()?;
    let out = paths::workspace().join("target/bench");
    fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let mut supplies = Supplies::gather(args.what, &out)?;
    supplies.programs.extend([
        (runner, RUNNER.to_owned()),
        (program.clone(), PROGRAM.to_owned()),
    ]);

    let mut figures = Figures::default();
    for guest in args.what.guests(args.quick) {
        measure(
            &guest,
            &kernel,
            &guest.task(args, &kernel, &supplies)?,
            &mut figures,
        )?;
    }
    if args.what == What::Monitor && !args.quick {
        figures.add(programs::size_of(&program)?)?;
    }
    conclude(args, &kernel, &figures, &out, baseline.as_ref())
}

/// Boots one guest and takes its figures.
fn measure(guest: &Guest, kernel: &Kernel, task: &Task, figures: &mut Figures) -> Result<()> {
    let name = kernel.series.name();
    println!(
        "[{name}] boots {} to measure {}",
        kernel.release, guest.what
    );
    let dir = paths::workspace()
        .join("target/guests")
        .join(format!("bench-{}", guest.what));
    let mut unreadable = None;
    let outcome = guest::boot(kernel, task, &dir, |line| match figures.take_line(line) {
        Ok(true) => {}
        Ok(false) => println!("[{name}] {line}"),
        Err(error) => {
            println!("[{name}] {line}");
            unreadable.get_or_insert(error);
        }
    })?;
    check(name, &outcome, &dir)?;
    unreadable.map_or(Ok(()), Err)
}

/// Says how the guest ended; any end but an orderly one is an error.
fn check(name: &str, outcome: &Outcome, dir: &Path) -> Result<()> {
    let boot_s = outcome.boot_time.unwrap_or_default().as_secs_f32();
    let total_s = outcome.total_time.as_secs_f32();
    println!("[{name}] ended after {total_s:.1} s, {boot_s:.1} s of it to boot");
    let (reason, console_tail) = match &outcome.status {
        Ok(0) => return Ok(()),
        Ok(status) => (
            format!("the runner exited with status {status}"),
            guest::console_tail(dir),
        ),
        Err(breakdown) => (breakdown.reason.clone(), breakdown.console_tail.clone()),
    };
    for line in &console_tail {
        println!("[{name}] | {line}");
    }
    bail!("{reason}")
}

/// Prints what was measured and writes it to files; fails where it is worse than `baseline`.
fn conclude(
    args: &Args,
    kernel: &Kernel,
    figures: &Figures,
    out: &Path,
    baseline: Option<&Baseline>,
) -> Result<()> {
    let name = args.what.name();
    let mut results = goals::judge(goals::of(args.what), figures);
    if args.quick {
        results.retain(|goal| goal.value.is_some());
    }
    print!("\n{}", table::render(figures)?);
    if !results.is_empty() {
        println!("{}", table::render_goals(&results)?);
    }

    let report = Report {
        what: name,
        kernel: &kernel.release,
        runs: args.runs,
        figures,
        goals: &results,
    };
    let text = report.to_json()?;
    println!(
        "figures: {}",
        write(out, &format!("{name}.json"), &text)?.display()
    );
    if let Some((group, metric)) = plot::leading(args.what, figures) {
        let image = plot::draw(figures, &group, &metric)?;
        println!(
            "plot: {}",
            write(out, &format!("{name}.svg"), &image)?.display()
        );
    }
    let Some(baseline) = baseline else {
        return Ok(());
    };
    let changes = baseline.compare(&results);
    println!("\n{}", baseline::render(&changes)?);
    if !baseline.is_of(&kernel.release) {
        println!("{}", baseline.renew(&kernel.release));
        return Ok(());
    }
    let worse = changes.iter().filter(|change| change.is_worse());
    let worse = worse.count();
    ensure!(worse == 0, "{worse} of {} goals got worse", changes.len());
    Ok(())
}

fn write(dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
