//! The kernel tests: real connections under the real monitor, every record
//! compared with the truth field by field, on every backend the kernel offers.
//!
//! A case is either a scenario ([`scenarios`]), a workload that is watched
//! together with the others by one monitor per backend, or a case of its own
//! ([`cases`]). Workloads are this program again ([`workload`]), so that each has
//! its own pids; they write down what is true ([`fact`]), from which follows what
//! a backend must show ([`expect`], [`check`]).
//!
//! In a guest the monitor watches everything, and the account is exact. With
//! `--native` the host is shared: only our own processes are watched, only
//! loopback is used, and no setting of the machine is changed.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};

mod backend;
mod bench;
mod bpf;
mod btf;
mod bulk;
mod cases;
mod cgroup;
mod check;
mod compare;
mod compat;
mod diag;
mod elapsed;
mod enforce;
mod expect;
mod fact;
mod flood;
mod json;
mod lab;
mod monitor;
#[path = "../support/numbers.rs"]
mod numbers;
mod oracle;
mod process;
mod qdisc;
mod report;
mod scenarios;
#[path = "../support/signals.rs"]
mod signals;
mod socket;
#[cfg(feature = "top")]
#[path = "../support/story.rs"]
mod story;
#[cfg(feature = "top")]
#[path = "../support/terminal.rs"]
#[expect(dead_code, reason = "what the native tests alone ask")]
mod terminal;
mod workload;

use backend::Backend;
use cases::{Case, together};
use enforce::{hammer, vector};
use lab::Lab;
use report::{ANY_BACKEND, Report};
use scenarios::{Place, Scenario, Traits};

/// Run port-monitor's kernel tests as root
#[derive(Debug, Parser)]
#[command(name = "kernel-tests", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    /// The port-monitor under test
    #[arg(long)]
    program: Option<PathBuf>,
    /// This machine is shared: watch and touch only our own
    #[arg(long)]
    native: bool,
    /// Backends to test [default: all]
    #[arg(long)]
    backend: Vec<Backend>,
    /// Run only a part of the cases [default: all]
    #[arg(long, value_enum)]
    part: Option<Part>,
    /// Run also the cases that run only when they are asked for by name
    #[arg(long)]
    on_request: bool,
    /// Run the cases whose names contain one of these
    filters: Vec<String>,
}

/// A part of the cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Those that need threads to run at the same time
    Parallel,
    /// The others
    Serial,
}

/// The parts this program plays for itself.
#[derive(Debug, Subcommand)]
#[command(hide = true)]
enum Role {
    /// Make the connections of a scenario
    Workload { name: String, facts: PathBuf },
    /// Run workloads one after another
    Batch { dir: PathBuf, names: Vec<String> },
    /// Make connections at full speed
    Flood(flood::Args),
    /// Connect again and again under a policy
    Hammer(hammer::Args),
    /// Hold connections open
    Hold(enforce::open::Args),
    /// Connect where one is told, under a policy
    Walk(enforce::oracle::Args),
    /// Open an MPTCP connection whose server announces another address
    Subflow(enforce::subflow::Args),
    /// Connect to where NAT leads elsewhere
    Translated(enforce::nat::Args),
    /// Connect under nftables' rules, and take the time
    Pace(enforce::beside::Args),
    /// Measure what is compared by `cargo xtask bench`
    Bench(bench::Args),
    /// Attach a C program of the benchmark
    Load(bench::LoaderArgs),
    /// Try to get past a policy
    Vector {
        name: String,
        #[command(flatten)]
        aim: vector::Aim,
    },
}

fn main() -> Result<ExitCode> {
    signals::default_in_programs();
    let cli = Cli::parse();
    match &cli.role {
        Some(Role::Workload { name, facts }) => workload::perform(name, facts)?,
        Some(Role::Batch { dir, names }) => workload::perform_all(dir, names)?,
        Some(Role::Flood(args)) => flood::run(args)?,
        Some(Role::Hammer(args)) => hammer::run(args)?,
        Some(Role::Hold(args)) => enforce::open::hold(args)?,
        Some(Role::Walk(args)) => enforce::oracle::walk(args)?,
        Some(Role::Subflow(args)) => enforce::subflow::run(args)?,
        Some(Role::Translated(args)) => enforce::nat::connect(args)?,
        Some(Role::Pace(args)) => enforce::beside::pace(args)?,
        Some(Role::Bench(args)) => bench::run(args)?,
        Some(Role::Load(args)) => bench::run_loader(args)?,
        Some(Role::Vector { name, aim }) => vector::run(name, aim)?,
        None => return run(&cli),
    }
    Ok(ExitCode::SUCCESS)
}

