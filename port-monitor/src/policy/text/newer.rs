//! What only TOML 1.1 has, in words.

/// Something that TOML 1.0 does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newer {
    /// `\xHH` in a string.
    HexEscape,
    /// `\e` in a string.
    EscapeEscape,
    /// The end of a line between the braces of an inline table.
    LineInTable,
    /// A comma before the closing brace of an inline table.
    LastComma,
    /// A time without its seconds.
    NoSeconds,
}

impl Newer {
    /// What it is, in words.
    pub const fn what(self) -> &'static str {
        match self {
            Self::HexEscape => "the escape `\\x`",
            Self::EscapeEscape => "the escape `\\e`",
            Self::LineInTable => "an inline table of several lines",
            Self::LastComma => "a comma at the end of an inline table",
            Self::NoSeconds => "a time without seconds",
        }
    }

    /// How to write it.
    pub const fn instead(self) -> &'static str {
        match self {
            Self::HexEscape => {
                "where the backslash is part of the name, write '\u{2026}' in single quotes, or \
                 `\\\\x`; for a character, write `\\u00HH`"
            }
            Self::EscapeEscape => "write `\\u001b`",
            Self::LineInTable => "write it in one line, or as a [table]",
            Self::LastComma => "take the comma away",
            Self::NoSeconds => "write the seconds too, such as 07:32:00",
        }
    }
}
