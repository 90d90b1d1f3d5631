//! The filter as it is typed: words of the command line, words of a view, and any text.

use std::sync::Arc;

use clap::Parser;
use jiff::tz::TimeZone;

use crate::{
    base::{exit_code::Failure, time::LocalClock},
    commands::watch::{args::Selection, kept::keeps},
    consume::{
        lines::{cell::Cell, errno, fields},
        top::{OWN_WORDS, WORDS, Wanted},
    },
    events::{decode::Action, record::Record},
    kernel::filters::Filters,
};

/// The words that are flags of the command line.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true, name = "filter")]
struct Typed {
    #[command(flatten)]
    selection: Selection,
}

/// What only a view is asked for.
#[derive(Debug)]
enum Term {
    /// Of these processes, there or not.
    Pid(u32),
    /// How it stands.
    State(&'static str),
    /// What it failed or ended with.
    Error(String),
    /// The rule that decided.
    Rule(String),
    /// Any text of it.
    Text(String),
}

const STATES: [&str; 4] = ["open", "failed", "closed", "listening"];

/// Reads a filter: words with spaces between them, all of which have to fit.
pub(super) fn find(text: &str) -> Result<Wanted, String> {
    let (not, words): (Vec<_>, Vec<_>) = text
        .split_whitespace()
        .partition(|word| word.starts_with('!'));
    let wanted = all_of(&words)?;
    let not: Result<Vec<_>, _> = not
        .iter()
        .filter_map(|word| word.strip_prefix('!').filter(|word| is_whole(word)))
        .map(|word| all_of(&[word]))
        .collect();
    let not = not?;
    Ok(Arc::new(move |record| {
        wanted(record) && !not.iter().any(|unwanted| unwanted(record))
    }))
}

/// It is not only the beginning of a word that is being typed.
fn is_whole(word: &str) -> bool {
    let is_begun = |(name, value): (&str, &str)| WORDS.contains(&name) && value.is_empty();
    !word.is_empty() && !word.split_once(':').is_some_and(is_begun)
}

fn all_of(words: &[&str]) -> Result<impl Fn(&Record) -> bool + Send + Sync + use<>, String> {
    let mut flags = Vec::new();
    let mut terms = Vec::new();
    for &word in words {
        match word.split_once(':') {
            // It keeps all until it is written.
            Some(_) if !is_whole(word) => {}
            Some(("dir", value)) => flags.push(format!("--direction={value}")),
            Some((name, value)) if OWN_WORDS.contains(&name) => terms.push(term(name, value)?),
            Some((name, value)) if WORDS.contains(&name) => flags.push(format!("--{name}={value}")),
            _ => terms.push(Term::Text(word.to_lowercase())),
        }
    }
    let filters = filters(&flags)?;
    Ok(
        move |record: &Record| {
            keeps(&filters, record) && terms.iter().all(|term| term.fits(record))
        },
    )
}

fn filters(flags: &[String]) -> Result<Filters, String> {
    let typed = Typed::try_parse_from(flags).map_err(|error| {
        let text = error.render().to_string();
        let line = text.lines().next().unwrap_or_default();
        line.trim_start_matches("error: ").to_owned()
    })?;
    let filters = typed.selection.filters();
    filters.map_err(|Failure { error, .. }| format!("{error:#}"))
}

fn term(name: &str, value: &str) -> Result<Term, String> {
    Ok(match name {
        "pid" => {
            let pid = value.parse();
            Term::Pid(pid.map_err(|_| format!("pid:{value} is not a process id"))?)
        }
        "state" => {
            let state = STATES.into_iter().find(|state| state.starts_with(value));
            let state = state.ok_or_else(|| format!("state:{value}: write {}", STATES.join(", ")));
            Term::State(state?)
        }
        "error" => Term::Error(value.to_lowercase()),
        _ => Term::Rule(value.to_owned()),
    })
}

impl Term {
    fn fits(&self, record: &Record) -> bool {
        match self {
            Self::Pid(pid) => record.event.owner.is_some_and(|owner| owner.pid == *pid),
            Self::State(state) => state_of(record) == *state,
            Self::Error(wanted) => has_error(record, wanted),
            Self::Rule(wanted) => record.judgement.as_ref().is_some_and(|judged| {
                let rule = judged.rule.as_deref().unwrap_or("default");
                match wanted.strip_prefix('=') {
                    Some(whole) => rule == whole,
                    None => rule.starts_with(wanted.as_str()),
                }
            }),
            Self::Text(wanted) => {
                has_text(record, wanted) || has_failed(record, wanted) || has_error(record, wanted)
            }
        }
    }
}

fn state_of(record: &Record) -> &'static str {
    match record.event.action {
        action if action.is_listener() && !action.is_end() => "listening",
        Action::Failed { .. } => "failed",
        Action::Close(_) | Action::Unlisten => "closed",
        _ => "open",
    }
}

