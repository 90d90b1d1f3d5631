//! A service with all of its consumers at once, for long: its receiver comes and goes, its
//! configuration is read again, its files are rotated. In the end each account is exact, and
//! it holds no more than it did at the beginning. `cargo xtask soak` has it go on for hours.

#![expect(
    clippy::print_stderr,
    reason = "who waits for hours sees what was held"
)]

use std::{
    collections::HashSet,
    env, fs,
    io::{BufReader, Write as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use crate::{
    http::free_address,
    metrics::{listener, parser::Exposition, scrape},
    monitor::action,
    program::wait_for,
    receiver::rows,
    serve::{record, report},
    service::{Ended, Service},
};

/// Environment variable: for how many seconds it goes on.
const SECONDS: &str = "PORT_MONITOR_TEST_SOAK";
/// From here on memory is looked at: before, all that is filled once is not yet full.
pub(crate) const LONG: Duration = Duration::from_mins(30);
/// How often connections are made.
const SLICE: Duration = Duration::from_millis(100);
/// Attempts that are refused, and connections, of a slice.
const REFUSED: u64 = 5;
const CONNECTED: u64 = 15;

/// How a receiver answers.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    /// Nobody listens.
    Gone,
    /// With a failure.
    Busy,
    /// It takes all, and does not say so to the end.
    Cut,
}

impl Mood {
    const BAD: [Self; 3] = [Self::Gone, Self::Busy, Self::Cut];

    /// Of a turn: each other one is good.
    fn of_turn(turn: usize) -> Self {
        match turn % 2 {
            0 => Self::Well,
            _ => Self::BAD[turn / 2 % Self::BAD.len()],
        }
    }
}

/// A receiver of exports, and the connections that it has.
struct Receiver {
    address: SocketAddr,
    mood: Arc<AtomicU8>,
    ids: Arc<Mutex<HashSet<String>>>,
}

impl Receiver {
    fn start() -> Self {
        let address = free_address();
        let mood = Arc::new(AtomicU8::new(Mood::Gone as u8));
        let ids = Arc::new(Mutex::new(HashSet::new()));
        let of_thread = (Arc::clone(&mood), Arc::clone(&ids));
        thread::spawn(move || receive(address, &of_thread.0, &of_thread.1));
        Self { address, mood, ids }
    }

    fn set(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::Relaxed);
    }

    fn ids(&self) -> MutexGuard<'_, HashSet<String>> {
        self.ids.lock().unwrap()
    }
}

fn receive(address: SocketAddr, mood: &AtomicU8, ids: &Mutex<HashSet<String>>) {
    let mut listener = None;
    loop {
        let now = mood.load(Ordering::Relaxed);
        if now == Mood::Gone as u8 {
            listener = None;
            thread::sleep(SLICE);
            continue;
        }
        let listener = listener.get_or_insert_with(|| TcpListener::bind(address).unwrap());
        let tenth = Timespec::try_from(SLICE).unwrap();
        if poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&tenth)).unwrap() == 0 {
            continue;
        }
        let mut reader = BufReader::new(listener.accept().unwrap().0);
        let answer: &[u8] = if now == Mood::Busy as u8 {
            b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
        } else {
            // A reload or an end breaks it off; it is sent again.
            let Ok(rows) = rows(&mut reader) else {
                continue;
            };
            let names = rows.iter().map(|row| {
                let row: Value = serde_json::from_str(row).unwrap();
                row["connection_id"].to_string()
            });
            ids.lock().unwrap().extend(names);
            if now == Mood::Cut as u8 {
                b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
            } else {
                b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            }
        };
        // Of who has gone meanwhile nothing is to be done.
        let _ = reader.into_inner().write_all(answer);
    }
}

/// What a process holds.
pub(crate) struct Held {
    rss_kib: u64,
    files: usize,
}

