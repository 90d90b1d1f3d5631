//! Exports by what a receiver gets: a real HTTP server that answers, or does not.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::mpsc::{Receiver, channel},
};

use flate2::read::GzDecoder;
use serde_json::Value;
use tempfile::TempDir;

use crate::consume::export::{settings::Kind, settings::Limits, *};
use crate::consume::{
    consumer::{Consumer as _, Kinds},
    history::{History, Keep},
    lines::sample::{NOON_NS, closed, header},
};
use crate::events::record::Item;

/// What a server does with a connection.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// It answers this.
    Says(&'static str),
    /// It reads the request, and is silent.
    Nothing,
    /// It reads nothing, and goes away.
    Closes,
}

use Answer::{Closes, Nothing, Says};

const OK: Answer = Says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
const HALF: Answer = Says("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
const ERROR: Answer = Says(
    "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 21\r\n\r\nCode: 1, \x1b[1m\nat line",
);
const NO_TABLE: Answer = Says("HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nno table\n");
const LATE_ERROR: Answer = Says(
    "HTTP/1.1 200 OK\r\nX-ClickHouse-Exception-Code: 242\r\nContent-Length: 9\r\n\r\nread only",
);

/// A request: its head, and the rows.
type Got = (String, Vec<Value>);

/// A server that treats one connection after the other as it is told. The requests that it
/// read come out of the channel.
fn serve(answers: Vec<Answer>) -> (SocketAddr, Receiver<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (requests, got) = channel();
    thread::spawn(move || {
        let mut silent = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            if let Closes = answer {
                continue;
            }
            // Whoever asks may have had enough of the test.
            let _ = requests.send(read(&mut stream));
            match answer {
                Says(text) => stream.write_all(text.as_bytes()).unwrap(),
                _ => silent.push(stream),
            }
        }
        // Those that are silent are so until nobody waits for more.
        let _ = listener.accept();
    });
    (address, got)
}

fn read(stream: &mut TcpStream) -> Got {
    let mut bytes = Vec::new();
    let end = loop {
        let mut some = [0; 4096];
        let count = stream.read(&mut some).unwrap();
        assert!(count > 0, "no whole request");
        bytes.extend(&some[..count]);
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap();
    let mut body = bytes.split_off(end + 4);
    let have = body.len();
    body.resize(length.parse().unwrap(), 0);
    stream.read_exact(&mut body[have..]).unwrap();
    let mut text = String::new();
    GzDecoder::new(&*body).read_to_string(&mut text).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str(line).unwrap());
    (head, rows.collect())
}

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
        table: "fleet.connections".to_owned(),
        user: None,
        password_file: None,
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

fn ids(rows: &[Value]) -> Vec<u64> {
    let ids = rows
        .iter()
        .map(|row| row["connection_id"].as_u64().unwrap());
    ids.collect()
}

/// Whatever a receiver does but answer well, the rows wait, and come once it does.
#[test]
fn rows_wait_until_the_receiver_has_answered_well() {
    for (bad, told) in [
        (
            ERROR,
            "answers 500 Internal Server Error: Code: 1, \\x1b[1m",
        ),
        (NO_TABLE, "answers 404 Not Found: no table"),
        (LATE_ERROR, "answers 200 OK: read only"),
        (HALF, "end of file"),
        (Nothing, "did not answer within 0.3 s"),
        (Closes, "connection"),
    ] {
        let (address, got) = serve(vec![bad, OK]);
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
        let (head, rows) = got.try_iter().last().unwrap();
        assert_eq!(ids(&rows), [0, 1, 2, 3, 4]);
        assert!(
            head.starts_with(
                "POST /?query=INSERT%20INTO%20fleet.connections%20FORMAT%20JSONEachRow&a=1 HTTP/1.1"
            ),
            "{head}"
        );
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
    let (address, got) = serve(vec![OK; 4]);
    let mut place = Place::new();
    let settings = Settings {
        batch: 4,
        ..settings(address)
    };
    let mut sender = place.sender(&settings);
    place.record(0..10);
    block_on(sender.round());
    let batches: Vec<_> = got.try_iter().map(|(_, rows)| ids(&rows)).collect();
    assert_eq!(batches, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
    assert_eq!(place.standing().progress.sent, 10);
}

#[test]
fn a_password_is_read_anew_for_each_batch_and_never_told() {
    let (address, got) = serve(vec![OK, OK]);
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
        let (head, _) = got.try_recv().unwrap();
        let has = |line: &str| head.lines().any(|it| it == line);
        assert!(has("x-clickhouse-user: fleet"), "{head}");
        let key = format!("x-clickhouse-key: {}", password.trim());
        assert!(has(&key), "{head}");
    }
    fs::write(&file, "two\nlines").unwrap();
    place.record(8..9);
    let fault = block_on(sender.send()).unwrap_err().to_string();
    assert!(!fault.contains("two"), "{fault}");
}

/// What has come is sent when the service ends, too.
#[test]
fn an_export_sends_what_is_left_when_it_ends_and_tells_its_account() {
    let (address, got) = serve(vec![OK]);
    let mut place = Place::new();
    let settings = settings(address);
    let export = Export::start(&place.path(), "one", &settings, &place.board).unwrap();
    place.record(0..3);
    let told = export.finish();
    assert_eq!(
        told,
        "export one: recorded 3 = sent 3 + waiting 0 + expired 0"
    );
    assert_eq!(ids(&got.try_recv().unwrap().1), [0, 1, 2]);
    assert_eq!(place.board.standings(), BTreeMap::new());
}

/// A receiver that never answers keeps the end waiting for its time at most.
#[test]
fn a_receiver_that_hangs_does_not_hold_up_the_end() {
    let (address, got) = serve(vec![Nothing]);
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
