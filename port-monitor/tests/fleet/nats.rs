//! Three servers of NATS that hold a stream together. The one that leads it is killed in the
//! middle of batches, again and again; in the end each row is in the stream once.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::{
    http::free_address,
    killed::all_are_sent,
    program::{Process, port_monitor, wait_for},
    series::{await_more, until},
    service::Service,
};

/// How often the leader is killed.
const ROUNDS: u64 = 3;
/// Connections that are made meanwhile.
const BURST: u64 = 3_000;

/// A server of the cluster.
struct Node {
    name: String,
    clients: SocketAddr,
    config: PathBuf,
    process: Option<Process>,
}

impl Node {
    fn start(&mut self) {
        let program = env::var_os("PORT_MONITOR_NATS")
            .expect("no NATS server: `cargo xtask test-fleet` fetches it");
        let child = Command::new(program)
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(Process(child.unwrap()));
        wait_for("NATS listens", || TcpStream::connect(self.clients).ok());
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.process = None;
    }

    /// What is answered to a request. `None` where nobody does so right now.
    fn ask(&self, subject: &str, payload: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(self.clients).ok()?;
        // Without a leader of all servers there is no answer.
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let length = payload.len();
        let request = format!(
            "CONNECT {{\"verbose\":false,\"headers\":true,\"no_responders\":true}}\r\n\
             SUB _INBOX.test 1\r\nPUB {subject} _INBOX.test {length}\r\n{payload}\r\n"
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while !line.starts_with("MSG ") {
            line.clear();
            if reader.read_line(&mut line).ok()? == 0 || line.starts_with("HMSG ") {
                return None;
            }
        }
        let size = line.split_ascii_whitespace().last()?.parse().unwrap();
        let mut answer = vec![0; size];
        reader.read_exact(&mut answer).ok()?;
        serde_json::from_slice(&answer).ok()
    }
}

/// The servers of a cluster, with their data in `dir`.
fn start(dir: &Path) -> Vec<Node> {
    let routes = [free_address(), free_address(), free_address()];
    let others = routes
        .map(|route| format!("nats-route://{route}"))
        .join(", ");
    let nodes = (1..).zip(routes).map(|(number, route)| {
        let name = format!("node{number}");
        let mut node = Node {
            clients: free_address(),
            config: dir.join(format!("{name}.conf")),
            name,
            process: None,
        };
        let config = format!(
            "server_name: {name}\nlisten: \"{}\"\njetstream {{ store_dir: \"{}\" }}\n\
             cluster {{ name: fleet, listen: \"{route}\", routes: [{others}] }}\n",
            node.clients,
            dir.join(&node.name).display(),
            name = node.name,
        );
        fs::write(&node.config, config).unwrap();
        node.start();
        node
    });
    nodes.collect()
}

/// What the cluster says of its stream, as soon as that is so.
fn await_stream(nodes: &[Node], what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, || {
        let alive = nodes.iter().filter(|node| node.process.is_some());
        let mut told = alive.filter_map(|node| node.ask("$JS.API.STREAM.INFO.FLEET", ""));
        told.find(|info| info["error"].is_null() && is_so(info))
    })
}

/// All of its servers have all of the stream.
fn is_whole(info: &Value) -> bool {
    let replicas = info["cluster"]["replicas"].as_array();
    let mut replicas = replicas.into_iter().flatten();
    let is_current = |replica: &Value| replica["current"] == true && replica["offline"] != true;
    info["cluster"]["leader"].is_string() && replicas.all(is_current)
}

/// What `export schema` prints.
fn stream() -> String {
    let output = port_monitor(["export", "schema", "nats", "--cluster", "fleet"]).output();
    let output = output.unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// The keys of all rows in the stream, each as often as it is there.
fn stored(nodes: &[Node]) -> Vec<String> {
    let info = await_stream(nodes, "the stream", is_whole);
    let state = |key: &str| info["state"][key].as_u64().unwrap();
    let messages = (state("first_seq")..=state("last_seq")).map(|number| {
        let get = json!({ "seq": number }).to_string();
        nodes[0].ask("$JS.API.STREAM.MSG.GET.FLEET", &get).unwrap()
    });
    let keys = messages.flat_map(|got| {
        let data = got["message"]["data"].as_str().unwrap();
        let data = STANDARD.decode(data).unwrap();
        let rows = BufReader::new(GzDecoder::new(&*data)).lines().map(|line| {
            let row: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let (time, number) = (&row["time_ns"], &row["connection_id"]);
            format!("{time}\t{number}\t{}", row["boot_id"].as_str().unwrap())
        });
        rows.collect::<Vec<_>>()
    });
    keys.collect()
}

#[test]
fn each_row_is_in_the_stream_once_though_its_leader_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = start(dir.path());
    let stream = stream();
    wait_for("the cluster makes the stream", || {
        let made = nodes[0].ask("$JS.API.STREAM.CREATE.FLEET", &stream)?;
        made["error"].is_null().then_some(())
    });
    await_stream(&nodes, "the stream is whole", is_whole);
    let metrics = free_address();
    let urls: Vec<String> = nodes
        .iter()
        .map(|node| format!("nats://{}", node.clients))
        .collect();
    let mut service = Service::start(&format!(
        "[history]\nfile = \"DIR/history.db\"\n[metrics]\nlisten = \"{metrics}\"\n\
         [export.central]\ntype = \"nats\"\nurl = {urls:?}\nbatch = 100\nevery = \"1s\"\n"
    ));
    for _ in 0..ROUNDS {
        let burst = format!("for ((i = 0; i < {BURST}; i++)); do connect; done; echo done");
        service.shell.say(&burst);
        await_more(metrics);
        let info = await_stream(&nodes, "a leader", |info| {
            info["cluster"]["leader"].is_string()
        });
        let leader = nodes
            .iter_mut()
            .find(|node| info["cluster"]["leader"] == *node.name);
        let leader = leader.unwrap();
        leader.kill();
        assert_eq!(service.shell.hear(), "done");
        service.shell.attempt(10);
        await_more(metrics);
        leader.start();
        await_stream(&nodes, "the stream is whole again", is_whole);
    }
    let attempts = ROUNDS * (BURST + 10);
    until(metrics, "rows_sent_total", |rows| rows == attempts);
    let rows = all_are_sent(&service.end(), attempts);
    let stored = stored(&nodes);
    assert_eq!(
        stored.len(),
        rows.len(),
        "rows are there twice, or not at all"
    );
    assert!(stored.into_iter().collect::<BTreeSet<_>>() == rows);
}
