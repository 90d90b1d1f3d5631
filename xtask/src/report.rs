//! What the kernel tests print, collected per kernel, and the matrix of it.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    ops::AddAssign,
};

/// What no program that may refuse traffic may take the verifier: the time to load it grows
/// with that, and a kernel that reasons less well must have room.
const ENFORCING_LIMIT: u64 = 4_000;
/// What a program that only looks on may take, with a filter: up to 15,751 are known, of
/// `pm_remote_tp` on Linux 7.2, which tells beginnings and ends.
const OBSERVING_LIMIT: u64 = 16_000;
/// What one may take that goes through all open sockets, once before the monitor is
/// attached: 22,658 are known, of `pm_sockets_it` on Linux 6.1.
const ITERATING_LIMIT: u64 = 24_000;

/// Programs that may refuse traffic, and what their names begin with.
const ENFORCING: [&str; 6] = [
    "pm_connect",
    "pm_sendmsg",
    "pm_bind",
    "pm_ingress",
    "pm_lookup",
    "pm_unlisted",
];

/// What the verifier may take for a program.
fn instruction_limit(program: &str) -> u64 {
    // `pm_connect_fe` and its like look on.
    let enforces = |begin: &&str| {
        let rest = program.strip_prefix(*begin);
        rest.is_some_and(|rest| matches!(rest, "" | "4" | "6"))
    };
    if ENFORCING.iter().any(enforces) {
        ENFORCING_LIMIT
    } else if program.ends_with("_it") {
        ITERATING_LIMIT
    } else {
        OBSERVING_LIMIT
    }
}

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Those that passed.
    pub(crate) passed: u32,
    /// Those that failed.
    pub(crate) failed: u32,
}

impl Tally {
    /// One test, passed or failed.
    pub(crate) fn one(is_passed: bool) -> Self {
        Self {
            passed: is_passed.into(),
            failed: (!is_passed).into(),
        }
    }

    /// Reads what [`Tally`] prints; `None` for any other line.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let (passed, failed) = line.strip_suffix(" failed")?.split_once(" passed, ")?;
        Some(Self {
            passed: passed.parse().ok()?,
            failed: failed.parse().ok()?,
        })
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// How a case ended, as the kernel test runner says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CaseResult {
    Pass,
    Fail,
    /// The backend's known blind spot, which was shown to be exactly that.
    Blind,
    /// The kernel lacks the backend.
    Skip,
}

impl CaseResult {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "PASS" => Self::Pass,
            "FAIL" => Self::Fail,
            "BLIND" => Self::Blind,
            "SKIP" => Self::Skip,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Blind => "blind",
            Self::Skip => "skip",
        }
    }
}

/// One case on one backend.
#[derive(Debug)]
struct Case {
    backend: String,
    name: String,
    result: CaseResult,
    text: String,
}

/// Everything the runner printed on one kernel.
#[derive(Debug)]
pub(crate) struct KernelReport {
    kernel: String,
    cases: Vec<Case>,
    /// Verified instructions by program.
    instructions: Vec<(String, u64)>,
    done: Option<Tally>,
    problems: Vec<String>,
}

impl KernelReport {
    /// An empty report; `kernel` heads its columns.
    pub(crate) fn new(kernel: &str) -> Self {
        Self {
            kernel: kernel.to_owned(),
            cases: Vec::new(),
            instructions: Vec::new(),
            done: None,
            problems: Vec::new(),
        }
    }

    /// What heads its columns.
    pub(crate) fn name(&self) -> &str {
        &self.kernel
    }

    /// Takes one line of output; lines that are not for us are passed over.
    pub(crate) fn take_line(&mut self, line: &str) {
        let Some((keyword, rest)) = line.split_once(' ') else {
            return;
        };
        let is_understood = match keyword {
            "CASE" => self.take_case(rest),
            "INSNS" => self.take_instructions(rest),
            "DONE" => self.take_done(rest),
            _ => Some(()),
        };
        if is_understood.is_none() {
            self.problem(format!("cannot read the line: {line}"));
        }
    }

