//! Exports by what a receiver gets: a real HTTP server that answers, or does not.

mod nats;
mod otlp;
mod server;

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
};

use serde_json::Value;
use tempfile::TempDir;

use self::server::{
    Answer::{Closes, Nothing, Says},
    Got, ok, says, serve,
};
use crate::consume::export::{settings::Kind, settings::Limits, *};
use crate::consume::{
    consumer::{Consumer as _, Kinds},
    history::{History, Keep},
    lines::sample::{NOON_NS, closed, header},
};
use crate::events::record::Item;

/// A history with an export of its own.
struct Place {
    dir: TempDir,
    history: History,
    board: Arc<Board>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep {
            age: Duration::MAX,
            bytes: 1 << 30,
        };
        let path = dir.path().join("history.db");
        let mut history = History::open(&path, Kinds::ALL, keep).unwrap();
        history.take(Item::Header(&header()));
        let board = Arc::default();
        Self {
            dir,
            history,
            board,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("history.db")
    }

    fn sender(&self, settings: &Settings) -> Sender {
        let outbox = Outbox::open(&self.path(), "one").unwrap();
        Sender::new(outbox, "one", settings.clone(), Arc::clone(&self.board))
    }

    /// Connections of these ids have ended.
    fn record(&mut self, ids: std::ops::Range<u64>) {
        for id in ids {
            let mut record = closed();
            record.event.id = id;
            record.wall_ns = NOON_NS + i128::from(id) * 1_000;
            self.history.take(Item::Event(&record));
        }
        self.history.settle();
    }

    fn standing(&self) -> Standing {
        self.board.standings()["one"]
    }
}

fn settings(address: SocketAddr) -> Settings {
    Settings {
        kind: Kind::Clickhouse,
        url: format!("http://{address}/?a=1").parse().unwrap(),
        table: None,
        subject: None,
        user: None,
        password_file: None,
        token_file: None,
        headers_file: None,
        tls: tls::Files::default(),
        batch: 10_000,
        every: Duration::from_hours(1),
        limits: Limits {
            connect: Duration::from_secs(10),
            answer: Duration::from_millis(300),
        },
    }
}

fn block_on<T>(run: impl Future<Output = T>) -> T {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run)
}

/// The connections of a request.
fn ids(got: &Got) -> Vec<u64> {
    let lines = str::from_utf8(&got.body).unwrap().lines();
    let rows = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ids = rows.map(|row| row["connection_id"].as_u64().unwrap());
    ids.collect()
}

/// Whatever a receiver does but answer well, the rows wait, and come once it does.
#[test]
fn rows_wait_until_the_receiver_has_answered_well() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    let exception = "X-ClickHouse-Exception-Code: 242\r\n";
    for (bad, told) in [
        (
            says("500 Internal Server Error", "", "Code: 1, \x1b[1m\nat line"),
            "answers 500 Internal Server Error: Code: 1, \\x1b[1m",
        ),
        (
            says("404 Not Found", "", "no table\n"),
            "answers 404 Not Found: no table",
        ),
        (
            says("200 OK", exception, "read only"),
            "answers 200 OK: read only",
        ),
        (Says(half.to_owned()), "end of file"),
        (Nothing, "did not answer within 0.3 s"),
        (Closes, "connection"),
    ] {
        let (address, got) = serve([bad.clone(), ok()]);
        let mut place = Place::new();
        let mut sender = place.sender(&settings(address));
        place.record(0..5);
        let fault = block_on(sender.send()).unwrap_err().to_string();
        assert!(fault.contains(told), "{bad:?}: {fault}");
        assert!(fault.contains(&address.to_string()), "{fault}");
        assert_eq!(sender.outbox.progress().sent, 0);
        // The second round reaches the server that has come back.
        let pause = block_on(sender.round());
        assert_eq!(pause, Duration::from_hours(1));
        let got = got.try_iter().last().unwrap();
        assert_eq!(ids(&got), [0, 1, 2, 3, 4]);
        let first =
            "POST /?query=INSERT%20INTO%20fleet.connections%20FORMAT%20JSONEachRow&a=1 HTTP/1.1";
        assert!(got.has(first), "{got:?}");
        let Standing {
            progress,
            is_failing,
        } = place.standing();
        assert!(!is_failing);
        assert_eq!((progress.sent, progress.waiting()), (5, 0));
    }
}

