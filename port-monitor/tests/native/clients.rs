//! `watch --from-service`: clients of a service's socket see what it sees, each at its own cost.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{fs::chown, net::UnixStream, process::CommandExt as _},
    },
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    monitor::action,
    program::{PATIENCE, Process, port_monitor},
    serve::record,
    service::{Ended, Service},
};

pub(crate) const SOCKET: &str = "[socket]\nfile = \"DIR/socket\"\n";
/// Whoever owns nothing.
const NOBODY: u32 = 65_534;

fn from_service(dir: &Path) -> String {
    format!("--from-service={}", dir.join("socket").display())
}

/// A client that writes what it is told to a file.
pub(crate) struct Client(Process);

impl Client {
    /// One that has joined, and writes JSON lines to the file of that name.
    pub(crate) fn join(service: &Service, name: &str, args: &[&str]) -> Self {
        let path = service.dir.path().join(name);
        let child = port_monitor([&*from_service(service.dir.path()), "-o", "json"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(File::create(&path).unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let client = Self(Process(child));
        await_that(|| lines(&path) > 0);
        client
    }

    fn end(self) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.0.0), Signal::TERM).unwrap();
        self.wait()
    }

    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        let mut stderr = String::new();
        let pipe = self.0.0.stderr.as_mut().unwrap();
        pipe.read_to_string(&mut stderr).unwrap();
        (self.0.0.wait().unwrap().code(), stderr)
    }
}

pub(crate) fn await_that(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap().lines().count()
}

/// What the lines tell: how many events, how many lost, and the summary's facts.
fn told(text: &str) -> (u64, u64, Value) {
    let (mut events, mut lost, mut summary) = (0, 0, Value::Null);
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        match &*action(line) {
            "connect" | "failed" => events += 1,
            "loss" => lost += value["port_monitor"]["lost"].as_u64().unwrap(),
            "summary" => summary = value["port_monitor"].clone(),
            _ => {}
        }
    }
    (events, lost, summary)
}

/// A client that asked for events, and was welcomed or refused; it need not read any more.
fn asked(service: &Service) -> (BufReader<UnixStream>, Value) {
    let mut stream = UnixStream::connect(service.dir.path().join("socket")).unwrap();
    stream.write_all(b"events\n").unwrap();
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    (stream, serde_json::from_str(&line).unwrap())
}

/// The accounts of the service's clients.
fn clients(service: &Service) -> Vec<Value> {
    let mut status = port_monitor(["status", "--service", "--json", "--socket"]);
    let output = status.arg(service.dir.path().join("socket")).output();
    let report: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let consumers = report["consumers"].as_array().unwrap().iter();
    let clients = consumers.filter(|it| it["name"].as_str().unwrap().starts_with("client-"));
    clients.cloned().collect()
}

