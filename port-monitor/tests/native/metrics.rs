//! Metrics as they are scraped: by a real Prometheus, whose numbers are those of whoever made
//! the connections, and by scrapers that hang.

#![expect(
    clippy::float_cmp,
    clippy::cast_precision_loss,
    reason = "counts are small, and exact as what a scraper reads"
)]

#[path = "../../src/consume/metrics/tests/parser.rs"]
pub(crate) mod parser;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    thread,
};

use parser::Exposition;
use serde_json::Value;

use crate::{
    http::{free_address, get},
    program::{port_monitor, wait_for},
    prometheus::{Prometheus, packaged, program},
    receiver::receiver,
    serve::{events, record},
    service::{Ended, Service},
};

const OPEN_METRICS: &str = "Accept: application/openmetrics-text;version=1.0.0\r\n";

/// Attempts that are refused, and connections that carry a word.
const REFUSED: u64 = 200;
const CONNECTED: u64 = 300;
const WORD: &str = "hello";

fn listen(address: SocketAddr) -> String {
    format!("[metrics]\nlisten = \"{address}\"\n")
}

pub(crate) fn scrape(address: SocketAddr) -> Exposition {
    let (status, head, body) = get(address, "/metrics", OPEN_METRICS).unwrap();
    assert_eq!(status, 200, "{head}");
    Exposition::open_metrics(&body)
}

/// Accepts, and reads what comes, until the test ends.
pub(crate) fn listener() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = std::io::copy(&mut stream.unwrap(), &mut std::io::sink());
        }
    });
    address
}

/// A policy that denies what nobody listens at.
fn policy(service_dir: &std::path::Path) -> String {
    let path = service_dir.join("policy.toml");
    let text = "version = 1\n[[rule]]\nname = \"no-one\"\ndirection = \"out\"\nport = 1\n\
                action = \"deny\"\n";
    fs::write(&path, text).unwrap();
    format!("[policy]\nfile = \"{}\"\n", path.display())
}

/// What panels ask for that has no answer in the test, and why.
const EMPTY: [(&str, &str); 0] = [];

/// The expressions of the dashboard, by the title of their panel.
fn panels() -> Vec<(String, String)> {
    let text = fs::read_to_string(packaged("grafana/port-monitor.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| {
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        let title = panel["title"].as_str().unwrap();
        let text = |target: &Value| target["expr"].as_str().unwrap().to_owned();
        targets
            .iter()
            .map(|target| (title.to_owned(), text(target)))
            .collect::<Vec<_>>()
    });
    targets.collect()
}

/// What Grafana puts in the place of its variables.
fn filled(expression: &str) -> String {
    let filled = expression
        .replace("$__rate_interval", "1m")
        .replace("$__range", "1h")
        .replace("$job", ".*")
        .replace("$instance", ".*");
    assert!(!filled.contains('$'), "{filled}");
    filled
}

#[test]
fn prometheus_has_the_numbers_of_the_flood_and_every_panel_its_answer() {
    let policies = tempfile::tempdir().unwrap();
    let address = free_address();
    let (receiver, _rows) = receiver();
    let sections = format!(
        "{}{}{}[history]\nfile = \"DIR/history.db\"\n[export.central]\ntype = \"clickhouse\"\n\
         url = \"http://{receiver}\"\nevery = \"1s\"\n",
        policy(policies.path()),
        listen(address),
        record("r")
    );
    let mut service = Service::start(&sections);
    let prometheus = Prometheus::start(service.dir.path(), address);
    // An increase is one over a number that was there before.
    wait_for("the first scrape", || {
        prometheus.number("sum(port_monitor_events_total)")
    });
    flood(&mut service);
    let expected = 2 * REFUSED + 3 * CONNECTED;
    let total = "sum(port_monitor_consumer_events_taken_total{consumer=\"metrics\"})";
    wait_for("all events are scraped", || {
        let is_all = |query| Some(prometheus.number(query)? == expected as f64);
        (is_all(total)? && is_all("sum(port_monitor_events_total)")?).then_some(())
    });
    sums_are_those_of(&prometheus, expected);
    let sent = "sum(port_monitor_export_rows_sent_total)";
    wait_for("all rows are sent", || {
        (prometheus.number(sent)? == (REFUSED + CONNECTED) as f64).then_some(())
    });
    panels_have_answers(&prometheus);
    alerts_are_evaluated(&prometheus);
    let Ended {
        code, stderr, dir, ..
    } = service.end();
    assert_eq!(code, Some(0), "{stderr}");
    let account =
        format!("# metrics: delivered {expected} = taken {expected} + hidden 0 + dropped 0\n");
    assert!(stderr.contains(&account), "{stderr}");
    drop((prometheus, dir));
}

