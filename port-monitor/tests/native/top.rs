//! `port-monitor top` on a real terminal, under a shell with job control.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    program::{PATIENCE, PROGRAM},
    service::Service,
    story,
    terminal::Terminal,
};

fn own() -> String {
    format!("--pid {} --color never", std::process::id())
}

#[test]
fn top_shows_what_is_answers_its_keys_and_leaves_a_clean_terminal() {
    story::tell(PROGRAM.as_ref(), &own());
}

#[test]
fn top_that_is_ended_from_elsewhere_leaves_a_clean_terminal() {
    let mut terminal = Terminal::new(PROGRAM.as_ref());
    let settings = terminal.settings();
    terminal.program(&own());
    let pid = Pid::from_raw(terminal.top()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    terminal.sees("ready>");
    assert_eq!(terminal.assert_clean(&settings), "0.");
}

/// As a shell starts it that wants its signals ignored: a key is none.
#[test]
fn top_ends_by_a_key_where_signals_are_ignored() {
    let recording = tempfile::NamedTempFile::new().unwrap();
    fs::write(recording.path(), include_str!("../data/schema-2.jsonl")).unwrap();
    let mut terminal = Terminal::new(PROGRAM.as_ref());
    let settings = terminal.settings();
    terminal.types("trap '' TERM INT HUP\n");
    for (args, key) in [
        (own(), "q"),
        (own(), "\x03"),
        (format!("--replay {}", recording.path().display()), "q"),
    ] {
        terminal.program(&args);
        terminal.types(key);
        terminal.sees("ready>");
        assert_eq!(terminal.assert_clean(&settings), "0.", "{args}");
    }
}

/// As where an ssh connection is cut.
#[test]
fn top_ends_with_its_terminal() {
    let mut terminal = Terminal::new(PROGRAM.as_ref());
    let bash = Pid::from_raw(terminal.top()).unwrap();
    terminal.program(&own());
    let pid = terminal.top();
    // The leader of the session: the terminal is hung up when it is gone.
    kill_process(bash, Signal::KILL).unwrap();
    let begun = Instant::now();
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(begun.elapsed() < PATIENCE, "it goes on");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn top_shows_what_the_service_sees_until_that_ends() {
    let mut service = Service::start("[socket]\nfile = \"DIR/socket\"\n");
    let mut terminal = Terminal::new(PROGRAM.as_ref());
    let settings = terminal.settings();
    let socket = service.dir.path().join("socket");
    terminal.program(&format!("--attach={} --color never", socket.display()));
    service.shell.attempt(1);
    terminal.sees("127.0.0.1:1 tcpmux");
    terminal.sees("refused");
    // The account of the service, which has seen it for all of its consumers.
    terminal.types("7");
    terminal.sees("its events    seen ");
    terminal.sees("its losses    ring full 0, program skipped 0, undecodable 0, owner late 0");
    terminal.sees("client-1      delivered ");
    terminal.sees("socket        delivered ");
    service.end();
    terminal.sees("the service has ended");
    assert_eq!(terminal.assert_clean(&settings), "3.");
}

#[test]
fn top_without_a_terminal_says_so() {
    let output = Command::new(env!("CARGO_BIN_EXE_port-monitor"))
        .arg("top")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with("port-monitor: top draws on a terminal"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
}
