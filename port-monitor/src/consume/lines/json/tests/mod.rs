//! The JSON stream: its lines, and every line against the published schema.

mod losses;
mod reading;

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _, sync::Arc, time::Duration};

use boon::{Compiler, SchemaIndex, Schemas};
use port_monitor_common::counters::Hook;
use proptest::{option, prelude::*};
use serde_json::{Value, json};

use crate::{
    consume::{
        lines::{
            json::*,
            sample::{
                accepted, closed, comm, connected, header, listening, loss, ownerless, sshd,
                summary, violation,
            },
        },
        listeners::{Listed, ListenerSink, Listing, Tally, uses::Selection},
    },
    events::{
        decode::Action,
        record::{Field, HookCount, Process, Record},
        wire::schema,
    },
};

/// The line of `item`, in a stream that has begun.
fn line(item: Item<'_>) -> String {
    let mut sink = Json::new();
    let mut lines = Lines::default();
    sink.write(&mut lines, Item::Header(&header()));
    lines.clear();
    sink.write(&mut lines, item);
    String::from_utf8(lines.bytes).unwrap()
}

fn value(item: Item<'_>) -> Value {
    serde_json::from_str(&line(item)).unwrap()
}

/// The published schema, compiled.
pub(crate) struct Validator(Schemas, SchemaIndex);

impl Validator {
    pub(crate) fn new() -> Self {
        let mut compiler = Compiler::new();
        compiler.enable_format_assertions();
        let schema = schema::published();
        compiler.add_resource("stream.json", schema).unwrap();
        let mut schemas = Schemas::new();
        let index = compiler.compile("stream.json", &mut schemas).unwrap();
        Self(schemas, index)
    }

    pub(crate) fn check(&self, line: &Value) -> Result<(), String> {
        let result = self.0.validate(line, self.1);
        result.map_err(|error| format!("{error:#}"))
    }
}

#[test]
fn every_kind_of_line_is_valid() {
    let validator = Validator::new();
    let mut failed = violation();
    failed.event.action = Action::Failed { errno: None };
    let (header, loss, summary) = (header(), loss(), summary());
    let mut paired = connected();
    paired.peer = Some(sshd());
    let records = [
        connected(),
        violation(),
        accepted(),
        ownerless(),
        failed,
        paired,
    ];
    let items = [
        Item::Header(&header),
        Item::Loss(&loss),
        Item::Summary(&summary),
    ];
    for item in items.into_iter().chain(records.iter().map(Item::Event)) {
        let line = value(item);
        assert_eq!(validator.check(&line), Ok(()), "{line:#}");
    }
}

#[test]
fn every_line_of_an_audit_is_valid() {
    let validator = Validator::new();
    let mut stranger = listening();
    stranger.event.id = 7;
    stranger.event.owner = None;
    let mut forbidden = listening();
    forbidden.event.id = 8;
    forbidden.judgement = violation().judgement;
    let (header, summary) = (header(), summary());
    let mut items = vec![Item::Header(&header)];
    let records = [listening(), stranger, forbidden, accepted()];
    items.extend(records.iter().map(Item::Event));
    items.push(Item::Summary(&summary));
    let mut sink = ListenerSink::json(Listing {
        selection: Selection::default(),
        listed: Listed::Used,
        with_closed: true,
        watch: Some(Duration::from_mins(1)),
        violations: Tally::default(),
        forgotten: Tally::default(),
    });
    let mut out = Lines::default();
    for item in items {
        sink.write(&mut out, item);
    }
    let text = String::from_utf8(out.bytes).unwrap();
    let mut lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 5);
    for line in &lines {
        assert_eq!(validator.check(line), Ok(()), "{line:#}");
    }
    for (pointer, wrong) in [
        ("/port_monitor/scope", json!("world")),
        ("/port_monitor/uses/accepts", json!("2")),
        ("/port_monitor/watched_ms", json!(null)),
        ("/event/dataset", json!("port_monitor.stream")),
    ] {
        let mut line = lines[1].clone();
        *line.pointer_mut(pointer).unwrap() = wrong;
        assert!(validator.check(&line).is_err(), "{pointer}");
    }
    let summary = lines.last_mut().unwrap();
    *summary.pointer_mut("/port_monitor/audit/closed").unwrap() = json!(-1);
    assert!(validator.check(summary).is_err());
}

