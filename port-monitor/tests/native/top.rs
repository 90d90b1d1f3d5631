//! `port-monitor top` on a real terminal, under a shell with job control.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::AsFd as _,
    path::Path,
    process::{Child, Command},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags, open},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcgetpgrp, tcsetwinsize},
};
use tempfile::TempDir;

use crate::{program::PATIENCE, service::Service};

/// A shell on a terminal, and what is on its screen.
struct Terminal {
    keyboard: File,
    screen: Arc<Mutex<vt100::Parser>>,
    shell: Child,
    dir: TempDir,
    asked: u32,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It is gone already where a test came to its end.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

impl Terminal {
    fn new() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let keyboard = openpt(flags).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = File::from(open(name, flags, Mode::empty()).unwrap());
        let shell = Command::new("setsid")
            .args(["--ctty", "--wait", "bash", "--norc", "--noprofile", "-i"])
            .env("TERM", "xterm-256color")
            .env("PS1", "ready> ")
            .stdin(terminal.try_clone().unwrap())
            .stdout(terminal.try_clone().unwrap())
            .stderr(terminal)
            .spawn()
            .unwrap();
        let keyboard = File::from(keyboard);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(24, 80, 0)));
        thread::spawn({
            let (mut output, screen) = (keyboard.try_clone().unwrap(), Arc::clone(&screen));
            move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = output.read(&mut bytes) {
                    screen.lock().unwrap().process(&bytes[..count]);
                }
            }
        });
        let mut terminal = Self {
            keyboard,
            screen,
            shell,
            dir: tempfile::tempdir().unwrap(),
            asked: 0,
        };
        terminal.resize(80, 24);
        terminal.sees("ready>");
        terminal
    }

    fn resize(&mut self, columns: u16, rows: u16) {
        self.screen
            .lock()
            .unwrap()
            .screen_mut()
            .set_size(rows, columns);
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(self.keyboard.as_fd(), size).unwrap();
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn shows(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until the screen is as it should be.
    fn sees_that(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        while !is_so(&self.shows()) {
            assert!(begun.elapsed() < PATIENCE, "{what}:\n{}", self.shows());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn sees(&self, text: &str) {
        self.sees_that(text, |screen| screen.contains(text));
    }

    fn program(&mut self, args: &str) {
        let program = env!("CARGO_BIN_EXE_port-monitor");
        self.types(&format!("clear; {program} top {args}\n"));
        self.sees("1 Connections");
    }

    /// The shell has the terminal, as it was; how the command before ended.
    fn assert_clean(&mut self, settings: &str) -> String {
        // Until then what is typed is the view's.
        let begun = Instant::now();
        while self.screen.lock().unwrap().screen().alternate_screen() {
            assert!(begun.elapsed() < PATIENCE, "{}", self.shows());
            thread::sleep(Duration::from_millis(20));
        }
        // What an earlier one has left on the screen is not taken for this one's.
        self.asked += 1;
        let mark = format!("status-{}=", self.asked);
        self.types(&format!("s=$?; clear; echo \"{mark}$s.\"\n"));
        let status = |screen: &str| {
            let found = screen.lines().find_map(|line| line.strip_prefix(&mark));
            found.map(str::to_owned)
        };
        self.sees_that("status", |screen| status(screen).is_some());
        let status = status(&self.shows());
        assert_eq!(self.settings(), settings);
        let screen = self.screen.lock().unwrap();
        let screen = screen.screen();
        assert!(!screen.alternate_screen() && !screen.hide_cursor());
        assert_eq!(screen.mouse_protocol_mode(), vt100::MouseProtocolMode::None);
        status.unwrap()
    }

    /// The process that has the terminal.
    fn top(&self) -> i32 {
        let group = tcgetpgrp(&self.keyboard).unwrap();
        group.as_raw_nonzero().get()
    }

    /// What stty tells of the terminal.
    fn settings(&mut self) -> String {
        let path = self.dir.path().join("stty");
        let _ = fs::remove_file(&path);
        let temporary = self.dir.path().join("stty.new");
        self.types(&format!(
            "stty -g > {0}; mv {0} {1}\n",
            temporary.display(),
            path.display()
        ));
        let begun = Instant::now();
        while !path.exists() {
            assert!(begun.elapsed() < PATIENCE, "{}", self.shows());
            thread::sleep(Duration::from_millis(20));
        }
        fs::read_to_string(path).unwrap()
    }
}

fn own() -> String {
    format!("--pid {} --color never", std::process::id())
}

#[test]
fn top_shows_what_is_answers_its_keys_and_leaves_a_clean_terminal() {
    let mut terminal = Terminal::new();
    let settings = terminal.settings();
    terminal.program(&own());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    terminal.sees(&format!("127.0.0.1:{port}"));
    terminal.types("/state:failed");
    terminal.sees_that("no row", |screen| {
        screen.contains("▏ 0 rows") && !screen.contains(&format!(":{port}"))
    });
    terminal.types(&format!("\x15port:{port}\r"));
    terminal.sees("2 rows, /port:");
    // All about the chosen row.
    terminal.types("j\r");
    terminal.sees("process   ");
    terminal.sees(&format!("port-monitor service {port}"));
    terminal.types("\x1b");
    terminal.sees_that("no details", |screen| !screen.contains("process   "));
    // What the kernel counts.
    server.write_all(&[0; 3_000]).unwrap();
    terminal.types("5");
    terminal.sees("LISTENS AT");
    terminal.types("1p");
    terminal.sees("FROZEN, ");
    drop((client, server));
    terminal.types("p");
    terminal.sees_that("the end", |screen| {
        !screen.contains("FROZEN") && screen.contains("· ")
    });
    terminal.resize(40, 12);
    terminal.sees_that("a small screen", |screen| {
        screen.contains("1 Connections 2 3 ") && screen.contains("rows")
    });
    terminal.types("q");
    assert_eq!(terminal.assert_clean(&settings), "0.");
}

#[test]
fn top_gives_the_terminal_to_the_shell_and_takes_it_back() {
    let mut terminal = Terminal::new();
    let settings = terminal.settings();
    terminal.program(&own());
    terminal.types("\x1a");
    terminal.sees("Stopped");
    assert_eq!(terminal.assert_clean(&settings), "148.");
    terminal.types("fg\n");
    terminal.sees("1 Connections");
    terminal.types("7");
    terminal.sees("cannot see: ");
    terminal.types("\x03");
    assert_eq!(terminal.assert_clean(&settings), "0.");
}

#[test]
fn top_that_is_ended_from_elsewhere_leaves_a_clean_terminal() {
    let mut terminal = Terminal::new();
    let settings = terminal.settings();
    terminal.program(&own());
    let pid = Pid::from_raw(terminal.top()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    terminal.sees("ready>");
    assert_eq!(terminal.assert_clean(&settings), "0.");
}

/// As where an ssh connection is cut.
#[test]
fn top_ends_with_its_terminal() {
    let mut terminal = Terminal::new();
    let bash = Pid::from_raw(terminal.top()).unwrap();
    terminal.program(&own());
    let pid = terminal.top();
    // The leader of the session: the terminal is hung up when it is gone.
    kill_process(bash, Signal::KILL).unwrap();
    let begun = Instant::now();
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(begun.elapsed() < PATIENCE, "it goes on");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn top_shows_what_the_service_sees_until_that_ends() {
    let mut service = Service::start("[socket]\nfile = \"DIR/socket\"\n");
    let mut terminal = Terminal::new();
    let settings = terminal.settings();
    let socket = service.dir.path().join("socket");
    terminal.program(&format!("--attach={} --color never", socket.display()));
    service.shell.attempt(1);
    terminal.sees("127.0.0.1:1 tcpmux");
    terminal.sees("refused");
    service.end();
    terminal.sees("the service has ended");
    assert_eq!(terminal.assert_clean(&settings), "3.");
}

#[test]
fn top_without_a_terminal_says_so() {
    let output = Command::new(env!("CARGO_BIN_EXE_port-monitor"))
        .arg("top")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with("port-monitor: top draws on a terminal"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
}
