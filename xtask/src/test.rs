//! `cargo xtask test`: everything that has to hold, step by step.

use std::{
    env,
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    arch::Arch,
    artifacts::{self, Artifacts, PROFILE},
    package, paths, process, prometheus,
    report::{self, KernelReport, Tally},
    rust_tests, test_vm, tidy, tools,
};

/// Whether the steps after a failed one still tell something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnFailure {
    Stop,
    Continue,
}

/// One thing to check.
struct Step {
    name: &'static str,
    on_failure: OnFailure,
    run: fn(&mut Session) -> Result<Tally>,
}

use OnFailure::{Continue, Stop};

/// What is cheap comes first. The checks that take long run beside what needs a kernel,
/// which does not keep all processors busy.
const STEPS: &[Step] = &[
    step("system packages", Stop, |_| install_packages()),
    step("format", Stop, |_| cargo(&["fmt", "--all", "--check"])),
    step("tidy", Stop, |_| tidy::run()),
    step("services table", Stop, |_| xtask(&["services", "--check"])),
    step("build", Stop, Session::build),
    step("native program", Continue, Session::test_program_natively),
    step("kernels", Continue, Session::test_kernels),
    step("cost", Continue, |_| cost()),
    step("checks", Continue, Session::finish_checks),
];

/// The checks that take long and need neither root nor guests.
const CHECKS: &[Step] = &[
    step("eBPF object", Continue, |_| {
        xtask(&["build-ebpf", "--check"])
    }),
    step("clippy", Continue, |_| clippy()),
    step("documentation", Continue, |_| documentation()),
    step("packages", Continue, Session::check_packages),
    step("cargo test", Continue, Session::cargo_test),
];

const fn step(
    name: &'static str,
    on_failure: OnFailure,
    run: fn(&mut Session) -> Result<Tally>,
) -> Step {
    Step {
        name,
        on_failure,
        run,
    }
}

/// What later steps need of earlier ones.
#[derive(Debug, Default)]
struct Session {
    artifacts: Option<Artifacts>,
    reports: Vec<KernelReport>,
    checks: Option<Beside>,
    /// What failed, as [`report::failed`] tells it, to be told once more at the end.
    failures: Vec<String>,
}

/// [`CHECKS`] as a process of its own, at the lowest priority: the deadlines of the
/// kernel tests come first.
#[derive(Debug)]
struct Beside {
    child: Child,
    /// What it prints, kept until it has ended.
    log: PathBuf,
}

impl Beside {
    fn start() -> Result<Self> {
        let log = paths::workspace().join("target/checks.log");
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let child = Command::new("nice")
            .args(["-n", "19"])
            .arg(env::current_exe().context("find the xtask program")?)
            .arg("checks")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("start the checks")?;
        Ok(Self { child, log })
    }

    /// Waits for its end, prints what it printed, and returns its tally and what failed.
    fn finish(mut self) -> Result<(Tally, Vec<String>)> {
        let status = self.child.wait().context("wait for the checks")?;
        let text = fs::read(&self.log).context("read what the checks printed")?;
        let text = String::from_utf8_lossy(&text);
        println!("{text}");
        let tally = text.lines().rev().find_map(Tally::of_line);
        match tally {
            Some(tally) if status.success() || tally.failed > 0 => {
                let failures = text.lines().filter(|line| line.starts_with("failed: "));
                Ok((tally, failures.map(str::to_owned).collect()))
            }
            _ => bail!("the checks ended with {status}"),
        }
    }
}

/// Runs everything; prints the matrix, a summary and the closing line.
pub(crate) fn run() -> Result<Tally> {
    run_steps(STEPS)
}

/// Runs the checks that need neither root nor guests.
pub(crate) fn run_checks() -> Result<Tally> {
    run_steps(CHECKS)
}

