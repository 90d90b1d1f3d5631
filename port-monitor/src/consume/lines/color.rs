//! Whether to colour the output.

use std::ffi::OsString;

use clap::ValueEnum;

/// When to colour the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless the environment says otherwise
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl ColorWhen {
    /// Decides for an output that is a terminal or not, in the environment `var`
    /// looks up. In order: the flag, `NO_COLOR`, `CLICOLOR_FORCE`, `TERM=dumb`.
    pub fn enabled(self, is_terminal: bool, var: impl Fn(&str) -> Option<OsString>) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto if var("NO_COLOR").is_some_and(|v| !v.is_empty()) => false,
            Self::Auto if var("CLICOLOR_FORCE").is_some_and(|v| !v.is_empty() && v != "0") => true,
            Self::Auto => is_terminal && var("TERM").is_none_or(|term| term != "dumb"),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::consume::lines::color::*;

    fn enabled(when: ColorWhen, is_terminal: bool, vars: &[(&str, &str)]) -> bool {
        when.enabled(is_terminal, |name| {
            let (_, value) = vars.iter().find(|(key, _)| *key == name)?;
            Some(value.into())
        })
    }

    #[test]
    fn auto_colours_terminals_only() {
        assert!(enabled(ColorWhen::Auto, true, &[]));
        assert!(!enabled(ColorWhen::Auto, false, &[]));
        assert!(!enabled(ColorWhen::Auto, true, &[("TERM", "dumb")]));
    }

    #[test]
    fn no_color_wins_over_clicolor_force_and_the_flag_over_both() {
        let force = ("CLICOLOR_FORCE", "1");
        let none = ("NO_COLOR", "1");
        assert!(enabled(ColorWhen::Auto, false, &[force]));
        assert!(!enabled(ColorWhen::Auto, true, &[force, none]));
        assert!(enabled(ColorWhen::Always, false, &[none]));
        assert!(!enabled(ColorWhen::Never, true, &[force]));
    }

    #[test]
    fn empty_no_color_and_zero_clicolor_force_say_nothing() {
        assert!(enabled(ColorWhen::Auto, true, &[("NO_COLOR", "")]));
        assert!(!enabled(ColorWhen::Auto, false, &[("CLICOLOR_FORCE", "0")]));
    }
}
