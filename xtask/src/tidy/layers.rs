//! Who may load programs, and who may write to the terminal.

use super::{Finding, source::SourceFile};

/// Everything that writes to the terminal by design.
const PRINTING_PATHS: [&str; 8] = [
    "port-monitor/benches/",
    "port-monitor/build.rs",
    "port-monitor/src/commands/",
    "port-monitor/src/dispatch.rs",
    "port-monitor/src/main.rs",
    "port-monitor/src/consume/",
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
            file.findings("only consumers, commands and main print", lines)
        })
        .collect()
}

/// Whether `needle` is in `line` and is not the end of a longer name.
fn has_word(line: &str, needle: &str) -> bool {
    line.match_indices(needle).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
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
            "port-monitor/src/policy/text/parse.rs",
            "  println!(\"x\");",
        );
        breaks(
            rule,
            "port-monitor/src/events/record.rs",
            "io::stderr().lock()",
        );
        keeps(
            rule,
            "port-monitor/src/consume/lines/table.rs",
            "println!(\"x\");",
        );
        keeps(rule, "port-monitor/src/cli.rs", "stdout().is_terminal()");
        keeps(
            rule,
            "port-monitor/src/base/child.rs",
            "c.stdout(io::stderr());",
        );
        let tested = "fn f() {}\n#[cfg(test)]\nmod tests { fn g() { println!(); } }";
        keeps(rule, "port-monitor/src/events/record.rs", tested);
    }
}
