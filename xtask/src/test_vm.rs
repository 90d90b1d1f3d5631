//! `cargo xtask test-vm`: the kernel tests in a guest of each kernel.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{
    artifacts::{self, Artifacts},
    guest::{self, Outcome, Task},
    kernels::{self, Kernel, Series},
    oracle, paths,
    report::{self, KernelReport, Tally},
    tools,
};

/// Boot and all cases of one kernel; several times what an idle host needs.
const GUEST_DEADLINE: Duration = Duration::from_mins(15);

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
    // One after the other: an emulated guest keeps two cores busy, so a second
    // one beside it saves no time and only upsets the deadlines in both.
    kernels
        .iter()
        .map(|kernel| test_in_guest(kernel, &task(artifacts, filters, kernel.series)?))
        .collect()
}

fn task(artifacts: &Artifacts, filters: &[String], series: Series) -> Result<Task> {
    let runner = "/bin/kernel-tests";
    let program = "/bin/port-monitor";
    let mut command = vec![
        runner.to_owned(),
        "--program".to_owned(),
        program.to_owned(),
    ];
    command.extend_from_slice(filters);
    let mut programs = vec![
        (artifacts.kernel_tests.clone(), runner.to_owned()),
        (artifacts.program.clone(), program.to_owned()),
    ];
    programs.extend(oracle::programs(series)?);
    Ok(Task {
        programs,
        command,
        deadline: GUEST_DEADLINE,
    })
}

fn test_in_guest(kernel: &Kernel, task: &Task) -> Result<KernelReport> {
    let name = kernel.series.name();
    println!("[{name}] boots {}", kernel.release);
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
