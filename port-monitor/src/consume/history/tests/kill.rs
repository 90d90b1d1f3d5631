//! SIGKILL at any moment: what was acknowledged is there, whole, and nothing stays open.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
};

use super::*;
use crate::base::seeded::{Random, seeded};

/// Where the writer that is killed writes to.
const PATH: &str = "PORT_MONITOR_TEST_HISTORY";
/// How often it is killed, if not as often as every test run has time for.
const ROUNDS: &str = "PORT_MONITOR_TEST_KILLS";

/// Writes connections for ever, and says after each batch how many are written.
fn write_for_ever(path: &Path) -> ! {
    let keep = Keep {
        bytes: 64 << 20,
        ..KEEP
    };
    let mut history = History::open(path, Kinds::ALL, keep).unwrap();
    let mut header = header();
    header.wall_ns = 0;
    history.take(Item::Header(&header));
    history.take(Item::Event(&at(&accepted(), u64::MAX, 0)));
    for first in (0..).step_by(100) {
        short(&mut history, first, 100);
        history.write();
        let taken = history.account().taken;
        writeln!(io::stdout(), "\nwritten {taken}").unwrap();
    }
    unreachable!("it is killed before");
}

#[test]
fn what_was_acknowledged_outlives_a_kill() {
    if let Some(path) = env::var_os(PATH) {
        write_for_ever(Path::new(&path));
    }
    let rounds = env::var(ROUNDS).map_or(8, |rounds| rounds.parse().unwrap());
    seeded(|seed| {
        let random = Random::new(seed);
        for round in 0..rounds {
            kill_once(round, &random);
        }
    });
}

fn kill_once(round: u32, random: &Random) {
    let place = Place::new();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("consume::history::tests::kill::what_was_acknowledged_outlives_a_kill")
        .env(PATH, place.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut written = lines.map_while(Result::ok).filter_map(|line| {
        let count = line.strip_prefix("written ")?;
        count.parse::<i64>().ok()
    });
    // Some batches later, and then in the middle of whatever it does.
    for _ in 0..=round % 7 {
        assert!(written.next().is_some());
    }
    std::thread::sleep(Duration::from_micros(random.below(4_000)));
    child.kill().unwrap();
    let acknowledged = written.last();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    let acknowledged = acknowledged.unwrap_or(3 * 100 * i64::from(round % 7 + 1) + 1);

    let mut history = place.open();
    let mut header = header();
    header.wall_ns = NOON_NS + i128::from(u32::MAX) * 1_000;
    history.take(Item::Header(&header));
    assert_eq!(aside(&place), 0);
    let connections: i64 = place.ask("SELECT count(*) FROM connections");
    assert!(
        3 * (connections - 1) + 1 >= acknowledged,
        "{connections} {acknowledged}"
    );
    // A batch is there as a whole.
    assert_eq!((connections - 1) % 100, 0);
    let states = place.list("SELECT DISTINCT state AS a FROM connections ORDER BY 1");
    assert_eq!(states, ["closed", "cut off"]);
    assert_eq!(place.list("SELECT cause AS a FROM gaps"), ["cut off"]);
    assert_eq!(place.ask::<String>("PRAGMA integrity_check"), "ok");
    settled(&mut history);
}

fn aside(place: &Place) -> usize {
    let names = std::fs::read_dir(place.dir.path()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("damaged")).count()
}