impl Held {
    pub(crate) fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        Self {
            rss_kib: rss.unwrap().trim_end_matches("kB").trim().parse().unwrap(),
            files: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
        }
    }

    /// In the last quarter it has no more memory than in the second one.
    pub(crate) fn expect_flat(all: &[Self], is_long: bool) {
        let quarter = all.len() / 4;
        let of = |part: &[Self]| part.iter().map(|held| held.rss_kib).max().unwrap();
        let early = of(&all[quarter..2 * quarter]);
        let late = of(&all[3 * quarter..]);
        let (turns, files) = (all.len(), Self::fewest(all));
        eprintln!("{turns} turns; {early} KiB, then {late}; {files} descriptors");
        assert!(!is_long || late * 100 <= early * 105);
    }

    /// Descriptors at the calmest moment of the first half. A batch or a command under way has
    /// some too.
    fn fewest(all: &[Self]) -> usize {
        let half = all[..all.len() / 2].iter();
        half.map(|held| held.files).min().unwrap()
    }
}

/// What the generator has done.
#[derive(Default)]
struct Done {
    refused: u64,
    connected: u64,
    /// Events in the recordings that were rotated.
    recorded: u64,
}

impl Done {
    const fn events(&self) -> u64 {
        2 * self.refused + 3 * self.connected
    }

    /// Makes connections for so long.
    fn load(&mut self, service: &mut Service, peer: SocketAddr, time: Duration) {
        let connect = format!(
            "for ((i = 0; i < {CONNECTED}; i++)); do printf word >/dev/tcp/{}/{}; done; echo done",
            peer.ip(),
            peer.port()
        );
        let begun = Instant::now();
        while begun.elapsed() < time {
            let slice = Instant::now();
            service.shell.attempt(REFUSED);
            service.shell.say(&connect);
            assert_eq!(service.shell.hear(), "done");
            self.refused += REFUSED;
            self.connected += CONNECTED;
            thread::sleep(SLICE.saturating_sub(slice.elapsed()));
        }
    }

    /// Counts the events of a recording that is whole, and removes it.
    fn count(&mut self, path: &Path) {
        let text = fs::read_to_string(path).unwrap();
        let events = ["connect", "connected", "failed", "close"];
        let actions = text.lines().map(action);
        self.recorded += actions.filter(|action| events.contains(&&**action)).count() as u64;
        fs::remove_file(path).unwrap();
    }
}

/// The configuration of a turn.
fn sections(dir: &Path, metrics: SocketAddr, receiver: &Receiver, turn: usize) -> String {
    let policy = dir.join("policy.toml");
    let rule = "version = 1\n[[rule]]\nname = \"no-one\"\ndirection = \"out\"\nport = 1\n\
                action = \"deny\"\n";
    fs::write(&policy, rule).unwrap();
    let script = dir.join("alert");
    fs::write(&script, "#!/bin/sh\nexec cat >>\"${0%/*}/alerts\"\n").unwrap();
    format!(
        "[policy]\nfile = \"{policy}\"\n\
         {record}[history]\nfile = \"DIR/history.db\"\nmax-size = \"8M\"\n\
         [metrics]\nlisten = \"{metrics}\"\n[socket]\nfile = \"DIR/socket\"\n\
         [alert]\ncommand = [\"/bin/sh\", \"{script}\"]\nrate = \"{rate}/m\"\n\
         [export.central]\ntype = \"clickhouse\"\nurl = \"http://{address}\"\nevery = \"{every}s\"\n",
        policy = policy.display(),
        script = script.display(),
        record = record("r"),
        rate = 60 + turn % 2,
        address = receiver.address,
        every = 1 + turn / 2 % 2,
    )
}

#[test]
fn all_that_is_on_for_long_stays_exact_and_small() {
    let seconds = env::var(SECONDS).map_or(16, |seconds| seconds.parse().unwrap());
    let whole = Duration::from_secs(seconds);
    let turn_time = (whole / 16).clamp(Duration::from_secs(1), Duration::from_mins(1));
    let own = tempfile::tempdir().unwrap();
    let (receiver, metrics, peer) = (Receiver::start(), free_address(), listener());
    let of_turn = |turn| sections(own.path(), metrics, &receiver, turn);
    let mut service = Service::start(&of_turn(0));
    let (mut done, mut held) = (Done::default(), Vec::new());
    let begun = Instant::now();
    let mut turn = 0;
    // The last one is good.
    while begun.elapsed() < whole || turn % 2 == 0 {
        receiver.set(Mood::of_turn(turn));
        done.load(&mut service, peer, turn_time);
        held.push(Held::of(service.process.0.id()));
        turn += 1;
        let (current, rotated) = (service.dir.path().join("r"), own.path().join("r"));
        fs::rename(&current, &rotated).unwrap();
        service.reload(&of_turn(turn));
        // With a new one, the one before is whole.
        wait_for("a new recording", || current.exists().then_some(()));
        done.count(&rotated);
    }
    Held::expect_flat(&held, whole >= LONG);
    let files = Held::fewest(&held);
    let lost = finish(service, &receiver, (metrics, files), &mut done);
    check_alerts(&own.path().join("alerts"), done.refused, lost);
}

