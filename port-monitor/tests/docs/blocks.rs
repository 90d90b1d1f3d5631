//! Every fenced block of the pages is of a kind, and each kind is held to the program:
//! commands are run or parsed, policies compiled, JSON lines validated, outputs compared.

use std::{
    fs,
    process::{Command, Output},
    time::Duration,
};

use assert_cmd::cargo::cargo_bin;
use clap::Parser as _;
use port_monitor::{
    base::exit_code::ExitCode,
    cli::Cli,
    consume::{
        consumer::Kinds,
        history::{History, Keep},
    },
};
use serde_json::Value;

use crate::pages::{Block, Page, blocks, code, commands, rows, sessions, workspace};

/// Programs of others that the pages run.
const OTHERS: [&str; 20] = [
    "adduser",
    "apt",
    "cargo",
    "curl",
    "dnf",
    "install",
    "journalctl",
    "jq",
    "picture.py",
    "port-monitor",
    "rm",
    "sed",
    "sqlite3",
    "systemctl",
    "systemd-sysusers",
    "systemd-tmpfiles",
    "tar",
    "userdel",
    "xargs",
    "zcat",
];
/// Outputs that are no console session, with the forms that their lines may have. `{}` is
/// what differs by nature; the rest are words of the program.
const FORMS: [(&str, &[&str]); 7] = [
    (
        "account",
        &[
            "# seen {} = shown {} + filtered {} + lost {} in {}s",
            "# {}  {} events lost ({}), {} so far",
            "# lost: ring full {}, program skipped {}, undecodable {}, output {}, \
             owner late {}",
            "# {}: delivered {} = taken {} + hidden {} + dropped {}",
            "# {} dropped: queue full {}, failed {}, unfinished {}",
            "# {} failed: {}",
        ],
    ),
    (
        "table",
        &[
            "{}  x {}",
            "{} in",
            "# seen {} = shown {} + filtered {} + lost {} in {}s",
        ],
    ),
    (
        "status",
        &[
            "policy     {}",
            "sha256     {}",
            "applied    {} UTC",
            "mode       enforce",
            "confirmed  no: undone in {} s",
            "RULE {} ACTION {} HITS {} LAST",
            "{}allow{} s ago",
            "{}deny{} s ago",
            "{}deny{} never",
            "memory     {} MiB",
            "attached   {}",
        ],
    ),
    (
        "service",
        &[
            "service    port-monitor {}, pid {}",
            "since      {} UTC",
            "host       {}, kernel {}",
            "backend    {}",
            "observes   {}, read {} UTC",
            "events     seen {}, filtered {}, lost {}",
            "lost       {}: the ring was full",
            "CONSUMER {} DELIVERED {} TAKEN {} HIDDEN {} DROPPED  WAITING",
            "output {} {} {} {}  {}",
            "{} {} {} {} {}  {} of {}",
        ],
    ),
    (
        "journal",
        &[
            "# {}  policy {} from here on, text {}",
            "# port-monitor {} on kernel {}, backend {}; {} blind spots, see port-monitor doctor",
            "port-monitor: {}: applied, {} rules",
            "port-monitor: {}: denied {}, {} since it was applied: {}",
            "port-monitor: reloaded {}: consumers that joined: {}; that left: {}",
            "port-monitor: {}: delivered {} = taken {} + hidden {} + dropped {}",
            "port-monitor: export {}: recorded {} = sent {} + waiting {} + expired {}",
            "# seen {} = shown {} + filtered {} + lost {} in {}s",
            "# {}: delivered {} = taken {} + hidden {} + dropped {}",
        ],
    ),
    ("denials", &["{}: denied {}, {} since it was applied: {}"]),
    (
        "unproven",
        &[
            "# not proven: the fields of {} over IPv4 and IPv6: no packet of the self-test arrived (denied by {})",
        ],
    ),
];

/// The kinds of block, and what each of them is held to.
fn check(block: &Block, schema: &Schema) {
    match &*block.kind {
        "console" => sessions_are_those_of_the_program(block),
        "sh" => block.text.lines().for_each(|line| parses(line, block)),
        "toml" => compiles(block),
        "toml configuration" => configures(block),
        "json" => schema.accepts(block),
        "sql" => is_asked_of_a_history(block),
        // `cargo xtask test-fleet` has it answered by real servers.
        "sql fleet" => {}
        "text exit-codes" => assert_eq!(block.text.trim_end(), exit_codes(), "{}", block.place),
        "text logrotate" => assert!(block.text.contains("pkill -HUP -x port-monitor\n")),
        kind => {
            let forms = FORMS
                .iter()
                .find(|(name, _)| kind == format!("text {name}"));
            let Some((_, forms)) = forms else {
                panic!(
                    "{}: `{kind}` is no kind of block: see {}",
                    block.place,
                    file!()
                );
            };
            for line in block.text.lines() {
                let has_form = forms.iter().any(|form| fits(line, form));
                assert!(has_form, "{}: {line}", block.place);
                adds_up(line, block);
            }
        }
    }
}

