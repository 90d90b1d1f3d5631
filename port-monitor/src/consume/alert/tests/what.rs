//! What is told of, how loudly, and in which words.

use std::path::PathBuf;

use boon::{Compiler, Schemas};
use port_monitor_common::tcp_state::TcpState;
use serde_json::Value;

use super::*;
use crate::{
    consume::lines::{
        json::connection,
        sample::{accepted, connected, listening},
    },
    events::{
        decode::{Action, Comm, Direction},
        record::{Field, Missing},
        wire::schema::published,
    },
};

/// What there was at the start.
fn preexisting(state: TcpState, mut record: Record) -> Record {
    record.event.action = Action::Preexisting {
        direction: Direction::Inbound,
        state,
        duration_ns: None,
    };
    record
}

/// What each of these is told as, and with which priority.
fn told(on: &[AlertKind], records: &[Record]) -> Vec<String> {
    let inbox = Inbox::new();
    let mut alerts = inbox.alerts(on, "1000/s");
    for record in records {
        alerts.take(Item::Event(record));
    }
    let account = alerts.account();
    let entries = inbox.entries();
    assert_eq!(account.taken, entries.len() as u64);
    assert_eq!(account.hidden, records.len() as u64 - account.taken);
    let text = |entry: &Fields, name| String::from_utf8(entry[name].clone()).unwrap();
    let each = entries.iter().map(|entry| {
        let (kind, priority) = (text(entry, "PORT_MONITOR_ALERT"), text(entry, "PRIORITY"));
        format!("{kind} {priority}")
    });
    each.collect()
}

#[test]
fn the_alert_of_a_rule_chooses_whether_and_how_loudly() {
    let mut denied = by("high", violation());
    denied.event.action = Action::Failed { errno: Some(1) };
    let mut by_default = violation();
    by_default.judgement.as_mut().unwrap().rule = None;
    by_default.event.local_ip = "10.0.0.6".parse().unwrap();
    let records = [
        by("none", violation()),
        by("low", violation()),
        by("high", violation()),
        by("says-nothing", violation()),
        by_default,
        denied,
        allowed("none", connected()),
        allowed("low", connected()),
        allowed("high", connected()),
        allowed("says-nothing", connected()),
    ];
    let told_of = |on: &[AlertKind]| told(on, &records);
    assert_eq!(
        told_of(&EVERY),
        [
            "violation 4",
            "violation 1",
            "violation 4",
            "violation 4",
            "denied 1",
            "allowed 4",
            "allowed 1",
        ]
    );
    assert_eq!(told_of(&[AlertKind::Denied]), ["denied 1"]);
    // A port that is used for the first time, by a rule that says nothing of it.
    assert_eq!(told_of(&[AlertKind::FirstUse]), ["first-use 5"; 0]);
    let first = [allowed("says-nothing", connected())];
    assert_eq!(told(&EVERY, &first), ["first-use 5"]);
    assert_eq!(told(&EVERY, &[allowed("none", listening())]), [""; 0]);
}

#[test]
fn what_was_there_at_the_start_or_came_again_is_not_new() {
    let mut other = listening();
    Arc::make_mut(&mut other.process).exe = Field::Known(PathBuf::from("/tmp/sshd"));
    let mut shared = listening();
    shared.event.owner = None;
    shared.event.local_port = Some(80);
    Arc::make_mut(&mut shared.process).exe = Field::Missing(Missing::Shared);
    let mut nginx = listening();
    nginx.event.local_port = Some(80);
    let records = [
        preexisting(TcpState::LISTEN, listening()),
        preexisting(TcpState::LISTEN, shared),
        listening(),
        nginx,
        other.clone(),
        other,
    ];
    let on = [AlertKind::Listener];
    assert_eq!(told(&on, &records), ["listener 5"]);
    // By ports: one was used by a connection that was open already, the other one was not.
    let on = [AlertKind::FirstUse];
    let mut attempt = violation();
    attempt.judgement = None;
    let records = [
        preexisting(TcpState::ESTABLISHED, accepted()),
        accepted(),
        connected(),
        connected(),
        attempt,
    ];
    assert_eq!(told(&on, &records), ["first-use 5"]);
}

#[test]
fn listeners_are_forgotten_before_they_fill_the_memory() {
    let inbox = Inbox::new();
    let mut alerts = inbox.alerts(&[AlertKind::Listener], "1/h");
    let mut record = listening();
    for number in 0..100_000_u32 {
        record.event.netns_ino = number;
        alerts.take(Item::Event(&record));
    }
    assert_eq!(alerts.choice.remembered(), (16_384, 16_384));
}

