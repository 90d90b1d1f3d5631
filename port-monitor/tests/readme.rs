//! Holds the README and the pages of `docs/` to the program: what they quote is what
//! the program says.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use assert_cmd::cargo::cargo_bin;
use clap::CommandFactory as _;
use port_monitor::{
    cli::Cli,
    exit_code::ExitCode,
    kernel::{DEFAULT_RING_BYTES, Rung},
};
use port_monitor_common::event::EVENT_SIZE;

/// Bytes that the kernel puts before each record of a ring (`BPF_RINGBUF_HDR_SZ`).
const RING_HEADER: usize = 8;

const THREATS: &str = include_str!("../../THREATS.md");
const README: &str = include_str!("../../README.md");
/// The pages whose commands, flags and links are checked, by their directories.
const PAGES: [(&str, &str); 4] = [
    ("", README),
    ("docs", include_str!("../../docs/json.md")),
    ("docs", include_str!("../../docs/policy.md")),
    ("docs", include_str!("../../docs/enforcement.md")),
];

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// What stands below the heading `## title`.
fn section(title: &str) -> &'static str {
    let (_, rest) = README.split_once(&format!("\n## {title}\n")).unwrap();
    rest.split("\n## ").next().unwrap()
}

/// The commands that are shown with their output.
fn sessions() -> Vec<(&'static str, String)> {
    let mut sessions = Vec::new();
    let blocks = PAGES
        .iter()
        .flat_map(|(_, page)| page.split("```console\n").skip(1));
    for block in blocks {
        for line in block.split("```").next().unwrap().lines() {
            if let Some(command) = line.strip_prefix("$ ") {
                sessions.push((command, String::new()));
            } else {
                let (_, output) = sessions.last_mut().unwrap();
                output.push_str(line);
                output.push('\n');
            }
        }
    }
    sessions
}

/// The flags of port-monitor in a line or in a piece of code: not those of
/// cargo before a `--`, nor those of the command after it.
fn flags_in(text: &str) -> impl Iterator<Item = &str> {
    let text = text.strip_prefix("$ ").unwrap_or(text);
    let own = if text.starts_with("cargo ") {
        text.split_once(" -- ").map_or("", |(_, own)| own)
    } else {
        text
    };
    own.split(" -- ")
        .next()
        .unwrap()
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .filter(|word| {
            let name = word.strip_prefix("--");
            name.is_some_and(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()))
        })
}

/// The long flags of a command and its subcommands.
fn flags_of(command: &clap::Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(clap::Arg::get_long);
    own.map(|name| format!("--{name}"))
        .chain(command.get_subcommands().flat_map(flags_of))
        .collect()
}

#[test]
fn commands_that_need_no_privilege_print_what_is_shown() {
    let mut subcommands = BTreeSet::new();
    for (command, shown) in sessions() {
        let Some(args) = command.strip_prefix("port-monitor ") else {
            continue;
        };
        let output = Command::new(cargo_bin!("port-monitor"))
            .args(args.split(' '))
            .current_dir(workspace())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{command}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), shown);
        subcommands.extend(args.split(' ').take_while(|arg| !arg.starts_with('-')));
    }
    for subcommand in ["check", "explain", "diff", "service"] {
        assert!(subcommands.contains(subcommand), "{subcommand}");
    }
}

#[test]
fn every_flag_exists() {
    let mut program = Cli::command();
    program.build();
    let known = flags_of(&program);
    let mentioned: BTreeSet<_> = PAGES
        .iter()
        .flat_map(|(_, page)| page.split(['`', '\n']).flat_map(flags_in))
        .collect();
    assert!(mentioned.contains("--violations"), "{mentioned:?}");
    for flag in mentioned {
        assert!(known.contains(flag), "{flag}");
    }
}

#[test]
fn flags_of_other_programs_are_told_apart() {
    let flags = |text| flags_in(text).collect::<Vec<_>>();
    assert_eq!(
        flags("$ cargo xtask run --x -- --count 1 -- sh --y"),
        ["--count"]
    );
    assert_eq!(
        flags("port-monitor --policy x (--resolve) | -- |"),
        ["--policy", "--resolve"]
    );
    assert_eq!(flags("cargo build --locked"), [""; 0]);
    assert_eq!(flags("|---|---|"), [""; 0]);
}

#[test]
fn exit_codes_are_those_of_the_program() {
    let help = ExitCode::help();
    let (_, codes) = help.split_once('\n').unwrap();
    let block = format!("```text\n{codes}\n```");
    assert!(section("Exit codes").contains(&block), "{block}");
}

