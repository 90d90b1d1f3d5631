//! A line being written by hand.

use std::{
    fmt,
    io::{self, Write as _},
};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::{
    base::{ascii, sanitize::is_hostile, time::UtcClock},
    events::wire::words::Spelled,
};

/// Appends JSON to a buffer. What makes a document of it is the caller's.
pub(crate) struct Line<'a>(pub(crate) &'a mut Vec<u8>);

impl Line<'_> {
    /// JSON as it is; in one piece as long as possible, because copying one of
    /// known length takes hardly longer than copying a byte.
    #[inline(always)]
    pub(crate) fn raw(&mut self, json: &str) {
        self.0.extend_from_slice(json.as_bytes());
    }

    /// JSON as it is, of a length that is known.
    #[inline(always)]
    pub(crate) fn raw_bytes<const N: usize>(&mut self, json: &[u8; N]) {
        self.0.extend_from_slice(json);
    }

    /// A word of a closed list, and the quotation mark behind it.
    #[inline(always)]
    pub(crate) fn word(&mut self, value: impl Spelled) {
        value.padded().append(self.0);
    }

    /// JSON rendered earlier.
    pub(crate) fn rendered(&mut self, json: &[u8]) {
        self.0.extend_from_slice(json);
    }

    pub(crate) fn bool(&mut self, value: bool) {
        if value {
            self.raw("true");
        } else {
            self.raw("false");
        }
    }

    pub(crate) fn number(&mut self, number: impl itoa::Integer) {
        ascii::push_number(self.0, number);
    }

    pub(crate) fn u16(&mut self, number: u16) {
        ascii::push_u16(self.0, number);
    }

    /// Sixteen hexadecimal digits, without quotes.
    pub(crate) fn hex(&mut self, number: u64) {
        ascii::push_hex(self.0, number);
    }

    /// Two hexadecimal digits a byte, in quotes.
    pub(crate) fn hex_string(&mut self, bytes: &[u8]) {
        self.raw("\"");
        self.0.extend(bytes.iter().copied().flat_map(ascii::hex));
        self.raw("\"");
    }

    /// Anything of our own that needs no escapes, without quotes.
    pub(crate) fn display(&mut self, value: &impl fmt::Display) {
        // Writing into a Vec cannot fail.
        let _ = write!(self.0, "{value}");
    }

    /// A time, without quotes.
    pub(crate) fn time(&mut self, clock: &mut UtcClock, wall_ns: i128) {
        clock.push(self.0, wall_ns);
    }

    /// A string, in quotes and escaped; what is not UTF-8 becomes replacement
    /// characters.
    pub(crate) fn string(&mut self, text: impl AsRef<[u8]>) {
        let text = text.as_ref();
        if text.iter().all(|&byte| IS_PLAIN[byte as usize]) {
            self.raw("\"");
            self.0.extend_from_slice(text);
            self.raw("\"");
        } else {
            serialize(self.0, &String::from_utf8_lossy(text));
        }
    }
}

/// Whether a byte is a printable ASCII character that JSON does not escape.
static IS_PLAIN: [bool; 256] = {
    let mut is_plain = [false; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        is_plain[byte as usize] = byte != b'"' && byte != b'\\';
        byte += 1;
    }
    is_plain
};

/// Appends a document in which nothing is hostile.
pub(crate) fn serialize(out: &mut Vec<u8>, document: &(impl Serialize + ?Sized)) {
    let mut serializer = Serializer::with_formatter(out, TerminalSafe);
    let result = document.serialize(&mut serializer);
    // Writing into a Vec cannot fail, and all keys are strings.
    debug_assert!(result.is_ok(), "{result:?}");
}

/// Compact JSON in which hostile characters are `\uXXXX` escapes: the same
/// document to a parser, harmless on a terminal.
struct TerminalSafe;

impl Formatter for TerminalSafe {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(is_hostile) {
            let (harmless, hostile) = rest.split_at(at);
            writer.write_all(harmless.as_bytes())?;
            let mut chars = hostile.chars();
            if let Some(c) = chars.next() {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}