#[test]
fn a_failure_is_waited_out_longer_and_longer() {
    let mut place = Place::new();
    // Nobody listens there any more.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut settings = settings(address);
    settings.every = Duration::from_secs(1);
    let mut sender = place.sender(&settings);
    place.record(0..1);
    let pauses: Vec<_> = (0..12).map(|_| block_on(sender.round())).collect();
    for (pause, longest) in pauses
        .iter()
        .zip([1, 2, 4, 8, 16, 32, 64, 120, 120, 120, 120, 120])
    {
        let longest = Duration::from_secs(longest);
        assert!(*pause >= longest / 2 && *pause <= longest, "{pauses:?}");
    }
    assert!(place.standing().is_failing);
    assert_eq!(place.standing().progress.waiting(), 1);
    // What is forgotten meanwhile makes no receiver answer.
    let db = rusqlite::Connection::open(place.path()).unwrap();
    db.execute("DELETE FROM connection_rows", []).unwrap();
    block_on(sender.round());
    let standing = place.standing();
    assert_eq!(
        (standing.progress.expired, standing.progress.waiting()),
        (1, 0)
    );
    assert!(standing.is_failing);
}

#[test]
fn more_than_a_batch_is_sent_in_batches() {
    let (address, got) = serve(vec![ok(); 4]);
    let mut place = Place::new();
    let settings = Settings {
        batch: 4,
        ..settings(address)
    };
    let mut sender = place.sender(&settings);
    place.record(0..10);
    block_on(sender.round());
    let batches: Vec<_> = got.try_iter().map(|got| ids(&got)).collect();
    assert_eq!(batches, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
    assert_eq!(place.standing().progress.sent, 10);
}

#[test]
fn a_password_is_read_anew_for_each_batch_and_never_told() {
    let (address, got) = serve([ok(), ok()]);
    let mut place = Place::new();
    let file = place.dir.path().join("password");
    let settings = Settings {
        user: Some("fleet".to_owned()),
        password_file: Some(file.clone()),
        ..settings(address)
    };
    let mut sender = place.sender(&settings);
    place.record(0..1);
    let fault = block_on(sender.send()).unwrap_err().to_string();
    assert!(fault.contains("password: No such file"), "{fault}");
    for (number, password) in (1..).zip(["first\n", "second"]) {
        fs::write(&file, password).unwrap();
        place.record(number..number + 1);
        block_on(sender.round());
        let got = got.try_recv().unwrap();
        assert!(got.has("x-clickhouse-user: fleet"), "{got:?}");
        let key = format!("x-clickhouse-key: {}", password.trim());
        assert!(got.has(&key), "{got:?}");
    }
    fs::write(&file, "two\nlines").unwrap();
    place.record(8..9);
    let fault = block_on(sender.send()).unwrap_err().to_string();
    assert!(!fault.contains("two"), "{fault}");
}

/// What has come is sent when the service ends, too.
#[test]
fn an_export_sends_what_is_left_when_it_ends_and_tells_its_account() {
    let (address, got) = serve([ok()]);
    let mut place = Place::new();
    let settings = settings(address);
    let export = Export::start(&place.path(), "one", &settings, &place.board).unwrap();
    place.record(0..3);
    let told = export.finish();
    assert_eq!(
        told,
        "export one: recorded 3 = sent 3 + waiting 0 + expired 0"
    );
    assert_eq!(ids(&got.try_recv().unwrap()), [0, 1, 2]);
    assert_eq!(place.board.standings(), BTreeMap::new());
}

/// A receiver that never answers keeps the end waiting for its time at most.
#[test]
fn a_receiver_that_hangs_does_not_hold_up_the_end() {
    let (address, got) = serve([Nothing]);
    let mut place = Place::new();
    let mut settings = settings(address);
    settings.limits.answer = Duration::from_hours(1);
    let export = Export::start(&place.path(), "one", &settings, &place.board).unwrap();
    place.record(0..3);
    let begun = Instant::now();
    let told = export.finish();
    assert_eq!(
        told,
        "export one: recorded 3 = sent 0 + waiting 3 + expired 0"
    );
    assert!(begun.elapsed() < Duration::from_mins(10));
    assert_eq!(got.try_iter().count(), 1);
}