/// Every statement is one that a history answers.
fn is_asked_of_a_history(block: &Block) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    let keep = Keep {
        age: Duration::from_hours(1),
        bytes: 1 << 20,
    };
    drop(History::open(&path, Kinds::ALL, keep).unwrap());
    let db = rusqlite::Connection::open(&path).unwrap();
    for statement in block.text.lines() {
        let prepared = db.prepare(statement);
        assert!(prepared.is_ok(), "{}: {prepared:?}", block.place);
    }
}

#[test]
#[should_panic(expected = "no such column: rows")]
fn sql_of_no_history_is_refused() {
    is_asked_of_a_history(&block("sql", "SELECT rows FROM connections;\n"));
}

#[test]
fn every_block_is_of_a_kind_and_holds() {
    let blocks = blocks();
    assert!(blocks.len() > 60, "{}", blocks.len());
    let schema = Schema::new();
    for block in &blocks {
        check(block, &schema);
    }
}

#[test]
#[should_panic(expected = "a.md:1: `text` is no kind of block")]
fn a_block_of_no_kind_is_refused() {
    check(&block("text", "anything\n"), &Schema::new());
}

#[test]
#[should_panic(expected = "unexpected argument '--polcy'")]
fn a_flag_that_does_not_exist_is_refused() {
    check(
        &block("sh", "sudo port-monitor --polcy x\n"),
        &Schema::new(),
    );
}

#[test]
#[should_panic(expected = "unknown key `acton`")]
fn a_policy_that_does_not_compile_is_refused() {
    check(&block("toml", "acton = \"deny\"\n"), &Schema::new());
}

#[test]
#[should_panic(expected = "does not add up")]
fn an_account_that_does_not_add_up_is_refused() {
    let line = "# seen 9 = shown 6 + filtered 0 + lost 0 in 1.0s\n";
    check(&block("text account", line), &Schema::new());
}

#[test]
#[should_panic(expected = "is no line of the schema")]
fn a_line_that_the_schema_does_not_know_is_refused() {
    check(
        &block("json", "{\"event\": {\"action\": \"close\"}}\n"),
        &Schema::new(),
    );
}

fn block(kind: &str, text: &str) -> Block {
    Block {
        place: "a.md:1".to_owned(),
        kind: kind.to_owned(),
        text: text.to_owned(),
    }
}

fn program(args: &[String]) -> Output {
    Command::new(cargo_bin!("port-monitor"))
        .args(args)
        .current_dir(workspace())
        .output()
        .unwrap()
}

/// What needs no privilege is run here, and prints what is shown; what needs it is parsed
/// here and run by the native tests (`docs` in `tests/native`).
fn sessions_are_those_of_the_program(block: &Block) {
    for (command, shown) in sessions(block) {
        parses(&command, block);
        if !command.starts_with("port-monitor ") {
            continue;
        }
        let args = commands(&command).remove(0).split_off(1);
        let output = program(&args);
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{command}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), shown);
    }
}

/// The command line is one of the program's, or of a program that the pages know.
fn parses(line: &str, block: &Block) {
    for mut words in commands(line) {
        if words[0] == "sudo" {
            words.remove(0);
        }
        let program = words[0].rsplit('/').next().unwrap();
        assert!(
            OTHERS.contains(&program),
            "{}: unknown program `{program}`",
            block.place
        );
        // `cargo xtask run [-- ARGS]` is a synopsis.
        let is_run = words.starts_with(&["cargo", "xtask", "run", "--"].map(str::to_owned));
        let own = match program {
            "port-monitor" => words.split_off(1),
            "cargo" if is_run => words.split_off(4),
            _ => continue,
        };
        let own = ["port-monitor".to_owned()].into_iter().chain(own);
        if let Err(error) = Cli::try_parse_from(own) {
            panic!("{}: {line}\n{error}", block.place);
        }
    }
}

