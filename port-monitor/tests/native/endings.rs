//! The ends of a run: signals, limits, the command's own end, and an output that
//! is closed, full or not read.

use std::{
    fs::{self, File},
    mem,
    net::{TcpListener, TcpStream},
    os::unix::process::ExitStatusExt as _,
    process::{Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    monitor::{Monitor, action, attempts},
    program::port_monitor,
};

/// More attempts than a ring of 1 MiB, the output's queue and a pipe together
/// take the events of; the default ring alone takes all.
const FLOOD: u64 = 12_000;

/// Events of an attempt to connect: it was made, and it failed.
const EVENTS_PER_ATTEMPT: u64 = 2;

/// How a shell calls the end by SIGTERM.
const TERMINATED: u64 = 128 + 15;

#[test]
fn stop_signal_ends_in_good_order() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let monitor = Monitor::start(&[], "");
        monitor.signal(signal);
        let summary = monitor.finish().summary(0);
        summary.assert_adds_up();
        assert_eq!(summary.number("command_status"), Some(TERMINATED));
    }
}

#[test]
fn command_that_does_not_heed_sigterm_is_left_running_and_named() {
    for (limits, is_stopped) in [(&[][..], true), (&["--duration", "500ms"], false)] {
        let script = "trap '' INT TERM; echo deaf $$ >&2; exec sleep 100 >/dev/null 2>&1";
        let mut monitor = Monitor::start(limits, script);
        monitor.go();
        let pid: i32 = monitor.hear_number("deaf");
        if is_stopped {
            monitor.signal(Signal::INT);
        }
        let mut run = monitor.finish();
        let command = Pid::from_raw(pid).unwrap();
        // It is still there.
        kill_process(command, Signal::KILL).unwrap();
        let told = format!(
            "port-monitor: the command has not ended on SIGTERM: process {pid} goes on, unwatched\n"
        );
        assert_eq!(mem::take(&mut run.stderr), told);
        let summary = run.summary(0);
        summary.assert_adds_up();
        assert_eq!(summary.number("command_status"), None);
    }
}

#[test]
fn command_that_a_second_signal_leaves_behind_is_named() {
    let script = "trap '' INT TERM; echo deaf $$ >&2; exec sleep 100 >/dev/null 2>&1";
    let mut monitor = Monitor::start(&[], script);
    monitor.go();
    let pid: i32 = monitor.hear_number("deaf");
    while !monitor.ends_within(Duration::from_millis(10)) {
        monitor.signal(Signal::INT);
    }
    let run = monitor.finish();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let told = format!(
        "port-monitor: the command has not ended on SIGTERM: process {pid} goes on, unwatched\n"
    );
    assert_eq!((run.status.code(), run.stderr), (Some(130), told));
}

#[test]
fn hangup_ends_a_run_without_a_file_whatever_it_calls_the_standard_output() {
    let monitor = Monitor::start(&["--output-file", "-"], "");
    monitor.signal(Signal::HUP);
    monitor.finish().summary(0).assert_adds_up();
}

#[test]
fn killed_monitor_leaves_nothing_in_the_kernel() {
    let monitor = Monitor::start(&[], "");
    monitor.signal(Signal::KILL);
    let run = monitor.finish();
    assert_eq!(run.status.signal(), Some(Signal::KILL.as_raw()));
}

#[test]
fn second_signal_ends_at_once_what_the_output_holds_up() {
    let script = format!("{}; echo done; read more", attempts(FLOOD));
    let mut monitor = Monitor::start(&[], &script);
    monitor.go();
    monitor.hear("done");
    // The first one lets it wait for its reader, any other does not.
    while !monitor.ends_within(Duration::from_millis(10)) {
        monitor.signal(Signal::INT);
    }
    let run = monitor.finish();
    assert_eq!((run.status.code(), &*run.stderr), (Some(130), ""));
}

#[test]
fn count_and_duration_end_the_run() {
    let mut monitor = Monitor::start(&["--count", "3"], &attempts(100));
    monitor.go();
    let run = monitor.finish();
    run.summary(0).assert_adds_up();
    assert_eq!(run.event_count(), 3);

    let monitor = Monitor::start(&["--duration", "300ms"], "");
    let summary = monitor.finish().summary(0);
    summary.assert_adds_up();
    assert!(summary.number("duration_ms") >= Some(300), "{summary:?}");
}

