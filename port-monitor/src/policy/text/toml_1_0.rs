//! A policy is TOML 1.0, as editors and other tools read it. The parser takes TOML 1.1
//! too, where `"\x2d"` is a hyphen: what only 1.1 has is found here and refused.

use std::ops::Range;

use toml::de::{DeTable, Error};

use super::{newer::Newer, problem::Problem};
use crate::base::order;

/// What keeps the text from being TOML 1.0, in order, with its places; and what the
/// parser, which goes on behind an error, makes of it.
pub fn parse(text: &str) -> (toml::Spanned<DeTable<'_>>, Vec<(Range<usize>, Problem)>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut problems: Vec<_> = errors.iter().map(|error| syntax(text, error)).collect();
    let first = problems.iter().map(|(place, _)| place.start).min();
    let newer = newer(text).into_iter().filter(|(place, newer)| {
        // What comes behind an error, and what it may be about, is not judged.
        first.is_none_or(|first| place.end <= first && !matches!(newer, Newer::LineInTable))
    });
    problems.extend(newer.map(|(place, newer)| (place, Problem::NewerToml(newer))));
    order::sort_by_key(&mut problems, |(place, _)| place.start);
    (table, problems)
}

/// An error of the parser; not in its words where those say what only TOML 1.1 has.
fn syntax(text: &str, error: &Error) -> (Range<usize>, Problem) {
    let place = error.span().unwrap_or_default();
    let before = text.get(..place.start).unwrap_or_default();
    // `\x`, or that and a part of its number.
    let digits = before.trim_end_matches(|letter: char| letter.is_ascii_hexdigit());
    let is_number = error.message().contains("unicode");
    if let Some(head) = digits.strip_suffix("\\x").filter(|_| is_number) {
        let problem = Problem::NewerToml(Newer::HexEscape);
        return (head.len()..place.start, problem);
    }
    if error.message().starts_with("missing escaped value") && before.ends_with('\\') {
        let escaped = text.get(place.start..).and_then(|rest| rest.chars().next());
        let end = place.start + escaped.map_or(0, char::len_utf8);
        let place = place.start - 1..end;
        let written = text.get(place.clone()).unwrap_or_default().trim_end();
        let problem = match written {
            "\\\"" => Problem::Syntax("text without an end: `\\\"` is a quotation mark".to_owned()),
            _ => Problem::NoEscape(written.to_owned()),
        };
        return (place, problem);
    }
    (place, Problem::Syntax(error.message().to_owned()))
}

/// Everything in a well-formed TOML 1.1 document that TOML 1.0 does not have, in order.
fn newer(text: &str) -> Vec<(Range<usize>, Newer)> {
    let mut scan = Scan {
        bytes: text.as_bytes(),
        at: 0,
        open: Vec::new(),
        comma: None,
        found: Vec::new(),
    };
    while let Some(byte) = scan.peek(0) {
        scan.step(byte);
    }
    scan.found
}

struct Scan<'t> {
    bytes: &'t [u8],
    at: usize,
    /// The brackets that are open.
    open: Vec<u8>,
    /// Where the last comma is, if nothing but space has come since.
    comma: Option<usize>,
    found: Vec<(Range<usize>, Newer)>,
}

