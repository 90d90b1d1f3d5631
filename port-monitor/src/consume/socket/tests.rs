//! Whoever may ask is told how the run stands, and the file is there as long as somebody
//! answers.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    thread,
    time::{Duration, Instant},
};

use super::{ask::connect, *};
use crate::{
    consume::{
        FanOut, Shown,
        endpoint::CONNECTIONS,
        lines::{
            json::Json,
            sample::{closed, header},
        },
        output::writer::Output,
    },
    events::record::Header,
};

const PATIENCE: Duration = Duration::from_mins(1);

/// What is answered to these bytes.
fn answer(path: &Path, request: &[u8]) -> String {
    let mut stream = connect(path).unwrap();
    // A request that is too long is not read to its end.
    let _ = stream.write_all(request);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_run_tells_how_it_stands_whoever_joined_it_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let written = Output::start("nowhere".to_owned(), io::sink()).unwrap();
    let mut all = FanOut::new(Shown::new(Box::new(Json::new()), written));
    let header = Header {
        wall_ns: 1_000_000_000,
        ..header()
    };
    all.begin(&header);
    let stats = Stats {
        seen: 7,
        filtered: 2,
        ring_full: 3,
        owner_late: 1,
        ..Stats::default()
    };
    all.take(&closed());
    all.tick(&stats);
    let mut change = crate::consume::fan_out::Change::default();
    change
        .join(Box::new(Socket::open(&path, None, Arc::default()).unwrap()))
        .unwrap();
    all.change(change, 5_000_000_000, 5);
    let deadline = Instant::now() + PATIENCE;
    let report = loop {
        all.tick(&stats);
        let report = ask(&path).unwrap();
        if report.consumers.len() == 2 {
            break report;
        }
        assert!(Instant::now() < deadline, "{report:?}");
        thread::yield_now();
    };
    assert_eq!(report.began, jiff::Timestamp::from_second(1).unwrap());
    assert_eq!((report.events.seen, report.events.filtered), (7, 2));
    assert_eq!(report.events.lost.total(), 4);
    assert_eq!(report.pid, std::process::id());
    assert_eq!(report.backend, header.backend);
    assert_eq!(report.policy.unwrap().file, header.policy.unwrap());
    let [shown, socket] = &report.consumers[..] else {
        panic!("{:?}", report.consumers);
    };
    assert_eq!(
        (&*shown.name, shown.delivered, shown.room),
        ("output", 1, None)
    );
    assert_eq!((&*socket.name, socket.delivered), ("socket", 0));
    assert!(socket.room.is_some());
}

#[test]
fn the_file_is_for_its_owner_and_its_group_and_goes_with_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let socket = Socket::open(&path, None, Arc::default()).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let error = Socket::open(&path, None, Arc::default()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "somebody answers there: name another file"
    );
    drop(socket);
    assert!(!path.exists());
    assert!(matches!(ask(&path), Err(AskError::Nobody)));
}

#[test]
fn a_socket_that_was_left_behind_is_replaced_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let (place, listener) = Place::take(&path).unwrap();
    // As after SIGKILL.
    drop(listener);
    std::mem::forget(place);
    assert!(matches!(ask(&path), Err(AskError::Nobody)));
    let socket = Socket::open(&path, None, Arc::default()).unwrap();
    ask(&path).unwrap();
    // Somebody else's is not removed.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "mine").unwrap();
    drop(socket);
    let error = Socket::open(&path, None, Arc::default()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "there is something else: name another file"
    );
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    assert_eq!(fs::metadata(&path).unwrap().size(), 4);
}

#[test]
fn what_is_no_request_is_told_so_and_nobody_waits_for_who_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let _socket = Socket::open(&path, None, Arc::default()).unwrap();
    let refusal = "{\"error\":\"not a request: `status` and `events` are\"}\n";
    assert_eq!(answer(&path, b"stop\n"), refusal);
    assert_eq!(answer(&path, &[b'x'; 1 << 10]), refusal);
    // What is no text is not answered, and neither is what is too long to be read.
    assert_eq!(answer(&path, b"\xff\n"), "");
    let silent: Vec<_> = (1..CONNECTIONS).map(|_| connect(&path).unwrap()).collect();
    ask(&path).unwrap();
    drop(silent);
}

#[test]
fn whoever_answers_something_else_is_no_port_monitor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let (_place, listener) = Place::take(&path).unwrap();
    listener.set_nonblocking(false).unwrap();
    for (says, told) in [
        ("{\"error\":\"no\"}\n", "it refuses: no"),
        (
            "",
            "not the answer of a port-monitor: EOF while parsing a value at line 1 column 0",
        ),
    ] {
        let listener = listener.try_clone().unwrap();
        let other = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(says.as_bytes()).unwrap();
            let _ = stream.read(&mut [0; 16]);
        });
        assert_eq!(ask(&path).unwrap_err().to_string(), told);
        other.join().unwrap();
    }
}
