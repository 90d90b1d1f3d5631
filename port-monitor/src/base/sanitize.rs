//! Text from outside (thread names, paths, unit, user and rule names) made safe
//! for a terminal or a text log: nothing in it can move the cursor, reorder the
//! line or hide.
//!
//! The escapes are for reading. The reversible form is the JSON output.

use std::{
    fmt::{self, Write as _},
    io::Write as _,
};

use unicode_width::UnicodeWidthChar as _;

/// Whether a character must not reach a terminal as it is: controls,
/// bidirectional overrides, and everything that takes no room of its own.
pub fn is_hostile(c: char) -> bool {
    match c {
        ' '..='~' => false,
        // Invisible although Unicode gives them a width: soft hyphen, Hangul
        // fillers, line and paragraph separator, interlinear annotations.
        '\u{ad}'
        | '\u{115f}'
        | '\u{1160}'
        | '\u{2028}'
        | '\u{2029}'
        | '\u{3164}'
        | '\u{ffa0}'
        | '\u{fff9}'..='\u{fffb}' => true,
        _ => c.width().unwrap_or(0) == 0,
    }
}

/// Displays bytes with everything hostile as a visible escape: `\n`, `\x1b`,
/// `\u{202e}`, and `\xff` for a byte that is not UTF-8.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\n' => f.write_str("\\n"),
                    '\r' => f.write_str("\\r"),
                    '\t' => f.write_str("\\t"),
                    '\0'..='\x7f' if is_hostile(c) => write!(f, "\\x{:02x}", u32::from(c)),
                    _ if is_hostile(c) => write!(f, "\\u{{{:x}}}", u32::from(c)),
                    _ => f.write_char(c),
                }?;
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Displays text as one word of a command line, as a shell reads it. What is hostile is
/// written in bytes (`$'\x1b'`), which bash, zsh and ksh read.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text) = *self;
        let is_bare = |c: char| c.is_ascii_alphanumeric() || "/._-:@%+=,".contains(c);
        if !text.is_empty() && text.chars().all(is_bare) {
            return f.write_str(text);
        }
        if !text.chars().any(is_hostile) {
            return write!(f, "'{}'", text.replace('\'', r"'\''"));
        }
        f.write_str("$'")?;
        for c in text.chars() {
            match c {
                '\'' | '\\' => write!(f, "\\{c}")?,
                _ if is_hostile(c) => {
                    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                        write!(f, "\\x{byte:02x}")?;
                    }
                }
                _ => f.write_char(c)?,
            }
        }
        f.write_char('\'')
    }
}

/// Whether all of `bytes` is printable ASCII, which needs no escapes.
pub fn is_plain(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Appends `bytes` as [`Escaped`] shows them.
pub fn push(out: &mut Vec<u8>, bytes: &[u8]) {
    if is_plain(bytes) {
        out.extend_from_slice(bytes);
    } else {
        // Writing into a Vec cannot fail.
        let _ = write!(out, "{}", Escaped(bytes));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::base::sanitize::*;

    fn escaped(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        push(&mut out, bytes);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn ordinary_text_is_untouched() {
        for text in [
            "nginx: worker [1]",
            "dev-disk\\x2duuid.swap",
            "früh",
            "日本語",
        ] {
            assert_eq!(escaped(text.as_bytes()), text);
        }
    }

    #[test]
    fn controls_and_bad_bytes_become_visible() {
        assert_eq!(
            escaped(b"\x1b]0;pwn\x07\n\r\t\x7f\xff"),
            r"\x1b]0;pwn\x07\n\r\t\x7f\xff"
        );
        assert_eq!(
            escaped("a\u{202e}b\u{9b}c".as_bytes()),
            r"a\u{202e}b\u{9b}c"
        );
    }

    #[test]
    fn word_of_a_command_line_is_read_back_by_a_shell() {
        for (word, quoted) in [
            ("/usr/bin/app", "/usr/bin/app"),
            ("-.slice", "-.slice"),
            ("", "''"),
            ("/opt/my app", "'/opt/my app'"),
            (r"dev-by\x2duuid.swap", r"'dev-by\x2duuid.swap'"),
            ("/opt/it's $HOME", r"'/opt/it'\''s $HOME'"),
            ("/opt/früh*", "'/opt/früh*'"),
        ] {
            assert_eq!(Quoted(word).to_string(), quoted);
            let mut shell = std::process::Command::new("sh");
            let script = format!("printf %s {quoted}");
            let output = shell.args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
        assert_eq!(
            Quoted("a'\n\\\u{202e}").to_string(),
            r"$'a\'\x0a\\\xe2\x80\xae'"
        );
    }

    #[test]
    fn every_bidirectional_and_invisible_control_is_hostile() {
        let bidi = ['\u{61c}', '\u{200e}', '\u{200f}']
            .into_iter()
            .chain('\u{202a}'..='\u{202e}')
            .chain('\u{2066}'..='\u{2069}');
        let invisible = ('\u{200b}'..='\u{200d}')
            .chain('\u{2060}'..='\u{2064}')
            .chain('\u{206a}'..='\u{206f}')
            .chain('\u{fe00}'..='\u{fe0f}')
            .chain(['\u{ad}', '\u{34f}', '\u{180e}', '\u{2028}', '\u{feff}'])
            .chain(['\u{115f}', '\u{3164}', '\u{e0001}', '\u{e0041}']);
        for c in bidi.chain(invisible) {
            assert!(is_hostile(c), "{c:?}");
        }
        for c in ('\0'..='\x1f').chain('\x7f'..='\u{9f}') {
            assert!(is_hostile(c), "{c:?}");
        }
    }

    proptest! {
        #[test]
        fn no_hostile_character_survives(bytes in any::<Vec<u8>>(), text in any::<String>()) {
            for input in [&bytes[..], text.as_bytes()] {
                prop_assert!(!escaped(input).chars().any(is_hostile));
            }
        }
    }
}
