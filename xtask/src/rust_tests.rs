//! Test programs as Rust makes them, and what they print.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{process, report::Tally};

/// Runs test programs, prints what they print, adds up what each of them reports, and hands
/// over the name of each test that fails.
pub(crate) fn run(tests: &mut Command, mut on_failure: impl FnMut(&str)) -> Result<Tally> {
    let mut total = Tally::default();
    let status = process::stream(tests, |line| {
        println!("{line}");
        if let Some(tally) = test_result(line) {
            total += tally;
        }
        if let Some(name) = failed_test(line) {
            on_failure(name);
        }
    })?;
    if !status.success() && total.failed == 0 {
        bail!("{tests:?}: {status}");
    }
    Ok(total)
}

/// Reads `test result: ok. 12 passed; 0 failed; …`.
fn test_result(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| {
        let part = counts.split("; ").find(|part| part.ends_with(what))?;
        part.split(' ').next()?.parse().ok()
    };
    Some(Tally {
        passed: count(" passed")?,
        failed: count(" failed")?,
    })
}

/// Reads `test NAME ... FAILED`.
fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_read_of_a_test_that_failed() {
        assert_eq!(failed_test("test a::b ... FAILED"), Some("a::b"));
        assert_eq!(failed_test("test a::b ... ok"), None);
    }

    #[test]
    fn counts_are_read_from_what_a_test_program_prints() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out";
        let expected = Tally {
            passed: 12,
            failed: 3,
        };
        assert_eq!(test_result(line), Some(expected));
        assert_eq!(test_result("running 15 tests"), None);
    }
}