/// A policy, or a part of one: what a policy must have is put around it.
fn compiles(block: &Block) {
    let output = checked(&whole(&block.text));
    assert!(output.0, "{}\n{}", block.place, output.1);
}

/// A configuration, with the policy that it may name.
fn configures(block: &Block) {
    let (is_right, said) = checked_configuration(&block.text);
    assert!(is_right, "{}\n{said}", block.place);
}

/// What `serve --check` says of a configuration: whether it is right, and the text.
fn checked_configuration(text: &str) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.toml"), "version = 1\n").unwrap();
    let text = text.replace("/etc/port-monitor", dir.path().to_str().unwrap());
    fs::write(dir.path().join("c.toml"), text).unwrap();
    said_in(&dir, &["serve", "--check", "--config", "c.toml"])
}

/// What the program says in a directory: whether it is content, and the text.
fn said_in(dir: &tempfile::TempDir, args: &[&str]) -> (bool, String) {
    let output = Command::new(cargo_bin!("port-monitor"))
        .args(args)
        .current_dir(dir.path())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// The keys of each section have their headings, with an example and what is told of a
/// mistake.
#[test]
fn every_key_of_a_configuration_has_its_heading_and_its_mistakes() {
    let output = program(&["schema", "--config"].map(str::to_owned));
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    let page = Page::read("docs/serve.md");
    let mut count = 0;
    for (section, keys) in schema["properties"].as_object().unwrap() {
        // Of a section that has tables of any name, those have the keys.
        let tables = keys["patternProperties"].as_object();
        let (section, keys) = match tables.and_then(|tables| tables.values().next()) {
            Some(keys) => (format!("{section}.NAME"), keys),
            None => (section.clone(), keys),
        };
        let headings = page.section(&format!("## Keys of [{section}]"));
        let parts: Vec<&str> = headings.split("\n### ").skip(1).collect();
        let told: Vec<&str> = parts
            .iter()
            .filter_map(|part| part.lines().next())
            .collect();
        let keys = keys["properties"].as_object().unwrap();
        assert!(
            keys.keys().all(|key| told.contains(&&**key)),
            "{section}: {told:?}"
        );
        assert_eq!(told.len(), keys.len(), "{section}: {told:?}");
        for (part, key) in parts.iter().zip(told) {
            assert!(part.contains("```toml configuration\n"), "{key}");
            let rows = rows(part, "| wrong | what `serve --check` says |");
            assert!(!rows.is_empty(), "{key}");
            for row in rows {
                let rest = match &*section {
                    "alert" if key != "journal" => "journal = true\n",
                    "watch" | "alert" | "export.NAME" => "",
                    _ if key == "file" => "",
                    _ => "file = \"/etc/port-monitor/policy.toml\"\n",
                };
                let table = section.to_lowercase();
                let text = format!("[{table}]\n{}\n{rest}", code(&row[0]));
                let (_, said) = checked_configuration(&text);
                let message = format!(
                    "c.toml:2:{}: {}",
                    code(&row[0]).find("= ").unwrap() + 3,
                    code(&row[1])
                );
                let is_told = said.lines().any(|line| line.starts_with(&message));
                assert!(is_told, "{key}: {message}\n{said}");
                count += 1;
            }
        }
    }
    assert!(count > 20, "{count}");
}

/// The policy that a part of one stands in.
fn whole(part: &str) -> String {
    let has = |key: &str| part.lines().any(|line| line.starts_with(key));
    if has("version = ") {
        return part.to_owned();
    }
    if has("[") {
        return format!("version = 1\n{part}");
    }
    let must_have = [
        ("name = ", "name = \"r\"\n"),
        ("direction = ", "direction = \"out\"\n"),
        ("action = ", "action = \"deny\"\n"),
    ];
    let rest = must_have.into_iter().filter(|(key, _)| !has(key));
    let rest = rest.map(|(_, line)| line).collect::<String>();
    format!("version = 1\n[[rule]]\n{rest}{part}\n")
}

/// What `check` says of a policy: whether it holds, and the text.
fn checked(policy: &str) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.toml"), policy).unwrap();
    for list in ["blocked.txt", "lab.txt"] {
        fs::write(dir.path().join(list), "198.51.100.0/24 # one\n").unwrap();
    }
    said_in(&dir, &["policy", "check", "--policy", "policy.toml"])
}

