//! A real Prometheus, and what it is asked by HTTP.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    http::{free_address, get},
    program::{Process, wait_for},
};

/// `promtool` or `prometheus`.
pub(crate) fn program(name: &str) -> Command {
    let dir = env::var_os("PORT_MONITOR_PROMETHEUS").map(PathBuf::from);
    let dir = dir.or_else(|| {
        let cache = env::home_dir()?.join(".cache/port-monitor/prometheus/bookworm");
        cache.exists().then_some(cache)
    });
    let dir = dir.expect("no Prometheus: `cargo xtask test` fetches it");
    Command::new(dir.join(name))
}

/// A file of `packaging/`.
pub(crate) fn packaged(path: &str) -> PathBuf {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    fs::canonicalize(packaging.join(path)).unwrap()
}

/// A server that scrapes, and evaluates the alerts of `packaging/`, every second.
pub(crate) struct Prometheus {
    _process: Process,
    address: SocketAddr,
}

impl Prometheus {
    /// One that is ready, with its data in `dir`, and scrapes at `target`.
    pub(crate) fn start(dir: &Path, target: SocketAddr) -> Self {
        let rules = packaged("prometheus/port-monitor.rules.yml");
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
             rule_files: ['{}']\n\
             scrape_configs:\n- job_name: port-monitor\n  static_configs: [{{targets: ['{target}']}}]\n",
            rules.display()
        );
        let path = dir.join("prometheus.yml");
        fs::write(&path, config).unwrap();
        let address = free_address();
        let log = fs::File::create(dir.join("prometheus.log")).unwrap();
        let child = program("prometheus")
            .arg(format!("--config.file={}", path.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self {
            _process: Process(child),
            address,
        };
        wait_for("Prometheus is ready", || {
            let (status, ..) = get(address, "/-/ready", "")?;
            (status == 200).then_some(())
        });
        server
    }

    fn ask(&self, path: &str) -> Value {
        let (status, _, body) = get(self.address, path, "").unwrap();
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert!(
            status == 200 && answer["status"] == "success",
            "{path}: {answer}"
        );
        answer["data"].clone()
    }

    /// The vector that an expression is now: labels and value.
    pub(crate) fn query(&self, expression: &str) -> Vec<(Value, f64)> {
        let escaped = expression.bytes().fold(String::new(), |mut text, byte| {
            let [high, low] = [byte >> 4, byte & 15].map(|half| char::from_digit(half.into(), 16));
            text.extend(['%'].into_iter().chain(high).chain(low));
            text
        });
        let data = self.ask(&format!("/api/v1/query?query={escaped}"));
        assert_eq!(data["resultType"], "vector", "{expression}");
        let samples = data["result"].as_array().unwrap().iter();
        let value = |sample: &Value| sample["value"][1].as_str().unwrap().parse().unwrap();
        samples
            .map(|sample| (sample["metric"].clone(), value(sample)))
            .collect()
    }

    /// The one number that an expression is; `None` where it is none.
    pub(crate) fn number(&self, expression: &str) -> Option<f64> {
        let samples = self.query(expression);
        assert!(samples.len() < 2, "{expression}: {samples:?}");
        samples.first().map(|(_, value)| *value)
    }

    /// Each alert by its name: whether its expression could be evaluated, as soon as it was,
    /// and its state.
    pub(crate) fn alerts(&self) -> Vec<(String, String, String)> {
        let data = self.ask("/api/v1/rules?type=alert");
        let rules = data["groups"][0]["rules"].as_array().unwrap().iter();
        let text = |rule: &Value, key: &str| rule[key].as_str().unwrap().to_owned();
        rules
            .map(|rule| {
                (
                    text(rule, "name"),
                    text(rule, "health"),
                    text(rule, "state"),
                )
            })
            .collect()
    }
}
