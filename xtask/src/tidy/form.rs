//! The form of files: documentation, length, names, globals, lints, changelog.

use super::{Finding, source::SourceFile};

const LINE_COUNT_MAX: usize = 600;
/// Names that could hold anything, and in time do.
const EMPTY_NAMES: [&str; 5] = ["util.rs", "utils.rs", "types.rs", "helper.rs", "helpers.rs"];

pub(super) fn modules_open_with_documentation(files: &[SourceFile]) -> Vec<Finding> {
    files
        .iter()
        .filter(|file| file.has_extension("rs") && !file.text.starts_with("//!"))
        .map(|file| file.finding("open the module with a //! comment"))
        .collect()
}

/// Whoever reads a doc comment may see none but that one.
pub(super) fn doc_comments_stand_alone(files: &[SourceFile]) -> Vec<Finding> {
    files
        .iter()
        .filter(|file| file.has_extension("rs"))
        .flat_map(|file| {
            let lines = file
                .lines()
                .map(|(number, line)| (number, line.trim_start()));
            let mut before = "";
            let begun = lines.filter(move |&(_, line)| {
                let is_first = doc_text(before).is_none();
                before = line;
                is_first && doc_text(line).is_some_and(points_elsewhere)
            });
            file.findings("say what it is: a doc comment stands alone", begun)
        })
        .collect()
}

/// The text of a line of a doc comment.
fn doc_text(line: &str) -> Option<&str> {
    line.strip_prefix("///")
        .or_else(|| line.strip_prefix("//!"))
}

fn points_elsewhere(text: &str) -> bool {
    let beginnings = ["The same", "Likewise", "As above", "Ditto"];
    let text = text.trim_start();
    beginnings
        .iter()
        .any(|beginning| text.starts_with(beginning))
}

pub(super) fn files_are_short(files: &[SourceFile]) -> Vec<Finding> {
    files
        .iter()
        .filter(|file| !file.is_generated() && !file.is_license() && !file.is_prose())
        .filter(|file| file.lines().count() > LINE_COUNT_MAX)
        .map(|file| file.finding(format!("split it: longer than {LINE_COUNT_MAX} lines")))
        .collect()
}

pub(super) fn file_names_say_what_is_inside(files: &[SourceFile]) -> Vec<Finding> {
    files
        .iter()
        .filter(|file| EMPTY_NAMES.contains(&file.name()))
        .map(|file| file.finding("name the file after what it holds"))
        .collect()
}

/// Every answer of a map or a helper is used, or counted at a site; `account` has functions
/// for those that another counter or the record tells of.
pub(super) fn ebpf_throws_no_answer_away(files: &[SourceFile]) -> Vec<Finding> {
    let is_ebpf = |file: &&SourceFile| file.path.starts_with("port-monitor-ebpf/");
    files
        .iter()
        .filter(is_ebpf)
        .flat_map(|file| {
            let lines = file.code().filter(|(_, line)| is_thrown_away(line));
            file.findings("count what fails: see account.rs", lines)
        })
        .collect()
}

/// `let _ = …`, `let _name = …`, `….ok();`, `drop(…)`.
fn is_thrown_away(line: &str) -> bool {
    let line = line.trim();
    line.starts_with("let _") || line.ends_with(".ok();") || line.starts_with("drop(")
}

pub(super) fn no_mutable_globals(files: &[SourceFile]) -> Vec<Finding> {
    files
        .iter()
        .flat_map(|file| {
            let lines = file.code().filter(|(_, line)| is_mutable_global(line));
            file.findings("pass the state on: no mutable globals", lines)
        })
        .collect()
}

pub(super) fn crates_use_the_workspace_lints(files: &[SourceFile]) -> Vec<Finding> {
    files
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml"))
        .filter(|file| !file.text.contains("[lints]\nworkspace = true"))
        .map(|file| file.finding("add [lints] with workspace = true"))
        .collect()
}

pub(super) fn changelog_has_an_unreleased_section(files: &[SourceFile]) -> Vec<Finding> {
    files
        .iter()
        .filter(|file| file.name() == "CHANGELOG.md")
        .filter(|file| !file.text.contains("\n## [Unreleased]\n"))
        .map(|file| file.finding("add a section ## [Unreleased]"))
        .collect()
}

