//! What would tie the repository to one machine or one network.

use super::{Finding, source::SourceFile};

/// Hosts a link may name. A package mirror's never belongs here: whatever fetches
/// packages learns it from the machine.
const HOSTS: [&str; 15] = [
    "apache.org",
    "creativecommons.org",
    "docs.kernel.org",
    "docs.rs",
    "elastic.co",
    "example",
    "example.com",
    "git.kernel.org",
    "github.com",
    "iana.org",
    "json-schema.org",
    "keepachangelog.com",
    "rfc-editor.org",
    "semver.org",
    "w3.org",
];

pub(super) fn no_machine_paths(files: &[SourceFile]) -> Vec<Finding> {
    // In two parts, so that this file keeps its own rule.
    let directories = [("/ro", "ot"), ("/ho", "me"), ("/wo", "rk")];
    let directories = directories.map(|(start, end)| format!("{start}{end}"));
    files
        .iter()
        .flat_map(|file| {
            let lines = file
                .lines()
                .filter(|(_, line)| directories.iter().any(|path| has_path(line, path)));
            file.findings("remove the path of one machine", lines)
        })
        .collect()
}

pub(super) fn only_known_hosts(files: &[SourceFile]) -> Vec<Finding> {
    files
        .iter()
        // Registries and licences quote links that are not ours to choose.
        .filter(|file| !file.is_license() && !file.has_extension("tsv"))
        .flat_map(|file| {
            let lines = file
                .lines()
                .filter(|(_, line)| hosts(line).any(|host| !is_known(host)));
            file.findings("link only to the hosts that tidy lists", lines)
        })
        .collect()
}

/// Whether `line` names the absolute directory `path` or something in it.
fn has_path(line: &str, path: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    line.match_indices(path).any(|(at, found)| {
        let (before, rest) = line.split_at(at);
        let after = rest
            .strip_prefix(found)
            .and_then(|rest| rest.chars().next());
        let is_relative =
            before.ends_with(|c| is_part(c) || ['.', '/', '}', '$', '*'].contains(&c));
        !is_relative && !after.is_some_and(is_part)
    })
}

/// The hosts of all URLs in `line`.
fn hosts(line: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    line.split("://")
        .skip(1)
        .filter_map(move |rest| rest.split(|c| !is_part(c)).next())
        .filter(|host| host.contains('.'))
}

fn is_known(host: &str) -> bool {
    HOSTS.iter().any(|known| {
        let above = host.strip_suffix(known);
        above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::{breaks, keeps};

    #[test]
    fn machine_paths_are_found() {
        // Put together here, so that this file keeps the rule.
        let directory = |name: &str| format!("/{name}");
        let rule = no_machine_paths;
        breaks(
            rule,
            "a.md",
            &format!("see {}/.cargo/bin", directory("root")),
        );
        breaks(rule, "a.md", &format!("\"{}\"", directory("work")));
        keeps(rule, "a.md", &format!("/net{}", directory("work")));
        keeps(rule, "a.md", &format!("{}ers", directory("work")));
    }

    #[test]
    fn unknown_hosts_are_found() {
        let url = |host: &str| format!("index = \"http://{host}/x\"");
        let rule = only_known_hosts;
        breaks(rule, "a.toml", &url("mirror.corp.test"));
        breaks(rule, "a.toml", &url("evilgithub.com"));
        keeps(rule, "a.md", &url("www.iana.org"));
        keeps(rule, "a.md", &url("mirror.example"));
        keeps(rule, "a.rs", "format!(\"{scheme}://{host}\")");
    }
}