proptest! {
    #[test]
    fn lines_of_events_are_those_of_the_schema(
        records in any::records(),
        host in any::text(),
        policy in option::of(any::text()),
    ) {
        let header = Header { host, policy, ..header() };
        let mut sink = Json::new();
        sink.write(&mut Lines::default(), Item::Header(&header));
        for record in &records {
            let (mut written, mut expected) = (Lines::default(), Vec::new());
            sink.write(&mut written, Item::Event(record));
            let connection = connection(&header, record);
            line::serialize(&mut expected, &Line::Connection(connection));
            expected.push(b'\n');
            let [written, expected] = [written.bytes, expected].map(|line| String::from_utf8(line).unwrap());
            prop_assert_eq!(written, expected);
        }
    }
}

#[test]
fn a_wrong_line_is_invalid() {
    let validator = Validator::new();
    let record = violation();
    for (pointer, wrong) in [
        ("/@timestamp", json!("yesterday")),
        ("/event/action", json!("summary")),
        ("/event/type/0", json!("denied")),
        ("/network/direction", json!("inbound")),
        ("/source/port", json!(70000)),
        ("/source/ip", json!(10)),
        ("/user/id", json!(1000)),
        ("/port_monitor/id", json!("2a")),
        ("/port_monitor/verdict", json!("deny")),
        ("/port_monitor/remote/port_class", json!("wellknown")),
    ] {
        let mut line = value(Item::Event(&record));
        *line.pointer_mut(pointer).unwrap() = wrong;
        assert!(validator.check(&line).is_err(), "{pointer}");
    }
    let mut line = value(Item::Event(&record));
    line.as_object_mut().unwrap().remove("destination");
    assert!(validator.check(&line).is_err());
    assert!(validator.check(&json!({})).is_err());
}

