//! Who may use what: the walls between the layers.

use super::{Finding, source::SourceFile};

/// Below the tool's sources: layers that need no kernel, clock or file system.
const PURE_LAYERS: [&str; 4] = ["policy", "classify", "event", "doors"];
const OUTER_LAYERS: [&str; 3] = ["enrich", "sink", "kernel"];

/// Everything that writes to the terminal by design.
const PRINTING_PATHS: [&str; 8] = [
    "port-monitor/build.rs",
    "port-monitor/src/commands/",
    "port-monitor/src/main.rs",
    "port-monitor/src/sink.rs",
    "port-monitor/src/sink/",
    "port-monitor/src/writer.rs",
    "port-monitor/tests/",
    "xtask/",
];
const PRINTING_CALLS: [&str; 4] = ["print!(", "println!(", "stdout()", "stderr()"];
/// Asks whether a stream is a terminal, or hands it to a child: writes nothing.
const NOT_PRINTING: [&str; 3] = ["is_terminal()", ".stdout(", ".stderr("];

pub(super) fn only_the_kernel_module_uses_aya(files: &[SourceFile]) -> Vec<Finding> {
    let uses_aya = |line: &str| {
        let names = ["aya::", "aya_log::", "aya_obj::", "use aya"];
        names.iter().any(|name| has_word(line, name))
    };
    files
        .iter()
        .filter(|file| file.path.starts_with("port-monitor"))
        .filter(|file| !file.path.starts_with("port-monitor-ebpf/"))
        .filter(|file| !file.path.starts_with("port-monitor/src/kernel/"))
        // Loads what the benchmark compares port-monitor with.
        .filter(|file| file.path != "port-monitor/tests/kernel/bench/loader.rs")
        .flat_map(|file| {
            let lines = file.code().filter(|(_, line)| uses_aya(line));
            file.findings("only port-monitor/src/kernel uses aya", lines)
        })
        .collect()
}

pub(super) fn only_the_outer_layers_print(files: &[SourceFile]) -> Vec<Finding> {
    let prints = |line: &str| {
        PRINTING_CALLS.iter().any(|call| line.contains(call))
            && !NOT_PRINTING.iter().any(|call| line.contains(call))
    };
    files
        .iter()
        .filter(|file| {
            !PRINTING_PATHS
                .iter()
                .any(|path| file.path.starts_with(path))
        })
        .flat_map(|file| {
            let lines = file.code().filter(|(_, line)| prints(line));
            file.findings("only sinks, commands and main print", lines)
        })
        .collect()
}

pub(super) fn pure_layers_import_no_others(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| is_pure(&file.path)) {
        let code: Vec<&str> = file.code().map(|(_, line)| line).collect();
        for module in crate_modules(&code.join("\n")) {
            if OUTER_LAYERS.contains(&&*module) {
                findings.push(file.finding(format!("this layer must not import {module}")));
            }
        }
    }
    findings
}

fn is_pure(path: &str) -> bool {
    PURE_LAYERS.iter().any(|layer| {
        let module = path.strip_prefix("port-monitor/src/");
        let rest = module.and_then(|module| module.strip_prefix(layer));
        rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    })
}

/// Whether `needle` is in `line` and is not the end of a longer name.
fn has_word(line: &str, needle: &str) -> bool {
    line.match_indices(needle).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

/// The modules a text names in its own crate, alone or in a braced list.
fn crate_modules(code: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(list) => modules.extend(top_level_names(list)),
            None => modules.extend(leading_name(rest)),
        }
    }
    modules
}

/// The first names of a braced import list, whose opening brace is gone.
fn top_level_names(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0_usize;
    let mut is_start = true;
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_start = true,
            c if is_start && c.is_alphabetic() => {
                names.extend(list.get(at..).and_then(leading_name));
                is_start = false;
            }
            _ => {}
        }
    }
    names
}

fn leading_name(text: &str) -> Option<String> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let name = text.split(|c| !is_part(c)).next()?;
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::{breaks, keeps};

    #[test]
    fn aya_is_found_outside_of_the_kernel_module() {
        let rule = only_the_kernel_module_uses_aya;
        let outside = "port-monitor/src/doctor.rs";
        breaks(rule, outside, "use aya::maps::RingBuf;");
        breaks(rule, outside, "let x = aya_log::X;");
        keeps(rule, outside, "// use aya::maps here");
        keeps(rule, outside, "let x = papaya::ripe();");
        keeps(rule, "port-monitor/src/kernel/ring.rs", "use aya::maps;");
    }

    #[test]
    fn printing_is_found_outside_of_the_outer_layers() {
        let rule = only_the_outer_layers_print;
        breaks(
            rule,
            "port-monitor/src/policy/parse.rs",
            "  println!(\"x\");",
        );
        breaks(rule, "port-monitor/src/event.rs", "io::stderr().lock()");
        keeps(rule, "port-monitor/src/sink/table.rs", "println!(\"x\");");
        keeps(rule, "port-monitor/src/cli.rs", "stdout().is_terminal()");
        keeps(rule, "port-monitor/src/child.rs", "c.stdout(io::stderr());");
        let tested = "fn f() {}\n#[cfg(test)]\nmod tests { fn g() { println!(); } }";
        keeps(rule, "port-monitor/src/event.rs", tested);
    }

    #[test]
    fn an_import_across_layers_is_found_alone_and_in_a_list() {
        let rule = pure_layers_import_no_others;
        let list = "use crate::{\n    event::{self, kernel_time},\n    sink::json,\n};";
        let nested = "use crate::{event::{sink, kernel}, record::enrich};";
        breaks(rule, "port-monitor/src/policy/mod.rs", list);
        breaks(rule, "port-monitor/src/classify.rs", "crate::kernel::x()");
        keeps(rule, "port-monitor/src/policy/mod.rs", nested);
        keeps(rule, "port-monitor/src/pipeline.rs", list);
    }
}
