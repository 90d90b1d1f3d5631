//! Reads the machine's apt sources to learn which Debian mirror it uses.
//!
//! Both file formats are understood: one-line `.list` and deb822 `.sources`.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

/// Names under which Debian's archive publishes a release or a moving target.
const RELEASES: [&str; 9] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "sid",
    "oldstable",
    "stable",
    "testing",
    "unstable",
];

/// Where this machine gets Debian from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mirror {
    main: Entry,
    security: Option<Entry>,
}

/// One source of binary packages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    uri: String,
    suites: Vec<String>,
    /// A key ring's path; an embedded key has no one-line form and is left out.
    signed_by: Option<String>,
}

impl Mirror {
    /// Reads `/etc/apt/sources.list` and everything in `sources.list.d`.
    pub(super) fn of_this_machine() -> Result<Self> {
        let mut entries = Vec::new();
        if let Ok(text) = fs::read_to_string("/etc/apt/sources.list") {
            entries.extend(one_line_entries(&text));
        }
        let parts = Path::new("/etc/apt/sources.list.d");
        for part in fs::read_dir(parts).into_iter().flatten() {
            let path = part.context("read /etc/apt/sources.list.d")?.path();
            let parse: fn(&str) -> Vec<Entry> = match path.extension().and_then(|e| e.to_str()) {
                Some("list") => one_line_entries,
                Some("sources") => deb822_entries,
                _ => continue,
            };
            let text = fs::read_to_string(&path);
            entries.extend(parse(
                &text.with_context(|| format!("read {}", path.display()))?,
            ));
        }
        Self::among(&entries)
            .context("find a Debian archive in /etc/apt/sources.list and sources.list.d: add one")
    }

    fn among(entries: &[Entry]) -> Option<Self> {
        let with_suite = |is_wanted: fn(&str) -> bool| {
            entries
                .iter()
                .find(|entry| entry.suites.iter().any(|suite| is_wanted(suite)))
                .cloned()
        };
        Some(Self {
            main: with_suite(|suite| RELEASES.contains(&suite))?,
            security: with_suite(is_security),
        })
    }

    /// A one-line sources file for `suites`, each from the archive that has it.
    pub(super) fn sources_list(&self, suites: &[&str]) -> Result<String> {
        let mut list = String::new();
        for suite in suites {
            let entry = if is_security(suite) {
                self.security.as_ref().with_context(|| {
                    format!("find an apt source for {suite}: this machine has no security archive")
                })?
            } else {
                &self.main
            };
            let options = match &entry.signed_by {
                Some(keys) => format!("[signed-by={keys}] "),
                None => String::new(),
            };
            writeln!(list, "deb {options}{} {suite} main", entry.uri)?;
        }
        Ok(list)
    }
}

fn is_security(suite: &str) -> bool {
    suite.ends_with("-security") || suite.ends_with("/updates")
}

/// `deb [option=value …] URI SUITE COMPONENT…`, one a line.
fn one_line_entries(text: &str) -> Vec<Entry> {
    text.lines().filter_map(one_line_entry).collect()
}

fn one_line_entry(line: &str) -> Option<Entry> {
    let rest = line.trim().strip_prefix("deb")?;
    let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let signed_by = options
        .split_whitespace()
        .find_map(|option| option.strip_prefix("signed-by="));
    Some(Entry {
        uri: words.next()?.to_owned(),
        suites: vec![words.next()?.to_owned()],
        signed_by: signed_by.map(str::to_owned),
    })
}

/// Stanzas of `Field: value` lines, separated by empty lines.
fn deb822_entries(text: &str) -> Vec<Entry> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines
        .split(|line| line.trim().is_empty())
        .flat_map(stanza_entries)
        .collect()
}

/// A stanza stands for one source per URI.
fn stanza_entries(lines: &[&str]) -> Vec<Entry> {
    let field = |name: &str| {
        lines.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let words = |name| field(name).unwrap_or_default().split_whitespace();
    if field("Enabled") == Some("no") || !words("Types").any(|kind| kind == "deb") {
        return Vec::new();
    }
    words("URIs")
        .map(|uri| Entry {
            uri: uri.to_owned(),
            suites: words("Suites").map(str::to_owned).collect(),
            signed_by: field("Signed-By")
                .filter(|value| value.starts_with('/'))
                .map(str::to_owned),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
# a comment
Types: deb
URIs: http://other.example/tools
Suites: nodistro
Components: main

Types: deb deb-src
URIs: http://mirror.example/debian
# a comment inside the stanza
Suites: bookworm bookworm-updates
Components: main
Signed-By: /keys/debian.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
";

    fn mirror(entries: &[Entry]) -> Mirror {
        Mirror::among(entries).unwrap()
    }

    #[test]
    fn deb822_names_the_main_and_the_security_archive() {
        let list = mirror(&deb822_entries(DEB822))
            .sources_list(&["forky", "bullseye-security"])
            .unwrap();
        assert_eq!(
            list,
            "deb [signed-by=/keys/debian.gpg] http://mirror.example/debian forky main\n\
             deb http://mirror.example/debian-security bullseye-security main\n"
        );
    }

    #[test]
    fn one_line_sources_give_the_same_mirror() {
        let text = "# deb http://old.example/debian bookworm main\n\
             deb-src http://src.example/debian bookworm main\n\
             deb [arch=amd64 signed-by=/keys/debian.gpg] http://mirror.example/debian bookworm main\n\
             deb http://mirror.example/debian-security bookworm-security main\n";
        let expected = mirror(&deb822_entries(DEB822)).sources_list(&["trixie"]);
        let actual = mirror(&one_line_entries(text)).sources_list(&["trixie"]);
        assert_eq!(actual.unwrap(), expected.unwrap());
    }

    #[test]
    fn a_disabled_stanza_is_no_source() {
        let disabled = DEB822.replace("Components: main", "Enabled: no");
        assert_eq!(deb822_entries(&disabled), []);
    }

    #[test]
    fn sources_of_other_vendors_only_are_no_mirror() {
        let entries = one_line_entries("deb http://other.example/apt cloud-bookworm main");
        assert_eq!(Mirror::among(&entries), None);
    }

    #[test]
    fn a_security_suite_without_a_security_archive_is_an_error() {
        let entries = one_line_entries("deb http://mirror.example/debian bookworm main");
        let error = mirror(&entries).sources_list(&["bookworm-security"]);
        assert!(error.unwrap_err().to_string().contains("bookworm-security"));
    }
}
