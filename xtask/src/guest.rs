//! Boots one kernel in QEMU, runs one command in it, hands over what it prints.
//!
//! The command's output comes over the second serial port; the kernel's messages
//! go to a log of their own. QEMU emulates (no KVM), which works on any host.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    initramfs::{self, Initramfs},
    kernels::Kernel,
};

const INIT: &str = include_str!("guest_init.sh");
const STARTS: &str = "guest: command starts";
const EXITS: &str = "guest: command exits ";
const MOUNT_POINTS: [&str; 6] = ["/proc", "/sys", "/dev", "/tmp", "/run", "/bin"];
/// How many of a failed guest's messages are shown.
const TAIL_LINES: usize = 50;

/// What to run in a guest.
#[derive(Debug)]
pub(crate) struct Task {
    /// Programs of the host and their paths in the guest; libraries come along.
    pub(crate) programs: Vec<(PathBuf, String)>,
    /// The program to run, by its path in the guest, and its arguments.
    pub(crate) command: Vec<String>,
    /// How many processors the guest has.
    pub(crate) processors: u32,
    /// How long boot and command together may take.
    pub(crate) deadline: Duration,
}

/// How a guest ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// From power-on to the start of the command.
    pub(crate) boot_time: Option<Duration>,
    /// From power-on to power-off.
    pub(crate) total_time: Duration,
    /// The command's exit status, or why there is none.
    pub(crate) status: Result<i32, Breakdown>,
}

/// A guest that did not come to its orderly end.
#[derive(Debug)]
pub(crate) struct Breakdown {
    /// What happened, in one line.
    pub(crate) reason: String,
    /// The kernel's last messages.
    pub(crate) console_tail: Vec<String>,
}

/// Runs `task` on `kernel`; `dir` takes the image and the kernel's messages.
pub(crate) fn boot(
    kernel: &Kernel,
    task: &Task,
    dir: &Path,
    mut on_line: impl FnMut(&str),
) -> Result<Outcome> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let image = dir.join("initramfs.cpio");
    fs::write(&image, file_system(kernel, task)?).context("write the guest's file system")?;
    let console = dir.join("console.log");
    File::create(&console).context("create the guest's console log")?;

    let started = Instant::now();
    let mut child = qemu(kernel, task.processors, &image, &console)
        .spawn()
        .context("start qemu-system-x86_64")?;
    let mut session = Session::default();
    let end = session.follow(&mut child, started + task.deadline, &mut on_line)?;
    Ok(Outcome {
        boot_time: session.command_started.map(|at| at - started),
        total_time: started.elapsed(),
        status: match (end, session.status) {
            (End::PoweredOff, Some(status)) => Ok(status),
            _ => Err(session.breakdown(end, task.deadline, &console)),
        },
    })
}

/// Why QEMU's output ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    PoweredOff,
    TimedOut,
}

/// What is known of a guest while it runs.
#[derive(Debug, Default)]
struct Session {
    command_started: Option<Instant>,
    status: Option<i32>,
}

impl Session {
    /// Takes lines until QEMU ends; stops it at `deadline`.
    fn follow(
        &mut self,
        child: &mut Child,
        deadline: Instant,
        on_line: &mut impl FnMut(&str),
    ) -> Result<End> {
        let lines = read_lines(child)?;
        let end = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                // Without the guard, a guest that never falls silent never times out.
                Ok(line) if !left.is_zero() => self.take(&line, on_line),
                Err(RecvTimeoutError::Disconnected) => break End::PoweredOff,
                Ok(_) | Err(RecvTimeoutError::Timeout) => {
                    child.kill().context("stop qemu-system-x86_64")?;
                    break End::TimedOut;
                }
            }
        };
        child.wait().context("wait for qemu-system-x86_64")?;
        Ok(end)
    }

    fn take(&mut self, line: &str, on_line: &mut impl FnMut(&str)) {
        if line == STARTS {
            self.command_started = Some(Instant::now());
        } else if let Some(status) = line.strip_prefix(EXITS) {
            self.status = status.parse().ok();
        } else {
            on_line(line);
        }
    }

    fn breakdown(&self, end: End, deadline: Duration, console: &Path) -> Breakdown {
        let stage = match (self.command_started, self.status) {
            (None, _) => "before the command started",
            (Some(_), None) => "while the command ran",
            (Some(_), Some(_)) => "after the command exited",
        };
        let reason = match end {
            End::PoweredOff => format!("the guest stopped {stage}"),
            End::TimedOut => format!("the guest took more than {} s, {stage}", deadline.as_secs()),
        };
        Breakdown {
            reason,
            console_tail: last_lines(console),
        }
    }
}

/// The end of a log that may hold anything.
fn last_lines(log: &Path) -> Vec<String> {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let skipped = lines.len().saturating_sub(TAIL_LINES);
    lines.into_iter().skip(skipped).map(str::to_owned).collect()
}

/// Reads on a thread of its own, so that silence does not outlast the deadline.
fn read_lines(child: &mut Child) -> Result<Receiver<String>> {
    let stdout = child.stdout.take().context("read what the guest prints")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line)
                .trim_end_matches('\r')
                .to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    Ok(receiver)
}

