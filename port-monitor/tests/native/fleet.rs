//! Exports of a service, to a receiver that is made by the test.

use serde_json::Value;

use crate::{receiver::receiver, service::Service};

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
