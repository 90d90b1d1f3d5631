//! `port-monitor audit` against listeners and clients that are known.

use std::{collections::BTreeSet, fs, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};

use crate::{
    backend::Backend,
    fact::{Accept, Fact, Owner, netns_ino},
    json::Line,
    lab::Lab,
    monitor::Watch,
    report::Verdict,
    scenarios::identity::OTHER_USER,
};

/// Exit status: a violation was seen.
const VIOLATION: i32 = 1;

/// A listener as the workload knows it.
#[derive(Debug)]
struct Truth<'a> {
    owner: &'a Owner,
    at: SocketAddr,
    accepts: Vec<&'a Accept>,
}

impl Truth<'_> {
    /// The listeners and those who came in; a process has one at a port.
    fn of(facts: &[Fact]) -> Vec<Truth<'_>> {
        let accepts = |owner: &Owner, at: SocketAddr| {
            let came_in = facts.iter().filter_map(|fact| match fact {
                Fact::Accept(accept) => Some(accept),
                _ => None,
            });
            let is_here = |accept: &&Accept| {
                let acceptor = accept.acceptor.as_ref();
                accept.listener == at && acceptor.is_some_and(|own| own.pid == owner.pid)
            };
            came_in.filter(is_here).collect()
        };
        let listeners = facts.iter().filter_map(|fact| match fact {
            Fact::Listen(listen) => Some(Truth {
                owner: &listen.owner,
                at: listen.at,
                accepts: accepts(&listen.owner, listen.at),
            }),
            _ => None,
        });
        listeners.collect()
    }

    fn netns_ino(&self) -> Result<u64> {
        match self.accepts.first() {
            Some(accept) => Ok(accept.netns_ino),
            None => netns_ino(),
        }
    }

    fn scope(&self) -> &'static str {
        if self.at.ip().is_unspecified() {
            "any"
        } else {
            "loopback"
        }
    }

    fn find<'l>(&self, lines: &'l [Line]) -> Option<&'l Line> {
        lines.iter().find(|line| {
            line.action() == "listener"
                && line.destination() == Some(self.at)
                && line.pid() == Some(self.owner.pid)
        })
    }

    /// Every field of the listener's line.
    fn check(&self, line: &Line) -> Result<()> {
        let peers: BTreeSet<_> = self.accepts.iter().map(|one| one.remote.ip()).collect();
        let number = |field: &str| line.number(field);
        let uses = |field: &str| line.number(&format!("port_monitor.uses.{field}"));
        for (what, found, expected) in [
            ("uid", number("user.id"), Some(self.owner.uid.into())),
            ("netns", line.netns_ino(), Some(self.netns_ino()?)),
            ("accepts", uses("accepts"), Some(self.accepts.len() as u64)),
            ("peers", uses("distinct_peers"), Some(peers.len() as u64)),
            (
                "cgroup",
                number("port_monitor.cgroup.id"),
                Some(self.owner.cgroup_id),
            ),
        ] {
            ensure!(
                found == expected,
                "{what} {found:?}, not {expected:?}: {}",
                line.text
            );
        }
        let comm = String::from_utf8_lossy(&self.owner.comm);
        let exe = self.owner.exe.to_string_lossy();
        for (field, expected) in [
            ("port_monitor.scope", self.scope()),
            ("process.thread.name", &*comm),
            ("process.executable", &*exe),
        ] {
            let found = line.text(field);
            ensure!(
                found == expected,
                "{field} {found}, not {expected}: {}",
                line.text
            );
        }
        let is_shared = line.fields.get("port_monitor.uses.shared");
        ensure!(is_shared == Some(&false.into()), "shared: {}", line.text);
        self.check_times(line)
    }

    fn check_times(&self, line: &Line) -> Result<()> {
        for (field, accept) in [
            ("first_accept", self.accepts.first()),
            ("last_accept", self.accepts.last()),
        ] {
            let time = line.text(&format!("port_monitor.uses.{field}"));
            let Some(accept) = accept else {
                ensure!(time.is_empty(), "{field} of nobody: {}", line.text);
                continue;
            };
            let ns = time.parse::<jiff::Timestamp>()?.as_nanosecond();
            let (from, to) = accept.within_ns;
            // The wall clock is sampled a moment apart.
            let slack = 50_000_000;
            ensure!(
                (i128::from(from) - slack..=i128::from(to) + slack).contains(&ns),
                "{field} {ns} not within {from}..{to}: {}",
                line.text
            );
        }
        Ok(())
    }
}

/// Forbids the other user to listen.
fn policy() -> String {
    format!(
        "version = 1\nmode = \"observe\"\n[[rule]]\nname = \"not-theirs\"\n\
         direction = \"listen\"\nuser = {OTHER_USER}\naction = \"deny\"\n"
    )
}

/// Every listener has a line that says exactly whose it is and who came in; `--unused`
/// lists the one nobody used; a forbidden one is a violation.
pub(super) fn listeners(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let path = lab.new_path("toml");
    fs::write(&path, policy())?;
    let mut workload = lab.workload("listeners")?;
    workload.hear("ready")?;
    let all = Watch::audit(lab, backend).args(["--duration", "1h", "--fail-on-violation"]);
    let mut all = all.arg("--policy").arg(&path).start()?;
    let mut unused = Watch::audit(lab, backend)
        .args(["--unused", "1h"])
        .start()?;
    workload.go()?;
    workload.hear("done")?;
    let all = all.stop()?;
    let unused = unused.stop()?;
    let facts = workload.facts()?;
    all.expect_code(VIOLATION)?;
    unused.expect_code(0)?;
    let (lines, summary) = all.read()?;
    ensure!(summary.adds_up && summary.lost == 0, "{summary:?}");
    let (unused_lines, _) = unused.read()?;
    let listeners = Truth::of(&facts);
    ensure!(listeners.len() == 7, "{} listeners", listeners.len());
    for listener in &listeners {
        let line = listener
            .find(&lines)
            .with_context(|| format!("no line of {listener:?}"))?;
        listener.check(line)?;
        let is_forbidden = listener.owner.uid == OTHER_USER;
        let expected = if is_forbidden {
            ("violation", "not-theirs")
        } else {
            ("allow", "")
        };
        ensure!(
            line.verdict() == expected,
            "not {expected:?}: {}",
            line.text
        );
        let is_listed = listener.find(&unused_lines).is_some();
        ensure!(
            is_listed == listener.accepts.is_empty(),
            "{listener:?} is wrongly {}listed as unused",
            if is_listed { "" } else { "not " }
        );
    }
    Ok(Verdict::Pass(format!("{} listeners", listeners.len())))
}
