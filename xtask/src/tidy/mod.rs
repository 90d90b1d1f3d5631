//! `cargo xtask tidy`: the rules of this code base that no lint knows.

mod form;
mod graph;
mod layers;
pub(crate) mod layout;
mod modules;
mod places;
mod prose;
mod source;
mod words;
mod workarounds;

use std::{fs, process::Command};

use anyhow::{Context as _, Result};

use self::source::{Finding, SourceFile};
use crate::{paths, process, report::Tally};

/// Looks at all files and returns where it is broken.
type Rule = fn(&[SourceFile]) -> Vec<Finding>;

const RULES: &[Rule] = &[
    layers::only_the_kernel_module_uses_aya,
    layers::only_the_outer_layers_print,
    layout::layouts_that_change_have_a_new_number,
    workarounds::workarounds_say_what_ends_them,
    graph::modules_do_not_lead_back,
    graph::rooms_use_what_they_may,
    graph::the_page_shows_the_rooms,
    form::modules_open_with_documentation,
    form::doc_comments_stand_alone,
    form::files_are_short,
    form::file_names_say_what_is_inside,
    form::no_mutable_globals,
    form::ebpf_throws_no_answer_away,
    form::crates_use_the_workspace_lints,
    form::changelog_has_an_unreleased_section,
    places::no_machine_paths,
    places::only_known_hosts,
    prose::pages_have_the_words_of_the_glossary,
    words::code_has_the_words_of_the_glossary,
    words::no_exception_is_stale,
    prose::files_that_pages_name_exist,
];

/// Prints the rooms and what they use, and applies every rule to every text file of the work
/// tree.
pub(crate) fn run() -> Result<Tally> {
    let files = work_tree()?;
    print!("{}", graph::drawn(&files)?);
    let mut tally = Tally::default();
    for rule in RULES {
        let findings = rule(&files);
        for finding in &findings {
            println!("{}:{}: {}", finding.path, finding.line, finding.text);
        }
        tally += Tally::one(findings.is_empty());
    }
    Ok(tally)
}

/// The files git knows or would take in; binary and deleted ones are left out.
fn work_tree() -> Result<Vec<SourceFile>> {
    let mut git = Command::new("git");
    git.current_dir(paths::workspace()).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let mut files = Vec::new();
    for path in process::output(&mut git)?.lines() {
        let full_path = paths::workspace().join(path);
        if !full_path.exists() {
            continue;
        }
        let bytes = fs::read(&full_path).with_context(|| format!("read {path}"))?;
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(SourceFile::new(path, text));
        }
    }
    Ok(files)
}

/// Asserts that `rule` finds something in a file of this path and content.
#[cfg(test)]
fn breaks(rule: Rule, path: &str, text: &str) {
    let findings = rule(&[SourceFile::new(path, text)]);
    assert!(!findings.is_empty(), "nothing found in {path}: {text}");
}

/// Asserts that `rule` finds nothing in a file of this path and content.
#[cfg(test)]
fn keeps(rule: Rule, path: &str, text: &str) {
    assert_eq!(rule(&[SourceFile::new(path, text)]), []);
}