/// Waits until all has come to all and it is calm, and holds the accounts to it. Events of
/// this generator are missing only where that many are counted as lost; those of others are
/// among them.
fn finish(
    service: Service,
    receiver: &Receiver,
    (metrics, files): (SocketAddr, usize),
    done: &mut Done,
) -> u64 {
    receiver.set(Mood::Well);
    let begun = Instant::now();
    let (taken, lost) = loop {
        let all = scrape(metrics);
        let [taken, lost] = ["events_total", "events_lost_total"].map(|name| count(&all, name));
        let waiting = count(&all, "export_rows_waiting");
        if taken + lost >= done.events() && waiting == 0 {
            break (taken, lost);
        }
        // After failures it pauses for up to two minutes.
        let is_late = begun.elapsed() > Duration::from_mins(5);
        assert!(!is_late, "{taken} taken, {lost} lost, {waiting} waiting");
        thread::sleep(SLICE);
    };
    assert!(taken <= done.events());
    // One that is left open at each turn would be many more than two.
    wait_for("no more descriptors than before", || {
        (Held::of(service.process.0.id()).files <= files + 2).then_some(())
    });
    let status = report(&service, taken);
    for consumer in status["consumers"].as_array().unwrap() {
        let causes = consumer["dropped"].as_object().unwrap();
        assert!(causes.values().all(|count| *count == 0), "{status}");
    }
    let Ended {
        code, stderr, dir, ..
    } = service.end();
    let lines = stderr.lines().filter(|line| !line.starts_with("! "));
    let told: Vec<&str> = lines.collect();
    assert_eq!(code, Some(0), "{told:#?}");
    done.count(&dir.path().join("r"));
    assert_eq!(done.recorded, taken);
    let sent = receiver.ids().len();
    if lost == 0 {
        assert_eq!(sent as u64, done.refused + done.connected);
    }
    for account in [
        format!("# record: delivered {taken} = taken {taken} + hidden 0 + dropped 0"),
        format!("# history: delivered {taken} = taken {taken} + hidden 0 + dropped 0"),
        format!("# metrics: delivered {taken} = taken {taken} + hidden 0 + dropped 0"),
        format!("export central: recorded {sent} = sent {sent} + waiting 0 + expired 0"),
        format!(" + lost {lost} in "),
    ] {
        let has = told.iter().any(|line| line.contains(&account));
        assert!(has, "no {account} in {told:#?}");
    }
    let mut accounts = told.iter().filter(|line| line.contains(" = taken "));
    assert!(
        accounts.all(|line| line.ends_with("dropped 0")),
        "{told:#?}"
    );
    lost
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count that a scraper reads"
)]
fn count(all: &Exposition, name: &str) -> u64 {
    all.sum(&format!("port_monitor_{name}")) as u64
}

/// Each violation was told of, or is in the number of those that were held back, or is lost. So
/// are losses, which are told besides.
fn check_alerts(path: &Path, violations: u64, lost: u64) {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["port_monitor"].clone()
    });
    let (told, losses): (Vec<_>, Vec<_>) =
        lines.partition(|line| line["alert"]["kind"] == "violation");
    let number = |value: &Value| value.as_u64().unwrap();
    let each = told
        .iter()
        .map(|line| 1 + number(&line["alert"]["suppressed"]));
    let told: u64 = each.sum();
    assert!(
        told <= violations && told + lost >= violations,
        "{told} of {violations}"
    );
    let losses = losses.iter().map(|line| number(&line["lost"]));
    assert_eq!(losses.sum::<u64>(), lost);
}
