//! The engine of today, by chDB: it takes the same tables, rows and questions.

use std::{env, fs, process::Command};

use crate::{
    cluster::{schema, statements},
    receiver::receiver,
    service::Service,
};

/// What the engine is told to do: the tables, the rows, and then what it is asked.
const SCRIPT: &str = r"
from chdb import session
session = session.Session('data')
def ask(sql): return session.query(sql, 'TabSeparated')
for sql in open('tables').read().split('\0'): ask(sql)
ask('INSERT INTO fleet.connections FORMAT JSONEachRow ' + open('rows').read())
print('\0'.join(str(ask(sql)) for sql in open('questions').read().split('\0')), end='')
";

/// What it answers to questions about these rows.
pub(crate) fn answers(rows: &[String], questions: &[String]) -> Vec<String> {
    let modules =
        env::var_os("PORT_MONITOR_CHDB").expect("no chDB: `cargo xtask test-fleet` fetches it");
    let dir = tempfile::tempdir().unwrap();
    let tables = schema(&[]);
    let tables: Vec<&str> = statements(&tables).collect();
    for (name, text) in [
        ("tables", tables.join("\0")),
        ("rows", rows.join("\n")),
        ("questions", questions.join("\0")),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let output = Command::new("python3")
        .args(["-c", SCRIPT])
        .env("PYTHONPATH", modules)
        .env("TZ", "Asia/Tokyo")
        .current_dir(dir.path())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let told = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<String> = told
        .split('\0')
        .map(|text| text.trim_end().to_owned())
        .collect();
    assert_eq!(answers.len(), questions.len(), "{told}{errors}");
    answers
}

/// The rows that a service sends of so many connections.
pub(crate) fn exported(connections: u64) -> Vec<String> {
    let (address, received) = receiver();
    let mut service = Service::start(&format!(
        "[history]\nfile = \"DIR/history.db\"\n[export.central]\ntype = \"clickhouse\"\n\
         url = \"http://{address}\"\n"
    ));
    service.shell.attempt(connections);
    let ended = service.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let rows: Vec<String> = received.try_iter().collect();
    assert_eq!(rows.len() as u64, connections);
    rows
}

#[test]
fn rows_that_were_sent_are_there_once_by_the_engine_of_today() {
    let mut rows = exported(200);
    rows.extend_from_within(..50);
    let questions = [
        "SELECT count(), uniqExact(connection_id) FROM fleet.connections FINAL",
        "SELECT DISTINCT process, remote, port, state, errno, \
         toUnixTimestamp(time) = intDiv(time_ns, 1000000000) FROM fleet.connections FINAL",
    ];
    let answers = answers(&rows, &questions.map(str::to_owned));
    assert_eq!(answers, ["200\t200", "bash\t127.0.0.1\t1\tfailed\t111\t1"]);
}
