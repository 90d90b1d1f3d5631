//! `apply --follow`: what is in force keeps step with its file and with the host.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    Enforced,
    hammer::{Hammer, Ports},
    life::{bad, denying, harmless, policy, rule},
    this_program,
    vector::About,
};
use crate::{
    bpf, cgroup,
    lab::Lab,
    process::{PATIENCE, wait_until},
    report::Verdict,
};

/// How long it may take to do what it must not do: it looks every second.
const LOOKS: Duration = Duration::from_millis(2_500);

/// One that runs.
pub(super) struct Follower {
    child: Child,
    lines: Receiver<String>,
    path: PathBuf,
}

impl Follower {
    /// Starts one, and waits until it has applied its policy.
    pub(super) fn start(enforced: &Enforced<'_>, text: &str, confirm: &str) -> Result<Self> {
        let follower = Self::spawn(enforced, text, confirm)?;
        follower.hear(": applied, ")?;
        Ok(follower)
    }

    /// Starts one.
    pub(super) fn spawn(enforced: &Enforced<'_>, text: &str, confirm: &str) -> Result<Self> {
        let path = enforced.write(text)?;
        let mut child = enforced
            .command("apply")
            .arg(&path)
            .args(enforced.place())
            .args(["--follow", confirm])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start the follower")?;
        let (send, lines) = mpsc::channel();
        let stdout = child.stdout.take().context("no stdout")?;
        let stderr = child.stderr.take().context("no stderr")?;
        for stream in [
            Box::new(stdout) as Box<dyn std::io::Read + Send>,
            Box::new(stderr),
        ] {
            let send = send.clone();
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if send.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Self { child, lines, path })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its policy's file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for a line with this in it.
    pub(super) fn hear(&self, words: &str) -> Result<String> {
        self.hear_until(words)?.pop().context("no line")
    }

    /// Waits for a line with this in it; gives that and all before it.
    pub(super) fn hear_until(&self, words: &str) -> Result<Vec<String>> {
        let mut heard: Vec<String> = Vec::new();
        while !heard.last().is_some_and(|line| line.contains(words)) {
            let line = self.lines.recv_timeout(PATIENCE);
            heard.push(line.with_context(|| format!("no `{words}` after {heard:?}"))?);
        }
        Ok(heard)
    }

    /// What it has said so far and nobody heard.
    pub(super) fn unheard(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Puts another file in the place of the policy's.
    pub(super) fn replace(&self, text: &str) -> Result<()> {
        let new = self.path.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, &self.path).context("replace the policy")
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).context("signal the follower")
    }

