//! The policy of a service becomes another one while connections are made: every event is told
//! with the names of the policy that has judged it, to whoever takes it, and none is lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;

use crate::{
    clients::{Client, SOCKET, await_that, lines},
    http::free_address,
    metrics::scrape,
    monitor::action,
    program::port_monitor,
    serve::{record, report},
    service::{Ended, Service},
};

/// Changes of the policy under load.
const CHANGES: usize = 12;

/// What policies of these names say: each of them disagrees with the one before, and has another
/// rule by its number.
const NAMES: [&str; 2] = ["deny", "allow"];

/// The one of this number. Where it asks for an owner, userspace judges.
fn policy(number: usize, owner: &str) -> String {
    let name = NAMES[number % NAMES.len()];
    // Of no connection of the test: numbers of rules say nothing by themselves.
    let other = "[[rule]]\nname = \"other\"\ndirection = \"out\"\nport = 2\naction = \"deny\"\n";
    let before = if name == "allow" { other } else { "" };
    format!(
        "version = 1\n{before}[[rule]]\nname = \"{name}\"\ndirection = \"out\"\nport = 1\n\
         {owner}action = \"{name}\"\n"
    )
}

fn sections(service_policy: &str, more: &str) -> String {
    format!(
        "[policy]\nfile = \"DIR/{service_policy}\"\n{}{more}",
        record("record")
    )
}

/// A service that is judged by the first policy.
fn start(owner: &str, more: &str) -> Service {
    Service::start_in(|dir| {
        fs::write(dir.join("policy.toml"), policy(0, owner)).unwrap();
        sections("policy.toml", more)
    })
}

/// What a stream says of each event, after checking that it is the word of the policy that it
/// names, which was told before.
fn check(text: &str, changes: usize) -> Vec<(String, String)> {
    let mut versions: BTreeMap<String, &str> = BTreeMap::new();
    let mut told = 0;
    let mut events = Vec::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        match &*action(line) {
            "start" | "policy" => {
                let digest = value["port_monitor"]["policy_sha256"].as_str().unwrap();
                versions.insert(digest[..12].to_owned(), NAMES[told % NAMES.len()]);
                told += 1;
            }
            "connect" | "failed" => {
                let version = value["rule"]["version"].as_str().unwrap();
                let name = versions[version];
                let verdict = if name == "deny" { "violation" } else { "allow" };
                assert_eq!(value["rule"]["name"], name, "{line}");
                assert_eq!(value["port_monitor"]["verdict"], verdict, "{line}");
                let id = value["port_monitor"]["id"].as_str().unwrap();
                events.push((id.to_owned(), name.to_owned()));
            }
            _ => {}
        }
    }
    assert_eq!(told, changes + 1);
    events
}

/// Rows of the history, by their rules.
fn rows(dir: &Path) -> BTreeMap<String, u64> {
    let path = dir.join("history.db");
    let db = rusqlite::Connection::open(path).unwrap();
    let mut statement = db
        .prepare("SELECT rule, count(*) FROM connections GROUP BY rule")
        .unwrap();
    let rows = statement.query_map([], |row| {
        let count: i64 = row.get(1)?;
        Ok((row.get(0)?, u64::try_from(count).unwrap()))
    });
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

fn under_load(owner: &str) {
    let address = free_address();
    let more = format!(
        "[history]\nfile = \"DIR/history.db\"\n[metrics]\nlisten = \"{address}\"\n{SOCKET}"
    );
    let mut service = start(owner, &more);
    let client = Client::join(&service, "client", &[]);
    let first = report(&service, 0);
    let stop = service.path("stop");
    service.shell.attempt_until(&stop);
    for change in 1..=CHANGES {
        fs::write(service.path("policy.toml"), policy(change, owner)).unwrap();
        let told = service.reload(&sections("policy.toml", &more));
        assert!(told.contains("STATUS=watching by "), "{told}");
    }
    fs::write(&stop, "").unwrap();
    let attempts: u64 = service.shell.hear().parse().unwrap();
    let last = report(&service, 2 * attempts);
    assert_ne!(first["policy"]["loaded"], last["policy"]["loaded"]);
    let metrics = scrape(address);
    let changes = metrics.value("port_monitor_policy_changes_total", &[]);
    assert!((changes - 12.0).abs() < 0.5, "{changes}");
    let info = metrics.all("port_monitor_policy_info").next().unwrap().0;
    assert_eq!(info["sha256"], last["policy"]["sha256"].as_str().unwrap());
    // The end does not wait for a client for long.
    let told = u64::try_from(1 + CHANGES).unwrap() + 2 * attempts;
    await_that(|| lines(&service.path("client")) as u64 >= told);
    let Ended {
        code, stderr, dir, ..
    } = service.end();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains(" + lost 0 in "), "{stderr}");
    assert_eq!(stderr.matches("; another policy\n").count(), CHANGES);
    let text = fs::read_to_string(dir.path().join("record")).unwrap();
    let events = check(&text, CHANGES);
    assert_eq!(events.len() as u64, 2 * attempts);
    let (_, stderr) = client.wait();
    let of_client = fs::read_to_string(dir.path().join("client")).unwrap();
    assert_eq!(check(&of_client, CHANGES), events, "{stderr}");
    let (beginnings, retold) = connections(&events);
    assert_eq!(beginnings.len(), NAMES.len(), "{beginnings:?}");
    assert_eq!(rows(dir.path()), beginnings);
    // What the programs say of a connection stays so until its end.
    assert!(!owner.is_empty() || retold == 0, "{retold}");
}

