//! The policy of a service becomes another one, again and again, while connections are made at
//! full speed: each event is wholly of one of them, and none is lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::{self, File},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    backend::Backend,
    is_preemptible,
    json::{Line, Summary},
    lab::Lab,
    process::PATIENCE,
    report::Verdict,
};

/// Policies that disagree on every connection. Where their rules are numbered by the same
/// number they have other names, and are about another direction.
const POLICIES: [(&str, &str); 3] = [
    (
        "a",
        "[[rule]]\nname = \"a-out\"\ndirection = \"out\"\naction = \"deny\"\n\
           [[rule]]\nname = \"a-in\"\ndirection = \"in\"\naction = \"deny\"\n",
    ),
    (
        "b",
        "[[rule]]\nname = \"b-in\"\ndirection = \"in\"\naction = \"allow\"\n\
           [[rule]]\nname = \"b-out\"\ndirection = \"out\"\naction = \"allow\"\n",
    ),
    // The kernel side knows no time: userspace judges.
    (
        "c",
        "[[rule]]\nname = \"c-out\"\ndirection = \"out\"\naction = \"deny\"\n\
           until = 2199-01-01T00:00:00Z\n\
           [[rule]]\nname = \"c-in\"\ndirection = \"in\"\naction = \"deny\"\n\
           until = 2199-01-01T00:00:00Z\n",
    ),
];

/// As often the policy changes while connections are made.
const CHANGES: usize = 12;
/// Connections that are made at a time, by four threads each of which makes so many a second: no
/// more than the slowest reader takes.
const FLOOD: [&str; 5] = ["flood", "--connections", "400", "--rate", "100"];

/// A running service, and what manages it.
struct Service {
    process: Child,
    manager: UnixDatagram,
    policy: PathBuf,
    record: PathBuf,
    stderr: PathBuf,
}

