//! What works around aya says what, since when and until when, and is looked at again with
//! every version of aya.

use super::source::{Finding, SourceFile};

const FOLDER: &str = "port-monitor/src/kernel/aya_workarounds/";
/// What the head of each says.
const WORDS: [&str; 3] = ["//! Works around: ", "//! Since: ", "//! Until: "];
const LOOKED_AT: &str = "//! Looked at: aya ";

pub(super) fn workarounds_say_what_ends_them(files: &[SourceFile]) -> Vec<Finding> {
    let lock = files.iter().find(|file| file.path == "Cargo.lock");
    let version = lock.and_then(aya_version).unwrap_or_default();
    let is_one = |file: &&SourceFile| file.path.starts_with(FOLDER) && file.name() != "mod.rs";
    let mut findings = Vec::new();
    for file in files.iter().filter(is_one) {
        let says = |words: &str| file.text.lines().any(|line| line.starts_with(words));
        let missing = WORDS.into_iter().filter(|words| !says(words));
        findings.extend(missing.map(|words| {
            let words = words.trim_start_matches("//! ").trim_end();
            file.finding(format!("say in the head of the module: {words}"))
        }));
        if !says(&format!("{LOOKED_AT}{version}")) {
            findings.push(file.finding(format!(
                "see whether aya {version} ends it; if not, write `Looked at: aya {version}`"
            )));
        }
    }
    findings
}

/// The version of aya that is locked.
fn aya_version(lock: &SourceFile) -> Option<&str> {
    let mut lines = lock.text.lines();
    lines.find(|line| *line == "name = \"aya\"")?;
    let version = lines.next()?.strip_prefix("version = \"")?;
    version.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(aya: &str, head: &str) -> Vec<String> {
        let lock = format!("[[package]]\nname = \"aya\"\nversion = \"{aya}\"\n");
        let files = [
            SourceFile::new("Cargo.lock", lock),
            SourceFile::new(format!("{FOLDER}one.rs"), head),
        ];
        let findings = workarounds_say_what_ends_them(&files).into_iter();
        findings.map(|finding| finding.text).collect()
    }

    #[test]
    fn a_new_aya_and_a_missing_end_are_found() {
        let whole = "//! A.\n//! Works around: a.\n//! Since: b.\n//! Until: c.\n\
                     //! Looked at: aya 0.14.0\n";
        assert!(findings("0.14.0", whole).is_empty());
        assert_eq!(findings("0.15.0", whole).len(), 1);
        let endless = whole.replace("//! Until: c.\n", "");
        assert!(findings("0.14.0", &endless)[0].ends_with("Until:"));
    }
}