fn run(cli: &Cli) -> Result<ExitCode> {
    let program = cli.program.as_ref().context("--program PATH is needed")?;
    enforce::use_own_bpf_fs()?;
    let lab = Lab::new(program, cli.native)?;
    let mut report = Report::new();
    report::info(format_args!(
        "kernel {}",
        rustix::system::uname().release().to_string_lossy()
    ))?;
    let backends = if cli.backend.is_empty() {
        &Backend::ALL[..]
    } else {
        &cli.backend
    };
    for &backend in backends {
        if let Err(error) = run_backend(cli, &lab, backend, &mut report) {
            report_backend(&lab, backend, error, &mut report)?;
        }
    }
    for case in chosen(cli, cases::ALL, Case::traits) {
        if let cases::Run::Once(run) = case.run {
            report.case(ANY_BACKEND, case.name, &run(&lab))?;
        }
    }
    let vectors: Vec<_> = vector::all()
        .filter(|vector| is_chosen(cli, (vector.name, vector.place, false)))
        .collect();
    enforce::suite::run(&lab, &vectors, &mut report)?;
    // One part may have nothing of what the filters ask for.
    let is_good = report.done()? && (report.has_cases() || cli.part.is_some());
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs everything that depends on the backend; an error ends the backend.
fn run_backend(cli: &Cli, lab: &Lab, backend: Backend, report: &mut Report) -> Result<()> {
    let scenarios: Vec<&Scenario> = chosen(cli, scenarios::ALL, Scenario::traits).collect();
    if !scenarios.is_empty() {
        together::run(lab, backend, &scenarios, report)?;
    }
    for case in chosen(cli, cases::ALL, Case::traits) {
        if let cases::Run::EachBackend(run) = case.run {
            let result = run(lab, backend);
            if let Err(error) = &result
                && report::refusal(error).is_some()
            {
                return result.map(drop);
            }
            report.case(backend.name(), case.name, &result)?;
        }
    }
    Ok(())
}

/// A backend that this kernel refuses is skipped on a shared host, whose kernel is
/// not ours to choose; the guests' kernels offer every backend.
fn report_backend(
    lab: &Lab,
    backend: Backend,
    error: anyhow::Error,
    report: &mut Report,
) -> Result<()> {
    match report::refusal(&error) {
        Some(refused) if lab.native && backend != Backend::Tracepoint => {
            report::skipped(backend.name(), refused)?;
        }
        _ => report.case(backend.name(), "backend", &Err(error))?,
    }
    Ok(())
}

/// The kernel's release begins with one of these.
fn is_one_of(kernels: &[&str]) -> bool {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    kernels.iter().any(|kernel| release.starts_with(kernel))
}

/// The kernel may preempt a task in the middle of a program: Debian's from 7.0 on do, those with
/// `PREEMPT_RT`, and those booted to.
fn is_preemptible() -> Result<bool> {
    let release = rustix::system::uname();
    let is_rt = release.release().to_string_lossy().contains("-rt");
    let line = std::fs::read_to_string("/proc/cmdline").context("read /proc/cmdline")?;
    Ok(is_rt || is_one_of(&["7."]) || line.contains("preempt=full"))
}

/// The table's entries that may run here and whose names were asked for.
fn chosen<'a, T>(
    cli: &'a Cli,
    table: &'static [T],
    traits: impl Fn(&T) -> Traits + 'a,
) -> impl Iterator<Item = &'static T> + 'a {
    table
        .iter()
        .filter(move |entry| is_chosen(cli, traits(entry)))
}

/// It may run here, and its name was asked for.
fn is_chosen(cli: &Cli, (name, place, parallel): Traits) -> bool {
    let wanted = cli.filters.is_empty() || cli.filters.iter().any(|part| name.contains(part));
    let in_part = match cli.part {
        Some(Part::Parallel) => parallel,
        Some(Part::Serial) => !parallel,
        None => true,
    };
    let is_requested = cli.on_request || cli.filters.iter().any(|part| part == name);
    wanted
        && in_part
        && match place {
            Place::Anywhere => true,
            Place::GuestOnly => !cli.native,
            Place::OracleGuest => !cli.native && oracle::is_expected(),
            Place::GuestsOf(kernels) => !cli.native && is_one_of(kernels),
            Place::NativeOnly => cli.native,
            Place::OnRequest => is_requested,
            Place::GuestOnRequest => !cli.native && is_requested,
        }
}