impl Scan<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn note(&mut self, range: Range<usize>, newer: Newer) {
        self.found.push((range, newer));
    }

    fn step(&mut self, byte: u8) {
        match byte {
            b'"' | b'\'' => self.string(byte),
            b'#' => self.comment(),
            b',' => self.comma = Some(self.at),
            b'[' | b'{' => self.open.push(byte),
            b'}' => {
                if let Some(comma) = self.comma {
                    self.note(comma..comma + 1, Newer::LastComma);
                }
                self.open.pop();
            }
            b']' => {
                self.open.pop();
            }
            b'\n' if self.open.last() == Some(&b'{') => {
                self.note(self.at..self.at, Newer::LineInTable);
            }
            // Nothing but a time has one, outside of strings and comments.
            b':' => self.time(),
            _ => {}
        }
        if !byte.is_ascii_whitespace() && byte != b',' && byte != b'#' {
            self.comma = None;
        }
        self.at += 1;
    }

    /// Stops at the end of the line.
    fn comment(&mut self) {
        while self.peek(1).is_some_and(|next| next != b'\n') {
            self.at += 1;
        }
    }

    /// Stops at the closing quote, or at the last of three.
    fn string(&mut self, quote: u8) {
        let is_long = [1, 2].map(|ahead| self.peek(ahead)) == [Some(quote); 2];
        self.at += if is_long { 3 } else { 1 };
        while let Some(byte) = self.peek(0) {
            if byte == b'\\' && quote == b'"' {
                self.escape();
                self.at += 2;
                continue;
            }
            if byte == quote && !is_long {
                return;
            }
            if byte == quote && [1, 2].map(|ahead| self.peek(ahead)) == [Some(quote); 2] {
                self.at += 2;
                // Up to two quotes may be part of the text before the last three.
                while self.peek(1) == Some(quote) {
                    self.at += 1;
                }
                return;
            }
            self.at += 1;
        }
    }

    fn escape(&mut self) {
        let (at, newer) = match self.peek(1) {
            Some(b'x') => (self.at..self.at + 4, Newer::HexEscape),
            Some(b'e') => (self.at..self.at + 2, Newer::EscapeEscape),
            _ => return,
        };
        self.note(at, newer);
    }

    /// `07:32:00` or `07:32`, with what comes after it; stops before the end of it.
    fn time(&mut self) {
        if self.peek(3) != Some(b':') {
            let hours = self.at.saturating_sub(2);
            self.note(hours..self.at + 3, Newer::NoSeconds);
        }
        let is_in_time = |byte: u8| byte.is_ascii_digit() || b":.+-Zz".contains(&byte);
        while self.peek(1).is_some_and(is_in_time) {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::text::toml_1_0::*;

    fn found(text: &str) -> Vec<(&str, Newer)> {
        // What the scan is for: text that the parser takes.
        assert!(DeTable::parse(text).is_ok(), "{text}");
        let found = newer(text).into_iter();
        found
            .map(|(range, newer)| (text.get(range).unwrap(), newer))
            .collect()
    }

    #[test]
    fn what_only_toml_1_1_has_is_found_where_it_is() {
        for (text, at, newer) in [
            (r#"a = "dev\x2dx.swap""#, r"\x2d", Newer::HexEscape),
            (r#""a\x2db" = 1"#, r"\x2d", Newer::HexEscape),
            ("a = \"\"\"\nb\\x2d\n\"\"\"", r"\x2d", Newer::HexEscape),
            ("a = [ # \"\n  \"\\x41\",\n]", r"\x41", Newer::HexEscape),
            (r#"a = "\\\x41""#, r"\x41", Newer::HexEscape),
            (r#"a = "b\e[0m""#, r"\e", Newer::EscapeEscape),
            ("a = { b = 1,\n c = 2 }", "", Newer::LineInTable),
            ("a = { b = 1, }", ",", Newer::LastComma),
            ("a = [{ b = [1,], }]", ",", Newer::LastComma),
            ("a = 07:32", "07:32", Newer::NoSeconds),
            ("a = 1979-05-27T07:32Z", "07:32", Newer::NoSeconds),
            ("a = 1979-05-27 07:32-07:00", "07:32", Newer::NoSeconds),
        ] {
            assert_eq!(found(text), [(at, newer)], "{text}");
        }
    }

    #[test]
    fn no_message_names_an_escape_of_toml_1_1() {
        for (text, expected) in [
            (r#"a = "b\q""#, &[(r"\q", "`\\q` is no escape")][..]),
            (r#"a = "b\xZZ""#, &[(r"\x", "the escape `\\x` is TOML 1.1")]),
            (r#"a = "b\x4""#, &[(r"\x4", "the escape `\\x` is TOML 1.1")]),
            (r#"a = "b\""#, &[(r#"\""#, "text without an end")]),
            (
                r#"a = "C:\Pr\Ob""#,
                &[(r"\P", "`\\P` is no escape"), (r"\O", "`\\O` is no escape")],
            ),
            // What comes before an error is told too, and what comes behind it is not.
            (
                "a = \"\\x41\"\nb = \"\\q\"\nc = \"\\e\"",
                &[
                    (r"\x41", "the escape `\\x` is TOML 1.1"),
                    (r"\q", "`\\q` is no escape"),
                ],
            ),
            (
                "a = 07:32\nb = \"\"\"\n\\q\"\"\"",
                &[
                    ("07:32", "a time without seconds is TOML 1.1"),
                    (r"\q", "`\\q` is no escape"),
                ],
            ),
            ("\"\\k\u{fc}\" = 1", &[(r"\k", "`\\k` is no escape")]),
            ("a = '\\x41\n", &[("", "invalid literal string")]),
            (
                "a = { b = 1\n[c]\n",
                &[("", "missing key"), ("", "unclosed")],
            ),
        ] {
            let (_, problems) = parse(text);
            let told: Vec<_> = problems
                .iter()
                .map(|(place, problem)| (text.get(place.clone()).unwrap(), problem.to_string()))
                .collect();
            assert_eq!(told.len(), expected.len(), "{text}: {told:?}");
            for ((at, said), (place, words)) in told.iter().zip(expected) {
                assert!(said.contains(words), "{text}: {said}");
                assert!(place.is_empty() || at == place, "{text}: {at}");
                assert!(!said.contains("`e`"), "{text}: {said}");
            }
        }
    }

    #[test]
    fn what_toml_1_0_has_is_let_be() {
        for text in [
            r"a = 'dev\x2dx.swap'",
            r#"a = "dev\\x2dx.swap \\e""#,
            "a = '''\n\\x2d \\e ''''",
            "a = \"\"\"\\u0041 \"\" \"\"\"\"\"\nb = 2",
            "# \\x2d { ,}\n# it's 07:32\na = 1",
            "a = { b = [\n 1,\n 2, # it's\n], c = '''\n''' }",
            "a = [1, 2,]\n[b]\n[[c]]\nd = {}",
            "a = 07:32:00\nb = 1979-05-27T07:32:00.5-07:00\nc = 1979-05-27 07:32:00Z",
            "a = 07:32:00 # at 07:32",
            "\"a:b\" = [07:32:00,08:32:00]",
        ] {
            assert_eq!(found(text), [], "{text}");
        }
    }
}
