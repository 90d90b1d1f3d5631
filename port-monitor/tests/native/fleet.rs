//! Exports of a service, to a receiver that is made by the test.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest, common::v1::any_value::Value as Any,
};
use prost::Message as _;
use serde_json::Value;

use crate::{
    receiver::{receiver, receiver_of},
    service::Service,
};

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
    let id = |row: String| {
        let row: Value = serde_json::from_str(&row).unwrap();
        assert_eq!((&row["state"], &row["port"]), (&"failed".into(), &1.into()));
        row["connection_id"].as_u64().unwrap()
    };
    let mut ids: Vec<u64> = received.try_iter().map(id).collect();
    ids.sort_unstable();
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

/// Each attribute of each record in a batch, as `name=value`.
fn attributes(batch: &[u8]) -> Vec<Vec<String>> {
    let request = ExportLogsServiceRequest::decode(batch).unwrap();
    let scopes = request
        .resource_logs
        .into_iter()
        .flat_map(|logs| logs.scope_logs);
    let records = scopes.flat_map(|scope| scope.log_records);
    records
        .map(|record| {
            let attributes = record.attributes.into_iter();
            let told = attributes.map(|it| match it.value.unwrap().value.unwrap() {
                Any::StringValue(text) => format!("{}={text}", it.key),
                Any::IntValue(number) => format!("{}={number}", it.key),
                other => format!("{}={other:?}", it.key),
            });
            told.collect()
        })
        .collect()
}

#[test]
fn a_collector_gets_a_record_of_each_connection() {
    let (address, received) = receiver_of(attributes);
    let mut service = Service::start(&format!(
        "[history]\nfile = \"DIR/history.db\"\n[export.logs]\ntype = \"otlp\"\n\
         url = \"http://{address}\"\n"
    ));
    service.shell.attempt(20);
    let ended = service.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let account = "port-monitor: export logs: recorded 20 = sent 20 + waiting 0 + expired 0";
    assert!(
        ended.stderr.lines().any(|line| line == account),
        "{}",
        ended.stderr
    );
    let records: Vec<Vec<String>> = received.try_iter().collect();
    assert_eq!(records.len(), 20);
    let mut uids = BTreeSet::new();
    for record in &records {
        for told in [
            "destination.address=127.0.0.1",
            "destination.port=1",
            "error.type=ECONNREFUSED",
            "port_monitor.process=bash",
            "port_monitor.service=tcpmux",
        ] {
            assert!(record.iter().any(|it| it == told), "{told}: {record:?}");
        }
        uids.extend(record.iter().filter(|it| it.starts_with("log.record.uid=")));
    }
    assert_eq!(uids.len(), 20);
}
