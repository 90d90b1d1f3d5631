//! The words of the code: one for each thing, as `docs/glossary.md` says.

use super::{Finding, prose::OTHER_WORDS, source::SourceFile};

/// A word that stays in some files, and why.
struct Exception {
    word: &'static str,
    /// A file, or what the paths of some begin with.
    path: &'static str,
    /// What the word means there.
    _reason: &'static str,
}

const fn exception(word: &'static str, path: &'static str, reason: &'static str) -> Exception {
    Exception {
        word,
        path,
        _reason: reason,
    }
}

const MEMORY: &str = "memory for one value";
const COUNTER: &str = "the place of a counter";
const EXECUTABLE: &str = "the place of a process in the table of executables";
const PACKET: &str = "a packet, which the kernel drops";
const CONSUMER: &str = "what one consumer has not taken, of what was delivered to it";
const OLD_NAME: &str = "a name in the JSON of older versions";

const EXCEPTIONS: &[Exception] = &[
    exception("slot", "port-monitor-common/src/config.rs", EXECUTABLE),
    exception("slot", "port-monitor-common/src/counters.rs", COUNTER),
    exception("slot", "port-monitor-common/src/executable.rs", EXECUTABLE),
    exception("slot", "port-monitor-ebpf/src/account.rs", COUNTER),
    exception("slot", "port-monitor-ebpf/src/maps/mod.rs", EXECUTABLE),
    exception("slot", "port-monitor-ebpf/src/monitor/", MEMORY),
    exception("slot", "port-monitor-ebpf/src/read/mem.rs", MEMORY),
    exception("slot", "port-monitor-ebpf/src/report/connection.rs", MEMORY),
    exception("slot", "port-monitor-ebpf/src/report/emit.rs", COUNTER),
    exception(
        "slot",
        "port-monitor-ebpf/src/report/executable.rs",
        EXECUTABLE,
    ),
    exception("door", "port-monitor/src/events/compat.rs", OLD_NAME),
    exception(
        "slot",
        "port-monitor/src/kernel/backends/mod.rs",
        "the place of an argument of a traced function",
    ),
    exception("slot", "port-monitor/src/kernel/counters.rs", COUNTER),
    exception("slot", "port-monitor/src/kernel/executables.rs", EXECUTABLE),
    exception("slot", "port-monitor/src/kernel/monitor.rs", EXECUTABLE),
    exception("slot", "port-monitor/src/kernel/object.rs", EXECUTABLE),
    exception("slot", "port-monitor/src/kernel/run.rs", EXECUTABLE),
    exception("dropped", "port-monitor/src/consume/", CONSUMER),
    exception("dropped", "port-monitor/src/events/record.rs", CONSUMER),
    exception(
        "dropped",
        "port-monitor/src/events/wire/facts/consumer.rs",
        CONSUMER,
    ),
    exception("dropped", "port-monitor/tests/native/record.rs", CONSUMER),
    exception(
        "dropped",
        "port-monitor-ebpf/src/enforce/ingress.rs",
        PACKET,
    ),
    exception(
        "dropped",
        "port-monitor/tests/kernel/cases/starting.rs",
        PACKET,
    ),
    exception(
        "dropped",
        "port-monitor/tests/kernel/socket/options.rs",
        PACKET,
    ),
    exception(
        "dropped",
        "port-monitor/tests/kernel/scenarios/holding.rs",
        "a right that a process has dropped",
    ),
];

/// What is declared by one of these names is lost, or something else by a better name.
const LOST: [&str; 2] = ["dropped", "missed"];

/// Files that tell the words.
const EXEMPT: [&str; 2] = ["xtask/src/tidy/prose.rs", "xtask/src/tidy/words.rs"];

pub(super) fn code_has_the_words_of_the_glossary(files: &[SourceFile]) -> Vec<Finding> {
    let uses = files.iter().flat_map(|file| {
        let uses = uses(file)
            .into_iter()
            .filter(|(_, word, _)| !is_excepted(file, word));
        uses.map(|(line, word, instead)| Finding {
            line,
            ..file.finding(format!(
                "write `{instead}`, not `{word}`: see docs/glossary.md"
            ))
        })
    });
    uses.collect()
}

pub(super) fn no_exception_is_stale(files: &[SourceFile]) -> Vec<Finding> {
    stale(EXCEPTIONS, files)
}

fn stale(exceptions: &[Exception], files: &[SourceFile]) -> Vec<Finding> {
    // A rule is tried on single files as well, which hold none of them.
    let list = files.iter().find(|file| file.path == EXEMPT[1]);
    let is_used = |exception: &Exception| {
        let mut own = files
            .iter()
            .filter(|file| file.path.starts_with(exception.path));
        own.any(|file| {
            uses(file)
                .iter()
                .any(|(_, word, _)| *word == exception.word)
        })
    };
    let unused = exceptions.iter().filter(|exception| !is_used(exception));
    let finding = |exception: &Exception, list: &SourceFile| {
        let Exception { word, path, .. } = exception;
        list.finding(format!(
            "remove the exception of `{word}`: {path} has no such word"
        ))
    };
    list.map_or_else(Vec::new, |list| {
        unused.map(|one| finding(one, list)).collect()
    })
}