#[test]
fn what_check_says_of_a_wrong_key_is_what_it_says() {
    let page = Page::read("docs/policy.md");
    let mut count = 0;
    for part in page.text.split("\n### ").skip(1) {
        let part = part.split("\n## ").next().unwrap();
        let key = part.lines().next().unwrap();
        let file_key = page.section("## Keys of the file").contains(part);
        for row in rows(part, "| wrong | what `check` says |") {
            let [wrong, said] = &*row else {
                panic!("{row:?}");
            };
            let policy = match key {
                "version" => code(wrong).to_owned(),
                _ if file_key => format!("version = 1\n{}", code(wrong)),
                _ => whole(code(wrong)),
            };
            let (_, text) = checked(&policy);
            let message = format!(": {}\n", code(said));
            assert!(text.contains(&message), "{key}: {said}\n{text}");
            count += 1;
        }
    }
    assert!(count > 40, "{count}");
}

/// Every key that a policy may have has its heading.
#[test]
fn every_key_of_a_policy_has_its_heading() {
    let output = program(&["policy", "schema"].map(str::to_owned));
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    let page = Page::read("docs/policy.md");
    let keys = |at: &str| {
        let keys = schema.pointer(at).unwrap().as_object().unwrap();
        keys.keys().cloned().collect::<Vec<_>>()
    };
    for key in keys("/properties").iter().filter(|key| *key != "rule") {
        assert!(
            page.section("## Keys of the file")
                .contains(&format!("\n### {key}\n")),
            "{key}"
        );
    }
    for key in keys("/$defs/rule/properties") {
        let heading = match &*key {
            "from" | "to" => "from and to",
            key => key,
        };
        let headings = page.section("## Keys of a rule");
        assert!(headings.contains(&format!("\n### {heading}\n")), "{key}");
    }
}

/// The JSON Schema of the event stream.
struct Schema {
    schemas: boon::Schemas,
    index: boon::SchemaIndex,
}

impl Schema {
    fn new() -> Self {
        let output = program(&["schema".to_owned()]);
        let schema = serde_json::from_slice(&output.stdout).unwrap();
        let mut schemas = boon::Schemas::new();
        let mut compiler = boon::Compiler::new();
        compiler.add_resource("stream.json", schema).unwrap();
        let index = compiler.compile("stream.json", &mut schemas).unwrap();
        Self { schemas, index }
    }

    fn accepts(&self, block: &Block) {
        for line in block.text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let result = self.schemas.validate(&line, self.index);
            if let Err(error) = result {
                panic!("{}: {line} is no line of the schema: {error}", block.place);
            }
        }
    }
}

/// The exit codes, as `--help` lists them.
fn exit_codes() -> String {
    let help = ExitCode::help();
    let (_, codes) = help.split_once('\n').unwrap();
    codes.to_owned()
}

/// The line has the words of `form` in order, from its start to its end.
fn fits(line: &str, form: &str) -> bool {
    let mut parts = form.split("{}");
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap()) else {
        return false;
    };
    let mut last = "";
    for part in parts {
        last = part.trim_start_matches(' ');
        let Some((_, behind)) = rest.split_once(last) else {
            return false;
        };
        rest = behind;
    }
    last.is_empty() || rest.is_empty() || line.ends_with(last)
}

/// The figures of an account do.
fn adds_up(line: &str, block: &Block) {
    let line = line
        .trim_start_matches("port-monitor: ")
        .trim_start_matches("# ");
    let accounts = ["seen ", "output: delivered ", "record: delivered "];
    let account = accounts
        .iter()
        .find_map(|account| line.strip_prefix(account));
    let Some(account) = account else {
        return;
    };
    let numbers: Vec<u64> = account
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    let [all, ..] = *numbers else {
        panic!("{}: {line}", block.place);
    };
    let parts = &numbers[1..];
    assert_eq!(parts.len(), 3, "{}: {line}", block.place);
    assert_eq!(
        all,
        parts.iter().sum::<u64>(),
        "{}: {line} does not add up",
        block.place
    );
}

/// The words of the forms are those of the program.
#[test]
fn forms_of_outputs_are_in_the_program() {
    let sources = crate::sources("src");
    for form in FORMS.iter().flat_map(|(_, forms)| *forms) {
        let parts = form
            .split("{}")
            .map(|part| part.trim_matches([' ', '#', ':', ',', '(']));
        for part in parts
            .flat_map(|part| part.split("  "))
            .flat_map(|part| part.split(": "))
            .map(str::trim)
        {
            let words = part.split_once(" (").map_or(part, |(words, _)| words);
            assert!(sources.contains(words), "`{words}` of {form}");
        }
    }
    assert!(!sources.contains("not prooven: the fields of"));
}
