//! `serve` with `observe = false`: the service applies its policy and follows it. It holds the
//! whole host, so these are for guests.

use std::{
    fs::{self, File},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process},
};

use super::{
    BPF_FS, Enforced, expect_success,
    follow::Follower,
    hammer::{Hammer, Ports},
    life::{denying, expect_failure, harmless, policy, rule},
};
use crate::{
    bpf,
    json::Line,
    lab::Lab,
    process::{PATIENCE, wait_until},
    report::Verdict,
};

/// What the hammer tries in each round.
const DENIED_EACH: u64 = 9;

/// The files of a service.
struct Place {
    config: PathBuf,
    policy: PathBuf,
    record: PathBuf,
    metrics: PathBuf,
    history: PathBuf,
    stderr: PathBuf,
}

impl Place {
    fn new(lab: &Lab, text: &str) -> Result<Self> {
        let [config, policy, record, metrics, history, stderr] =
            ["toml", "toml", "jsonl", "prom", "db", "stderr"].map(|kind| lab.new_path(kind));
        fs::write(&policy, text)?;
        let place = Self {
            config,
            policy,
            record,
            metrics,
            history,
            stderr,
        };
        place.configure("false")?;
        Ok(place)
    }

    fn configure(&self, observe: &str) -> Result<()> {
        let text = format!(
            "[policy]\nfile = \"{}\"\nobserve = {observe}\n[record]\nfile = \"{}\"\n\
             [metrics]\nfile = \"{}\"\n[history]\nfile = \"{}\"\n",
            self.policy.display(),
            self.record.display(),
            self.metrics.display(),
            self.history.display(),
        );
        Ok(fs::write(&self.config, text)?)
    }

    fn command(&self, lab: &Lab) -> Command {
        let mut command = Command::new(&lab.program);
        command.args(["serve", "--config"]).arg(&self.config);
        command
    }

    /// Puts another policy in the place of the one that is there.
    fn replace(&self, text: &str) -> Result<()> {
        let new = self.policy.with_extension("new");
        fs::write(&new, text)?;
        Ok(fs::rename(&new, &self.policy)?)
    }

    /// The value of a series, by its name and its labels.
    fn metric(&self, name: &str) -> Result<Option<u64>> {
        let text = fs::read_to_string(&self.metrics)?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.map(|value| value.trim().parse());
        value.transpose().with_context(|| format!("{name}: {text}"))
    }

    fn await_metric(&self, name: &str, value: u64) -> Result<()> {
        wait_until(|| Ok(self.metric(name)? == Some(value)))
            .with_context(|| format!("{name} is not {value}: {:?}", self.metric(name)))
    }

    fn said(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.stderr)?)
    }

    /// Waits for the journal to have these words once more than `before`.
    fn await_said(&self, words: &str, before: usize) -> Result<()> {
        wait_until(|| Ok(self.said()?.matches(words).count() > before))
            .with_context(|| format!("no `{words}`: {:?}", self.said()))
    }
}

/// One that runs, and what manages it.
struct Service<'p> {
    place: &'p Place,
    process: Child,
    manager: UnixDatagram,
}

impl<'p> Service<'p> {
    fn start(lab: &Lab, place: &'p Place) -> Result<Self> {
        Self::start_by(lab, place, place.command(lab))
    }