/// How many connections began under the policy of each name, and how many were told by another
/// one later.
fn connections(events: &[(String, String)]) -> (BTreeMap<String, u64>, usize) {
    let mut by_id: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut beginnings: BTreeMap<String, u64> = BTreeMap::new();
    for (id, name) in events {
        let names = by_id.entry(id).or_default();
        if names.is_empty() {
            *beginnings.entry(name.clone()).or_default() += 1;
        }
        names.insert(name);
    }
    let changed = by_id.values().filter(|names| names.len() > 1).count();
    (beginnings, changed)
}

#[test]
fn policies_that_change_under_load_judge_each_event_by_one_of_them() {
    under_load("");
}

#[test]
fn policies_that_userspace_judges_by_change_under_load_too() {
    let bash = fs::canonicalize("/bin/bash").unwrap();
    under_load(&format!("exe = \"{}\"\n", bash.display()));
}

#[test]
fn another_file_is_another_policy_and_the_same_text_is_none() {
    let mut service = start("", "");
    service.shell.attempt(1);
    service.reload(&sections("policy.toml", ""));
    fs::write(service.path("other.toml"), policy(1, "")).unwrap();
    service.reload(&sections("other.toml", ""));
    service.shell.attempt(1);
    let Ended {
        code, stderr, dir, ..
    } = service.end();
    assert_eq!(code, Some(0), "{stderr}");
    let reloads: Vec<&str> = stderr
        .lines()
        .filter(|line| line.contains("reloaded"))
        .collect();
    let [same, other] = &*reloads else {
        panic!("{stderr}");
    };
    assert!(same.ends_with("; that left: none"), "{same}");
    assert!(
        other.ends_with("; that left: none; another policy"),
        "{other}"
    );
    let told = format!(
        "policy {}/other.toml from here on, text ",
        dir.path().display()
    );
    assert!(stderr.contains(&told), "{stderr}");
    let text = fs::read_to_string(dir.path().join("record")).unwrap();
    assert_eq!(check(&text, 1).len(), 4);
    let files = text.lines().filter(|line| action(line) == "failed");
    let files: Vec<Value> = files
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["rule"]["ruleset"].take())
        .collect();
    let [first, second] = &*files else {
        panic!("{text}");
    };
    assert!(first.as_str().unwrap().ends_with("/policy.toml"), "{text}");
    assert!(second.as_str().unwrap().ends_with("/other.toml"), "{text}");
    // What was recorded can be judged by a policy, and learned from.
    let replayed = port_monitor(["policy", "test", "--replay"])
        .arg(dir.path().join("record"))
        .arg("--policy")
        .arg(dir.path().join("policy.toml"))
        .output()
        .unwrap();
    let told = String::from_utf8(replayed.stdout).unwrap();
    assert!(told.starts_with("would have denied 2 of 2 "), "{told}");
    assert!(!told.contains("passed over"), "{told}");
}

#[test]
fn a_policy_that_is_wrong_changes_nothing() {
    let mut service = start("", "");
    service.shell.attempt(1);
    let wrong = [
        ("version = 1\n[[rule]]\nname = \"x\"\n", "policy.toml:2:"),
        ("version = 7\n", "policy.toml:1:"),
    ];
    for (text, _) in wrong {
        fs::write(service.path("policy.toml"), text).unwrap();
        // A consumer that comes with it does not come either.
        let more = "[history]\nfile = \"DIR/history.db\"\n";
        let told = service.reload(&sections("policy.toml", more));
        assert!(told.contains("; consumers: record\n"), "{told}");
    }
    fs::remove_file(service.path("policy.toml")).unwrap();
    service.reload(&sections("policy.toml", ""));
    // A section that goes takes a restart.
    service.reload(&record("record"));
    service.shell.attempt(1);
    let Ended {
        code, stderr, dir, ..
    } = service.end();
    assert_eq!(code, Some(0), "{stderr}");
    let mut told = stderr.split("port-monitor: not reloaded: ").skip(1);
    for (_, place) in wrong {
        let told = told.next().unwrap();
        assert!(told.contains(place), "{told}");
    }
    for expected in [
        "policy.toml: no such file",
        "file in [policy] changed, which takes a restart; nothing was changed\n",
    ] {
        let told = told.next().unwrap();
        assert!(told.contains(expected), "{told}");
    }
    assert!(!dir.path().join("history.db").exists());
    let text = fs::read_to_string(dir.path().join("record")).unwrap();
    let events = check(&text, 0);
    assert_eq!(events.len(), 4);
    assert!(events.iter().all(|(_, name)| name == "deny"), "{events:?}");
}