#[test]
fn an_entry_has_valid_fields_and_the_line_is_of_the_schema() {
    let inbox = Inbox::new();
    let mut alerts = inbox.alerts(&EVERY, "10/m");
    alerts.take(Item::Event(&violation()));
    let entries = inbox.entries();
    let [entry] = &*entries else {
        panic!("{entries:?}");
    };
    for name in entry.keys() {
        let is_valid =
            |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        assert!(name.len() <= 64 && name.bytes().all(is_valid), "{name}");
        assert!(name.starts_with(|c: char| c.is_ascii_uppercase()), "{name}");
    }
    let mut line: Value = serde_json::from_slice(&entry["PORT_MONITOR_EVENT"]).unwrap();
    let mut compiler = Compiler::new();
    compiler.add_resource("line.json", published()).unwrap();
    let mut schemas = Schemas::new();
    let index = compiler.compile("line.json", &mut schemas).unwrap();
    assert!(schemas.validate(&line, index).is_ok(), "{line}");
    let facts = line["port_monitor"].as_object_mut().unwrap();
    let alert = facts.remove("alert").unwrap();
    let expected = serde_json::json!({"kind": "violation", "priority": 4, "suppressed": 0});
    assert_eq!(alert, expected);
    // All else is what -o json shows.
    let (header, record) = (header(), violation());
    let shown = serde_json::to_value(connection(&header, &record)).unwrap();
    assert_eq!(line, shown);
    let text = entry
        .iter()
        .filter(|(name, _)| *name != "PORT_MONITOR_EVENT")
        .map(|(name, value)| format!("{name}={}\n", String::from_utf8_lossy(value)));
    insta::assert_snapshot!(text.collect::<String>(), @r"
    MESSAGE=violation: nc[2211] -> 10.0.0.9:23 telnet refused, rule no-telnet
    MESSAGE_ID=fa9f3a0dca1d46f890e8d7bf800ed94a
    OBJECT_PID=2211
    PORT_MONITOR_ACTION=failed
    PORT_MONITOR_ALERT=violation
    PORT_MONITOR_DIRECTION=outbound
    PORT_MONITOR_ERRNO=ECONNREFUSED
    PORT_MONITOR_EXE=/usr/bin/curl
    PORT_MONITOR_LOCAL_IP=10.0.0.5
    PORT_MONITOR_LOCAL_PORT=40310
    PORT_MONITOR_PID=2211
    PORT_MONITOR_POLICY=policy.toml
    PORT_MONITOR_PROCESS=nc
    PORT_MONITOR_REMOTE_IP=10.0.0.9
    PORT_MONITOR_REMOTE_PORT=23
    PORT_MONITOR_RULE=no-telnet
    PORT_MONITOR_SERVICE=telnet
    PORT_MONITOR_SUPPRESSED=0
    PORT_MONITOR_UID=1000
    PORT_MONITOR_UNIT=session-2.scope
    PORT_MONITOR_USER=ann
    PRIORITY=4
    SYSLOG_IDENTIFIER=port-monitor
    ");
}

#[test]
fn messages_say_what_the_table_says() {
    let inbox = Inbox::new();
    let mut alerts = inbox.alerts(&EVERY, "100/m");
    let mut by_default = violation();
    by_default.judgement.as_mut().unwrap().rule = None;
    let mut ownerless = crate::consume::lines::sample::ownerless();
    ownerless.event.action = Action::Failed { errno: None };
    for record in [
        by_default,
        listening(),
        accepted(),
        connected(),
        allowed("high", ownerless),
    ] {
        alerts.take(Item::Event(&record));
    }
    alerts.tick(&Stats {
        ring_full: 17,
        ..Stats::default()
    });
    insta::assert_snapshot!(inbox.each("MESSAGE").join("\n"), @r"
    violation: nc[2211] -> 10.0.0.9:23 telnet refused, by the default
    listener: sshd[812] 10.0.0.5:22 ssh listening
    first-use: sshd[812] <- 10.0.0.5:22 ssh from 10.0.0.7:53122 ok
    first-use: curl[1469] -> 93.184.216.34:443 https ok 12ms
    allowed: ?[?] -> 93.184.216.34:443 https closed, rule high
    loss: 17 events lost (ring full), 17 so far
    ");
}

#[test]
fn names_from_outside_come_as_they_are() {
    let inbox = Inbox::new();
    let mut alerts = inbox.alerts(&EVERY, "10/m");
    let mut record = violation();
    let name = b"a\n=\xff\x1b\nPRIORITY=0";
    let mut comm = [0; 16];
    comm[..15].copy_from_slice(&name[..15]);
    record.event.owner.as_mut().unwrap().process_comm = Comm(comm);
    let exe = PathBuf::from("/tmp/\n\u{202e}\nMESSAGE=x");
    Arc::make_mut(&mut record.process).exe = Field::Known(exe.clone());
    alerts.take(Item::Event(&record));
    let entries = inbox.entries();
    let entry = &entries[0];
    assert_eq!(entry["PORT_MONITOR_PROCESS"], name[..15]);
    assert_eq!(
        entry["PORT_MONITOR_EXE"],
        exe.as_os_str().as_encoded_bytes()
    );
    assert_eq!(entry["PRIORITY"], b"4");
    let message = String::from_utf8(entry["MESSAGE"].clone()).unwrap();
    assert!(
        message.starts_with("violation: a\\n=\\xff\\x1b\\nPRIORITY=["),
        "{message}"
    );
    assert!(
        !message.contains(crate::base::sanitize::is_hostile),
        "{message}"
    );
}

#[test]
fn a_journal_that_is_not_there_costs_alerts_and_may_come_back() {
    let inbox = Inbox::new();
    let path = inbox.dir.path().join("socket");
    let mut alerts = inbox.alerts(&EVERY, "100/m");
    std::fs::remove_file(&path).unwrap();
    alerts.take(Item::Event(&to(1)));
    alerts.take(Item::Event(&to(2)));
    let account = alerts.account();
    assert_eq!((account.taken, account.dropped.failed), (0, 2));
    let error = account.error.unwrap();
    assert!(
        error.ends_with("socket: No such file or directory (os error 2)"),
        "{error}"
    );
    let again = UnixDatagram::bind(&path).unwrap();
    alerts.take(Item::Event(&to(3)));
    let account = alerts.account();
    assert_eq!((account.taken, account.dropped.failed), (1, 2));
    assert!(account.adds_up() && account.error.is_none());
    assert!(again.recv(&mut [0; 1]).is_ok());
}
