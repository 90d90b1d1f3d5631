//! Exports of a service, to a receiver that is made by the test.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

use flate2::read::GzDecoder;
use serde_json::Value;

use crate::{prometheus::free_address, serve::Service};

/// A receiver that takes everything. It gives the number of every connection, until nobody
/// listens to it any more.
fn receiver() -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind(free_address()).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, received) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            for row in rows(&mut reader) {
                assert_eq!((&row["state"], &row["port"]), (&"failed".into(), &1.into()));
                if sender.send(row["connection_id"].to_string()).is_err() {
                    return;
                }
            }
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            reader.into_inner().write_all(answer).unwrap();
        }
    });
    (address, received)
}

/// The rows of a batch that is sent.
pub(crate) fn rows(reader: &mut BufReader<TcpStream>) -> Vec<Value> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(said) = line.strip_prefix("content-length: ") {
            length = said.trim_end().parse().unwrap();
        }
        if line.trim_end().is_empty() {
            break;
        }
    }
    let rows = BufReader::new(GzDecoder::new(reader.take(length)));
    let rows = rows.lines().map(|row| serde_json::from_str(&row.unwrap()));
    rows.map(Result::unwrap).collect()
}

/// It sends at its end, and when its section changes; it begins where that left off.
#[test]
fn an_export_goes_on_after_a_reload_and_tells_its_account() {
    let (address, received) = receiver();
    let sections = |every: &str| {
        format!(
            "[history]\nfile = \"DIR/history.db\"\n[export.central]\ntype = \"clickhouse\"\n\
             url = \"http://{address}\"\nevery = \"{every}\"\n"
        )
    };
    let mut service = Service::start(&sections("1h"));
    service.shell.attempt(20);
    let told = service.reload(&sections("2h"));
    assert!(
        told.contains("consumers: history; exports: central"),
        "{told}"
    );
    service.shell.attempt(20);
    let ended = service.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let mut ids: Vec<String> = received.try_iter().collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 40);
    let accounts = ended
        .stderr
        .lines()
        .filter(|line| line.contains("export central: recorded"));
    let accounts: Vec<&str> = accounts.collect();
    assert_eq!(accounts.len(), 2, "{}", ended.stderr);
    let account = "port-monitor: export central: recorded 40 = sent 40 + waiting 0 + expired 0";
    assert_eq!(accounts[1], account);
}
