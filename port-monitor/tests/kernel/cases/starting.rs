//! The monitor starts wherever its user is, and says what it could not prove there.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStdout, Command, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;

use crate::{
    backend::Backend,
    bpf,
    cases::accounting::write_meanwhile,
    cgroup,
    elapsed::{Since, timed},
    enforce::Enforced,
    json::Line,
    lab::Lab,
    process::wait_until,
    report::Verdict,
    scenarios::places,
};

/// How long the header may take where nothing is emulated: what the program works and
/// waits, not what it stands in line for a processor that is busy with other things.
const LIMIT: Duration = Duration::from_secs(5);
/// How long in an emulated guest. It takes seconds to load the programs, and many times as
/// long where it stands in line for the host's processors, which nothing in it can tell.
const GUEST_LIMIT: Duration = Duration::from_mins(2);

/// What the self-test has of a connection whose packets do not arrive.
const UNANSWERED: &str = "the fields of accept, connected, close over IPv4";

fn limit(lab: &Lab) -> Duration {
    if lab.native { LIMIT } else { GUEST_LIMIT }
}

/// The program, run in a cgroup; in the runner's own where that is empty.
fn command(lab: &Lab, cgroup: &str) -> Result<Command> {
    if cgroup.is_empty() {
        return Ok(Command::new(&lab.program));
    }
    let procs = cgroup::directory(cgroup)?.join("cgroup.procs");
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
        .arg(procs)
        .arg(&lab.program);
    Ok(command)
}

/// A monitor that has told its header.
struct Started {
    child: Child,
    rest: BufReader<ChildStdout>,
    header: Line,
}

impl Started {
    /// Starts one, whose header must come in time.
    fn new(lab: &Lab, backend: Backend, mut command: Command, args: &[&str]) -> Result<Self> {
        let since = Since::start();
        let mut child = spawn(lab, &mut command, backend, args)?;
        let mut rest = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut line = String::new();
        rest.read_line(&mut line)?;
        let took = since.elapsed(&child);
        if line.is_empty() {
            let output = child.wait_with_output()?;
            return Err(refused(&output));
        }
        ensure!(took <= limit(lab), "the header took {took:?}");
        Ok(Self {
            child,
            rest,
            header: Line::parse(&line)?,
        })
    }

    /// Everything was proved, and the run ends well.
    fn expect_proved(self) -> Result<Verdict> {
        let unproven = self.header.unproven();
        ensure!(unproven.is_empty(), "not proved: {unproven:?}");
        self.finish()?;
        Ok(Verdict::pass())
    }

    /// Something was not proved, in a sentence with these words.
    fn expect_unproven(&self, words: &[&str]) -> Result<()> {
        let unproven = self.header.unproven().join("\n");
        for word in words {
            ensure!(unproven.contains(word), "no `{word}` in: {unproven}");
        }
        Ok(())
    }

    /// Waits for its end, and gives its summary.
    fn finish(mut self) -> Result<Line> {
        let mut text = String::new();
        self.rest.read_to_string(&mut text)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}");
        let last = text.lines().last().context("no summary")?;
        let summary = Line::parse(last)?;
        ensure!(summary.action() == "summary", "no summary: {last}");
        Ok(summary)
    }
}

fn spawn(lab: &Lab, command: &mut Command, backend: Backend, args: &[&str]) -> Result<Child> {
    command
        .args(["watch", "--output", "json", "--backend", backend.name()])
        .args(args);
    // On a shared machine, nobody else.
    if lab.native {
        command.args(["--pid", &std::process::id().to_string()]);
    }
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start port-monitor")
}

/// Why there is no header.
fn refused(output: &Output) -> anyhow::Error {
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    // Anything else is what must not be.
    if output.status.code() == Some(3) && stderr.contains("does not attach") {
        crate::monitor::Refused(stderr).into()
    } else {
        anyhow::anyhow!("no header, {}: {stderr}", output.status)
    }
}

/// Calls it on a thread that has moved to another network namespace.
fn in_namespace<T: Send>(
    enter: fn() -> Result<()>,
    run: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let within = || {
        enter()?;
        run()
    };
    let thread = thread::scope(|scope| scope.spawn(within).join());
    thread.unwrap_or_else(|_| anyhow::bail!("the thread panicked"))
}

/// In a network namespace as `ip netns add` makes it.
pub(super) fn loopback_down(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let started = in_namespace(places::enter_new_netns, || {
        Started::new(lab, backend, command(lab, "")?, &["--duration", "1s"])
    });
    started?.expect_proved()
}

