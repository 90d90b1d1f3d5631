//! Three shards of Debian's `ClickHouse` on loopback, which know each other and have all tables.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    http::{Answer, exchange, free_address, get},
    program::{Process, port_monitor, wait_for},
};

/// A server of the cluster.
pub(crate) struct Shard {
    dir: PathBuf,
    pub(crate) http: SocketAddr,
    process: Option<Process>,
}

impl Shard {
    /// Starts it, again if need be, and waits until it answers.
    pub(crate) fn start(&mut self) {
        let program = env::var_os("PORT_MONITOR_CLICKHOUSE")
            .expect("no ClickHouse: `cargo xtask test-fleet` fetches it");
        let child = Command::new(program)
            .arg("--config-file")
            .arg(self.dir.join("config.xml"))
            .current_dir(&self.dir)
            // What it takes for local time is not what the rows have.
            .env("TZ", "Asia/Tokyo")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(Process(child.unwrap()));
        wait_for("ClickHouse answers", || get(self.http, "/ping", ""));
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// What it answers to a statement.
    pub(crate) fn ask(&self, sql: &str) -> String {
        let (status, _, body) = self.send("/", sql).expect(sql);
        assert_eq!(status, 200, "{sql}: {body}");
        body.trim_end().to_owned()
    }

    /// What is answered to a statement that is sent to this path.
    pub(crate) fn send(&self, path: &str, sql: &str) -> Option<Answer> {
        let length = sql.len();
        let head = format!("POST {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n");
        exchange(self.http, (head + sql).as_bytes())
    }
}

/// A cluster with its data in `dir`.
pub(crate) fn start(dir: &Path) -> Vec<Shard> {
    let tcp = [free_address(), free_address(), free_address()];
    let members = tcp.map(|address| {
        let (host, port) = (address.ip(), address.port());
        format!("<shard><replica><host>{host}</host><port>{port}</port></replica></shard>")
    });
    let tables = schema(&["--cluster", "fleet"]);
    let shards = (1..).zip(tcp).map(|(number, tcp)| {
        let mut shard = Shard {
            dir: dir.join(format!("shard{number}")),
            http: free_address(),
            process: None,
        };
        configure(&shard, tcp, &members.concat());
        shard.start();
        for statement in statements(&tables) {
            shard.ask(statement);
        }
        shard
    });
    shards.collect()
}

fn configure(Shard { dir, http, .. }: &Shard, tcp: SocketAddr, members: &str) {
    for name in ["data", "tmp"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    let place = dir.display();
    let config = format!(
        "<yandex>
        <logger><level>warning</level><log>{place}/log</log><errorlog>{place}/errors</errorlog></logger>
        <listen_host>127.0.0.1</listen_host>
        <http_port>{}</http_port><tcp_port>{}</tcp_port>
        <path>{place}/data/</path><tmp_path>{place}/tmp/</tmp_path>
        <users_config>users.xml</users_config>
        <default_profile>default</default_profile><default_database>default</default_database>
        <mark_cache_size>67108864</mark_cache_size>
        <remote_servers><fleet>{members}</fleet></remote_servers>
        </yandex>",
        http.port(),
        tcp.port()
    );
    fs::write(dir.join("config.xml"), config).unwrap();
    let users = "<yandex><profiles><default/></profiles><quotas><default/></quotas>
        <users><default><password></password><networks><ip>127.0.0.1</ip></networks>
        <profile>default</profile><quota>default</quota></default></users></yandex>";
    fs::write(dir.join("users.xml"), users).unwrap();
}

/// What `export schema` prints.
pub(crate) fn schema(args: &[&str]) -> String {
    let output = port_monitor(["export", "schema", "clickhouse"])
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// The statements of a text of SQL.
pub(crate) fn statements(text: &str) -> impl Iterator<Item = &str> {
    let statements = text.split(";\n").map(str::trim);
    statements.filter(|statement| !statement.is_empty())
}
