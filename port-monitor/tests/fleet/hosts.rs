//! Many hosts that send a few rows each, and what that costs: `cargo xtask test-fleet --hosts`.

use std::{
    env,
    io::{self, Write as _},
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use crate::{
    cluster::{self, Shard},
    http::exchange,
    program::wait_for,
    today::exported,
};

/// Rows that each host has.
const ROWS: u64 = 20;
/// Hosts that send at the same time.
const CLIENTS: usize = 16;

/// What it took to have a batch of every host.
#[derive(Default)]
struct Round {
    took: Duration,
    /// Of each batch that was taken, sorted.
    latencies: Vec<Duration>,
    /// Those that were answered with anything else, and sent again.
    refused: u64,
}

/// The batches of one round.
struct Load<'a> {
    path: &'a str,
    /// A row as a service sends it.
    row: Value,
    hosts: u64,
    /// Rows of each of them.
    rows: u64,
    round: u64,
    receivers: Vec<SocketAddr>,
}

impl Load<'_> {
    /// The batch of a host, as it goes over the wire.
    fn request(&self, host: u64) -> Vec<u8> {
        let mut body = GzEncoder::new(Vec::new(), Compression::fast());
        let mut row = self.row.clone();
        for number in self.round * self.rows..(self.round + 1) * self.rows {
            row["host"] = format!("host-{host}").into();
            row["boot_id"] = format!("00000000-0000-4000-8000-{host:012}").into();
            row["connection_id"] = number.into();
            row["time_ns"] = json!(self.row["time_ns"].as_u64().unwrap() + number);
            writeln!(body, "{row}").unwrap();
        }
        let body = body.finish().unwrap();
        let mut request = format!(
            "POST {} HTTP/1.0\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            self.path,
            body.len()
        )
        .into_bytes();
        request.extend(body);
        request
    }

    /// Has every host send its batch, until it is taken.
    fn run(&self) -> Round {
        let next = AtomicU64::new(0);
        let round = Mutex::new(Round::default());
        let begun = Instant::now();
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    loop {
                        let host = next.fetch_add(1, Ordering::Relaxed);
                        if host >= self.hosts {
                            break;
                        }
                        let (latency, refused) = self.send(host);
                        let mut round = round.lock().unwrap();
                        round.latencies.push(latency);
                        round.refused += refused;
                    }
                });
            }
        });
        let mut round = round.into_inner().unwrap();
        round.took = begun.elapsed();
        round.latencies.sort_unstable();
        round
    }

    /// How long the last try took, and how many there were before.
    fn send(&self, host: u64) -> (Duration, u64) {
        let request = self.request(host);
        let receivers = self.receivers.len() as u64;
        let receiver = self.receivers[usize::try_from(host % receivers).unwrap()];
        let mut refused = 0;
        let latency = wait_for("a batch is taken", || {
            let begun = Instant::now();
            let answer = exchange(receiver, &request);
            let is_taken = answer.is_some_and(|(status, ..)| status == 200);
            refused += u64::from(!is_taken);
            is_taken.then(|| begun.elapsed())
        });
        (latency, refused)
    }
}

impl Round {
    fn tell(&self, table: &str, rows: u64) {
        let percentile = |percent: usize| {
            let last = self.latencies.len() - 1;
            self.latencies[last * percent / 100].as_millis()
        };
        let (batches, ms) = (self.latencies.len() as u128, self.took.as_millis().max(1));
        let line = format!(
            "{table}: {batches} batches of {rows} rows in {:.1} s: {} batches/s, {} rows/s; \
             answered after {} ms (median), {} ms (99 %); {} sent again\n",
            self.took.as_secs_f32(),
            batches * 1_000 / ms,
            batches * u128::from(rows) * 1_000 / ms,
            percentile(50),
            percentile(99),
            self.refused
        );
        io::stdout().write_all(line.as_bytes()).unwrap();
    }
}

fn count(shard: &Shard) -> u64 {
    let rows = shard.ask("SELECT count() FROM fleet.connections_all FINAL");
    rows.parse().unwrap()
}

#[test]
fn every_row_of_many_hosts_is_there_once() {
    let hosts = env::var("PORT_MONITOR_HOSTS").map_or(100, |hosts| hosts.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let shards = cluster::start(dir.path());
    let row: Value = serde_json::from_str(&exported(1)[0]).unwrap();
    let sync = "&insert_distributed_sync=1";
    // As many rows, from a fiftieth of the hosts, come in batches that are larger.
    let rounds = [
        ("connections_all", sync, 1),
        ("connections_all", sync, 50),
        ("connections_buffer", "", 1),
    ];
    let mut expected = 0;
    for (round, (table, query, times)) in (0..).zip(rounds) {
        let load = Load {
            path: &format!("/?query=INSERT%20INTO%20fleet.{table}%20FORMAT%20JSONEachRow{query}"),
            row: row.clone(),
            hosts: hosts / times,
            rows: ROWS * times,
            round,
            receivers: shards.iter().map(|shard| shard.http).collect(),
        };
        load.run().tell(table, load.rows);
        expected += load.hosts * load.rows;
        wait_for("all rows are there", || {
            (count(&shards[0]) >= expected).then_some(())
        });
        assert_eq!(count(&shards[0]), expected);
    }
}