fn run_steps(steps: &[Step]) -> Result<Tally> {
    let mut session = Session::default();
    let mut rows = vec![row("step", "passed", "failed", "time")];
    let mut total = Tally::default();
    for step in steps {
        println!("\n== {}", step.name);
        let started = Instant::now();
        let tally = (step.run)(&mut session).unwrap_or_else(|error| {
            println!("{}: {error:#}", step.name);
            let what = format!("{}: {error:#}", step.name);
            session.failures.push(report::failed(&what));
            Tally::one(false)
        });
        rows.push(summary_row(step.name, tally, started.elapsed()));
        total += tally;
        if tally.failed > 0 && step.on_failure == Stop {
            break;
        }
    }

    let mut text = String::from("\n");
    if !session.reports.is_empty() {
        text += &report::render(&session.reports)?;
        text.push('\n');
    }
    report::write_table(&rows, &mut text)?;
    println!("{text}");
    session.failures.extend(report::failures(&session.reports));
    for failure in &session.failures {
        println!("{failure}");
    }
    println!("{total}");
    Ok(total)
}

fn summary_row(name: &str, tally: Tally, time: Duration) -> Vec<String> {
    row(
        name,
        &tally.passed.to_string(),
        &tally.failed.to_string(),
        &format!("{:.1} s", time.as_secs_f32()),
    )
}

fn row(name: &str, passed: &str, failed: &str, time: &str) -> Vec<String> {
    [name, passed, failed, time].map(str::to_owned).to_vec()
}

impl Session {
    /// What the guests are made of is fetched meanwhile: one waits for processors, the
    /// other for the network.
    fn build(&mut self) -> Result<Tally> {
        let (built, fetched) = thread::scope(|scope| {
            let fetch = scope.spawn(test_vm::fetch_all);
            let built = artifacts::build_all();
            (built, fetch.join())
        });
        self.artifacts = Some(built?);
        fetched.unwrap_or_else(|_| bail!("fetch the guests: a thread panicked"))?;
        self.checks = Some(Beside::start()?);
        Ok(Tally::one(true))
    }

    fn artifacts(&self) -> Result<&Artifacts> {
        self.artifacts.as_ref().context("use the release build")
    }

    /// The tests that attach the program on this host, to processes of theirs.
    fn test_program_natively(&mut self) -> Result<Tally> {
        // What changes the user may keep no variable.
        let mut tests = process::elevated("env")?;
        let programs = prometheus::programs()?;
        tests
            .arg(format!("{}={}", prometheus::VARIABLE, programs.display()))
            .arg(&self.artifacts()?.native_tests);
        self.run_tests(tests.current_dir(paths::workspace().join("port-monitor")))
    }

    /// The tests of this host's kernel mostly wait: they run beside those in guests.
    fn test_kernels(&mut self) -> Result<Tally> {
        let artifacts = self.artifacts()?;
        let (native, guests) = thread::scope(|scope| {
            let native = scope.spawn(|| test_natively(artifacts));
            let guests = test_vm::test_in_guests(test_vm::CHOSEN_PLAN, artifacts);
            (native.join(), guests)
        });
        let native = native.unwrap_or_else(|_| bail!("test natively: a thread panicked"));
        let mut total = Tally::default();
        for reports in [native.map(|report| vec![report]), guests] {
            match reports {
                Ok(reports) => {
                    for report in &reports {
                        total += report.tally();
                    }
                    self.reports.extend(reports);
                }
                Err(error) => {
                    println!("kernels: {error:#}");
                    total += Tally::one(false);
                }
            }
        }
        Ok(total)
    }

    fn finish_checks(&mut self) -> Result<Tally> {
        let (tally, failures) = self.checks.take().context("start the checks")?.finish()?;
        self.failures.extend(failures);
        Ok(tally)
    }

    /// Makes packages, and holds them and their units to what is promised.
    fn check_packages(&mut self) -> Result<Tally> {
        let programs = package::Programs::build(Arch::HOST, PROFILE)?;
        package::check::run(&programs, |failure| self.failures.push(failure))
    }

