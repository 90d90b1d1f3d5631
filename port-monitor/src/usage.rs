//! Parses the command line; a mistake on it is one line, as every other failure.

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _},
};

use clap::{
    CommandFactory as _, Error, Parser as _,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    cli::Cli,
    consume::output::target::print,
    ports::services::closest,
};

/// Parses a command line, the program's own name first.
///
/// What asks for help or the version is answered, and ends the process.
pub fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Cli, Failure> {
    let line: Vec<OsString> = line.into_iter().collect();
    let parsed = Cli::try_parse_from(&line).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::DisplayVersion => answer(&error),
        _ => Failure::usage(
            withdrawn(&error)
                .or_else(|| misspelt_subcommand(&error, &line))
                .or_else(|| policy_named_otherwise(&error, &line))
                .unwrap_or_else(|| message(&error)),
        ),
    })?;
    if lacks_command(&line) {
        return Err(Failure::usage(
            "no command behind `--`: name the one to run, or leave `--` out to watch this host",
        ));
    }
    Ok(parsed)
}

/// A line that parses ends in the `--` that a command to run comes after: one more word would
/// be that.
fn lacks_command(line: &[OsString]) -> bool {
    let with_one = || Cli::try_parse_from(line.iter().cloned().chain(["true".into()]));
    line.last().is_some_and(|last| last == "--")
        && with_one().is_ok_and(|cli| cli.command_to_run().is_some_and(|run| run == ["true"]))
}

/// Prints what was asked for, and ends the process.
fn answer(error: &Error) -> Failure {
    // To a terminal clap writes it, in its colours.
    let printed = if error.use_stderr() || io::stdout().is_terminal() {
        error.print().or_exit(ExitCode::OutputFailed)
    } else {
        print(error.render().to_string().as_bytes()).map(drop)
    };
    match printed {
        Ok(()) => std::process::exit(error.exit_code()),
        Err(failure) => failure,
    }
}

/// clap's message on one line, without the program's usage.
fn message(error: &Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let paragraphs = text
        .split("\n\n")
        .take_while(|part| !part.starts_with("Usage: ") && !part.starts_with("For more "))
        .map(|part| {
            let lines = part.lines().map(str::trim);
            // What comes after `--` is a command to run, not the value of an option.
            let lines = lines.filter(|line| !line.starts_with("tip: to pass '"));
            lines.collect::<Vec<_>>().join(" ")
        })
        .filter(|part| !part.is_empty());
    let mut message = paragraphs.collect::<Vec<_>>().join("; ");
    // What a value has to look like is in the message itself.
    if !matches!(
        error.kind(),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation
    ) {
        message.push_str("; see --help");
    }
    message
}

/// What became of an option of earlier versions.
fn withdrawn(error: &Error) -> Option<String> {
    let argument = error.get(ContextKind::InvalidArg)?;
    (*argument == ContextValue::String("--acceptor".to_owned())).then(|| {
        "--acceptor is withdrawn, leave it out: no tracepoint tells which socket an accept \
         returned, and the fentry and kprobe backends name the accepting thread by themselves"
            .to_owned()
    })
}

/// A first word that is neither a flag nor a subcommand: clap takes it for a
/// surplus argument of `watch`.
fn misspelt_subcommand(error: &Error, line: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let is_first = line.get(1).is_some_and(|first| **first == **word);
    if error.kind() != ErrorKind::UnknownArgument || word.starts_with('-') || !is_first {
        return None;
    }
    let program = Cli::command();
    let shown = program.get_subcommands().filter(|it| !it.is_hide_set());
    let advice = match closest(word, shown.map(clap::Command::get_name)) {
        Some(known) => format!("did you mean `{known}`?"),
        None => "see --help; a command to run comes after `--`".to_owned(),
    };
    Some(format!("no subcommand `{word}`: {advice}"))
}

/// A policy that is named as another command takes it: some take a file, some `--policy`.
fn policy_named_otherwise(error: &Error, line: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let commands = line.iter().skip(1).map(|word| word.to_str());
    let commands: Vec<_> = commands.take(2).collect();
    let instead = match commands.as_slice() {
        [Some("apply"), ..] if word == "--policy" => "port-monitor apply FILE",
        [Some("policy"), Some("diff")] if word == "--policy" => "port-monitor policy diff OLD NEW",
        [Some("policy"), Some("check" | "test")] if !word.starts_with('-') => "--policy FILE",
        _ => return None,
    };
    Some(format!(
        "unexpected argument '{word}' found: name the policy so: {instead}"
    ))
}

#[cfg(test)]
mod tests {
    use crate::usage::*;

    fn mistake(line: &str) -> String {
        let words = line.split(' ').map(OsString::from);
        format!("{:#}", parse(words).unwrap_err().error)
    }

    #[test]
    fn message_is_one_line_that_says_what_to_do() {
        for (line, message) in [
            (
                "port-monitor --backend nope",
                "invalid value 'nope' for '--backend <BACKEND>' [possible values: auto, fentry, \
                 kprobe, tracepoint]",
            ),
            (
                "port-monitor --events conect",
                "invalid value 'conect' for '--events <LIST>' [possible values: connect, accept, \
                 connected, failed, close, preexisting, listen, unlisten, restored]; tip: a similar value exists: 'connect'",
            ),
            (
                "port-monitor --violations",
                "the following required arguments were not provided: \
                 <--policy <FILE>|--from-service[=<SOCKET>]>; see --help",
            ),
            (
                "port-monitor --event failed",
                "unexpected argument '--event' found; tip: a similar argument exists: '--events'; \
                 see --help",
            ),
            (
                "port-monitor --pid -1",
                "unexpected argument '-1' found; see --help",
            ),
            (
                "port-monitor watch extra",
                "unexpected argument 'extra' found; see --help",
            ),
        ] {
            assert_eq!(mistake(line), message);
        }
    }

    #[test]
    fn nothing_behind_the_dashes_is_no_command() {
        for line in [
            "port-monitor --",
            "port-monitor watch --",
            "port-monitor -o json --",
        ] {
            assert!(
                mistake(line).starts_with("no command behind `--`"),
                "{line}"
            );
        }
        let parses = |line: &str| parse(line.split(' ').map(OsString::from)).is_ok();
        assert!(parses("port-monitor -- --"));
        assert!(parses("port-monitor -- true --"));
        // A value, and the end of the options of what runs no command.
        assert!(parses("port-monitor --policy --"));
        assert!(parses("port-monitor audit --"));
    }

    #[test]
    fn policy_named_as_another_command_takes_it_is_told_how() {
        for (line, instead) in [
            ("port-monitor policy check p.toml", "--policy FILE"),
            ("port-monitor policy test p.toml", "--policy FILE"),
            (
                "port-monitor policy diff --policy p.toml",
                "port-monitor policy diff OLD NEW",
            ),
            (
                "port-monitor apply --policy p.toml",
                "port-monitor apply FILE",
            ),
        ] {
            let said = mistake(line);
            let end = format!(" found: name the policy so: {instead}");
            assert!(said.ends_with(&end), "{line}: {said}");
        }
        assert_eq!(
            mistake("port-monitor apply a.toml b.toml"),
            "unexpected argument 'b.toml' found; see --help"
        );
    }

    #[test]
    fn misspelt_subcommand_is_told_from_a_command_to_run() {
        assert_eq!(
            mistake("port-monitor docter --json"),
            "no subcommand `docter`: did you mean `doctor`?"
        );
        assert_eq!(
            mistake("port-monitor curl"),
            "no subcommand `curl`: see --help; a command to run comes after `--`"
        );
    }
}
