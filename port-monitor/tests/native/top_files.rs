//! `port-monitor top` and files, on a real terminal: recordings that it plays and makes, and
//! what it writes of what is shown.

use std::{
    fs::{self, File, Permissions},
    io,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use crate::{program::PROGRAM, terminal::Terminal};

/// A run, as the version wrote it that brought schema 2.
const RUN: &str = include_str!("../data/schema-2.jsonl");

/// A recording of attempts, one a second, of which each is to another port from 1 on.
fn recording(path: &Path, count: u16) {
    let mut of_run = RUN.lines();
    let mut next = |action: &str| -> Value {
        let action = format!("\"action\":\"{action}\"");
        let line = of_run.find(|line| line.contains(&action)).unwrap();
        serde_json::from_str(line).unwrap()
    };
    let (mut start, mut attempt) = (next("start"), next("connect"));
    start["@timestamp"] = "2026-11-28T10:00:00Z".into();
    let mut lines = vec![start.to_string()];
    for number in 0..count {
        let (minute, second, port) = (number / 60, number % 60, number + 1);
        attempt["@timestamp"] = format!("2026-11-28T10:{minute:02}:{second:02}Z").into();
        attempt["source"] = json!({"ip": "192.0.2.1", "port": 40_000});
        attempt["destination"] = json!({"ip": "198.51.100.9", "port": port});
        attempt["port_monitor"]["id"] = format!("{port:016x}").into();
        lines.push(attempt.to_string());
    }
    fs::write(path, lines.join("\n") + "\n").unwrap();
}

#[test]
fn top_plays_a_recording_stops_steps_jumps_and_begins_again() {
    let mut terminal = Terminal::new(PROGRAM.as_ref());
    let settings = terminal.settings();
    let plain = terminal.dir.path().join("run.jsonl");
    let packed = terminal.dir.path().join("run.jsonl.gz");
    recording(&plain, 600);
    let mut encoder = GzEncoder::new(File::create(&packed).unwrap(), Compression::fast());
    io::copy(&mut File::open(&plain).unwrap(), &mut encoder).unwrap();
    encoder.finish().unwrap();
    terminal.program(&format!("--replay {} --color never", packed.display()));
    terminal.sees("▶ 1x 10:00:0");
    // By itself it goes on.
    terminal.sees("198.51.100.9:3 ");
    terminal.types(" ");
    terminal.sees("‖ 1x 10:00:0");
    terminal.types("T10:05:00\r");
    terminal.sees("‖ 1x 10:05:00 0:05:00 ");
    terminal.sees(":301 ");
    terminal.types(".");
    terminal.sees("10:05:01 0:05:01 ");
    terminal.types(",,");
    terminal.sees("10:04:59 0:04:59 ");
    terminal.types("}(");
    terminal.sees("10:05:49 0:05:49 ");
    terminal.types("Tnever\r");
    terminal.sees("write 12:30, +90s, -5m or 50%");
    terminal.types("\x1b");
    terminal.sees_that("no question", |screen| !screen.contains("go to the time"));
    terminal.types("++++++++++ ");
    terminal.sees("■ 1000x 10:09:59 0:09:59 ");
    terminal.types("t");
    terminal.sees("600 rows");
    // A click at the beginning of the bar, as a terminal tells it.
    let row = terminal
        .shows()
        .lines()
        .position(|line| line.starts_with('■'))
        .unwrap();
    let column = "■ 1000x 10:09:59 0:09:59 ".chars().count();
    terminal.types(&format!("\x1b[<0;{};{}M", column + 1, row + 1));
    terminal.sees("‖ 1000x 10:00:00 0:00:00 ");
    terminal.sees("1 row,");
    // What was open then is not ended now.
    terminal.types("\x0b");
    terminal.sees("a recording: what was open then is not to be ended now");
    terminal.types("7");
    terminal.sees("nothing is watched now");
    terminal.sees("cannot tell: who listened");
    terminal.types("q");
    assert_eq!(terminal.assert_clean(&settings), "0.");
}

#[test]
fn top_that_cannot_play_says_why_in_one_line() {
    let mut terminal = Terminal::new(PROGRAM.as_ref());
    let settings = terminal.settings();
    let path = terminal.dir.path().join("bad.jsonl");
    fs::write(&path, "hello\n").unwrap();
    let program = env!("CARGO_BIN_EXE_port-monitor");
    terminal.types(&format!(
        "clear; {program} top --replay {}\n",
        path.display()
    ));
    terminal.sees("bad.jsonl:1: not a line of `-o json`");
    assert_eq!(terminal.assert_clean(&settings), "2.");
}

/// Neither a privilege nor anything of the kernel's is asked for.
#[test]
fn top_plays_a_recording_without_root() {
    let mut terminal = Terminal::new(PROGRAM.as_ref());
    let settings = terminal.settings();
    let file = tempfile::NamedTempFile::new().unwrap();
    recording(file.path(), 5);
    fs::set_permissions(file.path(), Permissions::from_mode(0o644)).unwrap();
    let program = env!("CARGO_BIN_EXE_port-monitor");
    let has_setpriv = Command::new("setpriv").arg("--version").output();
    assert!(has_setpriv.unwrap().status.success());
    terminal.types(&format!(
        "clear; setpriv --reuid 65534 --clear-groups --inh-caps=-all {program} top --replay {}\n",
        file.path().display()
    ));
    terminal.sees("1 Connections");
    terminal.sees("198.51.100.9:2 ");
    terminal.types("q");
    assert_eq!(terminal.assert_clean(&settings), "0.");
}

#[test]
fn top_writes_what_it_shows_and_records_what_comes() {
    let mut terminal = Terminal::new(PROGRAM.as_ref());
    let settings = terminal.settings();
    let in_dir = |name: &str| terminal.dir.path().join(name);
    let (rows, run, other) = (
        in_dir("rows.csv"),
        in_dir("run.jsonl"),
        in_dir("other.jsonl"),
    );
    terminal.program(&format!("--pid {} --color never", std::process::id()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let before = TcpStream::connect(("127.0.0.1", port)).unwrap();
    terminal.sees(&format!("127.0.0.1:{port}"));
    terminal.types(&format!("/dir:out port:{port}\rE"));
    terminal.sees("write to FILE.json or FILE.csv:");
    terminal.types(&format!("{}\r", rows.display()));
    terminal.sees(" has 1 row");
    let csv = fs::read_to_string(&rows).unwrap();
    assert_eq!(csv.lines().count(), 2);
    assert!(
        csv.lines().last().unwrap().contains(&port.to_string()),
        "{csv}"
    );
    asks_before_it_overwrites(&mut terminal, &rows);
    terminal.types("R");
    terminal.sees("record in FILE:");
    terminal.types(&format!("{}\r", run.display()));
    terminal.sees("  RECORDING 0");
    let during = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let own = during.local_addr().unwrap().port();
    terminal.sees(&format!("127.0.0.1:{own} "));
    terminal.sees_that("events in the recording", |screen| {
        screen.contains("  RECORDING ") && !screen.contains("  RECORDING 0")
    });
    terminal.types("R");
    terminal.sees("run.jsonl has ");
    // The next one ends with the view.
    terminal.types(&format!("R{}\r", other.display()));
    terminal.sees_that("what is open in the recording", |screen| {
        screen.contains("  RECORDING ") && !screen.contains("  RECORDING 0")
    });
    let before_port = before.local_addr().unwrap().port();
    drop((before, during));
    terminal.types("q");
    assert_eq!(terminal.assert_clean(&settings), "0.");
    let lines = recorded(&run);
    let of = |action: &str, own: u16| {
        let is_it =
            |line: &&Value| line["event"]["action"] == action && line["source"]["port"] == own;
        lines.iter().filter(is_it).count()
    };
    assert_eq!(of("connected", own), 1, "{lines:?}");
    // What was open by then, once for each of its ends.
    assert_eq!(
        (of("preexisting", before_port), of("connected", before_port)),
        (2, 0)
    );
    assert!(recorded(&other).len() > 3);
    is_learned_from(&run);
    is_played(terminal, &run, port);
}

/// It can be played, with what was there.
fn is_played(mut terminal: Terminal, run: &Path, port: u16) {
    let settings = terminal.settings();
    terminal.program(&format!("--replay {} --color never", run.display()));
    terminal.types("T100%\r");
    terminal.sees(&format!(":{port}"));
    terminal.types("7");
    terminal.sees("the run then  had seen ");
    terminal.types("q");
    assert_eq!(terminal.assert_clean(&settings), "0.");
}

/// A file that is there stays as it is, unless it is said that it may be overwritten.
fn asks_before_it_overwrites(terminal: &mut Terminal, rows: &Path) {
    let before = fs::read_to_string(rows).unwrap();
    terminal.types(&format!("E{}\r", rows.display()));
    terminal.sees("is there. Overwrite it? y:");
    terminal.types("n\r");
    terminal.sees("nothing is written");
    assert_eq!(fs::read_to_string(rows).unwrap(), before);
}

/// Nothing says that the recording lacks something.
fn is_learned_from(run: &Path) {
    let learned = Command::new(env!("CARGO_BIN_EXE_port-monitor"))
        .args(["policy", "learn"])
        .arg(run)
        .output()
        .unwrap();
    let learned = String::from_utf8(learned.stdout).unwrap();
    assert!(
        learned.contains("rule") && !learned.contains("no summary"),
        "{learned}"
    );
}

/// The lines of a recording, which begins and ends as one does, with an account of just these.
fn recorded(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["event"]["action"], "start", "{text}");
    let account = &lines.last().unwrap()["port_monitor"];
    let told = |line: &&Value| line["event"]["dataset"] == "port_monitor.connection";
    assert_eq!(
        account["shown"],
        lines.iter().filter(told).count(),
        "{text}"
    );
    assert_eq!(
        (&account["lost"], &account["adds_up"]),
        (&json!(0), &json!(true))
    );
    lines
}

/// The text that a rule is printed as is a policy, and decides the connection.
#[test]
fn top_proposes_a_rule_and_prints_it_at_the_end() {
    let mut terminal = Terminal::new(PROGRAM.as_ref());
    let settings = terminal.settings();
    let path = terminal.dir.path().join("run.jsonl");
    recording(&path, 3);
    let out = terminal.dir.path().join("rule.toml");
    terminal.program(&format!("--replay {} --color never", path.display()));
    terminal.types(" T100%\r");
    terminal.sees("198.51.100.9:3 ");
    terminal.types("gP");
    terminal.sees("A rule, not applied");
    terminal.sees("action = \"deny\"");
    terminal.types("P");
    terminal.sees("action = \"allow\"");
    terminal.types("PEE");
    terminal.sees("the rule is printed when this ends");
    terminal.types("\x1b");
    terminal.sees_that("no rule", |screen| !screen.contains("A rule, not applied"));
    terminal.types("w");
    terminal.sees("what if: ");
    terminal.types("out tcp 192.0.2.1:23\r");
    terminal.sees("there is no policy");
    terminal.types("q");
    terminal.sees("direction = \"out\"");
    let shown = terminal.shows();
    // Once, however often that is asked for.
    assert_eq!(shown.matches("version = 1").count(), 1, "{shown}");
    let toml = shown.lines().skip_while(|line| *line != "version = 1");
    let toml: Vec<&str> = toml.take_while(|line| !line.contains("ready>")).collect();
    fs::write(&out, toml.join("\n")).unwrap();
    let policy = out.display().to_string();
    let explained = Command::new(env!("CARGO_BIN_EXE_port-monitor"))
        .args(["policy", "explain", "out", "tcp", "198.51.100.9:3"])
        .args([
            "--policy",
            &policy,
            "--exe",
            "/usr/bin/python3.11",
            "--user",
            "1000",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8(explained.stdout).unwrap();
    assert!(
        said.starts_with("verdict      violation"),
        "{said}{}",
        toml.join("\n")
    );
    assert_eq!(terminal.assert_clean(&settings), "0.");
}