    /// Notes something that is wrong with the run as a whole.
    pub(crate) fn problem(&mut self, text: impl Into<String>) {
        self.problems.push(text.into());
    }

    /// Adds another run on the same kernel.
    pub(crate) fn add(&mut self, other: Self) {
        self.cases.extend(other.cases);
        self.problems.extend(other.problems);
        for (program, count) in other.instructions {
            if self.instructions.iter().all(|(known, _)| *known != program) {
                self.instructions.push((program, count));
            }
        }
    }

    /// Notes what a complete run would have: call it after the last line.
    pub(crate) fn finish(&mut self) {
        let counted = self.case_tally();
        match self.done {
            None => self.problem("the runner did not reach its end"),
            Some(done) if done != counted => {
                self.problem(format!("the runner says {done}, its cases say {counted}"));
            }
            Some(_) => {}
        }
    }

    /// No case is no success: call it after the last run.
    pub(crate) fn expect_cases(&mut self) {
        if self.case_tally() == Tally::default() {
            self.problem("no case ran");
        }
    }

    /// Cases and problems together: a problem is a failed test.
    pub(crate) fn tally(&self) -> Tally {
        let mut tally = self.case_tally();
        for _ in &self.problems {
            tally += Tally::one(false);
        }
        tally
    }

    fn case_tally(&self) -> Tally {
        let mut tally = Tally::default();
        for case in &self.cases {
            match case.result {
                CaseResult::Pass | CaseResult::Blind => tally += Tally::one(true),
                CaseResult::Fail => tally += Tally::one(false),
                CaseResult::Skip => {}
            }
        }
        tally
    }

    fn take_case(&mut self, rest: &str) -> Option<()> {
        let mut words = rest.splitn(4, ' ');
        self.cases.push(Case {
            backend: words.next()?.to_owned(),
            name: words.next()?.to_owned(),
            result: CaseResult::parse(words.next()?)?,
            text: words.next().unwrap_or_default().to_owned(),
        });
        Some(())
    }

    fn take_instructions(&mut self, rest: &str) -> Option<()> {
        let (program, count) = rest.split_once(' ')?;
        let count = count.trim().parse().ok()?;
        if count >= instruction_limit(program) {
            self.problem(format!("{program} takes the verifier {count} instructions"));
        }
        self.instructions.push((program.to_owned(), count));
        Some(())
    }

    fn take_done(&mut self, rest: &str) -> Option<()> {
        let (passed, failed) = rest.split_once(' ')?;
        self.done = Some(Tally {
            passed: passed.parse().ok()?,
            failed: failed.trim().parse().ok()?,
        });
        Some(())
    }

    fn backends(&self) -> Vec<&str> {
        in_order(self.cases.iter().map(|case| case.backend.as_str()))
    }

    fn cell(&self, backend: &str, name: &str) -> &'static str {
        self.cases
            .iter()
            .find(|case| case.backend == backend && case.name == name)
            .map_or("", |case| case.result.name())
    }
}

/// The matrix, the skipped cases, and the instruction counts, as text.
pub(crate) fn render(reports: &[KernelReport]) -> Result<String, fmt::Error> {
    let mut text = String::new();
    render_matrix(reports, &mut text)?;
    for (report, case) in all_that(reports, CaseResult::Skip) {
        writeln!(text, "skipped: {}", described(report, case))?;
    }
    render_instructions(reports, &mut text)?;
    Ok(text)
}

/// What failed, one of [`failed`] for each.
pub(crate) fn failures(reports: &[KernelReport]) -> Vec<String> {
    let cases =
        all_that(reports, CaseResult::Fail).map(|(report, case)| failed(&described(report, case)));
    let problems = reports.iter().flat_map(|report| {
        let problems = report.problems.iter();
        problems.map(|problem| failed(&format!("{}: {problem}", report.kernel)))
    });
    cases.chain(problems).collect()
}

