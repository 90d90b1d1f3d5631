//! Holds the README and the pages of `docs/` to the program: what they quote is what
//! the program says, and each of their blocks is of a kind that is checked.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod blocks;
mod pages;

use std::{collections::BTreeSet, fs};

use clap::CommandFactory as _;
use port_monitor::{
    cli::Cli,
    consume::top::{WORDS, keys::table},
    kernel::{Backend, DEFAULT_RING_BYTES},
};
use port_monitor_common::event::EVENT_SIZE;

use crate::pages::{Page, blocks, pages, rows, sessions, workspace};

/// Bytes that the kernel puts before each record of a ring (`BPF_RINGBUF_HDR_SZ`).
const RING_HEADER: usize = 8;
/// Flags of other programs that the pages name alone.
const FLAGS_OF_OTHERS: [&str; 10] = [
    "--baseline",
    "--catalog",
    "--runs",
    "--quick",
    "--all",
    "--variants",
    "--no-map-gw",
    "--disable-host-loopback",
    "--show-localhost",
    "--no-resolve-dns",
];
/// What a README that is read to its end may have.
const README_LINES: usize = 200;

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
fn the_readme_is_short_and_has_its_picture_and_commands() {
    let readme = Page::read("README.md").text;
    assert!(readme.lines().count() <= README_LINES);
    assert!(readme.contains("](docs/picture.png)"));
    assert!(readme.contains("\ncargo xtask run ") && readme.contains("\ncargo xtask test "));
}

#[test]
fn commands_that_need_no_privilege_are_shown_with_their_output() {
    let blocks = blocks();
    let sessions = blocks
        .iter()
        .filter(|block| block.kind == "console")
        .flat_map(sessions);
    let shown: Vec<_> = sessions.map(|(command, _)| command).collect();
    for subcommand in ["policy check", "policy explain", "policy diff", "service"] {
        let start = format!("port-monitor {subcommand} ");
        assert!(
            shown.iter().any(|command| command.starts_with(&start)),
            "{subcommand}"
        );
    }
}

#[test]
fn every_flag_exists() {
    let mut program = Cli::command();
    program.build();
    let known = flags_of(&program);
    let prose: Vec<_> = pages().iter().map(Page::prose).collect();
    let code = prose
        .iter()
        .flat_map(|text| text.split('`').skip(1).step_by(2));
    let mentioned: BTreeSet<_> = code.flat_map(flags_in).collect();
    assert!(mentioned.contains("--violations"), "{mentioned:?}");
    for flag in mentioned {
        let is_known = known.contains(flag) || FLAGS_OF_OTHERS.contains(&flag);
        assert!(is_known, "{flag}");
    }
}