fn await_clients(service: &Service, are_so: impl Fn(&[Value]) -> bool) {
    let begun = Instant::now();
    loop {
        let clients = clients(service);
        if are_so(&clients) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{clients:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_client_that_hangs_costs_nobody_but_itself_and_a_reload_keeps_all() {
    let sections = |run| format!("{}{SOCKET}", record(run));
    let mut service = Service::start(&sections("0"));
    let (mut hung, welcome) = asked(&service);
    let pid = welcome["filters"][0].as_str().unwrap();
    assert!(pid.starts_with("--pid="), "{welcome}");
    let client = Client::join(&service, "client", &[]);
    // Many times what a socket and the room of one that hangs hold, but no more at a time than
    // the other takes, also beside other work.
    for round in 1..=8 {
        service.shell.attempt(500);
        await_that(|| lines(&service.path("client")) > round * 1_000);
    }
    await_clients(&service, |clients| {
        clients[0]["dropped"]["queue_full"] != 0 && clients[1]["taken"] == 8_000
    });
    service.reload(&sections("1"));
    service.shell.attempt(10);
    let reader = thread::spawn(move || {
        let mut text = String::new();
        hung.read_to_string(&mut text).unwrap();
        text
    });
    // What it reads at last says what it has not got.
    await_clients(&service, |clients| {
        let of = |part: &Value| part.as_u64().unwrap();
        of(&clients[0]["taken"]) + of(&clients[0]["dropped"]["queue_full"]) == 8_020
    });
    service.shell.attempt(5);
    let Ended {
        code, stderr, dir, ..
    } = service.end();
    assert_eq!(code, Some(0), "{stderr}");
    let (code, said) = client.wait();
    assert_eq!(code, Some(3), "{said}");
    let ended = format!(
        "port-monitor: {}: the service has ended\n",
        dir.path().join("socket").display()
    );
    assert!(said.ends_with(&ended), "{said}");
    let text = fs::read_to_string(dir.path().join("client")).unwrap();
    let (events, lost, summary) = told(&text);
    assert_eq!((events, lost), (8_030, 0), "{stderr}");
    assert_eq!(
        (&summary["seen"], &summary["adds_up"]),
        (&8_030.into(), &true.into())
    );
    let (events, lost, summary) = told(&reader.join().unwrap());
    assert_eq!(events + lost, 8_030, "{stderr}");
    assert!(lost > 1_000, "{lost}");
    // The service's own account of both.
    for (name, taken) in [("client-1", events), ("client-2", 8_030)] {
        let account = &summary["consumers"][name];
        assert_eq!(account["delivered"], 8_030, "{summary}");
        assert_eq!(account["taken"], taken, "{summary}");
        let told = format!("# {name}: delivered 8030 = taken {taken} + hidden 0 + dropped ");
        assert!(stderr.contains(&told), "{stderr}");
    }
}

#[test]
fn clients_are_few_and_one_that_is_gone_makes_room_for_another() {
    let mut service = Service::start(SOCKET);
    let killed = Client::join(&service, "killed", &[]);
    let others: Vec<_> = (1..8).map(|_| asked(&service)).collect();
    assert!(others.iter().all(|(_, told)| told.get("error").is_none()));
    let refused = asked(&service).1;
    assert_eq!(refused["error"], "8 clients are told events already");
    let shown = port_monitor([from_service(service.dir.path())])
        .output()
        .unwrap();
    assert_eq!(shown.status.code(), Some(3));
    let said = String::from_utf8(shown.stderr).unwrap();
    assert!(
        said.ends_with(": it refuses: 8 clients are told events already\n"),
        "{said}"
    );
    // Whoever kills it.
    drop(killed);
    await_clients(&service, |clients| clients.len() == 7);
    let client = Client::join(&service, "client", &[]);
    drop(others);
    await_clients(&service, |clients| clients.len() == 1);
    service.shell.attempt(2);
    await_that(|| lines(&service.dir.path().join("client")) == 5);
    let (code, said) = client.end();
    assert_eq!(code, Some(0), "{said}");
    let text = fs::read_to_string(service.dir.path().join("client")).unwrap();
    let (events, lost, summary) = told(&text);
    assert_eq!((events, lost, &summary["adds_up"]), (4, 0, &true.into()));
    let Ended { code, stderr, .. } = service.end();
    assert_eq!(code, Some(0), "{stderr}");
}

#[test]
fn a_service_that_is_gone_or_moves_its_socket_is_told() {
    let service = Service::start(SOCKET);
    let client = Client::join(&service, "a", &[]);
    service.reload("[socket]\nfile = \"DIR/elsewhere\"\n");
    let gone = ": the service is gone, or has given this client up\n";
    let (code, said) = client.wait();
    assert!(code == Some(3) && said.ends_with(gone), "{said}");
    service.reload(SOCKET);
    let client = Client::join(&service, "b", &[]);
    drop(service);
    let (code, said) = client.wait();
    assert!(code == Some(3) && said.ends_with(gone), "{said}");
}

/// The program as `nobody`, in a group.
fn unprivileged(group: u32, args: &[&str]) -> Output {
    let program = File::open(env!("CARGO_BIN_EXE_port-monitor")).unwrap();
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.args(args).uid(NOBODY).gid(group).output().unwrap()
}

#[test]
fn the_group_of_the_socket_sees_events_and_filters_them_and_nobody_else_does() {
    const GROUP: u32 = 54_321;
    let policy = tempfile::NamedTempFile::new().unwrap();
    let rule = "version = 1\n[[rule]]\nname = \"no-one\"\ndirection = \"out\"\nport = 1\n\
                action = \"deny\"\n";
    fs::write(policy.path(), rule).unwrap();
    let policy = format!("[policy]\nfile = \"{}\"\n", policy.path().display());
    let mut service = Service::start(&format!("{policy}{SOCKET}"));
    chown(service.dir.path().join("socket"), None, Some(GROUP)).unwrap();
    chown(service.dir.path(), None, Some(GROUP)).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o710);
    fs::set_permissions(service.dir.path(), mode).unwrap();
    let socket = from_service(service.dir.path());
    let refused = unprivileged(NOBODY, &[&socket]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("Permission denied"), "{said}");
    let args = [
        &[
            &*socket,
            "--violations",
            "--fail-on-violation",
            "--count=1",
            "--fields=result",
        ][..],
        &[&*socket, "--port=2", "--duration=500ms"],
        &[
            &*socket,
            "--comm=bash",
            "--events=connect",
            "-R1",
            "--count=2",
            "--fields=event",
        ],
    ];
    let shown = thread::scope(|scope| {
        let clients = args.map(|args| scope.spawn(move || unprivileged(GROUP, args)));
        await_that(|| {
            service.shell.attempt(1);
            clients.iter().all(thread::ScopedJoinHandle::is_finished)
        });
        clients.map(|client| client.join().unwrap())
    });
    let text = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
    let [violations, none, attempts] = &shown;
    let rows = |text: &str, mark| text.lines().filter(|line| line.starts_with(mark)).count();
    assert_eq!(violations.status.code(), Some(1), "{violations:?}");
    assert_eq!(
        rows(&text(violations), "! refused  no-one"),
        1,
        "{violations:?}"
    );
    assert_eq!(none.status.code(), Some(0), "{none:?}");
    assert!(text(none).contains(" = shown 0 + filtered "), "{none:?}");
    assert_eq!(attempts.status.code(), Some(0), "{attempts:?}");
    assert_eq!(rows(&text(attempts), "! connect"), 2, "{attempts:?}");
    let Ended { code, stderr, .. } = service.end();
    assert_eq!(code, Some(0), "{stderr}");
}
