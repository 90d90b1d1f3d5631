//! What a collector gets, and what becomes of rows by its answers.

use jiff::{Timestamp, fmt::rfc2822};
use opentelemetry_proto::tonic::{
    collector::logs::v1::{
        ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
    },
    common::v1::any_value::Value::StringValue,
};
use prost::Message as _;

use super::{
    server::Answer::{SaysMessage, TakesOnly},
    *,
};

fn settings(address: SocketAddr) -> Settings {
    Settings {
        kind: Kind::Otlp,
        url: format!("http://{address}").parse().unwrap(),
        ..super::settings(address)
    }
}

/// The stable keys of a request, of which each is a connection.
fn uids(body: &[u8]) -> Vec<String> {
    let request = ExportLogsServiceRequest::decode(body).unwrap();
    let logs = request.resource_logs.into_iter();
    let records = logs
        .flat_map(|logs| logs.scope_logs)
        .flat_map(|logs| logs.log_records);
    let attributes = records.flat_map(|record| record.attributes);
    let uids = attributes.filter(|attribute| attribute.key == "log.record.uid");
    uids.map(|uid| match uid.value.unwrap().value.unwrap() {
        StringValue(text) => text,
        other => panic!("{other:?}"),
    })
    .collect()
}

/// The numbers of the connections in it.
fn ids(body: &[u8]) -> Vec<u64> {
    let boot = header().boot_id.len();
    let uids = uids(body).into_iter();
    uids.map(|uid| uid[boot + 1..].split('-').next().unwrap().parse().unwrap())
        .collect()
}

fn partly(rejected: i64, told: &str) -> Answer {
    let response = ExportLogsServiceResponse {
        partial_success: Some(ExportLogsPartialSuccess {
            rejected_log_records: rejected,
            error_message: told.to_owned(),
        }),
    };
    SaysMessage("200 OK", response.encode_to_vec())
}

use server::Answer;

#[test]
fn a_collector_gets_records_at_the_path_of_logs_unless_another_one_is_named() {
    for (url, first) in [
        ("", "POST /v1/logs HTTP/1.1"),
        ("/", "POST /v1/logs HTTP/1.1"),
        ("/?a=1", "POST /v1/logs?a=1 HTTP/1.1"),
        ("/otlp/logs?a=1", "POST /otlp/logs?a=1 HTTP/1.1"),
    ] {
        let (address, got) = serve([ok()]);
        let mut place = Place::new();
        let settings = Settings {
            url: format!("http://{address}{url}").parse().unwrap(),
            ..settings(address)
        };
        let mut sender = place.sender(&settings);
        place.record(0..3);
        block_on(sender.round());
        let got = got.try_recv().unwrap();
        assert!(got.has(first), "{got:?}");
        assert!(got.has("content-type: application/x-protobuf"), "{got:?}");
        assert_eq!(ids(&got.body), [0, 1, 2]);
        assert_eq!(place.standing().progress.sent, 3);
    }
}

#[test]
fn who_asks_is_in_files_that_are_read_at_every_batch() {
    let (address, got) = serve([ok(), ok(), ok()]);
    let mut place = Place::new();
    let file = |name: &str, text: &str| {
        let path = place.dir.path().join(name);
        fs::write(&path, text).unwrap();
        Some(path)
    };
    let by_token = Settings {
        token_file: file("token", "first\n"),
        headers_file: file("headers", "x-team: a\n"),
        ..settings(address)
    };
    let by_password = Settings {
        user: Some("Aladdin".to_owned()),
        password_file: file("password", "open sesame\n"),
        ..settings(address)
    };
    let mut sender = place.sender(&by_token);
    for (number, token) in (0..).zip(["first", "second"]) {
        fs::write(by_token.token_file.as_ref().unwrap(), token).unwrap();
        place.record(number..number + 1);
        block_on(sender.round());
        let got = got.try_recv().unwrap();
        assert!(
            got.has(&format!("authorization: Bearer {token}")),
            "{got:?}"
        );
        assert!(got.has("x-team: a"), "{got:?}");
    }
    let mut sender = place.sender(&by_password);
    place.record(7..8);
    block_on(sender.round());
    let got = got.try_recv().unwrap();
    let basic = "authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
    assert!(got.has(basic), "{got:?}");
}