/// The line that tells of a failure after the summary: short enough that all of them can be
/// seen there. All that is known stands where it happened.
pub(crate) fn failed(what: &str) -> String {
    const LONGEST: usize = 300;
    let mut shown: String = what.chars().take(LONGEST).collect();
    if shown.len() < what.len() {
        shown.push('…');
    }
    format!("failed: {shown}")
}

fn all_that(
    reports: &[KernelReport],
    result: CaseResult,
) -> impl Iterator<Item = (&KernelReport, &Case)> {
    reports.iter().flat_map(move |report| {
        let cases = report
            .cases
            .iter()
            .filter(move |case| case.result == result);
        cases.map(move |case| (report, case))
    })
}

fn described(report: &KernelReport, case: &Case) -> String {
    let Case {
        backend,
        name,
        text,
        ..
    } = case;
    format!("{} {backend} {name}: {text}", report.kernel)
}

/// Kernels and their backends across, cases down.
fn render_matrix(reports: &[KernelReport], text: &mut String) -> fmt::Result {
    let names = in_order(
        reports
            .iter()
            .flat_map(|report| report.cases.iter().map(|case| case.name.as_str())),
    );
    let mut rows = vec![vec![String::new()], vec!["case".to_owned()]];
    rows.extend(names.iter().map(|name| vec![(*name).to_owned()]));
    for report in reports {
        for (index, backend) in report.backends().into_iter().enumerate() {
            let kernel = if index == 0 { &*report.kernel } else { "" };
            let cells = names.iter().map(|name| report.cell(backend, name));
            let column = [kernel, backend].into_iter().chain(cells);
            for (row, cell) in rows.iter_mut().zip(column) {
                row.push(cell.to_owned());
            }
        }
    }
    write_table(&rows, text)
}

/// Kernels across, programs down.
fn render_instructions(reports: &[KernelReport], text: &mut String) -> fmt::Result {
    let programs = in_order(reports.iter().flat_map(|report| {
        report
            .instructions
            .iter()
            .map(|(program, _)| program.as_str())
    }));
    if programs.is_empty() {
        return Ok(());
    }
    let mut header = vec!["verified instructions".to_owned()];
    header.extend(reports.iter().map(|report| report.kernel.clone()));
    let mut rows = vec![header];
    for program in programs {
        let counts = reports.iter().map(|report| {
            let found = report.instructions.iter().find(|(name, _)| name == program);
            found.map_or_else(String::new, |(_, count)| count.to_string())
        });
        let mut row = vec![program.to_owned()];
        row.extend(counts);
        rows.push(row);
    }
    text.push('\n');
    write_table(&rows, text)
}