/// Whether `line` declares a static that is `mut` or behind a lock.
fn is_mutable_global(line: &str) -> bool {
    let declaration = line
        .trim_start()
        .trim_start_matches("pub(crate) ")
        .trim_start_matches("pub(super) ")
        .trim_start_matches("pub ");
    declaration.strip_prefix("static ").is_some_and(|rest| {
        // A lock around nothing keeps an order, and no state.
        let is_lock = rest.contains("Mutex<") && !rest.contains("Mutex<()>");
        rest.starts_with("mut ") || is_lock || rest.contains("RwLock<")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::{breaks, keeps};

    #[test]
    fn answers_thrown_away_are_found_in_the_ebpf_object_only() {
        for line in [
            "    let _: Result<(), i32> = MAP.remove(key);",
            "let _failed = helper();",
            "MAP.remove(key).ok();",
            "drop(MAP.remove(key));",
        ] {
            breaks(
                ebpf_throws_no_answer_away,
                "port-monitor-ebpf/src/a.rs",
                line,
            );
            keeps(ebpf_throws_no_answer_away, "port-monitor/src/a.rs", line);
        }
        let used = "let removed = MAP.remove(key).ok()?;";
        keeps(
            ebpf_throws_no_answer_away,
            "port-monitor-ebpf/src/a.rs",
            used,
        );
    }

    #[test]
    fn a_module_without_documentation_is_found() {
        let rule = modules_open_with_documentation;
        breaks(rule, "a.rs", "use std::fs;\n//! late\n");
        keeps(rule, "a.rs", "//! What it holds.\n");
        keeps(rule, "a.md", "# Title\n");
    }

    #[test]
    fn doc_comments_that_begin_by_another_are_found() {
        let rule = doc_comments_stand_alone;
        breaks(rule, "a.rs", "/// The same, of a file.\nfn f() {}\n");
        breaks(
            rule,
            "a.rs",
            "mod m {\n    /// Likewise.\n    fn f() {}\n}\n",
        );
        breaks(rule, "a.rs", "//! As above.\n");
        keeps(rule, "a.rs", "/// Opens\n/// the same file.\nfn f() {}\n");
        keeps(
            rule,
            "a.rs",
            "/// Opens it. In\n/// The same way.\nfn f() {}\n",
        );
        keeps(
            rule,
            "a.rs",
            "/// Opens it.\n///\n/// The same way.\nfn f() {}\n",
        );
        keeps(rule, "a.rs", "// The same as there.\n");
        keeps(rule, "a.md", "/// The same.\n");
    }

    #[test]
    fn a_long_file_is_found_unless_generated_or_prose() {
        let longest = "line\n".repeat(LINE_COUNT_MAX);
        let long = format!("{longest}line\n");
        breaks(files_are_short, "a.rs", &long);
        keeps(files_are_short, "a.rs", &longest);
        keeps(files_are_short, "table.tsv", &long);
        keeps(files_are_short, "docs/policy.md", &long);
        keeps(files_are_short, "a.rs", &format!("// @generated\n{long}"));
    }

    #[test]
    fn a_file_name_without_meaning_is_found() {
        breaks(file_names_say_what_is_inside, "x/src/utils.rs", "");
        keeps(file_names_say_what_is_inside, "x/src/paths.rs", "");
    }

    #[test]
    fn mutable_globals_are_found() {
        let rule = no_mutable_globals;
        breaks(rule, "a.rs", "static mut COUNT: u32 = 0;");
        breaks(rule, "a.rs", "pub(crate) static X: Mutex<u32> = y;");
        keeps(rule, "a.rs", "fn f(x: &'static str, y: Mutex<u32>) {}");
        keeps(rule, "a.rs", "static EVENTS: RingBuf = z;");
    }

    #[test]
    fn a_crate_without_the_lints_is_found() {
        let rule = crates_use_the_workspace_lints;
        breaks(rule, "xtask/Cargo.toml", "[package]\n");
        keeps(rule, "xtask/Cargo.toml", "[lints]\nworkspace = true\n");
        keeps(rule, "Cargo.toml", "[workspace]\n");
    }

    #[test]
    fn a_changelog_without_unreleased_is_found() {
        let rule = changelog_has_an_unreleased_section;
        breaks(rule, "CHANGELOG.md", "# Changelog\n");
        keeps(rule, "CHANGELOG.md", "# Changelog\n\n## [Unreleased]\n");
    }
}