/// Where the host's firewall lets nothing in, not even from loopback.
pub(super) fn firewall(lab: &Lab) -> Result<Verdict> {
    const RULES: &str = "add table inet t; \
        add chain inet t c { type filter hook input priority 0; policy drop; }";
    let started = in_namespace(places::enter_loopback_netns, || {
        let nft = Command::new("nft").arg(RULES).output().context("run nft")?;
        let stderr = String::from_utf8_lossy(&nft.stderr);
        ensure!(nft.status.success(), "nft: {stderr}");
        let args = ["--duration", "1s"];
        Started::new(lab, lab.sure_backend(), command(lab, "")?, &args)
    });
    started?.expect_proved()
}

/// A cgroup whose processes' packets are dropped everywhere.
fn silent(lab: &Lab) -> Result<String> {
    let cgroup = lab.cgroups.silent();
    bpf::drop_packets(&cgroup::directory(&cgroup)?)?;
    Ok(cgroup)
}

/// In a unit with `IPAddressDeny=any`.
pub(super) fn packets_dropped(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let silent = command(lab, &silent(lab)?)?;
    let started = Started::new(lab, backend, silent, &["--duration", "1s"])?;
    started.expect_unproven(&[UNANSWERED, "IPv6", "IPAddressDeny="])?;
    let sentences = started.header.unproven().len();
    ensure!(sentences == 1, "{sentences} sentences for one reason");
    started.finish()?;
    Ok(Verdict::pass())
}

/// Under policies of our own, each of which denies the self-test in another way.
pub(super) fn own_policy(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let head = "version = 1\nmode = \"enforce\"\n";
    let policies = [
        (
            "[default]\nlisten = { action = \"deny\" }\n",
            [UNANSWERED, "denied by the listen default"],
        ),
        (
            "[[rule]]\nname = \"nothing-listens\"\ndirection = \"listen\"\naction = \"deny\"\n",
            [UNANSWERED, "denied by rule `nothing-listens`"],
        ),
        (
            "[default]\noutbound = { action = \"deny\", loopback = \"filter\" }\n",
            [
                "connect: Operation not permitted",
                "denied by the outbound default",
            ],
        ),
        (
            "[[rule]]\nname = \"nothing-local\"\ndirection = \"out\"\naction = \"deny\"\n\
             to = [\"127.0.0.0/8\", \"::1\"]\n",
            [
                "connect: Operation not permitted",
                "denied by rule `nothing-local`",
            ],
        ),
        (
            "[default]\ninbound = { action = \"deny\", loopback = \"filter\" }\n",
            [UNANSWERED, "denied by the inbound default"],
        ),
    ];
    let enforced = Enforced::new(lab, head)?;
    for (policy, words) in policies {
        enforced.apply(&format!("{head}{policy}"), &["--no-confirm"])?;
        let monitor = command(lab, &enforced.cgroup)?;
        let started = Started::new(lab, backend, monitor, &["--duration", "1s"]);
        let started = started.with_context(|| format!("under {policy}"))?;
        started.expect_unproven(&words)?;
        started.finish()?;
    }
    Ok(Verdict::pass())
}

/// A setting of the machine, and what it was before: put back when dropped.
struct Setting {
    path: &'static str,
    before: String,
}