fn flood(service: &mut Service) {
    let peer = listener();
    service.shell.attempt(REFUSED);
    service.shell.say(&format!(
        "for ((i = 0; i < {CONNECTED}; i++)); do printf {WORD} >/dev/tcp/{}/{}; done; echo done",
        peer.ip(),
        peer.port()
    ));
    assert_eq!(service.shell.hear(), "done");
}

fn sums_are_those_of(prometheus: &Prometheus, expected: u64) {
    let sums = [
        (
            "port_monitor_failures_total{errno=\"ECONNREFUSED\"}",
            REFUSED,
        ),
        ("port_monitor_connections_total", CONNECTED),
        (
            "port_monitor_connections_total{direction=\"outbound\"}",
            CONNECTED,
        ),
        (
            "port_monitor_transferred_bytes_total{flow=\"sent\"}",
            CONNECTED * WORD.len() as u64,
        ),
        (
            "port_monitor_violations_total{rule=\"no-one\"}",
            2 * REFUSED,
        ),
        ("port_monitor_open_connections", 0),
        ("port_monitor_handshake_duration_seconds_count", CONNECTED),
        ("port_monitor_connection_duration_seconds_count", CONNECTED),
        (
            "port_monitor_consumer_events_delivered_total{consumer=\"record\"}",
            expected,
        ),
        ("port_monitor_consumer_events_dropped_total", 0),
        ("port_monitor_events_lost_total", 0),
    ];
    for (series, count) in sums {
        let sum = prometheus.number(&format!("sum({series})"));
        assert_eq!(sum, Some(count as f64), "{series}");
    }
    // What was seen is what was kept back, lost or delivered.
    let open = "sum(port_monitor_events_seen_total) - sum(port_monitor_events_filtered_total) \
                - sum(port_monitor_events_lost_total) \
                - sum(port_monitor_consumer_events_delivered_total{consumer=\"metrics\"})";
    wait_for("the account adds up", || {
        (prometheus.number(open)? == 0.0).then_some(())
    });
}

fn panels_have_answers(prometheus: &Prometheus) {
    let panels = panels();
    assert!(panels.len() > 20, "{panels:?}");
    let mut empty = BTreeMap::new();
    for (title, expression) in &panels {
        let samples = prometheus.query(&filled(expression));
        let numbers = samples.iter().all(|(_, value)| value.is_finite());
        assert!(numbers || title.contains("last"), "{title}: {samples:?}");
        if samples.is_empty() {
            empty.insert(title.as_str(), expression);
        }
    }
    let titles: Vec<&str> = empty.keys().copied().collect();
    assert_eq!(titles, EMPTY.map(|(title, _)| title), "{empty:?}");
}

/// All of them can be, and the violations fire theirs.
fn alerts_are_evaluated(prometheus: &Prometheus) {
    let alerts = wait_for("the alerts are evaluated", || {
        let alerts = prometheus.alerts();
        let is_firing = |(name, _, state): &(String, String, String)| {
            name == "PortMonitorViolation" && state == "firing"
        };
        let is_done = alerts.iter().all(|(_, health, _)| health != "unknown");
        (is_done && alerts.iter().any(is_firing)).then_some(alerts)
    });
    for (name, health, state) in &alerts {
        assert_eq!(health, "ok", "{name}");
        let expected = if name == "PortMonitorViolation" {
            "firing"
        } else {
            "inactive"
        };
        assert_eq!(state, expected, "{name}");
    }
}