/// Writes `rows` with each column as wide as its widest cell.
pub(crate) fn write_table(rows: &[Vec<String>], text: &mut String) -> fmt::Result {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        })
        .collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:width$}  ")?;
        }
        writeln!(text, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Each name once, in the order of its first appearance.
fn in_order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    names.filter(|name| seen.insert(*name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_is_read_as_it_is_printed() {
        let tally = Tally {
            passed: 12,
            failed: 3,
        };
        assert_eq!(Tally::of_line(&tally.to_string()), Some(tally));
        assert_eq!(Tally::of_line("test result: 12 passed; 3 failed"), None);
    }

    fn report(kernel: &str, lines: &[&str]) -> KernelReport {
        let mut report = KernelReport::new(kernel);
        for line in lines {
            report.take_line(line);
        }
        report.finish();
        report.expect_cases();
        report
    }

    #[test]
    fn two_runs_on_a_kernel_are_one_report() {
        let serial = ["CASE fentry ipv4 PASS", "INSNS on_connect 321", "DONE 1 0"];
        let parallel = [
            "CASE fentry ipv6 FAIL late",
            "INSNS on_connect 321",
            "DONE 0 1",
        ];
        let mut whole = report("5.10", &serial);
        whole.add(report("5.10", &parallel));
        assert_eq!(whole.tally(), tally(1, 1));
        assert_eq!(whole.instructions, [("on_connect".to_owned(), 321)]);
        assert_eq!(whole.backends(), ["fentry"]);
    }

    fn tally(passed: u32, failed: u32) -> Tally {
        Tally { passed, failed }
    }

    #[test]
    fn the_matrix_has_kernels_and_backends_across_and_cases_down() {
        let reports = [
            report(
                "5.10",
                &[
                    "CASE fentry ipv4 PASS",
                    "CASE kprobe ipv4 BLIND no local port",
                    "CASE fentry ipv6 FAIL pid 1, expected 2",
                    "INSNS on_connect 321",
                    "DONE 2 1",
                ],
            ),
            report(
                "7.2",
                &["CASE fentry backend SKIP no trampolines", "DONE 0 0"],
            ),
        ];
        assert_eq!(
            render(&reports).unwrap(),
            "         5.10            7.2\n\
             case     fentry  kprobe  fentry\n\
             ipv4     pass    blind\n\
             ipv6     FAIL\n\
             backend                  skip\n\
             skipped: 7.2 fentry backend: no trampolines\n\
             \n\
             verified instructions  5.10  7.2\n\
             on_connect             321\n"
        );
        assert_eq!(
            failures(&reports),
            [
                "failed: 5.10 fentry ipv6: pid 1, expected 2",
                "failed: 7.2: no case ran"
            ]
        );
    }

    #[test]
    fn a_failure_is_told_in_a_line_that_is_not_too_long() {
        assert_eq!(failed("one of them"), "failed: one of them");
        let told = failed(&"ä".repeat(10_000));
        assert_eq!(told, format!("failed: {}…", "ä".repeat(300)));
    }

    #[test]
    fn blind_spots_count_as_passed_and_skips_not_at_all() {
        let report = report(
            "6.1",
            &[
                "INFO hello",
                "CASE fentry a PASS",
                "CASE kprobe a BLIND x",
                "CASE tracepoint backend SKIP y",
                "DONE 2 0",
            ],
        );
        assert_eq!(report.tally(), tally(2, 0));
    }

    #[test]
    fn a_run_without_an_end_fails() {
        let report = report("6.1", &["CASE fentry a PASS"]);
        assert_eq!(report.tally(), tally(1, 1));
    }

    #[test]
    fn a_program_that_takes_too_long_to_verify_fails() {
        for (program, limit) in [
            ("pm_connect4", 4_000),
            ("pm_ingress", 4_000),
            ("pm_unlisted", 4_000),
            ("pm_connect_fe", 16_000),
            ("pm_remote_tp", 16_000),
        ] {
            for (count, failed) in [(limit, 1), (limit - 1, 0)] {
                let told = format!("INSNS {program} {count}");
                let lines = ["CASE fentry a PASS", &told, "DONE 1 0"];
                assert_eq!(report("6.1", &lines).tally(), tally(1, failed), "{told}");
            }
        }
    }

    #[test]
    fn a_run_without_cases_fails() {
        assert_eq!(report("6.1", &["DONE 0 0"]).tally(), tally(0, 1));
    }

    #[test]
    fn a_count_that_the_cases_do_not_bear_out_fails() {
        let report = report("6.1", &["CASE fentry a PASS", "DONE 2 0"]);
        assert_eq!(report.tally(), tally(1, 1));
    }

    #[test]
    fn a_case_line_that_cannot_be_read_fails() {
        let report = report("6.1", &["CASE fentry a PASS", "CASE fentry b", "DONE 1 0"]);
        assert_eq!(report.tally(), tally(1, 1));
    }
}
