//! The words of a filter.

use std::net::IpAddr;

use super::{Key, RowId, Ui};

/// The filter that keeps the connections of a group.
pub(super) fn filter_of(key: &Key) -> Option<String> {
    Some(match key {
        Key::Process(Some((pid, _))) => format!("pid:{pid} "),
        Key::Service(true, Some(port)) => format!("dir:out remote-port:{port} "),
        Key::Service(false, Some(port)) => format!("dir:in local-port:{port} "),
        Key::Remote(ip) => format!("remote:{} ", ip_of(*ip)),
        Key::Network(first, prefix) => format!("remote:{first}/{prefix} "),
        Key::Rule(Some(rule), _) => format!("rule:={rule} "),
        Key::Rule(None, _) => "rule:=default ".to_owned(),
        Key::Process(None) | Key::Service(_, None) => return None,
    })
}

/// The word that leaves the connections of a group out.
fn exclusion_of(key: &Key) -> Option<String> {
    Some(match key {
        Key::Process(Some((pid, _))) => format!("!pid:{pid}"),
        Key::Service(true, Some(port)) => format!("!remote-port:{port}"),
        Key::Service(false, Some(port)) => format!("!local-port:{port}"),
        Key::Remote(ip) => format!("!remote:{}", ip_of(*ip)),
        Key::Network(first, prefix) => format!("!remote:{first}/{prefix}"),
        Key::Rule(Some(rule), _) => format!("!rule:={rule}"),
        Key::Rule(None, _) => "!rule:=default".to_owned(),
        Key::Process(None) | Key::Service(_, None) => return None,
    })
}

fn ip_of(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// The words before a colon in a filter: flags of the command line, and [`OWN_WORDS`].
pub const WORDS: [&str; 13] = [
    "cgroup",
    "comm",
    "dir",
    "error",
    "local-port",
    "pid",
    "port",
    "remote",
    "remote-port",
    "rule",
    "state",
    "unit",
    "user",
];

/// Those that only a view has, or has another way.
pub const OWN_WORDS: [&str; 5] = ["dir", "error", "pid", "rule", "state"];

/// The filter with its last word completed, as far as that is certain.
pub(super) fn complete(filter: &str) -> String {
    let begin = filter.rfind(' ').map_or(0, |space| space + 1);
    let (before, word) = filter.split_at(begin);
    let (not, word) = match word.strip_prefix('!') {
        Some(word) => ("!", word),
        None => ("", word),
    };
    let mut fitting = WORDS.iter().filter(|name| name.starts_with(word));
    match (fitting.next(), fitting.next()) {
        (Some(name), None) if !word.is_empty() => format!("{before}{not}{name}:"),
        _ => filter.to_owned(),
    }
}

impl Ui {
    /// Filters by a word more, which leaves out what the marked row is about.
    pub(super) fn exclude(&mut self) {
        let list = self.list();
        let word = match &list.marked {
            Some(RowId::Group(key)) => exclusion_of(key),
            Some(RowId::Connection(_)) | None => {
                list.remote.and_then(|ip| exclusion_of(&Key::Remote(ip)))
            }
        };
        let Some(word) = word else {
            return self.say("there is no word that leaves this out".to_owned());
        };
        let before = self.filter.trim_end();
        let space = if before.is_empty() { "" } else { " " };
        self.set_filter(format!("{before}{space}{word} "));
    }
}
