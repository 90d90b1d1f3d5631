//! An audit of this host, of which only our own listeners are looked at.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStdout, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{monitor::action, program::port_monitor};

/// Forbids everybody to listen.
const POLICY: &str = r#"
version = 1
mode = "observe"

[[rule]]
name = "no-listeners"
direction = "listen"
action = "deny"
"#;

/// An audit of this process.
struct Audit {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Audit {
    /// Starts it and waits until it watches.
    fn start(args: &[&str]) -> Self {
        let pid = std::process::id().to_string();
        let mut child = port_monitor(["audit", "-o", "json", "--pid", &pid])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut header = String::new();
        stdout.read_line(&mut header).unwrap();
        assert_eq!(action(&header), "start");
        Self { child, stdout }
    }

    /// Stops it as Ctrl-C does; the listeners at our ports, in order, and the summary.
    fn stop(self, code: i32) -> (Vec<Value>, Value) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.finish(code)
    }

    /// Lets it end by itself.
    fn finish(mut self, code: i32) -> (Vec<Value>, Value) {
        let mut lines: Vec<Value> = self
            .stdout
            .lines()
            .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
            .collect();
        let mut stderr = String::new();
        let mut errors = self.child.stderr.take().unwrap();
        errors.read_to_string(&mut stderr).unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!((status.code(), &*stderr), (Some(code), ""));
        let summary = lines.pop().unwrap();
        assert_eq!(summary["event"]["action"], "summary");
        (lines, summary["port_monitor"].clone())
    }
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

/// The line of the listener at `at`.
fn listener(lines: &[Value], at: SocketAddr) -> Option<&Value> {
    lines
        .iter()
        .find(|line| line["destination"]["port"] == at.port())
}

#[test]
fn audit_tells_used_listeners_from_unused_ones() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.toml");
    fs::write(&policy, POLICY).unwrap();
    let policy = ["--policy", policy.to_str().unwrap()];

    let [(entered, entered_at), (_unused, unused_at)] = [listen(), listen()];
    let all = Audit::start(&[&policy[..], &["--duration", "1h", "--fail-on-violation"]].concat());
    let unused = Audit::start(&["--unused", "1h"]);
    let (late, late_at) = listen();
    let clients = [(); 3].map(|()| TcpStream::connect(entered_at).unwrap());
    let accepted = [(); 3].map(|()| entered.accept().unwrap());

    let (listeners, summary) = all.stop(1);
    assert_eq!(summary["adds_up"], true, "{summary}");
    assert_eq!(summary["lost"], 0, "{summary}");
    for at in [entered_at, unused_at, late_at] {
        let listener = listener(&listeners, at).unwrap();
        assert_eq!(listener["process"]["pid"], std::process::id());
        assert_eq!(listener["port_monitor"]["scope"], "loopback");
        assert_eq!(listener["rule"]["name"], "no-listeners");
        let is_late = listener["port_monitor"].get("opened").is_some();
        assert_eq!(is_late, at == late_at, "{listener}");
        let uses = &listener["port_monitor"]["uses"];
        let expected = if at == entered_at { (3, 1) } else { (0, 0) };
        let expected = (json!(expected.0), json!(expected.1));
        assert_eq!(
            (&uses["accepts"], &uses["distinct_peers"]),
            (&expected.0, &expected.1),
            "{listener}"
        );
    }

    let (listeners, _) = unused.stop(0);
    let is_listed = [entered_at, unused_at, late_at].map(|at| listener(&listeners, at).is_some());
    assert_eq!(is_listed, [false, true, true]);
    drop((late, clients, accepted));
}

#[test]
fn audit_without_a_time_is_a_look_at_what_listens() {
    let (_listener, at) = listen();
    let (listeners, summary) = Audit::start(&[]).finish(0);
    let listener = listener(&listeners, at).unwrap();
    assert_eq!(listener["port_monitor"].get("uses"), None);
    assert_eq!(listener["port_monitor"]["owner_source"], "holder");
    assert_eq!(summary["adds_up"], true, "{summary}");
}