const fn error_of(record: &Record) -> Option<i32> {
    match &record.event.action {
        Action::Failed { errno } => *errno,
        Action::Close(close) => close.errno,
        _ => None,
    }
}

/// It has failed, and the text is of that word.
fn has_failed(record: &Record, wanted: &str) -> bool {
    let state = state_of(record);
    state == "failed" && state.contains(wanted)
}

/// The text is of what it failed or ended with.
fn has_error(record: &Record, wanted: &str) -> bool {
    error_of(record).is_some_and(|errno| {
        let words = [errno::word(errno), errno::name(errno)];
        let mut words = words.into_iter().flatten();
        words.any(|word| word.to_lowercase().contains(wanted))
    })
}

/// The text stands in one of the cells of the record.
fn has_text(record: &Record, wanted: &str) -> bool {
    const CELLS: [fn(&mut Cell<'_>, &Record); 6] = [
        fields::process,
        fields::remote,
        fields::local,
        fields::user,
        fields::unit,
        fields::rule,
    ];
    // No time is written.
    let mut clock = LocalClock::new(TimeZone::UTC);
    let mut text = Vec::new();
    CELLS.into_iter().any(|write| {
        text.clear();
        write(&mut Cell::new(&mut text, usize::MAX, &mut clock), record);
        text.make_ascii_lowercase();
        String::from_utf8_lossy(&text).contains(wanted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        consume::lines::sample::{accepted, closed, connected, violation},
        events::record::Process,
    };

    fn fits(text: &str, record: &Record) -> bool {
        find(text).unwrap()(record)
    }

    #[test]
    fn words_of_the_command_line_and_of_a_view_mean_what_they_say() {
        let record = connected();
        for text in [
            "comm:curl",
            "port:443 dir:out",
            "remote-port:https",
            "remote:93.184.216.0/24",
            "pid:1469",
            "state:open",
            "cur",
            "93.184",
            "HTTPS",
            "ann session-2",
            "",
            "comm:",
        ] {
            assert!(fits(text, &record), "{text}");
        }
        for text in [
            "comm:nc",
            "dir:in",
            "pid:1",
            "state:failed",
            "error:refused",
            "rule:x",
            "curl nothing",
        ] {
            assert!(!fits(text, &record), "{text}");
        }
        for text in [
            "!comm:curl",
            "!curl",
            "port:443 !93.184",
            "nothing !comm:nc",
        ] {
            assert!(!fits(text, &record), "{text}");
        }
        for text in [
            "!comm:nc",
            "curl !nothing",
            "!remote:10.0.0.0/8 !pid:1",
            "!",
            "!port:",
        ] {
            assert!(fits(text, &record), "{text}");
        }
        let record = violation();
        assert!(fits("error:refused rule:no-tel", &record));
        assert!(fits("error:econnref state:fa", &record));
        assert!(fits("dir:in", &accepted()));
        assert!(fits("state:closed", &closed()));
    }

    #[test]
    fn what_has_failed_is_found_by_whoever_knows_no_word_of_a_filter() {
        let record = violation();
        for text in ["refused", "ECONNREFUSED", "failed", "nc refused"] {
            assert!(fits(text, &record), "{text}");
            assert!(!fits(text, &closed()), "{text}");
        }
        assert!(!fits("!refused", &record));
    }

    #[test]
    fn every_word_that_is_offered_means_something() {
        for word in WORDS {
            assert!(find(&format!("{word}:")).is_ok(), "{word}");
            // As text it would keep what has it in its name.
            let mut record = connected();
            record.process = Arc::new(Process {
                unit: Some(format!("{word}:x").into()),
                ..(*record.process).clone()
            });
            let is_text = find(&format!("{word}:x")).is_ok_and(|wanted| wanted(&record));
            assert!(!is_text, "{word}");
        }
        assert!(OWN_WORDS.iter().all(|word| WORDS.contains(word)));
    }

    #[test]
    fn a_rule_is_meant_by_the_beginning_of_its_name_or_by_all_of_it() {
        let record = violation();
        for text in ["rule:no-tel", "rule:=no-telnet", "!rule:=no-tel"] {
            assert!(fits(text, &record), "{text}");
        }
        for text in ["rule:=no-tel", "rule:=", "!rule:no-tel", "!rule:=no-telnet"] {
            assert!(!fits(text, &record), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_one_line() {
        for text in [
            "pid:me",
            "state:odd",
            "port:99999",
            "remote:nowhere",
            "dir:up",
            "!dir:up",
            "!pid:me",
            "user:nobody-at-all",
        ] {
            let Err(problem) = find(text) else {
                panic!("{text} is taken");
            };
            assert!(!problem.is_empty() && !problem.contains('\n'), "{problem}");
        }
    }
}
