//! Alerts: what a real journald has of them, and what a real command gets, one that raises an
//! alert itself too.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    monitor::action,
    program::{PATIENCE, Process, port_monitor},
    service::{Service, Shell},
};

/// A policy of one rule about a port of loopback.
fn policy(dir: &TempDir, port: u16, alert: &str) -> PathBuf {
    let path = dir.path().join("policy.toml");
    let text = format!(
        "version = 1\n[[rule]]\nname = \"not-there\"\ndirection = \"out\"\nport = {port}\n\
         action = \"deny\"\nalert = \"{alert}\"\n"
    );
    fs::write(&path, text).unwrap();
    path
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A journald in a mount namespace of its own, which has nothing of this host's journal.
struct Journald(Process);

impl Journald {
    const DIR: &str = "/run/log/journal";

    fn start() -> Self {
        let script = "mount -t tmpfs none /run/systemd && mkdir -p /run/log /run/systemd/journal &&
            mount -t tmpfs none /run/log && mkdir /run/log/journal &&
            exec /lib/systemd/systemd-journald";
        let child = Command::new("unshare")
            .args(["--mount", "--propagation=private", "sh", "-c", script])
            .env("SYSTEMD_LOG_TARGET", "null")
            .stdin(Stdio::null())
            .spawn();
        let journald = Self(Process(child.unwrap()));
        // Before the namespace is there, this host's own socket may be.
        let script = "mountpoint -q /run/log && [ -S /run/systemd/journal/socket ]";
        wait_until("a journald of our own", || {
            let status = journald
                .within(Path::new("sh"))
                .args(["-c", script])
                .status();
            status.unwrap().success()
        });
        journald
    }

    /// A program that finds this journald.
    fn within(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        let Process(journald) = &self.0;
        command
            .arg(format!("--mount=/proc/{}/ns/mnt", journald.id()))
            .arg(program);
        command
    }

    /// What a monitor says that tells its alerts there, of this script in Python.
    fn watch(&self, script: &str, policy: &Path) -> (String, String) {
        let program = port_monitor([""; 0]).get_program().to_owned();
        let output = self
            .within(Path::new(&program))
            .args(["watch", "--alert-journal", "--alert-rate=100/s", "--policy"])
            .arg(policy)
            .args(["--", "python3", "-c", script])
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stdout}{stderr}");
        assert!(stdout.contains("# alert: delivered "), "{stdout}");
        (stdout, stderr)
    }

    /// The entries that have this.
    fn entries(&self, matches: &str) -> Vec<Value> {
        let output = self
            .within(Path::new("journalctl"))
            .args(["-q", "-D", Self::DIR, "-o", "json", matches])
            .output()
            .unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let lines = lines.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

#[test]
fn a_real_journal_has_alerts_with_their_fields() {
    let journald = Journald::start();
    let dir = tempfile::tempdir().unwrap();
    let policy = policy(&dir, 1, "high");
    // A name that no line of text could hold.
    let script = r#"
import socket
open("/proc/self/comm", "wb", 0).write(b"a\n\xff")
socket.socket().connect_ex(("127.0.0.1", 1))
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1])
"#;
    let (stdout, stderr) = journald.watch(script, &policy);
    let [violation] = &*journald.entries("MESSAGE_ID=fa9f3a0dca1d46f890e8d7bf800ed94a") else {
        panic!("{stdout}{stderr}");
    };
    let message = violation["MESSAGE"].as_str().unwrap();
    assert!(message.starts_with("violation: a\\n\\xff["), "{message}");
    assert!(
        message.ends_with("] -> 127.0.0.1:1 tcpmux refused, rule not-there"),
        "{message}"
    );
    for (field, value) in [
        ("PRIORITY", "1"),
        ("SYSLOG_IDENTIFIER", "port-monitor"),
        ("_TRANSPORT", "journal"),
        ("PORT_MONITOR_ALERT", "violation"),
        ("PORT_MONITOR_RULE", "not-there"),
        ("PORT_MONITOR_ERRNO", "ECONNREFUSED"),
        ("PORT_MONITOR_REMOTE_PORT", "1"),
        ("PORT_MONITOR_SUPPRESSED", "0"),
    ] {
        assert_eq!(violation[field], value, "{field}");
    }
    assert_eq!(violation["OBJECT_PID"], violation["PORT_MONITOR_PID"]);
    assert_eq!(
        violation["PORT_MONITOR_PROCESS"],
        serde_json::json!([97, 10, 255])
    );
    let line: Value =
        serde_json::from_str(violation["PORT_MONITOR_EVENT"].as_str().unwrap()).unwrap();
    assert_eq!(line["port_monitor"]["alert"]["priority"], 1);
    let [listener] = &*journald.entries("PORT_MONITOR_ALERT=listener") else {
        panic!("{stdout}{stderr}");
    };
    let port = stderr
        .lines()
        .find_map(|line| line.trim().parse::<u16>().ok());
    assert_eq!(
        listener["PORT_MONITOR_LOCAL_PORT"],
        port.unwrap().to_string()
    );
    assert_eq!(listener["PRIORITY"], "5");
    // `low` and above, as people ask for it.
    let loud = journald.entries("-pwarning");
    assert!(loud.iter().any(|entry| entry == violation) && !loud.contains(listener));
}