impl Service {
    fn start(lab: &Lab, backend: Backend) -> Result<Self> {
        let [policy, record, stderr] = ["toml", "jsonl", "stderr"].map(|kind| lab.new_path(kind));
        put(&policy, 0)?;
        let config = lab.new_path("toml");
        let text = format!(
            "[watch]\nbackend = \"{backend}\"\n[policy]\nfile = \"{}\"\n[record]\nfile = \"{}\"\n",
            policy.display(),
            record.display()
        );
        fs::write(&config, text)?;
        let socket = lab.new_path("socket");
        let manager = UnixDatagram::bind(&socket)?;
        manager.set_read_timeout(Some(PATIENCE))?;
        let process = Command::new(&lab.program)
            .args(["serve", "--config"])
            .arg(&config)
            .env("NOTIFY_SOCKET", &socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&stderr)?)
            .spawn()?;
        let service = Self {
            process,
            manager,
            policy,
            record,
            stderr,
        };
        service.await_state("READY=1")?;
        Ok(service)
    }

    fn await_state(&self, state: &str) -> Result<()> {
        let mut bytes = [0; 4_096];
        loop {
            let count = self.manager.recv(&mut bytes).with_context(|| {
                let stderr = fs::read_to_string(&self.stderr).unwrap_or_default();
                format!("wait for {state}: {stderr}")
            })?;
            let told = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default());
            if told.lines().any(|line| line == state) {
                return Ok(());
            }
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.process), signal)?)
    }

    fn judge_by(&self, number: usize) -> Result<()> {
        put(&self.policy, number)?;
        self.signal(Signal::HUP)?;
        self.await_state("RELOADING=1")?;
        self.await_state("READY=1")
    }

    /// What it said, and what it recorded.
    fn end(mut self) -> Result<(String, Vec<Line>)> {
        self.signal(Signal::TERM)?;
        let status = self.process.wait()?;
        let stderr = fs::read_to_string(&self.stderr)?;
        ensure!(status.success(), "{status}: {stderr}");
        let text = fs::read_to_string(&self.record)?;
        let lines: Result<Vec<Line>> = text.lines().map(Line::parse).collect();
        Ok((stderr, lines?))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Nothing is left of one that has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn put(path: &Path, number: usize) -> Result<()> {
    let (_, rules) = POLICIES[number % POLICIES.len()];
    Ok(fs::write(
        path,
        format!("version = 1\nmode = \"observe\"\n{rules}"),
    )?)
}

pub(super) fn under_fire(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let service = Service::start(lab, backend)?;
    let is_over = AtomicBool::new(false);
    let connections = thread::scope(|scope| {
        let flood = scope.spawn(|| flood_until(&is_over));
        let changed = (1..=CHANGES).try_for_each(|number| service.judge_by(number));
        is_over.store(true, Ordering::Release);
        let connections = flood.join().ok().context("the flood panicked")?;
        changed.and(connections)
    })?;
    let (stderr, lines) = service.end()?;
    let told = stderr.matches("; another policy\n").count();
    ensure!(told == CHANGES, "{told} changes told: {stderr}");
    let (summary, lines) = lines.split_last().context("nothing recorded")?;
    let summary = Summary::of(summary)?;
    // Probes are skipped where whoever writes a policy is preempted in the middle of a bpf(2).
    // Where others stand in, that may be while another task is preempted in the middle of those.
    let skipped = if is_preemptible()? {
        summary.lost_by_cause.program_skipped
    } else {
        0
    };
    ensure!(summary.lost == skipped && summary.adds_up, "{summary:?}");
    let counts = check(lines, backend)?;
    for action in ["connect", "connected", "accept"] {
        let count = counts.get(action).copied().unwrap_or_default();
        ensure!(
            count + skipped >= connections,
            "{count} of {action}, not {connections}: {summary:?}"
        );
    }
    Ok(Verdict::Pass(format!(
        "{connections} connections, {CHANGES} changes"
    )))
}

/// Makes connections, and says how many.
fn flood_until(is_over: &AtomicBool) -> Result<u64> {
    let mut count = 0;
    while !is_over.load(Ordering::Acquire) {
        let output = Command::new(env::current_exe()?).args(FLOOD).output()?;
        count += String::from_utf8(output.stdout)?.trim().parse::<u64>()?;
    }
    Ok(count)
}

/// Each event has the verdict and the rule of the policy that it names, which was told before;
/// how many there are of each kind.
fn check(lines: &[Line], backend: Backend) -> Result<BTreeMap<&str, u64>> {
    let mut versions = BTreeMap::new();
    let mut told = 0;
    let mut counts = BTreeMap::new();
    let mut begun: BTreeMap<&str, &str> = BTreeMap::new();
    let mut used = BTreeSet::new();
    for line in lines {
        if let "start" | "policy" = line.action() {
            let version = line.text("port_monitor.policy_sha256").get(..12);
            versions.insert(
                version.context("no digest")?,
                POLICIES[told % POLICIES.len()].0,
            );
            told += 1;
            continue;
        }
        if line.action() == "loss" {
            continue;
        }
        *counts.entry(line.action()).or_default() += 1;
        let version = line.text("rule.version");
        let policy = *versions
            .get(version)
            .with_context(|| format!("of no policy: {}", line.text))?;
        if let "listen" | "unlisten" = line.action() {
            continue;
        }
        let direction = match line.text("network.direction") {
            "ingress" => "in",
            _ => "out",
        };
        let verdict = if policy == "b" { "allow" } else { "violation" };
        ensure!(
            line.verdict() == (verdict, &format!("{policy}-{direction}")),
            "not the word of {policy}: {}",
            line.text
        );
        used.insert(policy);
        // Tracepoints cannot say by which policy an inbound connection began.
        if backend == Backend::Tracepoint && direction == "in" {
            continue;
        }
        // What the kernel side says of a connection stays so until its end.
        let first = *begun.entry(line.id()).or_insert(policy);
        ensure!(
            first == "c" || first == policy,
            "began by {first}: {}",
            line.text
        );
    }
    ensure!(told == CHANGES + 1, "{told} policies told");
    ensure!(used.len() == POLICIES.len(), "only {used:?} have judged");
    Ok(counts)
}
