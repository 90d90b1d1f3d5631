//! A collector of OpenTelemetry is ended in the middle of batches and killed between them; in the
//! end each connection has arrived there.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, OpenOptions},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    http::free_address,
    killed::all_are_sent,
    program::{Process, wait_for},
    series::{await_more, until},
    service::Service,
};

/// How often it is ended.
const ROUNDS: u64 = 3;
/// Connections that are made meanwhile.
const BURST: u64 = 3_000;

/// A collector that writes down each record that it gets.
struct Collector {
    http: SocketAddr,
    grpc: SocketAddr,
    log: PathBuf,
    process: Option<Process>,
}

impl Collector {
    /// Starts it, again if need be, and waits until it listens.
    fn start(&mut self) {
        let program = env::var_os("PORT_MONITOR_COLLECTOR")
            .expect("no collector: `cargo xtask test-fleet` fetches it");
        let mut log = OpenOptions::new();
        let log = log.create(true).append(true).open(&self.log).unwrap();
        let child = Command::new(program)
            .args(["start", "--exporter", "blackhole"])
            .args(["--debug-log", "logs", "--debug-log-verbosity", "detailed"])
            .args(["--otlp-http-endpoint", &self.http.to_string()])
            .args(["--otlp-grpc-endpoint", &self.grpc.to_string()])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(Process(child.unwrap()));
        wait_for("the collector listens", || {
            TcpStream::connect(self.http).ok()
        });
    }

    /// Has it end, once it has dealt with what it took.
    fn end(&mut self) {
        let mut process = self.process.take().unwrap();
        kill_process(Pid::from_child(&process.0), Signal::TERM).unwrap();
        process.0.wait().unwrap();
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.process = None;
    }

    /// The stable key of every record, as often as that has arrived.
    fn uids(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap();
        let uids = text.lines().filter_map(|line| {
            let uid = line.trim().strip_prefix("-> log.record.uid: Str(")?;
            uid.strip_suffix(')')
        });
        uids.map(str::to_owned).collect()
    }
}

#[test]
fn each_connection_arrives_at_a_collector_that_goes_away_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector {
        http: free_address(),
        grpc: free_address(),
        log: dir.path().join("log"),
        process: None,
    };
    collector.start();
    let metrics = free_address();
    let mut service = Service::start(&format!(
        "[history]\nfile = \"DIR/history.db\"\n[metrics]\nlisten = \"{metrics}\"\n\
         [export.central]\ntype = \"otlp\"\nurl = \"http://{}\"\nbatch = 100\nevery = \"1s\"\n",
        collector.http
    ));
    for _ in 0..ROUNDS {
        let burst = format!("for ((i = 0; i < {BURST}; i++)); do connect; done; echo done");
        service.shell.say(&burst);
        await_more(metrics);
        collector.end();
        assert_eq!(service.shell.hear(), "done");
        service.shell.attempt(10);
        until(metrics, "failing", |failing| failing == 1);
        collector.start();
        until(metrics, "failing", |failing| failing == 0);
    }
    let before = ROUNDS * (BURST + 10);
    until(metrics, "rows_sent_total", |rows| rows == before);
    // What it has taken and not dealt with yet goes with it.
    wait_for("all of them", || {
        (collector.uids().len() as u64 >= before).then_some(())
    });
    collector.kill();
    service.shell.attempt(10);
    until(metrics, "failing", |failing| failing == 1);
    collector.start();
    let attempts = before + 10;
    until(metrics, "rows_sent_total", |rows| rows == attempts);
    let rows = all_are_sent(&service.end(), attempts);
    collector.end();
    let arrived: BTreeSet<String> = collector.uids().into_iter().collect();
    assert_eq!(arrived.len() as u64, attempts);
    let arrived = arrived.iter().map(|uid| {
        let mut parts = uid.rsplitn(4, '-');
        let (_, time_ns, number) = (parts.next(), parts.next().unwrap(), parts.next().unwrap());
        format!("{time_ns}\t{number}\t{}", parts.next().unwrap())
    });
    assert!(arrived.collect::<BTreeSet<_>>() == rows);
}
