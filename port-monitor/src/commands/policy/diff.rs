//! `policy diff`: the connections two policies decide differently.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use port_monitor_common::policy::{Direction, OwnerCondition, Transport};
use serde::Serialize;

use super::{expect_apart, explained::ReasonReport, json_line, spelled};
use crate::{
    base::exit_code::{ExitCode, Failure},
    commands::{
        enforce::established::{self, Denied, Found},
        load::load,
        told::written,
    },
    policy::{
        Environment as _, Host,
        analysis::diff::{Difference, Uids},
    },
};

/// Arguments of `policy diff`.
#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// The policy to compare with, as the one in force
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The policy to compare
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// List the connections too that are open on this host now and that NEW denies
    ///
    /// `apply` ends them where NEW has `established = "kill"`. Takes root.
    #[arg(long)]
    open: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The answer of `policy diff`.
#[derive(Serialize)]
struct Report {
    old: String,
    new: String,
    differences: Vec<DifferenceReport>,
    /// What is open and denied; absent without `--open`.
    #[serde(skip_serializing_if = "Option::is_none")]
    open: Option<Vec<OpenReport>>,
    /// How many open ones it may deny too, and why that is not known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    open_left: Vec<String>,
}

/// A connection that is open.
#[derive(Serialize)]
struct OpenReport {
    direction: &'static str,
    local: SocketAddr,
    remote: SocketAddr,
    user: u32,
    /// The rule that denies it; null for the default.
    rule: Option<String>,
    #[serde(skip)]
    text: String,
}

impl OpenReport {
    fn of(denied: &Denied) -> Self {
        Self {
            direction: denied.direction(),
            local: denied.local(),
            remote: denied.remote(),
            user: denied.uid(),
            rule: denied.rule().map(str::to_owned),
            text: denied.to_string(),
        }
    }
}

#[derive(Serialize)]
struct DifferenceReport {
    direction: &'static str,
    /// Single ports and ranges; `unknown` where no port is known.
    ports: Vec<String>,
    /// Absent of what listens.
    peers: Option<Vec<String>>,
    users: UsersReport,
    units: BTreeSet<String>,
    cgroup: Option<String>,
    /// What an owner is in one of at most, by key.
    #[serde(flatten)]
    singles: BTreeMap<&'static str, Option<String>>,
    /// Only of the kernel itself, or only of anybody else; null for either.
    kernel: Option<bool>,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
    old: ReasonReport,
    new: ReasonReport,
    witness: String,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum UsersReport {
    Only(Vec<u32>),
    AllBut(Vec<u32>),
}

/// Compares the policies; exit code 1 if they differ.
pub(super) fn run(args: &DiffArgs, out: impl Write) -> Result<ExitCode, Failure> {
    expect_apart(&args.old, &args.new)?;
    let old = load(&args.old)?;
    let new = load(&args.new)?;
    let differences = old.diff(&new, Host.now_ns()).map_err(Failure::usage)?;
    let open = args.open.then(|| established::open(&new)).transpose()?;
    let report = Report {
        old: args.old.display().to_string(),
        new: args.new.display().to_string(),
        differences: differences
            .iter()
            .map(|difference| DifferenceReport::of(difference, [&args.old, &args.new]))
            .collect(),
        open_left: open.as_ref().map(Found::left).unwrap_or_default(),
        open: open.map(|open| open.denied.iter().map(OpenReport::of).collect()),
    };
    written(if args.json {
        json_line(&report, out)
    } else {
        report.write(out)
    })?;
    Ok(if report.differences.is_empty() {
        ExitCode::Ok
    } else {
        ExitCode::Violation
    })
}

impl DifferenceReport {
    fn of(difference: &Difference, [old, new]: [&Path; 2]) -> Self {
        let direction = difference.direction;
        let [old_reason, new_reason] = &difference.by;
        let has_peer = direction != Direction::Listen;
        let who = &difference.who;
        Self {
            direction: spelled(direction),
            ports: ports(&difference.ports),
            peers: has_peer.then(|| difference.peers.words()),
            users: match &difference.uids {
                Uids::Only(uids) => UsersReport::Only(uids.clone()),
                Uids::AllBut(uids) => UsersReport::AllBut(uids.clone()),
            },
            units: who.units.clone(),
            // The root cgroup is stored without its slash.
            cgroup: who.cgroup.as_ref().map(|path| match &**path {
                "" => "/".to_owned(),
                path => path.to_owned(),
            }),
            singles: OwnerCondition::singles()
                .map(|condition| (condition.key(), who.singles.get(&condition).cloned()))
                .collect(),
            kernel: difference.kernel,
            from: difference.from_ns.and_then(time),
            until: difference.until_ns.and_then(time),
            old: ReasonReport::of(old_reason, direction, old),
            new: ReasonReport::of(new_reason, direction, new),
            witness: difference.witness.clone(),
        }
    }

