//! Rows that repeat: the counts of the table add up to the account.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::Stdio,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{monitor::attempts, program::port_monitor};

/// Attempts that a machine makes in a few seconds, far more than are readable.
const BURST: u64 = 3_000;

const FLAGS: [&str; 3] = ["watch", "--aggregate", "always"];

/// The events the rows of a table stand for, and whether any stands for several.
fn counted(table: &str) -> (u64, bool) {
    let rows = table.lines().filter(|line| !line.starts_with('#')).skip(1);
    let counts = rows.map(|row| {
        let count = row.rsplit_once("  x ").map(|(_, count)| count.parse());
        // What the mark of an end comes before is no number.
        count.and_then(Result::ok).unwrap_or(1)
    });
    counts.fold((0, false), |(sum, any), count: u64| {
        (sum + count, any || count > 1)
    })
}

/// What the account says was shown, and was lost.
fn account(table: &str) -> (u64, u64) {
    let line = table.lines().find(|line| line.starts_with("# seen "));
    let number = |word| {
        let (_, rest) = line.unwrap().split_once(word).unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    (number(" = shown "), number(" + lost "))
}

#[test]
fn counts_of_a_burst_add_up_to_what_was_shown() {
    for (limit, shown) in [(None, BURST), (Some("137"), 137)] {
        let output = port_monitor(FLAGS)
            .args(limit.map(|limit| ["--count", limit]).into_iter().flatten())
            .args(["--", "bash", "-c", &attempts(BURST)])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0));
        let table = String::from_utf8(output.stdout).unwrap();
        assert_eq!(account(&table), (shown, 0), "{table}");
        assert_eq!(counted(&table), (shown, true), "{table}");
    }
}

#[test]
fn a_signal_in_the_middle_of_a_burst_loses_no_count() {
    let script = format!("{}; echo done; read more", attempts(300));
    let mut monitor = port_monitor(FLAGS)
        .args(["--", "bash", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut done = String::new();
    let mut stderr = BufReader::new(monitor.stderr.take().unwrap());
    stderr.read_line(&mut done).unwrap();
    assert_eq!(done, "done\n");
    kill_process(Pid::from_child(&monitor), Signal::TERM).unwrap();
    let mut table = String::new();
    let mut stdout = monitor.stdout.take().unwrap();
    stdout.read_to_string(&mut table).unwrap();
    assert_eq!(monitor.wait().unwrap().code(), Some(0));
    assert_eq!(account(&table), (300, 0), "{table}");
    assert_eq!(counted(&table), (300, true), "{table}");
}