#[test]
fn the_lines_of_a_stream() {
    insta::assert_snapshot!(line(Item::Header(&header())), @r#"{"@timestamp":"2026-11-22T12:00:01.000000000Z","ecs":{"version":"9.4.0"},"event":{"kind":"state","action":"start","dataset":"port_monitor.stream"},"agent":{"type":"port-monitor","version":"0.1.0"},"host":{"name":"web1","boot":{"id":"4d9c2f6e-1111-4222-8333-944455556666"},"os":{"kernel":"6.12.0"}},"port_monitor":{"schema":2,"backend":"fentry","blind_spots":["accepts of threads already waiting"],"policy":"policy.toml","policy_sha256":"2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a","policy_number":1}}"#);
    insta::assert_snapshot!(line(Item::Policy(&header())), @r#"{"@timestamp":"2026-11-22T12:00:00.000000000Z","ecs":{"version":"9.4.0"},"event":{"kind":"state","action":"policy","dataset":"port_monitor.stream"},"host":{"name":"web1"},"port_monitor":{"schema":2,"policy":"policy.toml","policy_sha256":"2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a","policy_number":1}}"#);
    insta::assert_snapshot!(line(Item::Event(&violation())), @r#"{"@timestamp":"2026-11-22T12:00:02.000000417Z","ecs":{"version":"9.4.0"},"event":{"kind":"alert","category":["network"],"type":["connection","end"],"action":"failed","outcome":"failure","dataset":"port_monitor.connection"},"network":{"transport":"tcp","type":"ipv4","direction":"egress","community_id":"1:gTa3KALFAbF5jWVGcMR1ONXza3U="},"source":{"ip":"10.0.0.5","port":40310},"destination":{"ip":"10.0.0.9","port":23},"process":{"pid":2211,"thread":{"id":1470,"name":"nc"},"name":"nc","executable":"/usr/bin/curl","parent":{"pid":1400,"name":"bash","start":"2026-11-22T12:00:00.000000294Z"},"start":"2026-11-22T12:00:01.000000294Z"},"user":{"id":"1000","name":"ann"},"group":{"id":"100"},"host":{"name":"web1"},"rule":{"name":"no-telnet","ruleset":"policy.toml"},"error":{"code":"ECONNREFUSED","message":"refused"},"port_monitor":{"schema":2,"id":"000000000000002a","boottime_ns":"5000000123","cpu":1,"netns":4026531840,"owner_source":"connect","process_start_boottime_ns":"4000000000","cgroup":{"id":"4242","path":"/user.slice/session-2.scope"},"exe":{"device":"254:1","inode":"131077"},"unit":"session-2.scope","local":{"port_class":"registered","service":{"status":"unassigned"},"ephemeral":true},"remote":{"port_class":"well-known","service":{"name":"telnet","origin":"iana","status":"assigned"},"ephemeral":false},"service":{"name":"telnet","origin":"iana","status":"assigned"},"port_class":"well-known","v4_mapped":false,"verdict":"violation","enforcement":"observe","preattach":false}}"#);
    insta::assert_snapshot!(line(Item::Event(&accepted())), @r#"{"@timestamp":"2026-11-22T12:00:03.000000417Z","ecs":{"version":"9.4.0"},"event":{"kind":"event","category":["network"],"type":["connection","start"],"action":"accept","outcome":"success","dataset":"port_monitor.connection"},"network":{"transport":"tcp","type":"ipv4","direction":"ingress","community_id":"1:vHp62jQHec5S/JmDnGFUtcJjjGo="},"source":{"ip":"10.0.0.7","port":53122},"destination":{"ip":"10.0.0.5","port":22},"process":{"pid":812,"thread":{"id":1470,"name":"sshd"},"name":"sshd","executable":"/usr/sbin/sshd","parent":{"pid":1},"start":"2026-11-22T12:00:02.000000294Z"},"user":{"id":"0","name":"root"},"group":{"id":"100"},"container":{"id":"3f4e0c9a2b1d5566","runtime":"docker"},"orchestrator":{"type":"kubernetes","resource":{"type":"pod","id":"0f3a"}},"host":{"name":"web1"},"port_monitor":{"schema":2,"id":"000000000000002a","boottime_ns":"5000000123","cpu":1,"netns":4026531840,"owner_source":"accept","process_start_boottime_ns":"4000000000","cgroup":{"id":"4242","path":"/system.slice/docker-3f4e0c9a2b1d5566.scope"},"exe":{"device":"254:1","inode":"131077"},"unit":"docker-3f4e0c9a2b1d5566.scope","local":{"port_class":"well-known","service":{"name":"ssh","origin":"iana","status":"assigned"},"ephemeral":false},"remote":{"port_class":"dynamic","service":{"status":"unassigned"},"ephemeral":true},"service":{"name":"ssh","origin":"iana","status":"assigned"},"port_class":"well-known","v4_mapped":false,"preattach":false}}"#);
    insta::assert_snapshot!(line(Item::Event(&closed())), @r#"{"@timestamp":"2026-11-22T12:00:09.100000417Z","ecs":{"version":"9.4.0"},"event":{"kind":"event","category":["network"],"type":["connection","end"],"action":"close","outcome":"success","duration":8123456789,"dataset":"port_monitor.connection"},"network":{"transport":"tcp","type":"ipv4","direction":"egress","community_id":"1:WFu5YQGJptNO6IrtaHnl24qBbd0="},"source":{"ip":"10.0.0.5","port":49152,"bytes":1234},"destination":{"ip":"93.184.216.34","port":443,"bytes":86016},"process":{"pid":1469,"thread":{"id":1470,"name":"curl"},"name":"curl","executable":"/usr/bin/curl","parent":{"pid":1400,"name":"bash","start":"2026-11-22T12:00:07.100000294Z"},"start":"2026-11-22T12:00:08.100000294Z"},"user":{"id":"1000","name":"ann"},"group":{"id":"100"},"host":{"name":"web1"},"port_monitor":{"schema":2,"id":"000000000000002a","boottime_ns":"5000000123","cpu":1,"netns":4026531840,"owner_source":"connect","process_start_boottime_ns":"4000000000","cgroup":{"id":"4242","path":"/user.slice/session-2.scope"},"exe":{"device":"254:1","inode":"131077"},"unit":"session-2.scope","local":{"port_class":"dynamic","service":{"status":"unassigned"},"ephemeral":true},"remote":{"port_class":"well-known","service":{"name":"https","origin":"iana","status":"assigned"},"ephemeral":false},"service":{"name":"https","origin":"iana","status":"assigned"},"port_class":"well-known","v4_mapped":false,"closed_by":"local","retransmits":2,"rtt_us":11900,"preattach":false}}"#);
    insta::assert_snapshot!(line(Item::Loss(&loss())), @r#"{"@timestamp":"2026-11-22T12:00:10.000000000Z","ecs":{"version":"9.4.0"},"event":{"kind":"event","action":"loss","dataset":"port_monitor.stream"},"host":{"name":"web1"},"port_monitor":{"schema":2,"lost":17,"total":20,"cause":"ring_full"}}"#);
    insta::assert_snapshot!(line(Item::Summary(&summary())), @r#"{"@timestamp":"2026-11-22T12:00:11.000000000Z","ecs":{"version":"9.4.0"},"event":{"kind":"metric","action":"summary","dataset":"port_monitor.stream"},"host":{"name":"web1"},"port_monitor":{"schema":2,"duration_ms":10040,"entered":1000,"not_ours":588,"gave_up":0,"seen":412,"shown":400,"filtered":12,"lost":0,"adds_up":true,"hooks":{"accept":{"hit":112,"filtered":0,"ring_full":0,"submitted":112,"program_skipped":0,"adds_up":true},"connect":{"hit":200,"filtered":10,"ring_full":0,"submitted":190,"program_skipped":0,"adds_up":true},"outcome":{"hit":100,"filtered":0,"ring_full":0,"submitted":100,"program_skipped":0,"adds_up":true}},"received":402,"lost_by_cause":{"ring_full":0,"program_skipped":0,"undecodable":0,"output_slow":0,"owner_late":0},"hidden":2,"consumers":{"output":{"delivered":402,"taken":400,"hidden":2,"dropped":0,"dropped_by_cause":{"queue_full":0,"failed":0,"unfinished":0}}},"violations":1,"accept_preattach":0,"table_full":0}}"#);
}

#[test]
fn unknown_is_absent_with_a_reason() {
    let line = value(Item::Event(&ownerless()));
    for absent in ["process", "user", "group", "rule", "error"] {
        assert_eq!(line.get(absent), None, "{absent}");
    }
    assert_eq!(line["source"], json!({"ip": "10.0.0.5"}));
    assert_eq!(line["network"].get("community_id"), None);
    assert_eq!(line["port_monitor"]["owner_source"], "unknown");
    let reasons = json!({"process.pid": "no_owner", "source.port": "not_chosen"});
    assert_eq!(line["port_monitor"]["missing"], reasons);
}

#[test]
fn what_enrichment_could_not_find_has_a_reason_too() {
    let mut record = connected();
    record.process = Arc::new(Process {
        container_missing: Some(crate::events::record::Missing::Exited),
        ..Process::unknown(crate::events::record::Missing::Exited)
    });
    let line = value(Item::Event(&record));
    assert_eq!(line["process"].get("executable"), None);
    assert_eq!(line["user"], json!({"id": "1000"}));
    let reasons = json!({
        "process.executable": "exited",
        "user.name": "unknown_user",
        "port_monitor.cgroup.path": "exited",
        "container.id": "exited",
    });
    assert_eq!(line["port_monitor"]["missing"], reasons);
}

#[test]
fn a_process_has_its_first_thread_s_name_and_its_threads_theirs() {
    let mut record = connected();
    let line = value(Item::Event(&record));
    assert_eq!(
        line["process"]["thread"],
        json!({"id": 1470, "name": "curl"})
    );
    assert_eq!(
        line["process"]["parent"],
        json!({"pid": 1400, "name": "bash", "start": "2026-11-22T11:59:59.000000294Z"})
    );
    if let Some(owner) = &mut record.event.owner {
        owner.comm = comm(b"Socket Thread");
    }
    let process = |record: &Record| value(Item::Event(record))["process"].clone();
    assert_eq!(process(&record)["name"], "curl");
    assert_eq!(process(&record)["thread"]["name"], "Socket Thread");
    // The process takes another name.
    if let Some(owner) = &mut record.event.owner {
        owner.process_comm = comm(b"Web Content");
    }
    assert_eq!(process(&record)["name"], "Web Content");
    assert_eq!(process(&record)["thread"]["name"], "Socket Thread");
}

#[test]
fn hostile_names_are_escaped_and_come_back_unchanged() {
    let mut record = connected();
    let name = "\u{1b}[31m\u{202e}\n\u{9b}\u{e0041}";
    if let Some(owner) = &mut record.event.owner {
        owner.comm = comm(name.as_bytes());
    }
    let line = line(Item::Event(&record));
    assert!(
        line.contains(r#""name":"\u001b[31m\u202e\n\u009b\udb40\udc41""#),
        "{line}"
    );
    let parsed: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(parsed["process"]["thread"]["name"], name);
    assert_eq!(parsed["process"]["name"], "curl");
    assert_eq!(parsed["port_monitor"].get("raw"), None);
}

#[test]
fn bytes_that_are_not_utf8_are_kept_beside_the_text() {
    let mut record = connected();
    if let Some(owner) = &mut record.event.owner {
        owner.comm = comm(b"a\xffb");
    }
    let mut process = (*record.process).clone();
    process.exe = Field::Known(OsString::from_vec(b"/x\xfe".to_vec()).into());
    record.process = Arc::new(process);
    let line = value(Item::Event(&record));
    assert_eq!(line["process"]["thread"]["name"], "a\u{fffd}b");
    let raw = json!({"process.thread.name": "61ff62", "process.executable": "2f78fe"});
    assert_eq!(line["port_monitor"]["raw"], raw);
    assert_eq!(Validator::new().check(&line), Ok(()));
}

#[test]
fn a_listener_has_no_source() {
    let line = value(Item::Event(&listening()));
    assert_eq!(line["event"]["type"], json!(["info", "start"]));
    assert_eq!(line["network"].get("community_id"), None);
    assert_eq!(line.get("source"), None);
    assert_eq!(line["destination"], json!({"ip": "10.0.0.5", "port": 22}));
    assert_eq!(line["port_monitor"].get("remote"), None);
    assert_eq!(line["port_monitor"]["service"]["name"], "ssh");
    assert_eq!(Validator::new().check(&line), Ok(()));
}

#[test]
fn the_peer_on_this_host_is_named_and_no_other() {
    let mut record = connected();
    assert_eq!(
        value(Item::Event(&record))["port_monitor"].get("peer_process"),
        None
    );
    record.peer = Some(sshd());
    let expected = json!({
        "pid": 812,
        "name": "sshd",
        "executable": "/usr/sbin/sshd",
        "start_boottime_ns": "3000000000",
    });
    assert_eq!(
        value(Item::Event(&record))["port_monitor"]["peer_process"],
        expected
    );
}

#[test]
fn hostile_names_of_peers_are_escaped_and_kept() {
    let mut record = connected();
    let mut peer = (*sshd()).clone();
    peer.comm = comm(b"\x1b[2J\xff");
    record.peer = Some(Arc::new(peer));
    let line = line(Item::Event(&record));
    assert!(line.contains(r#""name":"\u001b[2J"#), "{line}");
    let parsed: Value = serde_json::from_str(&line).unwrap();
    let raw = json!({"port_monitor.peer_process.name": "1b5b324aff"});
    assert_eq!(parsed["port_monitor"]["raw"], raw);
    assert_eq!(Validator::new().check(&parsed), Ok(()));
}

#[test]
fn source_is_the_initiator_from_both_ends() {
    let outbound = value(Item::Event(&connected()));
    assert_eq!(outbound["source"]["ip"], "10.0.0.5");
    assert_eq!(outbound["network"]["direction"], "egress");
    let inbound = value(Item::Event(&accepted()));
    assert_eq!(inbound["source"]["ip"], "10.0.0.7");
    assert_eq!(inbound["destination"]["port"], 22);
    assert_eq!(inbound["network"]["direction"], "ingress");
}

#[test]
fn an_account_that_does_not_add_up_says_so() {
    let mut summary = summary();
    summary.hooks.push((
        Hook::Outcome.name(),
        HookCount {
            hit: 1,
            ..HookCount::default()
        },
    ));
    let line = value(Item::Summary(&summary));
    assert_eq!(line["port_monitor"]["adds_up"], false);
}
