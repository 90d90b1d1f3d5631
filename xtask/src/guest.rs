//! Boots one kernel in QEMU, runs one command in it, hands over what it prints.
//!
//! The command's output comes over the second serial port; the kernel's messages
//! go to a log of their own. QEMU emulates (no KVM), which works on any host.

use std::{
    collections::BTreeMap,
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
/// Where the loader looks for libraries it has no other word of.
const LIBRARIES: &str = "/lib/x86_64-linux-gnu";
/// How many of a failed guest's messages are shown.
const TAIL_LINES: usize = 50;
/// The kernel's messages, in the guest's directory.
const CONSOLE: &str = "console.log";

/// What to run in a guest.
#[derive(Debug)]
pub(crate) struct Task {
    /// Programs of the host and their paths in the guest; libraries come along.
    pub(crate) programs: Vec<(PathBuf, String)>,
    /// Where libraries are looked for before the host's own directories.
    pub(crate) library_dir: Option<PathBuf>,
    /// Other files of the host and their paths in the guest.
    pub(crate) files: Vec<(PathBuf, String)>,
    /// Modules to load after those every guest loads.
    pub(crate) modules: Vec<PathBuf>,
    /// The program to run, by its path in the guest, and its arguments.
    pub(crate) command: Vec<String>,
    /// What the guest runs on.
    pub(crate) machine: Machine,
    /// How long boot and command together may take.
    pub(crate) deadline: Duration,
}

/// An emulated machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// How many processors it has.
    pub(crate) processors: u32,
    /// Its memory, in MiB.
    pub(crate) memory_mib: u32,
    /// What its time follows.
    pub(crate) clock: Clock,
    /// What its kernel is told beyond what every guest's is.
    pub(crate) kernel_arguments: &'static str,
}

/// What a guest's time follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// The host's time; each processor has a thread of the host.
    Real,
    /// The instructions executed, one per nanosecond; idle time is skipped.
    Counted,
}

impl Clock {
    /// What QEMU is told for it.
    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Real => &["-accel", "tcg,thread=multi"],
            Self::Counted => &[
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0,sleep=off",
            ],
        }
    }
}

/// How a guest ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// From power-on to the start of the command.
    pub(crate) boot_time: Option<Duration>,
    /// From power-on to power-off.
    pub(crate) total_time: Duration,
    /// How long it kept processors of the host busy.
    pub(crate) processor_time: Duration,
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
    on_line: impl FnMut(&str),
) -> Result<Outcome> {
    let image = file_system(kernel, task)?;
    boot_image(kernel, task.machine, &image, task.deadline, dir, on_line)
}

/// Boots `image`, whose `/init` tells on the second serial port when its command starts and
/// how it exits.
pub(crate) fn boot_image(
    kernel: &Kernel,
    machine: Machine,
    image: &[u8],
    deadline: Duration,
    dir: &Path,
    mut on_line: impl FnMut(&str),
) -> Result<Outcome> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let image_file = dir.join("initramfs.cpio");
    fs::write(&image_file, image).context("write the guest's file system")?;
    let console = dir.join(CONSOLE);
    File::create(&console).context("create the guest's console log")?;

    let started = Instant::now();
    let mut child = qemu(kernel, machine, &image_file, &console)
        .spawn()
        .context("start qemu-system-x86_64")?;
    let mut session = Session::default();
    let end = session.follow(&mut child, started + deadline, &mut on_line)?;
    Ok(Outcome {
        boot_time: session.command_started.map(|at| at - started),
        total_time: started.elapsed(),
        processor_time: session.processor_time,
        status: match (end, session.status) {
            (End::PoweredOff, Some(status)) => Ok(status),
            _ => Err(session.breakdown(end, deadline, &console)),
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
    processor_time: Duration,
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
        self.processor_time = processor_time(child.id());
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

/// The processor time of a process that nobody has waited for yet, as far as it is known.
fn processor_time(pid: u32) -> Duration {
    /// What the kernel counts it in: hundredths of a second, on every machine.
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program may contain anything, and ends with the last parenthesis.
    let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
    // Its user and system time.
    let ticks = fields.split_whitespace().skip(11).take(2);
    TICK * ticks.filter_map(|field| field.parse::<u32>().ok()).sum()
}

/// The last messages of the kernel whose guest had the directory `dir`.
pub(crate) fn console_tail(dir: &Path) -> Vec<String> {
    last_lines(&dir.join(CONSOLE))
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
/// periods that wait for a timer. Without the check that the timer ticks, too, which
/// panics where the host is busy for that long.
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off init_on_alloc=0 \
                                   rcupdate.rcu_expedited=1 no_timer_check";

/// With `erms`, kernels fill memory by string instructions, which are emulated byte
/// by byte. With `la57` an address is looked up in five tables instead of four.
const CPU: &str = "max,erms=off,fsrm=off,la57=off";

fn qemu(kernel: &Kernel, machine: Machine, image: &Path, console: &Path) -> Command {
    let command_line = format!("{KERNEL_COMMAND_LINE} {}", machine.kernel_arguments);
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(machine.clock.arguments())
        .args(["-cpu", CPU, "-smp", &machine.processors.to_string()])
        .args(["-m", &machine.memory_mib.to_string()])
        .args(["-display", "none", "-monitor", "none"])
        .args(["-nic", "none", "-no-reboot"])
        .args(["-append", &command_line])
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
    let modules = kernel.modules()?;
    for (index, module) in modules.iter().chain(&task.modules).enumerate() {
        image.copy(module, &format!("/modules/{index:02}.ko"), 0o644)?;
    }
    for (host, path) in &task.files {
        image.copy(host, path, 0o644)?;
    }
    let library_dir = task.library_dir.as_deref();
    let mut libraries = BTreeMap::new();
    for (host, path) in &task.programs {
        image.copy(host, path, 0o755)?;
        for library in initramfs::shared_libraries(host, library_dir)? {
            libraries.insert(library_path(&library, library_dir), library);
        }
    }
    for (path, library) in &libraries {
        image.copy(Path::new(library), path, 0o755)?;
    }
    Ok(image.finish())
}

/// Where the guest's loader finds `library`: where the host has it, or, for one of
/// `library_dir`, where the loader looks anyway.
fn library_path(library: &str, library_dir: Option<&Path>) -> String {
    let own_name = library_dir.and_then(|dir| Path::new(library).strip_prefix(dir).ok());
    own_name.map_or_else(
        || library.to_owned(),
        |name| format!("{LIBRARIES}/{}", name.display()),
    )
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

    #[test]
    fn a_library_of_the_tasks_own_lies_where_the_loader_looks() {
        let dir = Some(Path::new("/cache/lib"));
        let own = library_path("/cache/lib/libx.so.1", dir);
        assert_eq!(own, "/lib/x86_64-linux-gnu/libx.so.1");
        let of_the_host = library_path("/lib64/ld-linux.so", dir);
        assert_eq!(of_the_host, "/lib64/ld-linux.so");
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
    fn the_processor_time_of_a_guest_is_known_when_it_has_ended() {
        let mut child = Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut session = Session::default();
        let deadline = Instant::now() + Duration::from_mins(2);
        let end = session.follow(&mut child, deadline, &mut |_: &str| ());
        assert_eq!(end.unwrap(), End::PoweredOff);
        assert!(session.processor_time > Duration::ZERO);
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