    /// Runs the tests of all crates, built as the programs of the kernel tests are, and
    /// those of this one as it is, which spares building everything twice.
    fn cargo_test(&mut self) -> Result<Tally> {
        let all_but_this = [
            "--workspace",
            "--exclude=port-monitor-ebpf",
            "--exclude=xtask",
            PROFILE,
        ];
        let mut total = Tally::default();
        for packages in [&all_but_this[..], &["--package=xtask"]] {
            let mut test = process::cargo();
            test.args(["test", "--locked", "--no-fail-fast"])
                .args(packages);
            total += self.run_tests(&mut test)?;
        }
        Ok(total)
    }

    /// Runs test programs, adds up what each of them reports, and notes what fails.
    fn run_tests(&mut self, tests: &mut Command) -> Result<Tally> {
        rust_tests::run(tests, |name| self.failures.push(report::failed(name)))
    }
}

/// The kernel tests on this host, whatever else runs here.
fn test_natively(artifacts: &Artifacts) -> Result<KernelReport> {
    let mut command = process::elevated(&artifacts.kernel_tests)?;
    command
        .args(["--native", "--program"])
        .arg(&artifacts.program);
    let mut report = KernelReport::new("native");
    let status = process::stream(&mut command, |line| {
        println!("[native] {line}");
        report.take_line(line);
    })?;
    report.finish();
    report.expect_cases();
    if !status.success() && report.tally().failed == 0 {
        report.problem(format!("the runner ended with {status}"));
    }
    Ok(report)
}

fn install_packages() -> Result<Tally> {
    tools::ensure(&tools::GUEST_PACKAGES)?;
    tools::ensure(&tools::PACKAGE_PACKAGES)?;
    prometheus::programs()?;
    Ok(Tally::one(true))
}

/// The programs of the kernel tests are no tests of cargo's, and named apart.
fn clippy() -> Result<Tally> {
    let all = [
        "--workspace",
        "--exclude=port-monitor-ebpf",
        "--all-targets",
    ];
    let kernel_tests = [
        "--package=port-monitor",
        "--test=kernel",
        "--test=native",
        "--test=fleet",
    ];
    // What is left out of the program then is used by nothing that stays.
    let without_features = [
        "--package=port-monitor",
        "--lib",
        "--bins",
        "--no-default-features",
    ];
    let mut total = Tally::default();
    for targets in [&all[..], &kernel_tests, &without_features] {
        let command = [
            &["clippy", "--locked", PROFILE],
            targets,
            &["--", "--deny=warnings"],
        ];
        total += cargo(&command.concat())?;
    }
    Ok(total)
}

/// What must not become dearer: instructions of a guest, which are the same on every host.
fn cost() -> Result<Tally> {
    let mut total = Tally::default();
    for what in ["monitor", "verdict"] {
        let baseline = paths::workspace().join(format!("xtask/baseline/{what}.json"));
        let mut bench = Command::new(env::current_exe().context("find the xtask program")?);
        bench.args(["bench", what, "--quick", "--runs=3", "--baseline"]);
        total += pass_or_fail(bench.arg(baseline))?;
    }
    Ok(total)
}

fn documentation() -> Result<Tally> {
    let mut doc = process::cargo();
    doc.env("RUSTDOCFLAGS", "--deny=warnings").args([
        "doc",
        PROFILE,
        "--workspace",
        "--exclude=port-monitor-ebpf",
        "--no-deps",
        "--locked",
    ]);
    pass_or_fail(&mut doc)
}

fn cargo(arguments: &[&str]) -> Result<Tally> {
    pass_or_fail(process::cargo().args(arguments))
}

/// Another command of this xtask, in a process of its own.
fn xtask(arguments: &[&str]) -> Result<Tally> {
    let this = env::current_exe().context("find the xtask program")?;
    pass_or_fail(Command::new(this).args(arguments))
}

fn pass_or_fail(command: &mut Command) -> Result<Tally> {
    process::run(command)?;
    Ok(Tally::one(true))
}
