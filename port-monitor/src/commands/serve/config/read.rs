//! From the text of a configuration to the flags that it stands for. What is wrong is noted
//! and the reading goes on, so that one run names everything.

use std::{collections::BTreeMap, error::Error as _, ffi::OsString, ops::Range, sync::Arc};

use clap::{
    Parser as _,
    error::{ContextKind, ContextValue, ErrorKind},
};
use toml::de::DeValue;

use super::keys::{
    EXPORT, EXPORT_KEYS, ExportFlags, Flags, Key, SECTION_NAMES, SECTIONS, SectionKeys, Takes,
    WATCH,
};
use crate::{
    base::exit_code::Failure,
    consume::export::{Settings, settings::parse_name},
    policy::{
        Diagnostic, Source,
        text::{
            diagnostic::Diagnostics,
            parse::{Schema, Section, Value, integer, items, table, wrong_type},
            problem::Problem,
            toml_1_0,
        },
    },
};

/// Flags, by the section that asks for them.
pub(super) type Asked = Vec<(&'static str, Vec<OsString>)>;

/// Exports by their names.
pub(super) type Exports = BTreeMap<String, Settings>;

/// What a configuration says.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) flags: Flags,
    pub(super) asked: Asked,
    pub(super) exports: Exports,
}

/// Reads the text of the file of that name.
pub(super) fn read(name: String, text: String) -> Result<Read, Vec<Diagnostic>> {
    let source = Arc::new(Source::new(name, text));
    let mut reader = Reader {
        diagnostics: Diagnostics::new(Arc::clone(&source)),
        asked: Vec::new(),
        exports: Exports::new(),
        places: Vec::new(),
    };
    let (document, problems) = toml_1_0::parse(&source.text);
    if problems.is_empty() {
        let schema = Schema::of(&SECTION_NAMES);
        let root = Section::root(&document, &schema, &mut reader.diagnostics);
        reader.document(&root);
    }
    for (place, problem) in problems {
        reader.diagnostics.report(place, problem);
    }
    reader.finish()
}

/// The section that exports send from.
const HISTORY: &str = "history";

struct Reader {
    diagnostics: Diagnostics,
    asked: Asked,
    exports: Exports,
    /// Where each flag is asked for.
    places: Vec<(&'static Key, Range<usize>)>,
}

impl Reader {
    fn document(&mut self, root: &Section<'_, '_>) {
        for keys in &*SECTIONS {
            let schema = Schema::of(&keys.known);
            let value = root.get(keys.name);
            let section =
                value.and_then(|value| Section::open(value, &schema, &mut self.diagnostics));
            let flags = section.map(|section| self.section(keys, &section));
            self.asked.extend(flags.map(|flags| (keys.name, flags)));
        }
        if let Some(value) = root.get(EXPORT)
            && let Some(exports) = self.diagnostics.check(value.span(), table(value))
        {
            for (name, value) in exports {
                let checked = parse_name(name.get_ref());
                let checked = checked.map_err(|why| Problem::Flag(why.to_owned()));
                if let Some(name) = self.diagnostics.check(name.span(), checked) {
                    self.export(name, value);
                }
            }
            if !exports.is_empty() && root.get(HISTORY).is_none() && !root.is_unread(HISTORY) {
                let why = "an export sends the history: add [history] with its file";
                let problem = Problem::Flag(why.to_owned());
                self.diagnostics.report(root.key_span(EXPORT), problem);
            }
        }
    }

    fn export(&mut self, name: String, value: &Value<'_>) {
        let keys = &*EXPORT_KEYS;
        let schema = Schema::of(&keys.known);
        let Some(section) = Section::open(value, &schema, &mut self.diagnostics) else {
            return;
        };
        for key in keys.required() {
            section.required(key, &mut self.diagnostics);
        }
        let flags = self.section(keys, &section);
        // What is wrong is told already.
        let Ok(ExportFlags { settings }) = ExportFlags::try_parse_from(flags) else {
            return;
        };
        if let Err((key, wrong)) = settings.check() {
            let problem = Problem::Flag(wrong.to_owned());
            self.diagnostics.report(section.key_span(key), problem);
        }
        self.exports.insert(name, settings);
    }

    fn section(&mut self, keys: &'static SectionKeys, section: &Section<'_, '_>) -> Vec<OsString> {
        let mut places = keys.places().map(|key| key.name).peekable();
        let is_off = |name| {
            let value = section.get(name).map(Value::get_ref);
            matches!(value, None | Some(DeValue::Boolean(false)))
        };
        if let Some(&first) = places.peek()
            && places.all(is_off)
            && section.required(first, &mut self.diagnostics).is_some()
        {
            let problem = format!("`{first}` is off: name another place, or take the section away");
            let place = section.key_span(first);
            self.diagnostics.report(place, Problem::Flag(problem));
        }
        let mut flags = Vec::new();
        for key in &keys.keys {
            let Some(value) = section.get(key.name) else {
                continue;
            };
            self.places.push((key, section.key_span(key.name)));
            flags.extend(self.flags(keys.name, key, value));
        }
        flags
    }