/// A repeat has the keys of what it repeats.
#[test]
fn a_receiver_that_is_busy_is_left_alone_as_long_as_it_asks() {
    let soon = Timestamp::now()
        .saturating_add(Duration::from_mins(15))
        .unwrap();
    let date = rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&soon)
        .unwrap();
    for (status, after, least, most) in [
        ("429 Too Many Requests", "600".to_owned(), 600, 750),
        ("503 Service Unavailable", date, 850, 1_125),
        ("502 Bad Gateway", "999999".to_owned(), 3_600, 4_500),
        ("504 Gateway Timeout", "soon".to_owned(), 0, 1),
        (
            "503 Service Unavailable",
            "Sun, 06 Nov 1994 08:49:37 GMT".to_owned(),
            0,
            1,
        ),
    ] {
        let busy = says(status, &format!("Retry-After: {after}\r\n"), "later\nor so");
        let (address, got) = serve([busy, ok()]);
        let mut place = Place::new();
        let mut sender = place.sender(&settings(address));
        place.record(0..3);
        let pause = block_on(sender.round());
        let range = Duration::from_secs(least)..=Duration::from_secs(most);
        assert!(range.contains(&pause), "{after}: {pause:?}");
        assert!(place.standing().is_failing);
        assert_eq!(block_on(sender.round()), Duration::from_hours(1));
        let got: Vec<_> = got.try_iter().map(|got| uids(&got.body)).collect();
        assert_eq!((got.len(), got[0].len()), (2, 3));
        assert_eq!(got[0], got[1]);
        assert_eq!(place.standing().progress.sent, 3);
    }
}

#[test]
fn what_a_collector_rejects_is_counted_and_not_sent_again() {
    let (address, got) = serve([partly(2, "too old"), partly(0, "mind the gap"), ok()]);
    let mut place = Place::new();
    let mut sender = place.sender(&settings(address));
    for number in 0..3 {
        place.record(number * 5..number * 5 + 5);
        assert_eq!(block_on(sender.round()), Duration::from_hours(1));
    }
    let sizes: Vec<usize> = got.try_iter().map(|got| ids(&got.body).len()).collect();
    assert_eq!(sizes, [5, 5, 5]);
    let Standing {
        progress,
        is_failing,
    } = place.standing();
    assert!(!is_failing);
    assert_eq!(
        progress.to_string(),
        "recorded 15 = sent 13 + waiting 0 + expired 0 + rejected 2"
    );
}

/// The one row that it does not take is found, and all others arrive.
#[test]
fn a_row_that_is_refused_for_what_it_is_keeps_no_other_one() {
    let (address, got) = serve(vec![
        TakesOnly(
            |body| !ids(body).contains(&37),
            "400 Bad Request"
        );
        99
    ]);
    let mut place = Place::new();
    let mut sender = place.sender(&settings(address));
    place.record(0..100);
    assert_eq!(block_on(sender.round()), Duration::from_hours(1));
    let standing = place.standing();
    assert!(!standing.is_failing);
    assert_eq!(
        standing.progress.to_string(),
        "recorded 100 = sent 99 + waiting 0 + expired 0 + rejected 1"
    );
    let taken = got.try_iter().map(|got| ids(&got.body));
    let taken = taken.filter(|ids| !ids.contains(&37));
    let taken: Vec<u64> = taken.flatten().collect();
    let all: Vec<u64> = (0..100).filter(|id| *id != 37).collect();
    assert_eq!(taken, all);
    // What comes then is sent as before.
    place.record(100..150);
    block_on(sender.round());
    assert_eq!(place.standing().progress.sent, 149);
}

/// Not the rows are the matter where nothing is taken at all.
#[test]
fn a_receiver_that_refuses_everything_loses_no_row() {
    for status in [
        "400 Bad Request",
        "401 Unauthorized",
        "404 Not Found",
        "413 Content Too Large",
        "500 Internal Server Error",
    ] {
        let (address, got) = serve(vec![TakesOnly(|_| false, status); 99]);
        let mut place = Place::new();
        let mut sender = place.sender(&settings(address));
        place.record(0..100);
        for _ in 0..3 {
            assert!(block_on(sender.round()) < Duration::from_mins(1));
        }
        assert!(place.standing().is_failing);
        let progress = place.standing().progress;
        assert_eq!(
            (progress.waiting(), progress.rejected),
            (100, 0),
            "{status}"
        );
        let requests = got.try_iter().count();
        assert!(requests < 20, "{status}: {requests}");
    }
}

#[test]
fn what_an_error_says_is_told() {
    let status = [b"\x08\x03\x12\x07".as_slice(), b"bad row\x1a\x00"].concat();
    let (address, _got) = serve([
        SaysMessage("403 Forbidden", status),
        says("403 Forbidden", "", "no token\nx"),
        SaysMessage("403 Forbidden", vec![0xff; 30]),
    ]);
    let mut place = Place::new();
    let mut sender = place.sender(&settings(address));
    place.record(0..1);
    for told in [
        " answers 403 Forbidden: bad row",
        " answers 403 Forbidden: no token",
        " answers 403 Forbidden",
    ] {
        let fault = block_on(sender.send()).unwrap_err().to_string();
        assert_eq!(fault, format!("http://{address}/{told}"));
    }
}