    /// The new action and to what it applies, what decides, and an example.
    fn text(&self) -> String {
        let sign = if self.new.action == "allow" { '+' } else { '-' };
        let mut words = vec![format!("{sign} {}", self.direction)];
        words.push(format!("port {}", self.ports.join(", ")));
        let side = if self.direction == "in" { "from" } else { "to" };
        let peers = self.peers.as_ref();
        words.extend(peers.map(|peers| format!("{side} {}", peers.join(", "))));
        words.extend(self.users.text());
        words.extend(self.units.iter().map(|unit| format!("unit {unit}")));
        let singles = self.singles.iter().map(|(key, value)| (*key, value));
        for (key, value) in [("cgroup", &self.cgroup)].into_iter().chain(singles) {
            let value = value.as_ref();
            words.extend(value.map(|value| format!("{key} {}", value.escape_debug())));
        }
        words.extend(self.kernel.map(|kernel| {
            let whom = if kernel { "by" } else { "not by" };
            format!("{whom} the kernel itself")
        }));
        for (key, time) in [("from", self.from), ("until", self.until)] {
            words.extend(time.map(|time| format!("{key} {time}")));
        }
        let text = words.join(" ");
        format!(
            "{text}\n    old: {}\n    new: {}\n    such as: {}",
            self.old.text(),
            self.new.text(),
            self.witness
        )
    }
}

impl UsersReport {
    /// Nothing where it is any user.
    fn text(&self) -> Option<String> {
        let listed = |uids: &[u32]| {
            let uids: Vec<String> = uids.iter().map(u32::to_string).collect();
            uids.join(", ")
        };
        match self {
            Self::Only(uids) => Some(format!("user {}", listed(uids))),
            Self::AllBut(uids) if uids.is_empty() => None,
            Self::AllBut(uids) => Some(format!("user any but {}", listed(uids))),
        }
    }
}

impl Report {
    fn write(&self, mut out: impl Write) -> io::Result<()> {
        for difference in &self.differences {
            writeln!(out, "{}", difference.text())?;
        }
        if self.differences.is_empty() {
            writeln!(
                out,
                "{} and {} decide every connection alike",
                self.old, self.new
            )?;
        }
        if let Some(open) = &self.open {
            for connection in open {
                writeln!(out, "open {}", connection.text)?;
            }
            writeln!(
                out,
                "{} denied by {}",
                established::counted(open.len()),
                self.new
            )?;
            for left in &self.open_left {
                writeln!(out, "{left}")?;
            }
        }
        Ok(())
    }
}

/// As the policy writes them, UDP's with their transport.
fn ports(ports: &[(u32, u32)]) -> Vec<String> {
    let [tcp, udp] = Transport::ALL.map(|transport| {
        let range = transport.ports();
        (range.first, range.last)
    });
    match ports {
        [all] if *all == tcp => return vec!["any".to_owned()],
        [all] if *all == udp => return vec!["any/udp".to_owned()],
        [all, other] if [*all, *other] == [tcp, udp] => {
            return vec!["any".to_owned(), "any/udp".to_owned()];
        }
        [(0, 0)] => return vec!["unknown".to_owned()],
        _ => {}
    }
    let words = ports.iter().filter_map(|&(first, last)| {
        let ((transport, first), (_, last)) = (Transport::of(first), Transport::of(last));
        let suffix = match transport {
            Transport::Tcp => "",
            Transport::Udp => "/udp",
        };
        match first.max(1) {
            _ if last == 0 => None,
            first if first == last => Some(format!("{first}{suffix}")),
            first => Some(format!("{first}-{last}{suffix}")),
        }
    });
    words.collect()
}

fn time(ns: i64) -> Option<Timestamp> {
    Timestamp::from_nanosecond(ns.into()).ok()
}