/// A monitor that tells by a command in bash, of violations to `port`, and is attached.
fn tells_by(command: &str, port: u16, rate: &str, dir: &TempDir) -> Process {
    let path = dir.path().to_str().unwrap();
    let policy = policy(dir, port, "low");
    let words = ["/bin/bash", "-c", command, "bash", path];
    let words = words.map(|word| format!("--alert-command={word}"));
    let child = port_monitor(["watch", "-o", "json", "--alert-on", "violation"])
        .args(words)
        .args([
            "--alert-rate",
            rate,
            "--remote-port",
            &port.to_string(),
            "--policy",
        ])
        .arg(policy)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut process = Process(child.unwrap());
    let mut line = String::new();
    let stdout = process.0.stdout.take().unwrap();
    let mut stdout = BufReader::new(stdout);
    stdout.read_line(&mut line).unwrap();
    assert_eq!(action(&line), "start");
    // Whoever reads no further must not hold the monitor up.
    thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    process
}

/// Tries to connect where nobody listens, within this host.
fn attempt(last: u32, port: u16) {
    let script = format!(": >/dev/tcp/127.1.0.{last}/{port}");
    let mut command = Command::new("bash");
    command.args(["-c", &script]).stderr(Stdio::null());
    assert_eq!(command.status().unwrap().code(), Some(1));
}

fn terminate(child: &mut Child) -> Option<i32> {
    kill_process(Pid::from_child(child), Signal::TERM).unwrap();
    child.wait().unwrap().code()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_command_that_raises_alerts_itself_is_held_by_the_rate() {
    let dir = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = port.local_addr().unwrap().port();
    // Each goes elsewhere, so that no two are alike. Its line is written at once.
    let command = format!(
        "read -r line; : 2>/dev/null >/dev/tcp/127.0.$((RANDOM % 250)).$((BASHPID % 250 + 1))/{port}
         echo \"$line\" >>$1/told; exit 0"
    );
    let mut monitor = tells_by(&command, port, "5/h", &dir);
    attempt(1, port);
    let told = dir.path().join("told");
    wait_until("five commands", || lines(&told).len() >= 5);
    (2..32).for_each(|last| attempt(last, port));
    terminate(&mut monitor.0);
    let told = lines(&told);
    let numbers = told
        .iter()
        .map(|line| &line["port_monitor"]["alert"]["suppressed"]);
    let numbers: Vec<u64> = numbers.map(|number| number.as_u64().unwrap()).collect();
    // The end tells the last of the thirty and of what the fifth command did, if there is time.
    assert!(
        [&[0; 5][..], &[0, 0, 0, 0, 0, 30]].contains(&&*numbers),
        "{numbers:?}"
    );
}

#[test]
fn a_command_that_hangs_does_not_hold_up_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = port.local_addr().unwrap().port();
    let command = "sleep 1000 & echo $! >$1/child; wait";
    let mut monitor = tells_by(command, port, "10/m", &dir);
    attempt(1, port);
    let child = dir.path().join("child");
    let pid = || fs::read_to_string(&child).ok()?.trim().parse::<i32>().ok();
    wait_until("the command runs", || pid().is_some());
    let begun = Instant::now();
    assert_eq!(terminate(&mut monitor.0), Some(6));
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    // Nothing is left of it but, for a moment, a zombie that others wait for.
    wait_until("its child is killed", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid().unwrap()));
        stat.is_ok_and(|stat| stat.contains(") Z "))
            || !Path::new(&format!("/proc/{}", pid().unwrap())).exists()
    });
}

#[test]
fn alerts_of_the_service_begin_anew_with_a_reload() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let section = |rate: &str| {
        format!(
            "[alert]\ncommand = [\"/bin/sh\", \"-c\", \"cat >>DIR/told\"]\non = \"first-use\"\n\
             rate = \"{rate}\"\n"
        )
    };
    let connect = |shell: &mut Shell| {
        shell.say(&format!(
            "for i in 1 2 3; do : >/dev/tcp/127.0.0.1/{port}; done; echo done"
        ));
        assert_eq!(shell.hear(), "done");
    };
    let mut service = Service::start(&section("10/m"));
    connect(&mut service.shell);
    let path = service.dir.path().join("told");
    wait_until("the first use", || lines(&path).len() == 1);
    assert!(
        service
            .reload(&section("20/m"))
            .contains("; consumers: alert\n")
    );
    connect(&mut service.shell);
    wait_until("the first use since the reload", || lines(&path).len() == 2);
    // What stays as it is goes on.
    service.reload(&section("20/m"));
    connect(&mut service.shell);
    let ended = service.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let told = lines(&path);
    let kinds = told
        .iter()
        .map(|line| &line["port_monitor"]["alert"]["kind"]);
    assert_eq!(kinds.collect::<Vec<_>>(), ["first-use", "first-use"]);
    let accounts = ended
        .stderr
        .lines()
        .filter(|line| line.contains("alert: delivered "));
    let accounts: Vec<_> = accounts.collect();
    assert_eq!(accounts.len(), 2, "{}", ended.stderr);
    assert!(
        accounts.iter().all(|line| line.contains(" = taken 1 + ")),
        "{accounts:?}"
    );
}
