//! A shell on a real terminal, with job control, and a program that draws there.

#![expect(clippy::unwrap_used, reason = "a terminal that fails fails the test")]

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcgetpgrp, tcsetwinsize},
};
use tempfile::TempDir;

/// A screen that takes longer than this to be as it should has failed.
const PATIENCE: Duration = Duration::from_mins(5);

/// A shell on a terminal, and what is on its screen.
pub(crate) struct Terminal {
    keyboard: File,
    pub(crate) screen: Arc<Mutex<vt100::Parser>>,
    shell: Child,
    program: PathBuf,
    pub(crate) dir: TempDir,
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
    /// One on which `program` is to draw.
    pub(crate) fn new(program: &Path) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let keyboard = openpt(flags).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = File::from(open(name, flags, Mode::empty()).unwrap());
        // A guest has the shell of busybox.
        let shell: &[&str] = if Path::new("/bin/bash").exists() {
            &["bash", "--norc", "--noprofile", "-i"]
        } else {
            &["sh", "-i"]
        };
        let shell = Command::new("setsid")
            .arg("-c")
            .args(shell)
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
            program: program.to_owned(),
            dir: tempfile::tempdir().unwrap(),
            asked: 0,
        };
        terminal.resize(80, 24);
        terminal.sees("ready>");
        terminal
    }

    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
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

    pub(crate) fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    pub(crate) fn shows(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until the screen is as it should be.
    pub(crate) fn sees_that(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        while !is_so(&self.shows()) {
            assert!(begun.elapsed() < PATIENCE, "{what}:\n{}", self.shows());
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn sees(&self, text: &str) {
        self.sees_that(text, |screen| screen.contains(text));
    }

    pub(crate) fn program(&mut self, args: &str) {
        let program = self.program.display().to_string();
        self.types(&format!("clear; {program} top {args}\n"));
        self.sees("1 Connections");
    }

    /// The shell has the terminal, as it was; how the command before ended.
    pub(crate) fn assert_clean(&mut self, settings: &str) -> String {
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
    pub(crate) fn top(&self) -> i32 {
        let group = tcgetpgrp(&self.keyboard).unwrap();
        group.as_raw_nonzero().get()
    }

    /// What stty tells of the terminal.
    pub(crate) fn settings(&mut self) -> String {
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