impl Setting {
    fn new(path: &'static str, value: &str) -> Result<Self> {
        let before = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
        fs::write(path, value).with_context(|| format!("write {path}"))?;
        Ok(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        // The guest ends soon; a later case may fail for it, loudly.
        let _ = fs::write(self.path, &self.before);
    }
}

/// Where IPv6 is off for every interface, those of new network namespaces too.
pub(super) fn without_ipv6(lab: &Lab) -> Result<Verdict> {
    let _all = Setting::new("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")?;
    let _new = Setting::new("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")?;
    let _inherited = Setting::new("/proc/sys/net/core/devconf_inherit_init_net", "1")?;
    let args = ["--duration", "1s"];
    Started::new(lab, lab.sure_backend(), command(lab, "")?, &args)?.expect_proved()
}

/// Where nobody may make a network namespace: proved in the user's, or not at all.
pub(super) fn namespaces_refused(lab: &Lab) -> Result<Verdict> {
    const MOST: &str = "/proc/sys/user/max_net_namespaces";
    let backend = lab.sure_backend();
    let args = ["--duration", "1s"];
    let in_none = in_namespace(places::enter_new_netns, || {
        let _none = Setting::new(MOST, "0")?;
        Started::new(lab, backend, command(lab, "")?, &args)
    })?;
    in_none.expect_unproven(&["Network is unreachable", "loopback interface"])?;
    in_none.finish()?;
    let _none = Setting::new(MOST, "0")?;
    Started::new(lab, backend, command(lab, "")?, &args)?.expect_proved()
}

/// A signal in the middle of a self-test whose packets do not arrive.
pub(super) fn signal(lab: &Lab) -> Result<Verdict> {
    let silent = silent(lab)?;
    for signal in [Signal::TERM, Signal::INT] {
        let mut command = command(lab, &silent)?;
        let mut child = spawn(lab, &mut command, lab.sure_backend(), &[])?;
        let pid = child.id();
        // However long it takes until then.
        wait_until(|| {
            let has_ended = child.try_wait()?.is_some();
            ensure!(!has_ended, "the monitor ended by itself");
            Ok(is_connecting(pid))
        })?;
        let since = Since::now(&child);
        kill_process(Pid::from_child(&child), signal)?;
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(Pid::from_child(&child)), ended)?;
        let took = since.elapsed(&child);
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{}", output.status);
        let text = String::from_utf8(output.stdout)?;
        let header = Line::parse(text.lines().next().context("no header")?)?;
        let unproven = header.unproven().join("\n");
        ensure!(unproven.contains("stopped by a signal"), "{unproven}");
        let last = Line::parse(text.lines().last().context("no summary")?)?;
        ensure!(last.action() == "summary", "no summary: {}", last.text);
        ensure!(took <= limit(lab), "it ended after {took:?}");
    }
    Ok(Verdict::pass())
}

/// A thread of the process has a socket that waits for an answer (`SYN_SENT`).
fn is_connecting(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    let mut tables = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("net/tcp")).ok());
    // Loopback, any port; the peer; the state.
    tables.any(|table| {
        table.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let is_loopback =
                |end: Option<&str>| end.is_some_and(|end| end.starts_with("0100007F:"));
            is_loopback(words.next()) && is_loopback(words.next()) && words.next() == Some("02")
        })
    })
}

/// What the self-test waits for is part of what `--duration` says.
pub(super) fn duration(lab: &Lab) -> Result<Verdict> {
    let silent = command(lab, &silent(lab)?)?;
    let args = ["--duration", "2s"];
    let started = Started::new(lab, lab.sure_backend(), silent, &args)?;
    started.expect_unproven(&[UNANSWERED])?;
    let summary = started.finish()?;
    let watched = summary.number("port_monitor.duration_ms");
    let watched = watched.context("no duration")?;
    ensure!(watched < 2_000, "watched for {watched} ms");
    Ok(Verdict::pass())
}

/// Where others are preempted in the middle of a bpf(2), the kernel skips programs at times: the
/// start proves each of them all the same.
pub(super) fn beside_writers(lab: &Lab, backend: Backend) -> Result<Verdict> {
    const STARTS: usize = 4;
    write_meanwhile(|| {
        for start in 1..=STARTS {
            let output = Command::new(&lab.program)
                .args(["watch", "--backend", backend.name(), "--duration", "1s"])
                .output()
                .context("start port-monitor")?;
            ensure!(
                output.status.success(),
                "start {start}: {}, {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    })?;
    Ok(Verdict::Pass(format!("{STARTS} starts")))
}

/// `doctor` tries every backend, and tells of each that works what it could not prove.
pub(super) fn doctor(lab: &Lab) -> Result<Verdict> {
    let mut doctor = command(lab, &silent(lab)?)?;
    let (output, took) = timed(doctor.args(["doctor", "--json"]))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {stderr}", output.status);
    ensure!(took <= limit(lab), "it took {took:?}");
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let backends = report["backends"].as_array().context("no backends")?;
    let mut working = 0;
    for backend in backends.iter().filter(|one| one["refused"].is_null()) {
        working += 1;
        let unproven = backend["unproven"].to_string();
        ensure!(unproven.contains("IPAddressDeny="), "{backend}");
    }
    ensure!(working > 0, "no backend works");
    Ok(Verdict::pass())
}

/// An audit starts there too.
pub(super) fn audit(lab: &Lab) -> Result<Verdict> {
    let mut audit = command(lab, &silent(lab)?)?;
    let (output, took) = timed(audit.args(["audit", "--output", "json"]))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {stderr}", output.status);
    ensure!(took <= limit(lab), "it took {took:?}");
    let text = String::from_utf8(output.stdout)?;
    let header = Line::parse(text.lines().next().context("no header")?)?;
    let unproven = header.unproven().join("\n");
    ensure!(unproven.contains("IPAddressDeny="), "{unproven}");
    Ok(Verdict::pass())
}
