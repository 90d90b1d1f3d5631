//! Who comes to a service later is told what is open there already: once, and before all that
//! comes.

use std::{
    collections::HashMap,
    fs,
    io::Read as _,
    net::{TcpListener, TcpStream},
    path::Path,
    thread,
};

use serde_json::Value;

use crate::{
    clients::{Client, SOCKET, await_that},
    program::PROGRAM,
    service::{Ended, Service},
    terminal::Terminal,
};

/// Lets everybody in, and reads until they go.
fn listen() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream: TcpStream = stream.unwrap();
            thread::spawn(move || while matches!(stream.read(&mut [0; 4_096]), Ok(1..)) {});
        }
    });
    port
}

/// The lines of events.
fn events(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let whole = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    let lines = whole.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let is_event = |line: &Value| line["event"]["dataset"] == "port_monitor.connection";
    lines.filter(is_event).collect()
}

fn has(path: &Path, action: &str) -> bool {
    let mut events = events(path).into_iter();
    events.any(|line| line["event"]["action"] == action)
}

#[test]
fn a_connection_that_is_open_already_is_told_with_its_age_and_what_it_has_carried() {
    let port = listen();
    let sections = format!("progress = \"100ms\"\n{SOCKET}");
    let mut service = Service::start(&sections);
    let pid = service.shell.pid();
    service.shell.say(&format!(
        "exec 5<>/dev/tcp/127.0.0.1/{port}; printf hello >&5; echo done"
    ));
    assert_eq!(service.shell.hear(), "done");
    // One that sees the service know what was carried.
    let first = Client::join(&service, "first", &["--events=close"]);
    await_that(|| has(&service.path("first"), "progress"));
    drop(first);
    let _second = Client::join(&service, "second", &["--events=preexisting,close"]);
    await_that(|| has(&service.path("second"), "progress"));
    service.shell.say("exec 5>&-; echo done");
    assert_eq!(service.shell.hear(), "done");
    await_that(|| has(&service.path("second"), "close"));
    let told = events(&service.path("second"));
    let actions: Vec<_> = told.iter().map(|line| &line["event"]["action"]).collect();
    assert_eq!(actions[..2], ["preexisting", "progress"], "{told:?}");
    assert_eq!(actions.last().unwrap().as_str(), Some("close"));
    let (found, so_far, end) = (&told[0], &told[1], told.last().unwrap());
    assert_eq!(found["process"]["pid"], pid);
    assert_eq!(found["port_monitor"]["owner_source"], "connect");
    assert_eq!(found["port_monitor"]["state"], "established");
    assert_eq!(found["destination"]["port"], port);
    assert_eq!(so_far["source"]["bytes"], 5);
    let lasted = |line: &Value| line["event"]["duration"].as_u64().unwrap();
    assert!(0 < lasted(found) && lasted(found) < lasted(end), "{told:?}");
    let ids = told.iter().map(|line| &line["port_monitor"]["id"]);
    assert!(ids.clone().all(|id| *id == found["port_monitor"]["id"]));
    let Ended { code, stderr, .. } = service.end();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("# open: delivered "), "{stderr}");
}

/// Each connection begins once, in the list or in the stream, and ends once.
fn assert_whole(name: &str, told: &[Value]) -> usize {
    let mut stands: HashMap<&str, &str> = HashMap::new();
    let mut found = 0;
    for line in told {
        let id = line["port_monitor"]["id"].as_str().unwrap();
        let action = line["event"]["action"].as_str().unwrap();
        let before = stands.insert(id, action);
        match action {
            "preexisting" => {
                assert_eq!(before, None, "{name}: {line}");
                found += 1;
            }
            "connect" => assert_eq!(before, None, "{name}: {line}"),
            "connected" => assert!(
                matches!(before, Some("connect" | "preexisting")),
                "{name}: {before:?} {line}"
            ),
            "close" => assert!(
                matches!(before, Some("connected" | "preexisting")),
                "{name}: {before:?} {line}"
            ),
            _ => panic!("{name}: {line}"),
        }
    }
    assert!(
        stands.values().all(|last| *last == "close"),
        "{name}: {stands:?}"
    );
    found
}

#[test]
fn clients_that_come_under_load_are_told_each_connection_once_from_its_beginning_to_its_end() {
    const EVENTS: &str = "--events=preexisting,connect,connected,failed,close";
    let port = listen();
    let mut service = Service::start(SOCKET);
    let stop = service.path("stop");
    service.shell.say(&format!(
        "exec 9<> <(:); fds=(); until [ -e {} ]; do exec {{fd}}<>/dev/tcp/127.0.0.1/{port}; \
         fds+=($fd); read -rt 0.001 -u 9; if ((${{#fds[@]}} > 30)); then fd=${{fds[0]}}; \
         exec {{fd}}>&-; fds=(\"${{fds[@]:1}}\"); fi; done; \
         for fd in \"${{fds[@]}}\"; do exec {{fd}}>&-; done; echo done",
        stop.display()
    ));
    let clients: Vec<_> = (0..8)
        .map(|number: u8| {
            let name = number.to_string();
            let client = Client::join(&service, &name, &[EVENTS]);
            // The next one comes while events come to this one.
            await_that(|| has(&service.path(&name), "close"));
            client
        })
        .collect();
    fs::write(&stop, "").unwrap();
    assert_eq!(service.shell.hear(), "done");
    let Ended {
        code, stderr, dir, ..
    } = service.end();
    assert_eq!(code, Some(0), "{stderr}");
    let mut found = 0;
    for (number, client) in clients.into_iter().enumerate() {
        assert_eq!(client.wait().0, Some(3));
        let name = number.to_string();
        found += assert_whole(&name, &events(&dir.path().join(&name)));
        let told = format!("# client-{}: delivered ", number + 1);
        let account = stderr.lines().find(|line| line.starts_with(&told)).unwrap();
        assert!(account.ends_with(" dropped 0"), "{account}");
    }
    assert!(found > 7 * 20, "{found}");
}

#[test]
fn top_that_comes_to_a_service_shows_what_is_open_there_until_it_ends() {
    let port = listen();
    let mut service = Service::start(SOCKET);
    // One that sees the service know of it.
    let first = Client::join(&service, "first", &["--events=connected"]);
    service
        .shell
        .say(&format!("exec 5<>/dev/tcp/127.0.0.1/{port}; echo done"));
    assert_eq!(service.shell.hear(), "done");
    await_that(|| has(&service.path("first"), "connected"));
    drop(first);
    let mut terminal = Terminal::new(PROGRAM.as_ref());
    let settings = terminal.settings();
    let socket = service.path("socket");
    terminal.program(&format!("--attach={} --color never", socket.display()));
    terminal.sees(&format!("127.0.0.1:{port}"));
    terminal.types("\r");
    terminal.sees("it began, before this view");
    terminal.types("\x1b");
    service.shell.say("exec 5>&-; echo done");
    assert_eq!(service.shell.hear(), "done");
    terminal.sees_that("the end", |screen| screen.contains("· "));
    terminal.types("q");
    assert_eq!(terminal.assert_clean(&settings), "0.");
}