/// Without what only makes emulation slow: mitigations of processor faults that an
/// emulated processor does not have, zeroing of memory before its use, and grace
/// periods that wait for a timer.
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off init_on_alloc=0 \
                                   rcupdate.rcu_expedited=1";

/// With `erms`, kernels fill memory by string instructions, which are emulated byte
/// by byte. With `la57` an address is looked up in five tables instead of four.
const CPU: &str = "max,erms=off,fsrm=off,la57=off";

fn qemu(kernel: &Kernel, processors: u32, image: &Path, console: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", CPU])
        .args(["-smp", &processors.to_string()])
        .args(["-m", "1024", "-display", "none", "-monitor", "none"])
        .args(["-nic", "none", "-no-reboot"])
        .args(["-append", KERNEL_COMMAND_LINE])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel.image())
        .arg("-initrd")
        .arg(image)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

/// Everything the guest sees: busybox, init, the programs, their libraries.
fn file_system(kernel: &Kernel, task: &Task) -> Result<Vec<u8>> {
    let mut image = Initramfs::new();
    for path in MOUNT_POINTS {
        image.directory(path);
    }
    image.symlink("/sbin", "bin");
    image.symlink("/usr/bin", "../bin");
    image.symlink("/usr/sbin", "../bin");
    image.file("/init", 0o755, INIT.as_bytes());
    image.file("/etc/passwd", 0o644, b"root:x:0:0::/tmp:/bin/sh\n");
    image.file("/etc/group", 0o644, b"root:x:0:\n");
    image.file("/command", 0o755, command_script(&task.command).as_bytes());
    image.copy(&busybox()?, "/bin/busybox", 0o755)?;
    for (index, module) in kernel.modules()?.iter().enumerate() {
        image.copy(module, &format!("/modules/{index:02}.ko"), 0o644)?;
    }
    let mut libraries = BTreeSet::new();
    for (host, path) in &task.programs {
        image.copy(host, path, 0o755)?;
        libraries.extend(initramfs::shared_libraries(host)?);
    }
    for library in &libraries {
        image.copy(Path::new(library), library, 0o755)?;
    }
    Ok(image.finish())
}

/// Where this machine has busybox: in `/bin`, which may be `/usr/bin`.
fn busybox() -> Result<PathBuf> {
    let path = PathBuf::from("/bin/busybox");
    ensure!(
        path.exists(),
        "find {}: install busybox-static",
        path.display()
    );
    Ok(path)
}

fn command_script(command: &[String]) -> String {
    let words: Vec<String> = command
        .iter()
        .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
        .collect();
    format!("#!/bin/busybox sh\nexec {}\n", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(lines: &[&str]) -> (Session, Vec<String>) {
        let mut session = Session::default();
        let mut seen = Vec::new();
        for line in lines {
            session.take(line, &mut |line: &str| seen.push(line.to_owned()));
        }
        (session, seen)
    }

    #[test]
    fn the_markers_give_the_status_and_are_not_output() {
        let (session, seen) = session(&[STARTS, "CASE", "guest: command exits 3"]);
        assert_eq!(session.status, Some(3));
        assert_eq!(seen, ["CASE"]);
    }

    #[test]
    fn a_guest_that_stops_early_shows_the_kernels_last_messages() {
        let console = std::env::temp_dir().join(format!("console-{}", std::process::id()));
        let messages: Vec<String> = (0..60).map(|n| format!("message {n}")).collect();
        fs::write(&console, messages.join("\n")).unwrap();
        let (session, _) = session(&[STARTS, "half done"]);
        let breakdown = session.breakdown(End::PoweredOff, Duration::from_secs(9), &console);
        fs::remove_file(&console).unwrap();

        assert_eq!(session.status, None);
        assert_eq!(breakdown.reason, "the guest stopped while the command ran");
        assert_eq!(breakdown.console_tail, messages[10..]);
    }

    /// How following `program` ends at a deadline of 20 ms.
    fn end_of(program: &str) -> End {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_millis(20);
        let end = Session::default().follow(&mut child, deadline, &mut |_: &str| ());
        end.unwrap()
    }

    #[test]
    fn a_guest_is_stopped_at_the_deadline_silent_or_not() {
        assert_eq!(end_of("cat"), End::TimedOut);
        assert_eq!(end_of("yes"), End::TimedOut);
    }

    #[test]
    fn a_guest_that_hangs_says_where() {
        let (session, _) = session(&[STARTS, "guest: command exits 0"]);
        let breakdown =
            session.breakdown(End::TimedOut, Duration::from_secs(7), Path::new("/none"));
        assert_eq!(
            breakdown.reason,
            "the guest took more than 7 s, after the command exited"
        );
    }

    #[test]
    fn arguments_reach_the_guest_word_by_word() {
        let words = ["/bin/echo".to_owned(), "it's two words".to_owned()];
        let script = command_script(&words);
        assert!(
            script.ends_with("exec '/bin/echo' 'it'\\''s two words'\n"),
            "{script}"
        );
    }
}
