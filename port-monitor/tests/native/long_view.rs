//! `port-monitor top`, left open for long beside connections that come and go: in the end its
//! numbers are the generator's, and it has stayed small and calm. `cargo xtask soak --top` has it
//! go on for hours.

#![expect(
    clippy::print_stderr,
    reason = "who waits for hours sees how it stands"
)]

use std::{
    collections::VecDeque,
    env, fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use crate::{
    program::PROGRAM,
    soak::{Held, LONG},
    terminal::Terminal,
};

/// Environment variable: for how many seconds it goes on.
const SECONDS: &str = "PORT_MONITOR_TEST_SOAK_TOP";
/// How often connections are made.
const SLICE: Duration = Duration::from_millis(50);
/// Attempts that are refused, and connections, of a slice.
const REFUSED: u64 = 1;
const CONNECTED: u64 = 10;
/// Connections that are open at a time.
const OPEN: usize = 200;
/// Bytes that a client sends, and that it is answered.
const SENT: usize = 1_000;
const ANSWERED: usize = 3_000;
/// Where nobody listens.
const NOBODY: (&str, u16) = ("127.0.0.1", 1);
/// What is looked at, in turn.
const KEYS: [&str; 9] = ["1", "2", "3", "4", "N", "5", "7", "1t", "tv"];

/// What the generator has done.
#[derive(Clone, Copy, Default)]
struct Done {
    refused: u64,
    connected: u64,
}

/// Makes connections, each time for as long as `turns` says, and closes them at its end.
fn generate(turns: &Receiver<Duration>, done: &Sender<Done>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut open = VecDeque::new();
    let mut all = Done::default();
    while let Ok(time) = turns.recv() {
        let begun = Instant::now();
        while begun.elapsed() < time {
            let slice = Instant::now();
            for _ in 0..REFUSED {
                TcpStream::connect(NOBODY).unwrap_err();
            }
            for _ in 0..CONNECTED {
                let mut client = TcpStream::connect(address).unwrap();
                let mut server = listener.accept().unwrap().0;
                client.write_all(&[1; SENT]).unwrap();
                server.read_exact(&mut [0; SENT]).unwrap();
                server.write_all(&[2; ANSWERED]).unwrap();
                client.read_exact(&mut [0; ANSWERED]).unwrap();
                open.push_back((client, server));
            }
            while open.len() > OPEN {
                open.pop_front();
            }
            all.refused += REFUSED;
            all.connected += CONNECTED;
            thread::sleep(SLICE.saturating_sub(slice.elapsed()));
        }
        if done.send(all).is_err() {
            return;
        }
    }
}

/// The numbers in the line of the screen that begins so.
fn numbers(screen: &str, name: &str) -> Option<Vec<u64>> {
    let line = screen.lines().find_map(|line| line.strip_prefix(name))?;
    let words = line.split([' ', ',']);
    Some(words.filter_map(|word| word.parse().ok()).collect())
}

/// What Health says, once all that was done is in it.
fn check_health(terminal: &Terminal, done: Done) {
    let [received, sent] = [ANSWERED, SENT].map(|bytes| done.connected * bytes as u64);
    let told = done.connected + done.refused;
    let expected = (vec![told, 0, done.refused, 0], vec![received, sent]);
    let health = |screen: &str| {
        let lost: u64 = numbers(screen, "lost ")?.iter().sum();
        let connections = numbers(screen, "connections ")?;
        let bytes = numbers(screen, "bytes ")?;
        Some((lost, (connections, bytes)))
    };
    terminal.sees_that(&format!("{expected:?}"), |screen| {
        health(screen).is_some_and(|(lost, numbers)| {
            // What others on this host have lost counts too.
            numbers == expected || lost > 0 && numbers.0[0] + lost >= told
        })
    });
    let (lost, numbers) = health(&terminal.shows()).unwrap();
    eprintln!("{told} connections and attempts, {received} bytes in, {sent} out; lost {lost}");
    assert!(numbers.0[0] <= told, "{numbers:?}");
}

/// Processor time, of all threads and of the one that draws.
fn cpu(pid: u32) -> [Duration; 2] {
    let of = |path: &str| {
        let text = fs::read_to_string(path).unwrap();
        let ns: u64 = text.split(' ').next().unwrap().parse().unwrap();
        Duration::from_nanos(ns)
    };
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut all = [Duration::ZERO; 2];
    for thread in threads {
        let path = thread.unwrap().path();
        let time = of(&format!("{}/schedstat", path.display()));
        all[0] += time;
        if fs::read_to_string(path.join("comm")).unwrap().trim() == "screen" {
            all[1] += time;
        }
    }
    all
}

#[test]
fn a_view_that_is_left_open_stays_right_and_small_and_calm() {
    let seconds = env::var(SECONDS).map_or(8, |seconds| seconds.parse().unwrap());
    let whole = Duration::from_secs(seconds);
    let turn_time = (whole / 8).clamp(Duration::from_millis(500), Duration::from_secs(20));
    // Of the thread whose connections are watched, and of no other that does the same.
    let name = format!("view-{}", std::process::id());
    let mut terminal = Terminal::new(PROGRAM.as_ref());
    let settings = terminal.settings();
    terminal.resize(120, 40);
    // Not every backend knows which thread accepts.
    let args = format!("--comm {name} --direction out --color never");
    terminal.program(&args);
    let pid = terminal.top().cast_unsigned();
    let (turns, to_be_done) = channel();
    let (tell, done) = channel();
    let generator = thread::Builder::new().name(name);
    let generator = generator
        .spawn(move || generate(&to_be_done, &tell))
        .unwrap();
    let (mut held, mut last) = (Vec::new(), Done::default());
    let (begun, [before, drawn_before]) = (Instant::now(), cpu(pid));
    while begun.elapsed() < whole {
        terminal.types(KEYS[held.len() % KEYS.len()]);
        turns.send(turn_time).unwrap();
        last = done.recv().unwrap();
        held.push(Held::of(pid));
    }
    let (time, [after, drawn_after]) = (begun.elapsed(), cpu(pid));
    drop(turns);
    generator.join().unwrap();
    let share = |cpu: Duration| 100.0 * cpu.as_secs_f64() / time.as_secs_f64();
    let drawn = share(drawn_after.saturating_sub(drawn_before));
    let all = share(after.saturating_sub(before));
    eprintln!("{time:.0?}: {all:.1} % of a processor, {drawn:.1} % to draw");
    let is_long = whole >= LONG;
    Held::expect_flat(&held, is_long);
    assert!(!is_long || drawn <= 10.0);
    terminal.types("7");
    check_health(&terminal, last);
    terminal.types("q");
    assert_eq!(terminal.assert_clean(&settings), "0.");
}