fn is_excepted(file: &SourceFile, word: &str) -> bool {
    let mut exceptions = EXCEPTIONS.iter();
    exceptions.any(|exception| exception.word == word && file.path.starts_with(exception.path))
}

/// The words of a Rust file that have another one in the glossary, with their lines: in names,
/// comments and strings.
fn uses(file: &SourceFile) -> Vec<(usize, &'static str, &'static str)> {
    if !file.has_extension("rs") || EXEMPT.contains(&&*file.path) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (line, text) in file.lines() {
        let words = words(text);
        let others = OTHER_WORDS
            .into_iter()
            .filter(|(word, _)| !word.contains(' '));
        let used = others.filter(|(word, _)| words.iter().any(|own| is_of(own, word)));
        found.extend(used.map(|(word, instead)| (line, word, instead)));
    }
    for (line, text) in file.code() {
        let name = words(declared(text).unwrap_or_default());
        let used = LOST
            .into_iter()
            .filter(|word| name.iter().any(|own| is_of(own, word)));
        found.extend(used.map(|word| (line, word, "lost")));
    }
    found
}

/// Whether `own` is the word or its plural.
fn is_of(own: &str, word: &str) -> bool {
    own.strip_suffix('s').unwrap_or(own) == word || own == word
}

/// The name that a line of code declares: of a function, a variable, a field.
fn declared(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut is_item = false;
    loop {
        let (word, behind) = rest.split_at(rest.find(|c| !is_part(c)).unwrap_or(rest.len()));
        match word {
            "pub" if behind.starts_with('(') => rest = behind.split_once(") ")?.1,
            "fn" | "let" | "mod" | "struct" | "enum" | "trait" | "type" | "static" | "const" => {
                is_item = true;
                rest = behind.trim_start();
            }
            "pub" | "mut" | "unsafe" | "async" | "extern" => rest = behind.trim_start(),
            _ => return (is_item || behind.starts_with(": ")).then_some(word),
        }
        if rest.is_empty() {
            return None;
        }
    }
}

/// The words of a text in small letters: `FLAG_X`, `XError` and `is_x` hold an `x`.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut before = ' ';
    for c in text.chars().chain([' ']) {
        let begins = c.is_uppercase() && before.is_lowercase();
        if (begins || !c.is_alphabetic()) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if c.is_alphabetic() {
            word.extend(c.to_lowercase());
        }
        before = c;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::{breaks, keeps};

    #[test]
    fn other_words_are_found_in_names_comments_and_strings() {
        let rule = code_has_the_words_of_the_glossary;
        breaks(rule, "a.rs", "fn is_door() {}\n");
        breaks(rule, "a.rs", "struct RungError;\n");
        breaks(rule, "a.rs", "const FLAG_CANARY: u16 = 1;\n");
        breaks(rule, "a.rs", "// two slots\n");
        breaks(rule, "a.rs", "f(\"{rung}\");\n");
        keeps(rule, "a.rs", "fn outdoors() -> Strung {}\n");
        keeps(
            rule,
            "port-monitor-ebpf/src/monitor/a.rs",
            "let mut slot = 1;\n",
        );
        keeps(rule, "a.md", "a door\n");
    }

    #[test]
    fn what_is_lost_is_declared_by_that_name() {
        let rule = code_has_the_words_of_the_glossary;
        breaks(rule, "a.rs", "    pub(crate) dropped: u64,\n");
        breaks(rule, "a.rs", "    missed: u64,\n");
        breaks(rule, "a.rs", "pub const fn events_dropped() {}\n");
        breaks(rule, "a.rs", "let mut missed = 1;\n");
        keeps(rule, "a.rs", "// missed: dropped\n");
        keeps(rule, "a.rs", "set_missed_tick_behavior(x);\n");
        keeps(rule, "a.rs", "let skipped = lost;\n");
    }

    #[test]
    fn exceptions_that_name_nothing_are_found() {
        let exceptions = [
            exception("slot", "b", MEMORY),
            exception("door", "c.rs", OLD_NAME),
        ];
        let files = [
            SourceFile::new(EXEMPT[1], ""),
            SourceFile::new("b/x.rs", "let slot = 1;\n"),
            SourceFile::new("c.rs", "let slot = 1;\n"),
        ];
        let findings = stale(&exceptions, &files);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].text.contains("c.rs"), "{}", findings[0].text);
    }
}
