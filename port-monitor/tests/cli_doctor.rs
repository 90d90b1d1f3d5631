//! `doctor` for somebody without privilege: what is missing, in text and in
//! JSON, and the exit status.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod support;

use std::fs::File;

use serde_json::{Value, json};
use support::run_unprivileged;

const CANNOT_ATTACH: i32 = 3;
const OUTPUT_FAILED: i32 = 6;

/// Why nothing attaches.
const REFUSED: &str = "needs CAP_BPF and CAP_PERFMON: run it with sudo";

/// What `doctor` prints when no backend works, on standard output only.
fn report(args: &[&str]) -> String {
    let output = run_unprivileged(&[&["doctor"], args].concat(), |_| ());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*stderr), (Some(CANNOT_ATTACH), ""));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn text_names_what_is_missing_and_what_to_do() {
    let text = report(&[]);
    let mut lines = text.lines();
    let kernel = rustix::system::uname();
    let kernel = kernel.release().to_str().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let title = format!("port-monitor {version} on kernel {kernel}");
    assert_eq!(lines.next(), Some(&*title));
    assert_eq!(lines.next(), Some(""));
    let privilege = "NO  privilege                          no CAP_BPF, no CAP_PERFMON";
    assert_eq!(lines.next(), Some(privilege));
    assert_eq!(lines.next(), Some("      run it with sudo"));

    let (_, backends) = text.split_once("\n\nNO  backend ").unwrap();
    let expected = format!(
        "fentry: {REFUSED}\n\nNO  backend kprobe: {REFUSED}\n\nNO  backend tracepoint: \
         {REFUSED}\n\nNo backend works here.\n"
    );
    assert_eq!(backends, expected);
}

#[test]
fn json_is_one_object_with_the_same_facts() {
    let text = report(&["--json"]);
    assert_eq!(text.lines().count(), 1);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report["auto"], Value::Null);
    let privilege = json!({
        "name": "privilege",
        "ok": false,
        "found": "no CAP_BPF, no CAP_PERFMON",
        "remedy": "run it with sudo",
    });
    assert_eq!(report["checks"][0], privilege);
    let backend = |name| {
        let (blind_spots, programs) = (json!([]), json!([]));
        json!({
            "name": name, "refused": REFUSED, "blind_spots": blind_spots, "programs": programs
        })
    };
    let backends = json!([backend("fentry"), backend("kprobe"), backend("tracepoint")]);
    assert_eq!(report["backends"], backends);
}

#[test]
fn full_disk_is_an_output_failure() {
    for args in [&["doctor"][..], &["doctor", "--json"]] {
        let output = run_unprivileged(args, |command| {
            command.stdout(File::options().write(true).open("/dev/full").unwrap());
        });
        let stderr = String::from_utf8(output.stderr).unwrap();
        let message = "port-monitor: write to the standard output: No space left on device (os \
                       error 28)\n";
        assert_eq!(
            (output.status.code(), &*stderr),
            (Some(OUTPUT_FAILED), message)
        );
    }
}

#[test]
fn surplus_argument_is_a_usage_error() {
    let output = run_unprivileged(&["doctor", "now"], |_| ());
    let stderr = String::from_utf8(output.stderr).unwrap();
    let message = "port-monitor: unexpected argument 'now' found; see --help\n";
    assert_eq!((output.status.code(), &*stderr), (Some(2), message));
}
