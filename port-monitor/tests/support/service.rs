//! A running `port-monitor serve`, its manager, and the shell whose connections it watches.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::program::{PATIENCE, Process, port_monitor};

/// What a service says on its standard error, in its directory.
const STDERR: &str = "stderr";

/// A shell whose connections are watched. Each attempt is two events.
pub(crate) struct Shell(Child);

impl Shell {
    /// Does what each line that it reads says, and answers with a line.
    fn start() -> Self {
        let script = "connect() { : >/dev/tcp/127.0.0.1/1; } 2>/dev/null
            while read -r line; do eval \"$line\"; done";
        let child = Command::new("bash")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn say(&mut self, line: &str) {
        let stdin = self.0.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
    }

    /// What it answers.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        let mut stdout = BufReader::new(self.0.stdout.as_mut().unwrap());
        stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Tries to connect so many times, and has done so.
    pub(crate) fn attempt(&mut self, count: u64) {
        self.say(&format!(
            "for ((i = 0; i < {count}; i++)); do connect; done; echo done"
        ));
        assert_eq!(self.hear(), "done");
    }

    /// Tries to connect until the file is there: so seldom that whoever is told keeps up, also
    /// beside other work. A pipe of its own, which nobody writes to, is waited for in between.
    pub(crate) fn attempt_until(&mut self, file: &Path) {
        let file = file.display();
        self.say(&format!(
            "exec 9<> <(:); n=0; until [ -e {file} ]; do connect; ((n++)); read -rt 0.001 -u 9; done; \
             echo $n"
        ));
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A service, and what manages it.
pub(crate) struct Service {
    pub(crate) dir: TempDir,
    pub(crate) socket: UnixDatagram,
    pub(crate) process: Process,
    pub(crate) shell: Shell,
}

/// How it ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
    pub(crate) dir: TempDir,
    pub(crate) took: Duration,
}

impl Service {
    /// A service that is ready, of connections of a shell, with these sections besides, in
    /// which `DIR` is the directory of the test.
    pub(crate) fn start(sections: &str) -> Self {
        Self::start_with(sections, &[])
    }

    /// One whose sections name files that are made in the directory of the test before.
    pub(crate) fn start_in(sections: impl FnOnce(&Path) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sections = sections(dir.path());
        Self::start_at(dir, &sections, &[])
    }

    pub(crate) fn start_with(sections: &str, environment: &[(&str, &str)]) -> Self {
        Self::start_at(tempfile::tempdir().unwrap(), sections, environment)
    }

    fn start_at(dir: TempDir, sections: &str, environment: &[(&str, &str)]) -> Self {
        let shell = Shell::start();
        configure(&dir, &shell, sections);
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = port_monitor(["serve", "--config"])
            .arg(dir.path().join("c.toml"))
            .env("NOTIFY_SOCKET", &path)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // A pipe would be full in the end.
            .stderr(File::create(dir.path().join(STDERR)).unwrap())
            .spawn()
            .unwrap();
        let service = Self {
            dir,
            socket,
            process: Process(child),
            shell,
        };
        assert!(service.told("READY=1").contains("STATUS=watching by "));
        service
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The next thing that the manager is told, but for signs of life.
    fn next(&self) -> String {
        let mut bytes = [0; 4_096];
        loop {
            let count = self.socket.recv(&mut bytes).unwrap_or_else(|error| {
                let stderr = fs::read_to_string(self.path(STDERR)).unwrap_or_default();
                panic!("the manager is told nothing: {error}: {stderr}")
            });
            let told = String::from_utf8(bytes[..count].to_vec()).unwrap();
            if told != "WATCHDOG=1\n" {
                return told;
            }
        }
    }

    /// The next thing that the manager is told, which is this.
    fn told(&self, state: &str) -> String {
        let told = self.next();
        assert!(told.lines().any(|line| line == state), "{state}: {told}");
        told
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process.0), signal).unwrap();
    }

    /// Has it read these sections, and waits until it has.
    pub(crate) fn reload(&self, sections: &str) -> String {
        configure(&self.dir, &self.shell, sections);
        self.signal(Signal::HUP);
        let told = self.told("RELOADING=1");
        assert!(told.contains("\nMONOTONIC_USEC="), "{told}");
        self.told("READY=1")
    }

    /// Has it end.
    pub(crate) fn end(self) -> Ended {
        self.begin_to_end();
        self.finish()
    }

    pub(crate) fn begin_to_end(&self) {
        self.signal(Signal::TERM);
        self.told("STOPPING=1");
    }

    /// What it said until its end, which has begun.
    pub(crate) fn finish(mut self) -> Ended {
        let begun = Instant::now();
        let code = self.process.0.wait().unwrap().code();
        Ended {
            code,
            stderr: fs::read_to_string(self.path(STDERR)).unwrap(),
            took: begun.elapsed(),
            dir: self.dir,
        }
    }
}

fn configure(dir: &TempDir, shell: &Shell, sections: &str) {
    let pid = shell.0.id();
    let sections = sections.replace("DIR", dir.path().to_str().unwrap());
    let text = format!("[watch]\npid = {pid}\n{sections}");
    fs::write(dir.path().join("c.toml"), text).unwrap();
}