    /// The flags that a value stands for; those of a wrong one are left out.
    fn flags(&mut self, section: &str, key: &Key, value: &Value<'_>) -> Vec<OsString> {
        let is_list = value.get_ref().as_array().is_some();
        if is_list && !key.takes_list {
            let problem = wrong_type(value, key.takes.expected());
            self.diagnostics.report(value.span(), problem);
            return Vec::new();
        }
        let Some(items) = self.diagnostics.check(value.span(), items(value)) else {
            return Vec::new();
        };
        let mark = self.diagnostics.mark();
        let mut words = Vec::new();
        for item in items {
            let word = word(key, item).and_then(|word| {
                tried(section, flag(key, word.as_deref()).as_ref()).map(|()| word)
            });
            words.extend(self.diagnostics.check(item.span(), word));
        }
        self.diagnostics.cut(mark, &value.span());
        if key.joins_list {
            let words: Vec<String> = words.into_iter().flatten().collect();
            return flag(key, Some(&words.join(","))).into_iter().collect();
        }
        let flags = words.iter().filter_map(|word| flag(key, word.as_deref()));
        flags.collect()
    }

    /// The flags of all sections together.
    fn finish(mut self) -> Result<Read, Vec<Diagnostic>> {
        if self.diagnostics.has_errors() {
            return Err(self.diagnostics.into_sorted());
        }
        let all = self.asked.iter().flat_map(|(_, flags)| flags);
        match Flags::try_parse_from(all) {
            Ok(flags) => match flags.watch.consumers.alerts.check() {
                Ok(()) => Ok(Read {
                    flags,
                    asked: self.asked,
                    exports: self.exports,
                }),
                Err((flag, wrong)) => {
                    let place = self.places.iter().find(|(key, _)| key.flag == flag);
                    let place = place.map_or(0..0, |(_, place)| place.clone());
                    self.diagnostics.report(place, Problem::Flag(wrong));
                    Err(self.diagnostics.into_sorted())
                }
            },
            Err(error) => {
                let (place, problem) = self.together(&error);
                self.diagnostics.report(place, problem);
                Err(self.diagnostics.into_sorted())
            }
        }
    }

    /// Flags that do not go together, each of which is right alone.
    fn together(&self, error: &clap::Error) -> (Range<usize>, Problem) {
        let named = |kind| {
            let name = match error.get(kind)? {
                ContextValue::String(name) => name,
                ContextValue::Strings(names) => names.first()?,
                _ => return None,
            };
            let name = name.split(' ').next()?.strip_prefix("--")?;
            self.places.iter().find(|(key, _)| key.flag == name)
        };
        let invalid = named(ContextKind::InvalidArg);
        let place = invalid.map_or(0..0, |(_, place)| place.clone());
        let problem = match (invalid, named(ContextKind::PriorArg)) {
            (Some((key, _)), Some((other, _))) => {
                Problem::Flag(format!("`{}` does not go with `{}`", key.name, other.name))
            }
            _ => refused(error),
        };
        (place, problem)
    }
}

impl Takes {
    const fn expected(self) -> &'static str {
        match self {
            Self::Switch | Self::Truth => "true or false",
            Self::Text | Self::File => "text in quotes",
            Self::Number => "a number, or text in quotes",
        }
    }
}

/// The value of a flag as the command line has it; `None` where there is none.
fn word(key: &Key, value: &Value<'_>) -> Result<Option<String>, Problem> {
    let wrong = || wrong_type(value, key.takes.expected());
    match (key.takes, value.get_ref()) {
        (Takes::Switch, DeValue::Boolean(is_on)) => Ok(is_on.then(String::new)),
        (Takes::Truth, DeValue::Boolean(truth)) => Ok(Some(truth.to_string())),
        (Takes::Switch | Takes::Truth, _) => Err(wrong()),
        (Takes::File, DeValue::String(path)) if !path.starts_with('/') => {
            Err(Problem::RelativePath(path.to_string()))
        }
        (_, DeValue::String(text)) => Ok(Some(text.to_string())),
        (Takes::Number, DeValue::Integer(_)) => match integer(value) {
            Some(Ok(number)) => Ok(Some(number.to_string())),
            Some(Err(number)) => Ok(Some(number)),
            None => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}

/// The flag with that value; none where a switch is off.
fn flag(key: &Key, word: Option<&str>) -> Option<OsString> {
    let word = word?;
    Some(match key.takes {
        Takes::Switch => format!("--{}", key.flag).into(),
        _ => format!("--{}={word}", key.flag).into(),
    })
}

/// Whether the command line would take the flag, and what it names is there.
pub(super) fn tried(section: &str, flag: Option<&OsString>) -> Result<(), Problem> {
    let parsed = if section == EXPORT {
        ExportFlags::try_parse_from(flag).map(|_| None)
    } else {
        Flags::try_parse_from(flag).map(Some)
    };
    let flags = match parsed {
        Ok(flags) => flags,
        // Another one that it needs may be there too.
        Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => return Ok(()),
        Err(error) => return Err(refused(&error)),
    };
    if let (WATCH, Some(flags)) = (section, flags) {
        let filters = flags.watch.filters();
        filters.map_err(|Failure { error, .. }| Problem::Flag(format!("{error:#}")))?;
    }
    Ok(())
}

/// Why the command line refuses a flag.
fn refused(error: &clap::Error) -> Problem {
    let choices = error.get(ContextKind::ValidValue);
    if let (ErrorKind::InvalidValue, Some(ContextValue::Strings(choices))) = (error.kind(), choices)
        && let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue)
        && !choices.is_empty()
    {
        return Problem::NotAChoice {
            value: value.clone(),
            choices: choices.iter().cloned().map(Into::into).collect(),
        };
    }
    if let Some(reason) = error.source() {
        return Problem::Flag(reason.to_string());
    }
    let text = error.render().to_string();
    let first = text.lines().next().unwrap_or_default();
    Problem::Flag(first.trim_start_matches("error: ").to_owned())
}