#[test]
fn promtool_takes_the_series_and_the_alerts() {
    let address = free_address();
    let mut service = Service::start(&listen(address));
    service.shell.attempt(3);
    let (_, _, text) = get(address, "/metrics", "").unwrap();
    service.end();
    let mut lint = program("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    lint.stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let linted = lint.wait_with_output().unwrap();
    let told = (linted.stdout, linted.stderr);
    assert!(
        linted.status.success() && told.0.is_empty() && told.1.is_empty(),
        "{told:?}"
    );
    for (check, file) in [
        (["check", "rules"], "prometheus/port-monitor.rules.yml"),
        (["test", "rules"], "prometheus/port-monitor.rules.test.yml"),
        (["check", "config"], "prometheus/prometheus.yml"),
    ] {
        let output = program("promtool")
            .args(check)
            .arg(packaged(file))
            .output()
            .unwrap();
        assert!(output.status.success(), "{file}: {output:?}");
    }
}

#[test]
fn a_reload_brings_the_endpoint_moves_it_and_takes_it_away() {
    let mut service = Service::start("");
    let (one, other) = (free_address(), free_address());
    assert_eq!(get(one, "/metrics", ""), None);
    let told = service.reload(&listen(one));
    assert!(told.contains("; consumers: metrics\n"), "{told}");
    service.shell.attempt(5);
    wait_for("both events of each attempt", || {
        (scrape(one).sum("port_monitor_events_total") == 10.0).then_some(())
    });
    // An address in use changes nothing.
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    service.reload(&listen(taken.local_addr().unwrap()));
    assert_eq!(scrape(one).sum("port_monitor_events_total"), 10.0);
    service.reload(&listen(other));
    wait_for("the first address is closed", || {
        get(one, "/metrics", "").is_none().then_some(())
    });
    assert_eq!(scrape(other).sum("port_monitor_events_total"), 0.0);
    service.reload("");
    wait_for("the other address is closed", || {
        get(other, "/metrics", "").is_none().then_some(())
    });
    service.reload(&listen(one));
    assert_eq!(scrape(one).sum("port_monitor_events_total"), 0.0);
    let Ended { code, stderr, .. } = service.end();
    assert_eq!(code, Some(0), "{stderr}");
    let refused = "not reloaded: ";
    assert_eq!(stderr.matches(refused).count(), 1, "{stderr}");
    assert!(
        stderr.contains(": Address already in use (os error 98)\n"),
        "{stderr}"
    );
}

#[test]
fn scrapers_that_hang_harm_nothing() {
    let address = free_address();
    let mut service = Service::start(&format!("{}{}", listen(address), record("r")));
    let mut hanging: Vec<TcpStream> = (0..40)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    for stream in &mut hanging {
        stream.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    }
    service.shell.attempt(500);
    let Ended {
        code,
        stderr,
        dir,
        took,
    } = service.end();
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(events(dir.path(), "r"), 1_000);
    assert!(
        stderr.contains("# metrics: delivered 1000 = taken 1000 + hidden 0 + dropped 0\n"),
        "{stderr}"
    );
    // They would have had some seconds more.
    assert!(took.as_secs() < 4, "{took:?}");
    drop(hanging);
}

#[test]
fn the_file_has_at_the_end_what_the_account_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.prom");
    let script = "for ((i = 0; i < 20; i++)); do : >/dev/tcp/127.0.0.1/1; done 2>/dev/null";
    let output = port_monitor(["-o", "json", "--events", "failed", "--metrics-file"])
        .arg(&path)
        .args(["--", "bash", "-c", script])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let account = &summary["port_monitor"];
    let all = Exposition::text(&fs::read_to_string(&path).unwrap());
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{summary}"));
    assert_eq!(
        all.sum("port_monitor_events_seen_total"),
        number(&account["seen"])
    );
    assert_eq!(
        all.sum("port_monitor_events_lost_total"),
        number(&account["lost"])
    );
    for (name, consumer) in account["consumers"].as_object().unwrap() {
        for part in ["delivered", "taken", "hidden"] {
            let series = format!("port_monitor_consumer_events_{part}_total");
            assert_eq!(
                all.value(&series, &[("consumer", name.as_str())]),
                number(&consumer[part]),
                "{part}"
            );
        }
    }
    // The table shows failures alone; the metrics are of both events of each attempt.
    assert_eq!(all.sum("port_monitor_events_total"), 40.0);
    assert_eq!(
        all.value("port_monitor_failures_total", &[("errno", "ECONNREFUSED")]),
        20.0
    );
}

#[test]
fn an_address_or_a_file_that_cannot_be_had_is_one_line_and_exit_status_6() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = taken
        .local_addr()
        .map(|address| (taken, address.to_string()))
        .unwrap();
    for (flag, value, told) in [
        (
            "--metrics",
            &*taken.1,
            "Address already in use (os error 98)",
        ),
        (
            "--metrics-file",
            "/none/a.prom",
            "No such file or directory (os error 2)",
        ),
    ] {
        let output = port_monitor([flag, value, "--", "true"]).output().unwrap();
        assert_eq!(output.status.code(), Some(6), "{output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(
            stderr.starts_with(&format!("port-monitor: {flag}: ")),
            "{stderr}"
        );
        assert!(stderr.contains(value) && stderr.contains(told), "{stderr}");
    }
}
