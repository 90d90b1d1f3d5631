//! `serve`: a service manager made by the test is told how it goes, and consumers come and go
//! under a load of connections without one event lost or told twice.

use std::{
    fs, iter,
    path::Path,
    process::{Child, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use flate2::read::GzDecoder;
use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::Value;

use crate::{
    monitor::action,
    program::{PATIENCE, port_monitor},
    service::{Ended, Service},
};

/// Events in the recording of that name.
pub(crate) fn events(dir: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(dir.join(name)).unwrap();
    let actions = text.lines().map(action);
    actions
        .filter(|action| ["connect", "failed"].contains(&&**action))
        .count() as u64
}

/// Waits until there is an event in the recording at `path`, behind its header.
fn await_event(path: &Path) {
    let begun = Instant::now();
    while fs::read_to_string(path).unwrap().lines().count() < 2 {
        assert!(begun.elapsed() < PATIENCE, "{}", path.display());
        thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn record(name: &str) -> String {
    format!("[record]\nfile = \"DIR/{name}\"\n")
}

/// What `status --service` says with these arguments.
fn status(service: &Service, args: &[&str]) -> Output {
    let mut command = port_monitor(["status", "--service", "--socket"]);
    let command = command.arg(service.path("socket")).args(args);
    command.stdin(Stdio::null()).output().unwrap()
}

/// How it stands as soon as its recording has so many events.
pub(crate) fn report(service: &Service, recorded: u64) -> Value {
    let begun = Instant::now();
    loop {
        let output = status(service, &["--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        if report["consumers"][1]["taken"] == recorded {
            return report;
        }
        assert!(begun.elapsed() < PATIENCE, "{report}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_service_tells_how_it_stands_until_it_ends() {
    let sections = |socket| format!("{}[socket]\nfile = \"DIR/{socket}\"\n", record("0"));
    let mut service = Service::start(&sections("socket"));
    service.shell.attempt(3);
    let before = report(&service, 6);
    assert_eq!(before["pid"], service.process.0.id());
    // Those of others are seen too, and filtered.
    let seen = |report: &Value| report["events"]["seen"].as_u64().unwrap();
    assert!(seen(&before) >= 6, "{before}");
    // It leaves, as soon as it has taken what was its own, and joins anew; it tells of the same run.
    service.reload(&sections("elsewhere"));
    let begun = Instant::now();
    while status(&service, &[]).status.code() != Some(3) {
        assert!(begun.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(50));
    }
    service.reload(&sections("socket"));
    let after = report(&service, 6);
    assert_eq!(after["began"], before["began"]);
    assert!(seen(&after) >= seen(&before), "{after}");
    let text = String::from_utf8(status(&service, &[]).stdout).unwrap();
    let account = "\nrecord               6           6           0           0  0 of 32768\n";
    assert!(text.contains(account), "{text}");
    let Ended { code, dir, .. } = service.end();
    assert_eq!(code, Some(0));
    assert!(!dir.path().join("socket").exists());
}

#[test]
fn the_kinds_of_a_record_are_not_those_of_the_history() {
    let history = "[history]\nfile = \"DIR/history.db\"\n";
    let sections = format!("events = [\"connect\"]\n{}{history}", record("0"));
    let mut service = Service::start(&sections);
    service.shell.attempt(3);
    let Ended {
        code, stderr, dir, ..
    } = service.end();
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(events(dir.path(), "0"), 3);
    let failed = port_monitor(["history", "--failed", "-o", "csv", "--file"])
        .arg(dir.path().join("history.db"))
        .output()
        .unwrap();
    let failed = String::from_utf8(failed.stdout).unwrap();
    assert_eq!(failed.lines().count(), 1 + 3, "{failed}");
}

#[test]
fn recordings_that_come_and_go_under_load_have_each_event_once() {
    let mut service = Service::start(&record("0"));
    let told = service.reload("");
    assert!(told.contains("; no consumer\n"), "{told}");
    service.reload(&record("1"));
    let stop = service.path("stop");
    service.shell.attempt_until(&stop);
    for run in 2..10 {
        let told = service.reload(&record(&run.to_string()));
        assert!(told.contains("; consumers: record\n"), "{told}");
        // The next one comes while events come to this one.
        await_event(&service.path(&run.to_string()));
    }
    fs::write(&stop, "").unwrap();
    let attempts: u64 = service.shell.hear().parse().unwrap();
    let Ended {
        code, stderr, dir, ..
    } = service.end();
    assert_eq!(code, Some(0), "{stderr}");
    let counts: Vec<u64> = (0..10)
        .map(|run| events(dir.path(), &run.to_string()))
        .collect();
    assert_eq!(counts.iter().sum::<u64>(), 2 * attempts, "{counts:?}");
    assert!(counts[2..].iter().all(|count| *count > 0), "{counts:?}");
    // Each that left told its account, which is what is in its file; the last one at the end.
    for count in &counts[..9] {
        let account = format!(
            "port-monitor: record: delivered {count} = taken {count} + hidden 0 + dropped 0\n"
        );
        assert!(stderr.contains(&account), "no {account} in {stderr}");
    }
    assert!(stderr.contains(" + lost 0 in "), "{stderr}");
}

#[test]
fn a_record_that_is_full_is_put_aside_and_lacks_nothing() {
    let rotated = "rotate-size = \"4K\"\nrotate-keep = 99\n";
    let mut service = Service::start(&format!("{}{rotated}", record("0")));
    service.shell.attempt(20);
    let Ended {
        code, stderr, dir, ..
    } = service.end();
    assert_eq!(code, Some(0), "{stderr}");
    let old = |number: u32| dir.path().join(format!("0.{number}.gz"));
    let numbers = (1..).take_while(|number| old(*number).exists());
    assert!(numbers.clone().count() > 5);
    let unpacked = numbers.map(|number| {
        let file = fs::File::open(old(number)).unwrap();
        let text = std::io::read_to_string(GzDecoder::new(file)).unwrap();
        let name = format!("{number}.jsonl");
        fs::write(dir.path().join(&name), text).unwrap();
        events(dir.path(), &name)
    });
    let unpacked: u64 = unpacked.sum();
    assert_eq!(unpacked + events(dir.path(), "0"), 40);
}

#[test]
fn a_reload_that_is_wrong_is_told_and_changes_nothing() {
    let mut service = Service::start(&record("a"));
    service.shell.attempt(5);
    let wrong = [
        ("[recrod]\nfile = \"DIR/b\"\n", "unknown key `recrod`"),
        (
            "[record]\nfile = \"DIR/none/b\"\n",
            "[record]: --record: output file ",
        ),
        (
            "backend = \"tracepoint\"\n[record]\nfile = \"DIR/b\"\n",
            "backend in [watch] changed, which takes a restart; nothing was changed\n",
        ),
        (
            "[policy]\nfile = \"DIR/none.toml\"\n",
            "none.toml: no such file (check its name)\n",
        ),
    ];
    for (sections, _) in wrong {
        let told = service.reload(sections);
        assert!(told.contains("; consumers: record\n"), "{told}");
    }
    service.shell.attempt(5);
    let Ended {
        code, stderr, dir, ..
    } = service.end();
    assert_eq!(code, Some(0), "{stderr}");
    let mut rest = &*stderr;
    for (_, told) in wrong {
        let (_, behind) = rest.split_once("port-monitor: not reloaded: ").unwrap();
        rest = behind;
        let told_next = rest.split("port-monitor: ").next().unwrap();
        assert!(told_next.contains(told), "no {told} in {told_next}");
    }
    assert!(!dir.path().join("b").exists());
    assert_eq!(events(dir.path(), "a"), 20);
}

#[test]
fn the_journal_has_the_start_the_violations_and_the_account() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.toml");
    fs::write(
        &policy,
        "version = 1\n[[rule]]\nname = \"no-one\"\ndirection = \"out\"\nport = 1\naction = \"deny\"\n",
    )
    .unwrap();
    let policy = format!("[policy]\nfile = \"{}\"\n", policy.display());
    let mut service = Service::start(&format!("{policy}{}", record("a")));
    service.shell.attempt(3);
    let Ended {
        code, stderr, dir, ..
    } = service.end();
    assert_eq!(code, Some(0), "{stderr}");
    let lines: Vec<&str> = stderr.lines().collect();
    assert!(
        lines[0].starts_with("# port-monitor ") && lines[0].contains(", backend "),
        "{stderr}"
    );
    assert!(lines[1].starts_with("# policy "), "{stderr}");
    let violations = lines.iter().filter(|line| line.starts_with("! "));
    assert!(
        violations.clone().all(|line| line.contains("no-one")),
        "{stderr}"
    );
    assert!(violations.count() >= 3, "{stderr}");
    for line in [
        " + lost 0 in ",
        "# record: delivered 6 = taken 6 + hidden 0 + dropped 0\n",
    ] {
        assert!(stderr.contains(line), "no {line} in {stderr}");
    }
    assert_eq!(events(dir.path(), "a"), 6);
}

/// A service whose recording is a pipe that nobody reads.
fn with_pipe(environment: &[(&str, &str)]) -> Service {
    let service = Service::start_with("", environment);
    mkfifoat(CWD, service.path("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
    service.reload(&record("pipe"));
    service
}

#[test]
fn the_end_waits_for_a_slow_consumer() {
    let mut service = with_pipe(&[]);
    service.shell.attempt(50);
    service.begin_to_end();
    let pipe = service.path("pipe");
    let reader = thread::spawn(|| fs::read_to_string(pipe).unwrap());
    let Ended { code, stderr, .. } = service.finish();
    let text = reader.join().unwrap();
    assert_eq!(code, Some(0), "{stderr}");
    let taken = text.lines().map(action).filter(|action| action == "failed");
    assert_eq!(taken.count(), 50);
    assert_eq!(text.lines().last().map(action).as_deref(), Some("summary"));
}

#[test]
fn the_end_does_not_wait_for_a_consumer_for_ever() {
    let mut service = with_pipe(&[]);
    service.shell.attempt(50);
    let Ended {
        code, stderr, took, ..
    } = service.end();
    assert_eq!(code, Some(6), "{stderr}");
    let missing = "# record dropped: queue full 0, failed 0, unfinished 100\n";
    assert!(stderr.contains(missing), "{stderr}");
    assert!((10..30).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn the_watchdog_is_fed_by_the_reader_alone() {
    let mut service = with_pipe(&[("WATCHDOG_USEC", "5000000")]);
    // What it waits for costs the recording alone.
    service.shell.attempt(50);
    let sign = || {
        let mut bytes = [0; 64];
        let count = service.socket.recv(&mut bytes);
        count.map(|count| bytes[..count] == *b"WATCHDOG=1\n")
    };
    for _ in 0..4 {
        assert!(sign().unwrap());
    }
    // The thread that reads the ring stands still, and the others go on.
    let reader = Stopped::seize(&service.process.0);
    let silence = Duration::from_secs(3);
    service.socket.set_read_timeout(Some(silence)).unwrap();
    // One sign may have been on its way.
    let signs = iter::from_fn(|| sign().ok()).take(3).count();
    assert!(signs < 3, "{signs}");
    drop(reader);
    service.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(sign().unwrap());
}

/// The first thread of a process, which stands still until this is dropped.
struct Stopped(libc::pid_t);

impl Stopped {
    fn seize(child: &Child) -> Self {
        let pid = libc::pid_t::try_from(child.id()).unwrap();
        let none = std::ptr::null_mut::<libc::c_void>();
        for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
            // SAFETY: neither request takes a pointer that it follows.
            let done = unsafe { libc::ptrace(request, pid, none, none) };
            assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        }
        // SAFETY: a status that nobody asks for needs no place.
        let stopped = unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) };
        assert_eq!(stopped, pid);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the request takes no pointer that it follows.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, none, none) };
    }
}
