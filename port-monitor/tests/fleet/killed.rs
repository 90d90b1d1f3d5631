//! Shards are killed in the middle of inserts; in the end each connection is there once.

use std::{collections::BTreeSet, fs, net::SocketAddr, path::Path};

use rusqlite::{Connection, OpenFlags};

use crate::{
    cluster::{self, Shard},
    http::free_address,
    program::wait_for,
    series::{await_more, until},
    service::{Ended, Service},
};

/// How often both of the shards are killed, one after the other.
const ROUNDS: u64 = 3;
/// Connections that are made in each while a shard is killed.
const BURST: u64 = 3_000;

/// A cluster, and a service that sends to it.
struct Setup {
    shards: Vec<Shard>,
    /// The one that has the rows of this host.
    own: usize,
    /// Another one, which is asked, and hands them on.
    asked: usize,
    metrics: SocketAddr,
    service: Service,
    /// Removed when nobody writes there any more.
    _dir: tempfile::TempDir,
}

/// What `query` is behind the address of the receiver.
fn set_up(query: &str) -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let shards = cluster::start(dir.path());
    let own = shards[0].ask(&format!("SELECT sipHash64('{}') % 3", host()));
    let own: usize = own.parse().unwrap();
    let asked = (own + 1) % 3;
    let metrics = free_address();
    let service = Service::start(&format!(
        "[history]\nfile = \"DIR/history.db\"\n[metrics]\nlisten = \"{metrics}\"\n\
         [export.central]\ntype = \"clickhouse\"\nurl = \"http://{}/{query}\"\n\
         table = \"fleet.connections_all\"\nbatch = 100\nevery = \"1s\"\n",
        shards[asked].http
    ));
    Setup {
        _dir: dir,
        shards,
        own,
        asked,
        metrics,
        service,
    }
}

fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    name.trim().to_owned()
}

impl Setup {
    #[track_caller]
    fn until(&self, series: &str, is_reached: impl Fn(u64) -> bool) -> u64 {
        until(self.metrics, series, is_reached)
    }

    /// A burst of connections, in the middle of which the shard of this host is killed.
    fn kill_in_a_burst(&mut self) {
        let burst = format!("for ((i = 0; i < {BURST}; i++)); do connect; done; echo done");
        self.service.shell.say(&burst);
        await_more(self.metrics);
        self.shards[self.own].kill();
        assert_eq!(self.service.shell.hear(), "done");
    }
}

/// The key of each of the `attempts`, as the history has them, once it told that all are sent.
pub(crate) fn all_are_sent(ended: &Ended, attempts: u64) -> BTreeSet<String> {
    let Ended {
        code, stderr, dir, ..
    } = ended;
    assert_eq!(*code, Some(0), "{stderr}");
    let account = format!(
        "port-monitor: export central: recorded {attempts} = sent {attempts} + waiting 0 + expired 0"
    );
    assert!(stderr.lines().any(|line| line == account), "{stderr}");
    let keys = recorded(&dir.path().join("history.db"));
    assert_eq!(keys.len() as u64, attempts);
    keys
}

fn recorded(path: &Path) -> BTreeSet<String> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut statement = db
        .prepare(
            "SELECT c.id, c.number, r.boot_id FROM connection_rows c
            JOIN owners o ON o.id = c.owner JOIN runs r ON r.id = o.run WHERE c.state >= 2",
        )
        .unwrap();
    let rows = statement.query_map([], |row| {
        let (time_ns, number, boot): (i64, i64, String) = row.try_into()?;
        Ok(format!("{time_ns}\t{}\t{boot}", number.cast_unsigned()))
    });
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

/// The keys that the cluster tells, each as often as it does.
fn stored(shard: &Shard) -> Vec<String> {
    let select = "SELECT time_ns, connection_id, boot_id FROM fleet.connections_all FINAL";
    shard.ask(select).lines().map(str::to_owned).collect()
}

#[test]
fn each_connection_is_there_once_though_shards_are_killed() {
    let mut it = set_up("?insert_distributed_sync=1");
    for _ in 0..ROUNDS {
        it.kill_in_a_burst();
        it.service.shell.attempt(10);
        it.until("failing", |failing| failing == 1);
        it.shards[it.own].start();
        // What has waited comes batch after batch: one is taken in part, or its answer is lost.
        await_more(it.metrics);
        it.shards[it.asked].kill();
        it.service.shell.attempt(10);
        it.until("failing", |failing| failing == 1);
        it.shards[it.asked].start();
        it.until("failing", |failing| failing == 0);
    }
    let attempts = ROUNDS * (BURST + 20);
    it.until("rows_sent_total", |rows| rows == attempts);
    let ended = it.service.end();
    let rows = all_are_sent(&ended, attempts);
    let count = |told| ended.stderr.matches(told).count() as u64;
    let failed = count("; it is tried again");
    assert!(failed >= 2 * ROUNDS, "{}", ended.stderr);
    assert_eq!(failed, count("central: rows are sent again"));
    let stored = stored(&it.shards[it.asked]);
    assert_eq!(stored.len(), rows.len(), "rows are there twice");
    assert!(stored.into_iter().collect::<BTreeSet<_>>() == rows);
    let select = "SELECT DISTINCT host, process, direction, remote, port, service, state, errno, \
                  toUnixTimestamp(time) = intDiv(time_ns, 1000000000) FROM fleet.connections_all FINAL";
    let row = format!(
        "{}\tbash\tout\t127.0.0.1\t1\ttcpmux\tfailed\t111\t1",
        host()
    );
    assert_eq!(it.shards[it.asked].ask(select), row);
}

/// Without the setting, the server that was asked keeps what is for a shard that is away. It is
/// away before anything comes: what is on its way to it is put aside, and never comes.
#[test]
fn rows_for_a_shard_that_is_away_wait_at_the_one_that_was_asked() {
    let mut it = set_up("");
    it.shards[it.own].kill();
    it.service.shell.attempt(BURST);
    // It answers well, though none of these is where it belongs.
    it.until("rows_sent_total", |rows| rows == BURST);
    it.shards[it.asked].kill();
    it.shards[it.asked].start();
    it.service.shell.attempt(10);
    it.until("rows_sent_total", |rows| rows == BURST + 10);
    it.shards[it.own].start();
    let rows = all_are_sent(&it.service.end(), BURST + 10);
    let stored = wait_for("the shard has all rows", || {
        let stored = stored(&it.shards[it.own]);
        (stored.len() >= rows.len()).then_some(stored)
    });
    assert_eq!(stored.len(), rows.len(), "rows are there twice");
    assert!(stored.into_iter().collect::<BTreeSet<_>>() == rows);
}
