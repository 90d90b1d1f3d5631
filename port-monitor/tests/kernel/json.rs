//! The monitor's JSON stream: the one place that knows where in a line a fact
//! stands.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// A line with its objects flattened: `process.thread.id` → value. Arrays are
/// values.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) text: String,
    /// Its place in the stream, where a stream was read.
    pub(crate) number: usize,
    pub(crate) fields: BTreeMap<String, Value>,
}

impl Line {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let value: Value =
            serde_json::from_str(text).with_context(|| format!("not JSON: {text}"))?;
        let mut fields = BTreeMap::new();
        flatten(&mut fields, String::new(), value);
        Ok(Self {
            text: text.to_owned(),
            number: 0,
            fields,
        })
    }

    /// A string field, empty when absent.
    pub(crate) fn text(&self, path: &str) -> &str {
        self.fields
            .get(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// A number; large ones are strings of digits.
    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        match self.fields.get(path)? {
            Value::String(digits) => digits.parse().ok(),
            value => value.as_u64(),
        }
    }

    pub(crate) fn flag(&self, path: &str) -> Option<bool> {
        self.fields.get(path)?.as_bool()
    }

    /// `start`, `connect`, `connected`, `failed`, `accept`, `close`, `loss`, `summary`.
    pub(crate) fn action(&self) -> &str {
        self.text("event.action")
    }

    /// Joins the records of one connection end.
    pub(crate) fn id(&self) -> &str {
        self.text("port_monitor.id")
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.number("process.pid")?.try_into().ok()
    }

    pub(crate) fn source_ip(&self) -> Option<IpAddr> {
        self.text("source.ip").parse().ok()
    }

    pub(crate) fn source_port(&self) -> Option<u16> {
        self.number("source.port")?.try_into().ok()
    }

    pub(crate) fn destination(&self) -> Option<SocketAddr> {
        let ip = self.text("destination.ip").parse().ok()?;
        let port = self.number("destination.port")?.try_into().ok()?;
        Some(SocketAddr::new(ip, port))
    }

    /// This host's end and the peer's.
    pub(crate) fn local_and_remote(&self) -> Option<(SocketAddr, SocketAddr)> {
        let source = SocketAddr::new(self.source_ip()?, self.source_port()?);
        let destination = self.destination()?;
        Some(match self.text("network.direction") {
            "egress" => (source, destination),
            _ => (destination, source),
        })
    }

    /// Payload bytes this host's end has sent and received.
    pub(crate) fn bytes_out_and_in(&self) -> Option<(u64, u64)> {
        let source = self.number("source.bytes")?;
        let destination = self.number("destination.bytes")?;
        Some(match self.text("network.direction") {
            "egress" => (source, destination),
            _ => (destination, source),
        })
    }

    /// The process at the other end as the line names it: pid, name, executable.
    pub(crate) fn peer(&self) -> (Option<u64>, &str, &str) {
        self.named("port_monitor.peer_process")
    }

    /// The process at this end, likewise.
    pub(crate) fn process(&self) -> (Option<u64>, &str, &str) {
        self.named("process")
    }

    fn named(&self, object: &str) -> (Option<u64>, &str, &str) {
        let path = |name| format!("{object}.{name}");
        (
            self.number(&path("pid")),
            self.text(&path("name")),
            self.text(&path("executable")),
        )
    }

    pub(crate) fn netns_ino(&self) -> Option<u64> {
        self.number("port_monitor.netns")
    }

    /// The policy's verdict and the rule that decided.
    pub(crate) fn verdict(&self) -> (&str, &str) {
        (self.text("port_monitor.verdict"), self.text("rule.name"))
    }

    /// Header: the backend in use.
    pub(crate) fn backend(&self) -> &str {
        self.text("port_monitor.backend")
    }

    /// Header: a sentence for each thing this backend cannot see.
    pub(crate) fn blind_spots(&self) -> Vec<&str> {
        self.sentences("port_monitor.blind_spots")
    }

    /// Header: a sentence for each thing the self-test could not prove.
    pub(crate) fn unproven(&self) -> Vec<&str> {
        self.sentences("port_monitor.unproven")
    }

    /// Summary: how often what failed in the kernel, by site and errno.
    pub(crate) fn failures(&self) -> BTreeMap<(String, String), u64> {
        let all = self.fields.get("port_monitor.failures");
        let all = all.and_then(Value::as_array).into_iter().flatten();
        let text = |failure: &Value, name| failure[name].as_str().unwrap_or_default().to_owned();
        all.map(|failure| {
            let count = failure["count"].as_u64().unwrap_or(0);
            ((text(failure, "site"), text(failure, "errno")), count)
        })
        .collect()
    }

    fn sentences(&self, path: &str) -> Vec<&str> {
        self.fields
            .get(path)
            .and_then(Value::as_array)
            .map(|spots| spots.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default()
    }
}

fn flatten(fields: &mut BTreeMap<String, Value>, path: String, value: Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let path = if path.is_empty() {
                    name
                } else {
                    format!("{path}.{name}")
                };
                flatten(fields, path, value);
            }
        }
        value => {
            fields.insert(path, value);
        }
    }
}

/// Why events were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Losses {
    pub(crate) ring_full: u64,
    pub(crate) program_skipped: u64,
    pub(crate) undecodable: u64,
    pub(crate) output_slow: u64,
    pub(crate) owner_late: u64,
}

/// The final account of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Times that the kernel came to a hook.
    pub(crate) entered: u64,
    pub(crate) not_ours: u64,
    pub(crate) gave_up: u64,
    pub(crate) seen: u64,
    pub(crate) shown: u64,
    pub(crate) filtered: u64,
    pub(crate) lost: u64,
    pub(crate) lost_by_cause: Losses,
    /// Of those filtered: kept back in userspace.
    pub(crate) hidden: u64,
    /// Times a kernel table was full.
    pub(crate) table_full: u64,
    pub(crate) adds_up: bool,
    /// Exit status of the command after `--`.
    pub(crate) command_status: Option<u64>,
}

impl Summary {
    /// Reads the last line of a stream.
    pub(crate) fn of(line: &Line) -> Result<Self> {
        let number = |name: &str| {
            let path = format!("port_monitor.{name}");
            line.number(&path)
                .with_context(|| format!("no {path} in the summary: {}", line.text))
        };
        let summary = Self {
            entered: number("entered")?,
            not_ours: number("not_ours")?,
            gave_up: number("gave_up")?,
            seen: number("seen")?,
            shown: number("shown")?,
            filtered: number("filtered")?,
            lost: number("lost")?,
            lost_by_cause: Losses {
                ring_full: number("lost_by_cause.ring_full")?,
                program_skipped: number("lost_by_cause.program_skipped")?,
                undecodable: number("lost_by_cause.undecodable")?,
                output_slow: number("lost_by_cause.output_slow")?,
                owner_late: number("lost_by_cause.owner_late")?,
            },
            hidden: number("hidden")?,
            table_full: number("table_full")?,
            adds_up: line
                .flag("port_monitor.adds_up")
                .context("no adds_up in the summary")?,
            command_status: line.number("port_monitor.command_status"),
        };
        summary.check_law()?;
        Ok(summary)
    }

    /// The law, from where the kernel enters a hook to the output; whatever happened.
    fn check_law(&self) -> Result<()> {
        ensure!(
            self.entered == self.not_ours + self.gave_up + self.seen
                && self.seen == self.shown + self.filtered + self.lost
                && self.entered >= self.seen,
            "the account does not add up: {self:?}"
        );
        Ok(())
    }
}