#[test]
fn blind_spots_are_told_in_the_words_of_the_program() {
    let known: BTreeSet<_> = Rung::ALL
        .into_iter()
        .flat_map(|rung| rung.blind_spots().into_iter().map(move |spot| (rung, spot)))
        .map(|(rung, spot)| (format!("`{}`", rung.name()), spot))
        .collect();
    let rows = section("What it cannot see").lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        Some((cells.next()?, cells.next()?))
    });
    let told: BTreeSet<_> = rows
        .flat_map(|(rungs, spot)| rungs.split(", ").map(move |rung| (rung, spot)))
        .map(|(rung, spot)| (format!("`{}`", rung.trim_matches('`')), spot))
        .collect();
    assert_eq!(told, known);

    let shown = README
        .lines()
        .filter_map(|line| line.strip_prefix("# cannot see: "));
    for spot in shown {
        assert!(known.iter().any(|(_, known)| *known == spot), "{spot}");
    }
}

#[test]
fn floor_of_the_benchmarks_is_as_large_as_an_event() {
    let floor = include_str!("kernel/bench/floor.bpf.c");
    assert!(floor.contains(&format!("sizeof(struct record) == {EVENT_SIZE},")));
    assert!(floor.contains(&format!("one record of {EVENT_SIZE} bytes")));
    let benchmarks = include_str!("../../BENCHMARKS.md");
    assert!(benchmarks.contains(&format!("one record of {EVENT_SIZE} bytes")));
    let fit = DEFAULT_RING_BYTES as usize / (EVENT_SIZE + RING_HEADER);
    let fit = format!("{},{:03}", fit / 1_000, fit % 1_000);
    assert!(benchmarks.contains(&format!("{EVENT_SIZE} bytes, and {fit} of them")));
}

/// The text of every file of Rust below a directory of this package.
fn sources(below: &str) -> String {
    let mut directories = vec![workspace().join("port-monitor").join(below)];
    let mut text = String::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                text.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    text
}

/// The test of that name exists; `None` for what is the name of no test.
fn exists(name: &str, [kernel, native, all]: [&str; 3]) -> Option<bool> {
    let is_function = |name: &str, text: &str| text.contains(&format!("fn {name}("));
    if ["enforce-", "bypass-"]
        .iter()
        .any(|kind| name.starts_with(kind))
    {
        return Some(kernel.contains(&format!("(\"{name}\",")));
    }
    if let Some(path) = name.strip_prefix("native ") {
        let (module, name) = path.split_once("::").unwrap();
        return Some(native.contains(&format!("mod {module};")) && is_function(name, all));
    }
    let is_sentence = name.matches('_').count() > 2;
    let is_sentence = is_sentence
        && name
            .bytes()
            .all(|b| b"_".contains(&b) || b.is_ascii_alphanumeric());
    is_sentence.then(|| is_function(name, all))
}

#[test]
fn every_claim_about_threats_names_tests_that_exist() {
    let text = [
        sources("tests/kernel"),
        sources("tests/native"),
        sources(""),
    ];
    let text = text.each_ref().map(String::as_str);
    let named = |part: &str| {
        let code = part.split('`').skip(1).step_by(2);
        let known = code.filter_map(|name| Some((name.to_owned(), exists(name, text)?)));
        known.collect::<Vec<_>>()
    };
    let all = named(THREATS);
    assert!(all.len() > 90, "{}", all.len());
    for (name, exists) in &all {
        assert!(exists, "no test `{name}`");
    }
    let (_, stopped) = THREATS.split_once("\n## Stopped\n").unwrap();
    let (stopped, _) = stopped.split_once("\n## Not stopped\n").unwrap();
    for row in stopped.lines().skip(3).filter(|line| line.starts_with('|')) {
        assert!(row.starts_with("|---") || !named(row).is_empty(), "{row}");
    }
    assert_eq!(exists("enforce-nothing", text), Some(false));
    assert_eq!(
        exists("native exe::nothing_at_all_is_this", text),
        Some(false)
    );
}

#[test]
fn links_lead_somewhere() {
    let targets = PAGES
        .iter()
        .flat_map(|(dir, page)| page.split("](").skip(1).map(move |rest| (dir, rest)));
    let paths: Vec<PathBuf> = targets
        .map(|(dir, rest)| (dir, rest.split(')').next().unwrap()))
        .filter(|(_, target)| !target.contains("://") && !target.starts_with('#'))
        .map(|(dir, target)| workspace().join(dir).join(target))
        .collect();
    assert!(!paths.is_empty());
    for path in paths {
        assert!(path.exists(), "{}", path.display());
    }
}
