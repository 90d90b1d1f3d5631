//! The commands that print one text and end: `schema`, `completions`, `man`,
//! and `--help`.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::{
    fs::File,
    process::{Command, Output, Stdio},
};

use assert_cmd::cargo::cargo_bin;
use clap::CommandFactory as _;
use port_monitor::{base::exit_code::ExitCode, cli::Cli};

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin!("port-monitor"));
    command.args(args);
    command
}

/// What the command prints, after exit status 0 and nothing on stderr.
fn stdout(args: &[&str]) -> String {
    let output = program(args).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn schema_is_a_json_schema_that_compiles() {
    let schema: serde_json::Value = serde_json::from_str(&stdout(&["schema"])).unwrap();
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    let mut compiler = boon::Compiler::new();
    compiler.add_resource("stream.json", schema).unwrap();
    compiler
        .compile("stream.json", &mut boon::Schemas::new())
        .unwrap();
}

#[test]
fn completions_exist_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&["completions", shell]);
        assert!(script.contains("port-monitor"), "{shell}");
        assert!(script.contains("completions"), "{shell}");
        assert!(!script.contains("__exec"), "{shell}");
    }
}

#[test]
fn unknown_shell_is_a_usage_error_with_the_list() {
    let output = program(&["completions", "tcsh"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("bash, elvish, fish, powershell, zsh"),
        "{stderr}"
    );
}

#[test]
fn man_page_covers_subcommands_fields_and_exit_codes() {
    let page = stdout(&["man"]);
    for heading in [
        ".TH port-monitor 1",
        ".SH NAME",
        ".SH OPTIONS",
        ".SH \"port-monitor audit\"",
        ".SH \"port-monitor schema\"",
        ".SH \"port-monitor completions\"",
        ".SS SYNOPSIS",
        ".SH FIELDS",
        ".SH \"EXIT STATUS\"",
    ] {
        assert!(
            page.lines().any(|line| line.starts_with(heading)),
            "{heading}"
        );
    }
    for (code, meaning) in ExitCode::ALL {
        let entry = format!("\\fB{}\\fR\n{}\n", code as u8, meaning.replace('-', "\\-"));
        assert!(page.contains(&entry), "{entry}");
    }
}

/// The names of the commands that `--help` lists, each with those that it is made of.
fn named(command: &clap::Command, above: &str, names: &mut Vec<String>) {
    names.push(format!("{above}.1"));
    for nested in command.get_subcommands() {
        if !nested.is_hide_set() && nested.get_name() != "help" {
            named(nested, &format!("{above}-{}", nested.get_name()), names);
        }
    }
}

#[test]
fn every_command_has_a_page_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("new/man");
    assert_eq!(stdout(&["man", "--dir", pages.to_str().unwrap()]), "");
    let mut names = Vec::new();
    named(&Cli::command(), "port-monitor", &mut names);
    assert!(names.contains(&"port-monitor-policy-check.1".to_owned()));
    let written = std::fs::read_dir(&pages).unwrap();
    assert_eq!(written.count(), names.len());
    for name in names {
        let page = std::fs::read_to_string(pages.join(&name)).unwrap();
        let title = format!(".TH {} 1  \"port-monitor ", name.trim_end_matches(".1"));
        assert!(page.lines().any(|line| line.starts_with(&title)), "{name}");
        for heading in [".SH NAME", ".SH SYNOPSIS", ".SH \"EXIT STATUS\""] {
            assert!(
                page.lines().any(|line| line == heading),
                "{name}: {heading}"
            );
        }
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_an_output_failure() {
    let output = program(&["man", "--dir", "/dev/null/man"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(6));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("create /dev/null/man: Not a directory"),
        "{stderr}"
    );
}

#[test]
fn help_ends_with_the_exit_codes() {
    let help = stdout(&["--help"]);
    let (_, codes) = help.split_once("\nExit codes:\n").unwrap();
    assert_eq!(codes.trim_end().lines().count(), ExitCode::ALL.len());
    for ((code, meaning), line) in ExitCode::ALL.iter().zip(codes.lines()) {
        let (number, text) = line.trim().split_once(' ').unwrap();
        assert_eq!(number, (*code as u8).to_string());
        assert_eq!(text.trim(), *meaning);
    }
}

#[test]
fn a_reader_that_is_gone_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = program(&["schema"]).stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stderr, b"");
}

#[test]
fn a_full_disk_is_an_output_failure() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    for args in [
        &["man"][..],
        &["--help"],
        &["-h"],
        &["--version"],
        &["policy", "--help"],
        &["help", "policy"],
    ] {
        let output = program(args)
            .stdout(full.try_clone().unwrap())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(6), "{args:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            stderr.starts_with("port-monitor: write standard output: No space left"),
            "{args:?}: {stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{args:?}");
    }
}

/// Runs the program with what a shell makes of these redirections.
fn run_redirected(redirections: &str, args: &[&str]) -> Output {
    Command::new("sh")
        .args(["-c", &format!("exec \"$@\" {redirections}"), "sh"])
        .arg(cargo_bin!("port-monitor"))
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn closed_standard_output_is_an_output_failure() {
    for args in [
        &["man"][..],
        &["schema"],
        &["--version"],
        &["--help"],
        &["service", "443"],
        &["policy", "schema"],
        &["doctor"],
        // Before anything is attached, or changed.
        &["watch", "--duration", "1ms"],
        &["audit", "-o", "json"],
        &["apply", "no-such-file"],
    ] {
        for redirections in [">&-", "<&- >&-"] {
            let output = run_redirected(redirections, args);
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(6), "{args:?}: {stderr}");
            assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
            assert!(
                stderr.contains("standard output: it is closed: redirect it"),
                "{args:?}: {stderr}"
            );
        }
        let output = run_redirected(">&- 2>&-", args);
        assert_eq!(output.status.code(), Some(6), "{args:?}");
    }
}

#[test]
fn standard_output_that_is_thrown_away_is_no_failure() {
    // Python's and Node's /dev/null is open for reading too.
    for redirections in [">/dev/null", "1<>/dev/null", "<&- 2>&-"] {
        let output = run_redirected(redirections, &["schema"]);
        assert_eq!(output.status.code(), Some(0), "{redirections}");
        assert_eq!(output.stderr, b"", "{redirections}");
    }
}