/// The words that the glossary has no use for, by its last column.
fn other_words() -> Vec<String> {
    let page = Page::read("docs/glossary.md");
    let rows = rows(&page.text, "| word | meaning | not |");
    let cells = rows.iter().filter_map(|row| row.get(2));
    let words = cells.flat_map(|cell| cell.split(", "));
    words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The help of a command and of those it is made of.
fn help_of(command: &mut clap::Command) -> String {
    let mut help = command.render_long_help().to_string();
    for nested in command
        .get_subcommands_mut()
        .filter(|nested| !nested.is_hide_set())
    {
        help.push_str(&help_of(nested));
    }
    help
}

#[test]
fn help_has_the_words_of_the_glossary() {
    let mut program = Cli::command();
    program.build();
    let help = help_of(&mut program).to_lowercase();
    let words: BTreeSet<_> = help.split(|c: char| !c.is_alphanumeric()).collect();
    assert!(words.contains("listeners"));
    let others = other_words();
    assert!(others.len() > 3, "{others:?}");
    for word in others {
        assert!(!words.contains(&*word), "{word}");
        assert!(!words.contains(&*format!("{word}s")), "{word}s");
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
fn blind_spots_are_told_in_the_words_of_the_program() {
    let known: BTreeSet<_> = Backend::ALL
        .into_iter()
        .flat_map(|backend| {
            backend
                .blind_spots()
                .into_iter()
                .map(move |spot| (backend, spot))
        })
        .map(|(backend, spot)| (format!("`{}`", backend.name()), spot))
        .collect();
    let page = Page::read("docs/kernels.md");
    let rows = rows(&page.text, "| backend | cannot see | when |");
    let told: BTreeSet<_> = rows
        .iter()
        .flat_map(|row| {
            row[0]
                .split(", ")
                .map(|backend| (backend.to_owned(), &*row[1]))
        })
        .collect();
    assert_eq!(told, known);
}

#[test]
fn keys_of_the_live_view_are_told_in_the_words_of_its_help() {
    let page = Page::read("docs/top.md");
    let told = rows(&page.text, "| key | what it does |");
    let told: Vec<_> = told
        .iter()
        .map(|row| (row[0].replace('`', ""), row[1].clone()))
        .collect();
    let keys: Vec<_> = table()
        .map(|(keys, does)| (keys.to_owned(), does.to_owned()))
        .collect();
    assert_eq!(told, keys);
    for word in WORDS {
        assert!(page.text.contains(&format!("`{word}:")), "{word}");
    }
}

#[test]
fn floor_of_the_benchmarks_is_as_large_as_an_event() {
    let floor = include_str!("../kernel/bench/floor.bpf.c");
    assert!(floor.contains(&format!("sizeof(struct record) == {EVENT_SIZE},")));
    assert!(floor.contains(&format!("one record of {EVENT_SIZE} bytes")));
    let benchmarks = Page::read("docs/benchmarks.md").text;
    assert!(benchmarks.contains(&format!("one record of {EVENT_SIZE} bytes")));
    let fit = DEFAULT_RING_BYTES as usize / (EVENT_SIZE + RING_HEADER);
    let fit = format!("{},{:03}", fit / 1_000, fit % 1_000);
    assert!(benchmarks.contains(&format!("{EVENT_SIZE} bytes, and {fit} of them")));
    let account = Page::read("docs/accounting.md").text;
    assert!(account.contains(&format!("ring of 4 MiB holds {fit} events")));
}

/// The text of every file of Rust below a directory of this package.
pub(crate) fn sources(below: &str) -> String {
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
    let threats = Page::read("THREATS.md").text;
    let all = named(&threats);
    assert!(all.len() > 90, "{}", all.len());
    for (name, exists) in &all {
        assert!(exists, "no test `{name}`");
    }
    let (_, stopped) = threats.split_once("\n## Stopped\n").unwrap();
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

/// The anchor that GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    let mut count = 0;
    for page in &pages {
        let prose = page.prose();
        for rest in prose.split("](").skip(1) {
            let target = rest.split(')').next().unwrap();
            if target.contains("://") {
                continue;
            }
            count += 1;
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let directory = page.path.parent().unwrap();
            let path = match path {
                "" => page.path.clone(),
                path => directory.join(path),
            };
            let place = format!("{target} in {}", page.path.display());
            assert!(workspace().join(&path).exists(), "{place}");
            if heading.is_empty() {
                continue;
            }
            let path = fs::canonicalize(workspace().join(path)).unwrap();
            let text = fs::read_to_string(path).unwrap();
            let headings = text.lines().filter_map(|line| {
                let (marks, heading) = line.split_once(' ')?;
                (!marks.is_empty() && marks.bytes().all(|b| b == b'#')).then_some(heading)
            });
            assert!(
                headings.map(anchor).any(|anchor| anchor == heading),
                "{place}"
            );
        }
    }
    assert!(count > 80, "{count}");
}

#[test]
fn files_of_the_repository_that_pages_name_are_there() {
    let ours = ["port-monitor", "xtask/", "docs/", "examples/"];
    let mut count = 0;
    for page in pages() {
        let prose = page.prose();
        let code = prose.split('`').skip(1).step_by(2);
        let is_path = |code: &&str| {
            let is_ours = ours.iter().any(|start| code.starts_with(start));
            is_ours && code.contains('/') && !code.contains(char::is_whitespace)
        };
        for path in code.filter(is_path) {
            count += 1;
            let place = page.path.display();
            assert!(workspace().join(path).exists(), "{path} in {place}");
        }
    }
    assert!(count > 8, "{count}");
}
