//! The words of the pages: one for each thing, as `docs/glossary.md` says.

use super::{Finding, source::SourceFile};

/// Words for what has another one in the glossary, which a test holds to this list.
pub(super) const OTHER_WORDS: [(&str, &str); 7] = [
    ("ladder", "backend"),
    ("canary", "self-test"),
    ("canaries", "self-tests"),
    ("door", "listener"),
    ("rung", "backend"),
    ("slot", "generation"),
    ("missed events", "lost events"),
];
/// Pages with words of their own: what is past, and the glossary itself.
const EXEMPT: [&str; 2] = ["CHANGELOG.md", "docs/glossary.md"];

pub(super) fn pages_have_the_words_of_the_glossary(files: &[SourceFile]) -> Vec<Finding> {
    let is_held = |file: &&SourceFile| {
        let is_page = file.is_prose() || file.path.starts_with("examples/");
        is_page && !EXEMPT.contains(&&*file.path) && !file.path.starts_with("findings/")
    };
    files.iter().filter(is_held).flat_map(findings).collect()
}

/// Where paths begin that a page may name.
const CRATES: [&str; 4] = [
    "port-monitor/",
    "port-monitor-common/",
    "port-monitor-ebpf/",
    "xtask/",
];

/// Files and folders that the pages name are there.
pub(super) fn files_that_pages_name_exist(files: &[SourceFile]) -> Vec<Finding> {
    let is_held = |file: &&SourceFile| file.is_prose() && !EXEMPT.contains(&&*file.path);
    let mut findings = Vec::new();
    for file in files.iter().filter(is_held) {
        for (line, text) in file.lines() {
            let quoted = text.split('`').skip(1).step_by(2);
            let paths = quoted.filter(|text| CRATES.iter().any(|name| text.starts_with(name)));
            for path in paths.filter(|path| !is_there(path, files)) {
                findings.push(Finding {
                    line,
                    ..file.finding(format!("name a file that exists: there is no {path}"))
                });
            }
        }
    }
    findings
}

fn is_there(path: &str, files: &[SourceFile]) -> bool {
    let folder = format!("{}/", path.trim_end_matches('/'));
    files
        .iter()
        .any(|file| file.path == path || file.path.starts_with(&folder))
}

fn findings(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut is_code = false;
    for (line, text) in file.lines() {
        if text.trim_start().starts_with("```") {
            is_code = !is_code;
            continue;
        }
        if is_code {
            continue;
        }
        let prose: String = text.split('`').step_by(2).collect();
        for (word, instead) in OTHER_WORDS {
            if has_word(&prose.to_lowercase(), word) {
                let text = format!("write `{instead}`, not `{word}`: see docs/glossary.md");
                findings.push(Finding {
                    line,
                    ..file.finding(text)
                });
            }
        }
    }
    findings
}

/// Whether `text` has the word, or its plural.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let (before, rest) = text.split_at(at);
        let behind = rest[word.len()..].trim_start_matches('s');
        !before.ends_with(char::is_alphanumeric) && !behind.starts_with(char::is_alphanumeric)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        paths,
        tidy::{breaks, keeps},
    };

    #[test]
    fn a_file_that_is_not_there_is_found() {
        let rule = files_that_pages_name_exist;
        breaks(rule, "docs/a.md", "see `xtask/src/gone.rs`");
        keeps(rule, "docs/a.md", "see `port-monitor enforce` and `docs`");
        let page = SourceFile::new("docs/a.md", "`xtask/src/`, `xtask/src/main.rs`");
        let files = [page, SourceFile::new("xtask/src/main.rs", "")];
        assert_eq!(rule(&files), []);
    }

    #[test]
    fn other_words_are_found_outside_of_code() {
        let rule = pages_have_the_words_of_the_glossary;
        breaks(rule, "docs/a.md", "All Doors.\n");
        breaks(rule, "README.md", "```sh\nx\n```\nthe best rung\n");
        breaks(rule, "examples/a.toml", "# A canary.\n");
        keeps(rule, "docs/a.md", "The indoor `door`, outdoors.\n");
        keeps(rule, "docs/a.md", "```text\n# 3 doors\n```\n");
        keeps(rule, "docs/glossary.md", "| **listener** | | door |\n");
        keeps(rule, "a.rs", "// a slot\n");
    }

    #[test]
    fn words_are_those_of_the_glossary() {
        let glossary = fs::read_to_string(paths::workspace().join("docs/glossary.md")).unwrap();
        for (word, instead) in OTHER_WORDS {
            let single = |word: &'static str| word.split(' ').next().unwrap_or(word);
            let (word, instead) = match word {
                "canaries" => ("canary", "self-test"),
                _ => (single(word), single(instead)),
            };
            let row = glossary
                .lines()
                .find(|line| line.starts_with(&format!("| **{instead}**")));
            assert!(row.is_some_and(|row| row.contains(word)), "{word}");
        }
    }
}