#[test]
fn end_of_the_command_ends_the_run_and_is_reported() {
    for (script, status) in [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", 128 + 9)] {
        let mut monitor = Monitor::start(&[], script);
        monitor.go();
        let summary = monitor.finish().summary(0);
        assert_eq!(summary.number("command_status"), Some(status), "{script}");
    }
}

/// A run on a command that says something on both of its outputs.
fn talkative(args: &[&str]) -> Output {
    port_monitor(["watch", "-o", "json"])
        .args(args)
        .args(["--", "sh", "-c", "echo out; echo err >&2"])
        .output()
        .unwrap()
}

#[test]
fn standard_output_carries_data_only() {
    let output = talkative(&[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stderr, b"out\nerr\n");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let actions: Vec<String> = stdout.lines().map(action).collect();
    assert_eq!(actions, ["start", "summary"]);
}

#[test]
fn output_file_leaves_standard_output_to_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events");
    let output = talkative(&["--output-file", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        (&*output.stdout, &*output.stderr),
        (&b"out\n"[..], &b"err\n"[..])
    );
    let events = fs::read_to_string(path).unwrap();
    let actions: Vec<String> = events.lines().map(action).collect();
    assert_eq!(actions, ["start", "summary"]);
}

#[test]
fn closed_pipe_ends_the_run_quietly() {
    let script = format!("{}; echo done", attempts(10 * FLOOD));
    let mut monitor = Monitor::start(&[], &script);
    monitor.go();
    assert_eq!(action(&monitor.next_line()), "connect");
    // `done` is never said: the command is ended too.
    let run = monitor.finish_closed();
    assert_eq!((run.status.code(), &*run.stderr), (Some(0), ""));
}

#[test]
fn full_disk_fails_the_output() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for (args, stdout, target) in [
        (&[][..], Stdio::from(full()), "standard output"),
        (&["--output-file", "/dev/full"], Stdio::null(), "/dev/full"),
    ] {
        let output = port_monitor(["watch", "-o", "json"])
            .args(args)
            .args(["--", "sh", "-c", "read line"])
            .stdout(stdout)
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let message = format!(
            "port-monitor: write {target}: No space left on device (os error 28); events not \
             written: 0\n"
        );
        assert_eq!((output.status.code(), &*stderr), (Some(6), &*message));
    }
}

#[test]
fn output_that_nobody_reads_fails_with_its_cost() {
    let mut monitor = Monitor::start(&[], &attempts(FLOOD));
    monitor.go();
    let run = monitor.finish_unread();
    assert_eq!(run.status.code(), Some(6), "{}", run.stderr);
    let message = "port-monitor: write standard output: its reader takes no data; events not \
                   written: up to ";
    let missing = run.stderr.strip_prefix(message).unwrap_or(&run.stderr);
    let missing: u64 = missing.trim_end_matches('\n').parse().unwrap();
    let made = FLOOD * EVENTS_PER_ATTEMPT;
    let written = run.event_count();
    assert!(
        missing <= made && written + missing >= made,
        "{made} events made, {written} written, {missing} not"
    );
}

/// A connection to a listener of its own: something else that happens on this host.
fn connect_elsewhere() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    listener.accept().unwrap();
}

#[test]
fn slow_reader_loses_events_which_are_counted() {
    for (ring, stands_still) in [("1M", false), ("16K", true)] {
        // A ring that is full may lose an inbound connection of anybody, before it is known
        // whose it is: so nobody asks for these.
        let args = ["--ring-size", ring, "--direction", "out", "--fail-on-loss"];
        let script = format!(
            "echo begun; read more; {}; echo done; read more",
            attempts(FLOOD)
        );
        let mut monitor = Monitor::start(&args, &script);
        monitor.go();
        // From here on it needs nothing of the monitor.
        monitor.hear("begun");
        if stands_still {
            monitor.signal(Signal::STOP);
        }
        monitor.go();
        monitor.hear("done");
        if stands_still {
            connect_elsewhere();
            monitor.signal(Signal::CONT);
        }
        let mut early: Vec<String> = Vec::new();
        while early.last().is_none_or(|line| action(line) != "loss") {
            early.push(monitor.next_line());
        }
        monitor.go();
        let mut run = monitor.finish();
        run.lines.splice(..0, early);
        let summary = run.summary(4);
        summary.assert_adds_up();
        let [shown, lost] = ["shown", "lost"].map(|name| summary.number(name).unwrap());
        assert_eq!(shown, run.event_count(), "{summary:?}");
        assert_eq!(shown + lost, FLOOD * EVENTS_PER_ATTEMPT, "{summary:?}");
    }
}