    fn start_by(lab: &Lab, place: &'p Place, mut command: Command) -> Result<Self> {
        let socket = lab.new_path("socket");
        let manager = UnixDatagram::bind(&socket)?;
        manager.set_read_timeout(Some(PATIENCE))?;
        let process = command
            .env("NOTIFY_SOCKET", &socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&place.stderr)?)
            .spawn()?;
        let service = Self {
            place,
            process,
            manager,
        };
        service.await_state("READY=1")?;
        Ok(service)
    }

    fn await_state(&self, state: &str) -> Result<()> {
        let mut bytes = [0; 4_096];
        loop {
            let count = self.manager.recv(&mut bytes);
            let count = count.with_context(|| format!("{state}: {:?}", self.place.said()))?;
            let told = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default());
            if told.lines().any(|line| line == state) {
                return Ok(());
            }
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.process), signal)?)
    }

    fn reload(&self) -> Result<()> {
        self.signal(Signal::HUP)?;
        self.await_state("RELOADING=1")?;
        self.await_state("READY=1")
    }

    /// Ends it in good order; gives what it recorded, and said.
    fn end(mut self) -> Result<(Vec<Line>, String)> {
        self.signal(Signal::TERM)?;
        let status = self.process.wait()?;
        let said = self.place.said()?;
        ensure!(status.success(), "{status}: {said}");
        let text = fs::read_to_string(&self.place.record)?;
        let lines: Result<Vec<Line>> = text.lines().map(Line::parse).collect();
        Ok((lines?, said))
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        // Nothing is left of one that has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How many attempts the record has that were denied by this rule.
fn denied_by(lines: &[Line], rule: &str) -> u64 {
    let denied = lines.iter().filter(|line| {
        line.action() == "failed"
            && line.text("error.code") == "EPERM"
            && line.text("port_monitor.enforcement") == "enforce"
            && line.verdict() == ("violation", rule)
    });
    denied.count() as u64
}

/// It is in force as soon as the service has begun, told to every consumer, and stays when the
/// service ends.
pub(crate) fn holds(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let enforced = Enforced::by_service(lab);
    let mut hammer = Hammer::start(&enforced, &ports)?;
    let place = Place::new(lab, &denying(ports.denied()))?;
    expect_success(&place.command(lab).arg("--check").output()?)?;
    hammer.expect_free()?;
    let service = Service::start(lab, &place)?;
    hammer.expect_held()?;
    place.await_metric("port_monitor_enforced_policy_in_force", 1)?;
    place.await_metric(
        "port_monitor_enforced_denials_total{rule=\"denied\"}",
        DENIED_EACH,
    )?;
    let (lines, said) = service.end()?;
    let count = denied_by(&lines, "denied");
    ensure!(count == DENIED_EACH, "{count} recorded: {said}");
    for words in [
        ": applied, 1 rule\n".to_owned(),
        format!(
            "port-monitor: denied: denied {DENIED_EACH}, {DENIED_EACH} since it was applied: to"
        ),
    ] {
        ensure!(said.contains(&words), "no `{words}`: {said}");
    }
    place.await_metric("port_monitor_denials_total{rule=\"denied\"}", DENIED_EACH)?;
    let history = Command::new(&lab.program)
        .args(["history", "--violations", "-o", "json", "--file"])
        .arg(&place.history)
        .output()?;
    expect_success(&history)?;
    let rows = String::from_utf8(history.stdout)?;
    let denied = rows.matches("\"enforcement\":\"enforce\"").count() as u64;
    ensure!(denied == DENIED_EACH, "{rows}");
    hammer.expect_held()?;
    ensure!(enforced.hits("denied")? == 2 * DENIED_EACH, "not the same");

    // One that comes back takes it over.
    let service = Service::start(lab, &place)?;
    hammer.expect_held()?;
    service.end()?;
    Ok(Verdict::pass())
}

/// SIGHUP, or a change of its file, puts another one into force, by which events are judged from
/// then on. One that is refused changes nothing.
pub(crate) fn reloads(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let enforced = Enforced::by_service(lab);
    let mut hammer = Hammer::start(&enforced, &ports)?;
    let place = Place::new(lab, &harmless())?;
    let service = Service::start(lab, &place)?;
    hammer.expect_free()?;
    place.replace(&denying(ports.denied()))?;
    service.reload()?;
    hammer.expect_held()?;
    place.await_said("; another policy\n", 0)?;
    place.configure("true")?;
    service.reload()?;
    place.await_said("observe in [policy] changed, which takes a restart", 0)?;
    place.configure("false")?;

    // Refused, and told to whoever asks.
    place.replace(&denying(ports.denied()).replace("\"out\"", "\"sideways\""))?;
    service.reload()?;
    place.await_said("not reloaded: ", 0)?;
    place.await_said("sideways", 0)?;
    hammer.expect_held()?;
    let refused = "port_monitor_enforced_policy_refused";
    place.await_metric(refused, 1)?;

    // Nobody asks: it is followed.
    place.replace(&policy("enforce", &rule("other", ports.denied(), "deny")))?;
    place.await_said(": applied, 1 rule\n", 1)?;
    place.await_said(" from here on, text ", 1)?;
    hammer.expect_held()?;
    place.await_metric(refused, 0)?;
    place.replace("version = 1\nmode = \"")?;
    place.await_said("the policy in force stays", 0)?;
    hammer.expect_held()?;

    enforced.tell("panic-open")?;
    place.await_said("no longer following", 0)?;
    place.await_metric("port_monitor_enforced_policy_in_force", 0)?;
    service.reload()?;
    place.await_said("a restart of the service applies the policy again", 0)?;
    hammer.expect_free()?;
    let (lines, said) = service.end()?;
    // Nobody tells when the programs of the monitor have followed: it may be behind for the round
    // after a change that nobody asked for.
    let counts = ["denied", "other"].map(|rule| denied_by(&lines, rule));
    ensure!(
        counts.iter().sum::<u64>() == 4 * DENIED_EACH
            && counts
                .iter()
                .zip([2, 1])
                .all(|(count, rounds)| *count >= rounds * DENIED_EACH),
        "{counts:?}: {said}"
    );
    let policies = lines
        .iter()
        .filter(|line| line.action() == "policy")
        .count();
    ensure!(policies == 2, "{policies} policies recorded: {said}");
    Ok(Verdict::pass())
}

/// Who else changes the policy keeps a service from beginning, and so does a policy that is bad.
/// Nothing is applied then.
pub(crate) fn refuses_to_start(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let enforced = Enforced::by_service(lab);
    let mut hammer = Hammer::start(&enforced, &ports)?;
    let before = bpf::all()?;
    let good = denying(ports.denied());
    let place = Place::new(lab, &good)?;
    let locked = format!("{BPF_FS}/port-monitor");
    // As one that is changing the policy has it.
    fs::create_dir_all(&locked)?;
    let dir = File::open(&locked)?;
    flock(&dir, FlockOperation::LockExclusive)?;
    expect_failure(
        &mut place.command(lab),
        7,
        &["port-monitor: another port-monitor is changing the policy: try again\n"],
    )?;
    drop(dir);
    let on_exe = "[apply]\nestablished = \"kill\"\n[[rule]]\nname = \"x\"\ndirection = \"out\"\n\
                  exe = \"/bin/sh\"\naction = \"deny\"\n";
    for (text, word) in [
        ("version = 1\nmode = \"".to_owned(), "error"),
        (good.replace("\"deny\"", "\"dney\""), "dney"),
        (policy("enforce", on_exe), "exe"),
    ] {
        place.replace(&text)?;
        expect_failure(place.command(lab).arg("--check"), 5, &[word])?;
        expect_failure(&mut place.command(lab), 5, &[word])?;
    }
    hammer.expect_free()?;
    let made = bpf::all()?.difference(&before).copied().collect();
    bpf::await_gone(&made)?;
    expect_failure(&mut enforced.command("rollback"), 2, &["no policy"])?;
    ensure!(
        !place.record.exists() || fs::read(&place.record)?.is_empty(),
        "a run was recorded"
    );
    Ok(Verdict::pass())
}

/// One that would refuse the ssh session in which the service is started is not applied.
pub(crate) fn own_session(lab: &Lab) -> Result<Verdict> {
    let enforced = Enforced::by_service(lab);
    let deny_all = "version = 1\nmode = \"enforce\"\n[default]\ninbound = { action = \"deny\" }\n";
    let place = Place::new(lab, deny_all)?;
    let mut command = place.command(lab);
    command.env("SSH_CONNECTION", "198.51.100.7 51234 198.51.100.1 22");
    expect_failure(
        &mut command,
        5,
        &[
            "ssh session",
            "198.51.100.7",
            "or have systemd start the service\n",
        ],
    )?;
    expect_failure(&mut enforced.command("rollback"), 2, &["no policy"])?;
    let failsafe = "[failsafe]\ninbound = [{ service = \"ssh\", from = \"198.51.100.0/24\" }]\n";
    place.replace(&format!("{deny_all}{failsafe}"))?;
    Service::start_by(lab, &place, command)?.end()?;
    let status = enforced.status()?;
    ensure!(status["in_force"] == true, "{status}");
    Ok(Verdict::pass())
}

/// A policy is followed by one alone: whoever comes second changes nothing, and the first goes on.
pub(crate) fn followed(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let enforced = Enforced::by_service(lab);
    let mut hammer = Hammer::start(&enforced, &ports)?;
    let place = Place::new(lab, &harmless())?;
    let refusal = "port-monitor: not applied: somebody follows the policy already, by `apply \
                   --follow` or as a service: end that first\n";
    let follower = Follower::start(&enforced, &denying(ports.denied()), "--no-confirm")?;
    expect_failure(&mut place.command(lab), 7, &[refusal])?;
    hammer.expect_held()?;
    follower.replace(&policy("enforce", &rule("other", ports.denied(), "deny")))?;
    follower.hear(": applied, ")?;
    follower.signal(Signal::KILL)?;
    ensure!(follower.expect_end().is_err(), "it ended well");

    let service = Service::start(lab, &place)?;
    hammer.expect_free()?;
    let path = enforced.write(&denying(ports.denied()))?;
    let mut second = enforced.command("apply");
    second.arg(&path).args(enforced.place());
    second.args(["--follow", "--no-confirm"]);
    expect_failure(&mut second, 7, &[refusal])?;
    hammer.expect_free()?;
    place.replace(&denying(ports.denied()))?;
    service.reload()?;
    hammer.expect_held()?;
    service.end()?;
    Ok(Verdict::pass())
}

/// What the policy says of being confirmed holds for a service too.
pub(crate) fn waits_to_be_confirmed(lab: &Lab) -> Result<Verdict> {
    let ports = Ports::new()?;
    let enforced = Enforced::by_service(lab);
    let mut hammer = Hammer::start(&enforced, &ports)?;
    let rules = rule("denied", ports.denied(), "deny");
    let confirm = |time| {
        policy(
            "enforce",
            &format!("[apply]\nconfirm = \"{time}\"\n{rules}"),
        )
    };
    let place = Place::new(lab, &confirm("3s"))?;
    let service = Service::start(lab, &place)?;
    place.await_said("; undone in 3 s unless you run `port-monitor confirm`", 0)?;
    wait_until(|| Ok(hammer.once()?.refused == 0)).context("it was never undone")?;
    place.await_metric("port_monitor_enforced_policy_in_force", 0)?;

    place.replace(&confirm("600s"))?;
    service.reload()?;
    hammer.expect_held()?;
    enforced.tell("confirm")?;
    service.end()?;
    ensure!(
        enforced.status()?["unconfirmed_s"].is_null(),
        "still waiting"
    );
    hammer.expect_held()?;
    Ok(Verdict::pass())
}