    /// Waits for its end; gives what it said and nobody heard.
    pub(super) fn expect_end(mut self) -> Result<Vec<String>> {
        let status = self.child.wait()?;
        ensure!(status.success(), "the follower ended with {status}");
        Ok(self.lines.iter().collect())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It has ended already, or the case has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Files that are changed, spoilt and deleted; SIGHUP; and what others decided.
pub(crate) fn file(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let enforced = Enforced::new(lab, &harmless())?;
    let mut hammer = Hammer::start(&enforced, &ports)?;
    let follower = Follower::start(&enforced, &harmless(), "--no-confirm")?;
    hammer.expect_free()?;
    follower.replace(&denying(ports.denied()))?;
    follower.hear(": applied, ")?;
    hammer.expect_held()?;

    for (spoilt, word) in [("", "is empty"), ("version = 1\nmode = \"", "error")] {
        follower.replace(spoilt)?;
        follower.hear(word)?;
        follower.hear("the policy in force stays")?;
        hammer.expect_held()?;
    }
    fs::remove_file(&follower.path)?;
    follower.hear("no such file")?;
    hammer.expect_held()?;
    follower.replace(&harmless())?;
    follower.hear(": applied, ")?;
    hammer.expect_free()?;

    enforced.tell("rollback")?;
    thread::sleep(LOOKS);
    hammer.expect_held()?;
    follower.signal(Signal::HUP)?;
    follower.hear(": applied, ")?;
    hammer.expect_free()?;

    follower.replace(&denying(ports.denied()))?;
    follower.hear(": applied, ")?;
    follower.signal(Signal::TERM)?;
    follower.expect_end()?;
    hammer.expect_held()?;
    Ok(Verdict::pass())
}

/// A file that is bad, whatever is bad about it, changes nothing, and is told once.
pub(crate) fn bad_files(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let good = denying(ports.denied());
    let enforced = Enforced::new(lab, &harmless())?;
    let follower = Follower::start(&enforced, &good, "--no-confirm")?;
    let mut hammer = Hammer::start(&enforced, &ports)?;
    hammer.expect_held()?;
    let bad = bad(&good);
    for (text, word) in &bad {
        follower.replace(text)?;
        follower.signal(Signal::HUP)?;
        follower.hear(word)?;
        follower.hear("the policy in force stays")?;
        hammer.expect_held()?;
    }
    ensure!(
        enforced.hits("denied")? == 9 * (bad.len() as u64 + 1),
        "not the same policy"
    );
    Ok(Verdict::Pass(format!("{} of them", bad.len())))
}

/// A unit that is started anew is held to its rules again; the counts go on. A program
/// that is detached is told of. When enforcement is ended, nobody begins it again.
pub(crate) fn host(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let before = bpf::all()?;
    let enforced = Enforced::new(lab, &harmless())?;
    let unit = lab.cgroups.held_unit(&enforced.cgroup);
    let of_unit = format!(
        "{}cgroup = \"{unit}\"\n",
        rule("of-unit", ports.allowed(), "deny")
    );
    let text = policy(
        "enforce",
        &(rule("denied", ports.denied(), "deny") + &of_unit),
    );
    let mut hammer = Hammer::start(&enforced, &ports)?;
    let follower = Follower::start(&enforced, &text, "--no-confirm")?;
    hammer.expect_held()?;
    ensure!(
        is_refused(&unit, ports.allowed())?,
        "the unit's rule does not hold"
    );
    let hits = ["denied", "of-unit"].map(|name| enforced.hits(name));
    let [denied, of_unit] = hits;
    let (denied, of_unit) = (denied?, of_unit?);

    start_anew(&cgroup::directory(&unit)?)?;
    follower.hear("looked up again")?;
    ensure!(
        is_refused(&unit, ports.allowed())?,
        "the unit got out of it"
    );
    hammer.expect_held()?;
    let after = (enforced.hits("denied")?, enforced.hits("of-unit")?);
    ensure!(
        after == (denied + 9, of_unit + 1),
        "{after:?} hits after ({denied}, {of_unit})"
    );
    enforced.tell("rollback")?;
    hammer.expect_free()?;

    let made: bpf::Objects = bpf::all()?.difference(&before).copied().collect();
    bpf::detach_one(&made)?;
    follower.hear("somebody has detached pm_")?;
    enforced.tell("panic-open")?;
    follower.hear("no longer following")?;
    follower.expect_end()?;
    hammer.expect_free()?;
    Ok(Verdict::pass())
}

/// A cgroup and an executable that are not there keep nothing else from being held; it is
/// told when they come, and from then on their rules hold.
pub(crate) fn missing(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let enforced = Enforced::new(lab, &harmless())?;
    let unit = lab.cgroups.held_unit(&enforced.cgroup);
    let program = lab.new_path("later");
    let text = policy(
        "enforce",
        &format!(
            "{}{}cgroup = \"/sys/fs/cgroup{unit}/\"\n{}exe = \"{}\"\n",
            rule("denied", ports.denied(), "deny"),
            rule("of-unit", ports.allowed(), "deny"),
            rule("of-program", 1, "deny"),
            program.display()
        ),
    );
    let dir = cgroup::directory(&unit)?;
    wait_until(|| Ok(fs::remove_dir(&dir).is_ok())).context("empty the cgroup")?;
    let mut hammer = Hammer::start(&enforced, &ports)?;
    let follower = Follower::start(&enforced, &text, "--no-confirm")?;
    hammer.expect_held()?;

    fs::create_dir(&dir)?;
    follower.hear(&format!("cgroup {unit} is there now"))?;
    ensure!(
        is_refused(&unit, ports.allowed())?,
        "the unit's rule does not hold"
    );
    fs::copy("/proc/self/exe", &program).context("copy this program")?;
    follower.hear(&format!("executable {}", program.display()))?;
    fs::remove_file(&program)?;
    follower.hear("is not there: rules that name it match nothing until it is")?;
    hammer.expect_held()?;
    enforced.tell("panic-open")?;
    follower.hear("no longer following")?;
    follower.expect_end()?;
    Ok(Verdict::pass())
}

/// A flood of refused connections is a few lines, which add up to all of it.
pub(crate) fn denials(lab: &Lab) -> Result<Verdict> {
    /// Of the hammer, which connects to the denied port nine times in each.
    const ROUNDS: u32 = 500;
    let ports = Ports::new()?;
    let enforced = Enforced::new(lab, &harmless())?;
    let mut hammer = Hammer::start(&enforced, &ports)?;
    let follower = Follower::start(&enforced, &denying(ports.denied()), "--no-confirm")?;
    hammer.expect_held()?;
    let first = follower.hear("denied: denied ")?;
    let shown = format!(": to 127.0.0.1:{} by ", ports.denied());
    let owner = format!("[{}], uid 0", hammer.pid());
    ensure!(
        first.contains(&shown) && first.ends_with(&owner),
        "not shown: {first}"
    );
    hammer.begin(ROUNDS)?;
    let refused = hammer.end()?.refused + hammer.once()?.refused;
    let hits = enforced.hits("denied")?;
    follower.signal(Signal::TERM)?;
    let mut lines = follower.expect_end()?;
    lines.insert(0, first);
    let told = lines.iter().map(|line| told(line));
    let told: Vec<(u64, u64)> = told.collect::<Result<_>>()?;
    let sum: u64 = told.iter().map(|(more, _)| more).sum();
    let last = told.last().map(|(_, all)| *all);
    ensure!(
        sum == refused + 9 && last == Some(sum) && hits == sum,
        "{} refused, {hits} counted, told: {lines:?}",
        refused + 9
    );
    // The first, what comes in each ten seconds, and the rest.
    ensure!(told.len() <= 4, "too many lines: {lines:?}");
    Ok(Verdict::Pass(format!("{sum} denied, {} lines", told.len())))
}

/// A peer, a connect to a port that is denied and a listener are told of by what is known
/// of them.
pub(crate) fn told_of(lab: &Lab) -> Result<Verdict> {
    let (denied, inner) = (Ports::new()?, Ports::new()?);
    let base = inner.denied() - About::Inbound as u16;
    drop(inner);
    let listen = base + About::Listen as u16;
    let rule = |name: &str, direction: &str, port: u16| {
        format!(
            "[[rule]]\nname = \"{name}\"\ndirection = \"{direction}\"\nport = {port}\naction = \
             \"deny\"\n"
        )
    };
    let rules = [
        rule("out", "out", denied.denied()),
        rule("in", "in", base + About::Inbound as u16),
        rule("listen", "listen", listen),
    ]
    .concat();
    let enforced = Enforced::new(lab, &harmless())?;
    let follower = Follower::start(&enforced, &policy("enforce", &rules), "--no-confirm")?;
    for name in ["enforce-in-ipv4", "enforce-bind-ipv4"] {
        let status = this_program()?
            .args(["vector", name, "--side", "denied", "--base"])
            .args([&base.to_string(), "--cgroup", &enforced.cgroup])
            .args(["--unit", "/", "--copy", "/"])
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "{name} failed");
    }
    let line = follower.hear("in: denied ")?;
    let port = base + About::Inbound as u16;
    ensure!(
        line.ends_with(&format!(": from 127.0.0.1 to port {port}")),
        "not of the peer: {line}"
    );
    let line = follower.hear("listen: denied 1, 1 ")?;
    ensure!(
        line.contains(&format!(": port {listen} by ")),
        "not of the listener: {line}"
    );
    follower.signal(Signal::TERM)?;
    follower.expect_end()?;
    Ok(Verdict::pass())
}

/// How many a line tells of, and how many there are.
pub(super) fn told(line: &str) -> Result<(u64, u64)> {
    let counts = line.split(" since ").next().unwrap_or_default();
    let numbers: Vec<u64> = counts
        .split([' ', ','])
        .filter_map(|word| word.parse().ok())
        .collect();
    match numbers[..] {
        [more, all] => Ok((more, all)),
        _ => bail!("not of denials: {line}"),
    }
}

/// As a service manager does.
fn start_anew(dir: &Path) -> Result<()> {
    wait_until(|| Ok(fs::remove_dir(dir).is_ok())).context("empty the cgroup")?;
    fs::create_dir(dir).with_context(|| format!("create {}", dir.display()))
}

/// What becomes of a connection from within a cgroup.
pub(super) fn is_refused(cgroup: &str, port: u16) -> Result<bool> {
    let mut child = this_program()?
        .args(["walk", "--user", "0", "--cgroup", cgroup])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start a walker")?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    writeln!(stdin, "c127.0.0.1:{port}")?;
    drop(stdin);
    let mut answer = String::new();
    let mut stdout = child.stdout.take().context("no stdout")?;
    stdout.read_to_string(&mut answer)?;
    ensure!(child.wait()?.success(), "the walker failed");
    Ok(answer.trim() == "x")
}
