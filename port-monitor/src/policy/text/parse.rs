//! The TOML layer: text to tables with spans, and readers for the values in
//! them. It knows types, keys and words, not what they mean.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{diagnostic::Diagnostics, problem::Problem};
use crate::ports::services::closest;

pub(crate) type Value<'d> = Spanned<DeValue<'d>>;

/// The keys of one kind of table.
pub(crate) struct Schema {
    pub(crate) known: &'static [&'static str],
    /// Keys that are refused, with the reason.
    pub(crate) unsupported: &'static [(&'static str, &'static str)],
}

impl Schema {
    pub(crate) const fn of(known: &'static [&'static str]) -> Self {
        Self {
            known,
            unsupported: &[],
        }
    }
}

/// A table whose keys have been checked.
pub(crate) struct Section<'t, 'd> {
    table: &'t DeTable<'d>,
    pub(crate) span: Range<usize>,
    known: &'static [&'static str],
    /// Every key is known.
    pub(crate) sound: bool,
}

impl<'t, 'd> Section<'t, 'd> {
    /// The whole document.
    pub(crate) fn root(
        document: &'t Spanned<DeTable<'d>>,
        schema: &Schema,
        diagnostics: &mut Diagnostics,
    ) -> Self {
        Self::of(document.get_ref(), 0..0, schema, diagnostics)
    }

    /// The table in `value`.
    pub(crate) fn open(
        value: &'t Value<'d>,
        schema: &Schema,
        diagnostics: &mut Diagnostics,
    ) -> Option<Self> {
        let table = diagnostics.check(value.span(), table(value))?;
        Some(Self::of(table, value.span(), schema, diagnostics))
    }

    fn of(
        table: &'t DeTable<'d>,
        span: Range<usize>,
        schema: &Schema,
        diagnostics: &mut Diagnostics,
    ) -> Self {
        let mut sound = true;
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if schema.known.contains(&name) {
                continue;
            }
            sound = false;
            let refused = schema.unsupported.iter().find(|(key, _)| *key == name);
            let problem = match refused {
                Some(&(key, reason)) => Problem::Unsupported { key, reason },
                None => Problem::UnknownKey {
                    key: name.to_owned(),
                    known: schema.known,
                },
            };
            diagnostics.report(key.span(), problem);
        }
        Self {
            table,
            span,
            known: schema.known,
            sound,
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'t Value<'d>> {
        self.table.get(key)
    }

    /// What is written under `key` was not read: it is no table, or the key is misspelled.
    pub(crate) fn is_unread(&self, key: &str) -> bool {
        match self.get(key) {
            Some(value) => table(value).is_err(),
            None => self.is_misspelled(key),
        }
    }

    /// Some key that is not known was probably meant to be this one.
    fn is_misspelled(&self, key: &str) -> bool {
        self.table.keys().any(|written| {
            let written = written.get_ref().as_ref();
            let known = self.known.iter().copied();
            !self.known.contains(&written) && closest(written, known) == Some(key)
        })
    }

    /// Where `key` is written; the table itself if it is not.
    pub(crate) fn key_span(&self, key: &str) -> Range<usize> {
        let entry = self.table.get_key_value(key);
        entry.map_or_else(|| self.span.clone(), |(key, _)| key.span())
    }

    pub(crate) fn required(
        &self,
        key: &'static str,
        diagnostics: &mut Diagnostics,
    ) -> Option<&'t Value<'d>> {
        let value = self.get(key);
        if value.is_none() && !self.is_misspelled(key) {
            diagnostics.report(self.span.clone(), Problem::MissingKey(key));
        }
        value
    }

    /// The word under `key`, which must be there.
    pub(crate) fn required_word<T: Copy>(
        &self,
        key: &'static str,
        choices: &[(&'static str, T)],
        diagnostics: &mut Diagnostics,
    ) -> Option<T> {
        let value = self.required(key, diagnostics)?;
        diagnostics.check(value.span(), word(value, choices))
    }

    /// The word under `key`; `default` where there is none.
    pub(crate) fn word_or<T: Copy>(
        &self,
        key: &str,
        default: T,
        choices: &[(&'static str, T)],
        diagnostics: &mut Diagnostics,
    ) -> Option<T> {
        match self.get(key) {
            Some(value) => diagnostics.check(value.span(), word(value, choices)),
            None => Some(default),
        }
    }
}

/// The table in `value`.
pub(crate) fn table<'t, 'd>(value: &'t Value<'d>) -> Result<&'t DeTable<'d>, Problem> {
    value
        .get_ref()
        .as_table()
        .ok_or_else(|| wrong_type(value, "a table"))
}

/// The text in `value`.
pub(crate) fn text<'t>(value: &'t Value<'_>) -> Result<&'t str, Problem> {
    value
        .get_ref()
        .as_str()
        .ok_or_else(|| wrong_type(value, "text in quotes"))
}

/// The whole number in `value`; `None` for one beyond all that policies use.
pub(crate) fn integer(value: &Value<'_>) -> Option<Result<i64, String>> {
    let integer = value.get_ref().as_integer()?;
    Some(i64::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| integer.to_string()))
}

/// The entries of a list, or the one value in its place.
pub(crate) fn items<'t, 'd>(value: &'t Value<'d>) -> Result<&'t [Value<'d>], Problem> {
    match value.get_ref() {
        DeValue::Array(array) if array.is_empty() => Err(Problem::EmptyList),
        DeValue::Array(array) => Ok(array),
        _ => Ok(std::slice::from_ref(value)),
    }
}

/// The meaning of a word out of a fixed few.
pub(crate) fn word<T: Copy>(
    value: &Value<'_>,
    choices: &[(&'static str, T)],
) -> Result<T, Problem> {
    let word = text(value)?;
    choices
        .iter()
        .find(|(choice, _)| *choice == word)
        .map(|&(_, meaning)| meaning)
        .ok_or_else(|| Problem::NotAChoice {
            value: word.to_owned(),
            choices: choices.iter().map(|&(choice, _)| choice.into()).collect(),
        })
}

pub(crate) fn wrong_type(value: &Value<'_>, expected: &'static str) -> Problem {
    Problem::WrongType {
        expected,
        found: value.get_ref().type_str(),
    }
}
