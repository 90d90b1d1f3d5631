//! The keys, once: what is pressed, what it does, and the words of the help and of the page.

/// What is pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Press {
    /// A character, as it is written.
    Char(char),
    /// Ctrl and a letter.
    Ctrl(char),
    /// A function key.
    F(u8),
    /// An arrow.
    Up,
    /// An arrow.
    Down,
    /// An arrow.
    Left,
    /// An arrow.
    Right,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the first.
    Home,
    /// To the last.
    End,
    /// Enter.
    Enter,
    /// Escape.
    Esc,
    /// Tab.
    Tab,
    /// Shift and Tab.
    BackTab,
    /// Takes a character back.
    Backspace,
}

/// What comes from the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A key.
    Key(Press),
    /// A click at a column and a row, from zero on.
    Click(u16, u16),
    /// The wheel, away from the user.
    WheelUp,
    /// The wheel, towards the user.
    WheelDown,
}

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Open,
    Back,
    Filter,
    DropTerm,
    NextColumn,
    PreviousColumn,
    Aside,
    AsideBack,
    Reverse,
    Hold,
    Pause,
    Ended,
    Violations,
    Reset,
    Networks,
    Numbers,
    Grouped,
    Exclude,
    Copy,
    Clear,
    View(usize),
    NextView,
    PreviousView,
    Faster,
    Slower,
    StepOn,
    StepBack,
    Seconds(i64),
    Time,
    Export,
    Record,
    Propose,
    WhatIf,
    End,
    Help,
    Suspend,
    Quit,
}

/// Keys that do the same.
#[derive(Debug)]
pub(crate) struct Binding {
    pub(crate) keys: &'static [Press],
    /// As the help spells them.
    pub(crate) spelled: &'static str,
    pub(crate) does: &'static str,
    pub(crate) action: Action,
}

const fn key(
    keys: &'static [Press],
    spelled: &'static str,
    action: Action,
    does: &'static str,
) -> Binding {
    Binding {
        keys,
        spelled,
        does,
        action,
    }
}

use Press::{
    BackTab, Backspace, Char, Ctrl, Down, End, Enter, Esc, F, Home, Left, PageDown, PageUp, Right,
    Tab, Up,
};

/// All of them.
#[rustfmt::skip]
pub(crate) const KEYS: &[Binding] = &[
    key(&[Up, Char('k')], "↑ k", Action::Up, "one row up"),
    key(&[Down, Char('j')], "↓ j", Action::Down, "one row down"),
    key(&[PageUp, Ctrl('b')], "PgUp Ctrl-B", Action::PageUp, "a page up"),
    key(&[PageDown, Ctrl('f')], "PgDn Ctrl-F", Action::PageDown, "a page down"),
    key(&[Home, Char('g')], "Home g", Action::First, "to the first row"),
    key(&[End, Char('G')], "End G", Action::Last, "to the last row"),
    key(&[Enter], "Enter", Action::Open, "all about this row; of a group, its connections"),
    key(&[Esc], "Esc", Action::Back, "back; else take the filter away. Never quits"),
    key(&[Char('/'), Char('f'), F(4)], "/ f F4", Action::Filter, "filter while you type"),
    key(&[Backspace], "Backspace", Action::DropTerm, "take the last word of the filter away"),
    key(&[Char('v')], "v", Action::Violations, "only what breaks the policy, or all again"),
    key(&[Char('t')], "t", Action::Ended, "connections that have ended too, or not"),
    key(&[Right], "→", Action::Aside, "connections of this group; of a list of those, columns further right"),
    key(&[Left], "←", Action::AsideBack, "columns further left; then back to the groups"),
    key(&[Char('s'), Char('>')], "s >", Action::NextColumn, "sort by the next column"),
    key(&[Char('<')], "<", Action::PreviousColumn, "sort by the column before"),
    key(&[Char('S'), Char('I')], "S I", Action::Reverse, "sort the other way round"),
    key(&[Char('o')], "o", Action::Hold, "keep the order as it is, or sort again"),
    key(&[Char(' '), Char('p'), Char('Z')], "Space p Z", Action::Pause, "freeze what is shown; counting goes on. A recording stops and goes on"),
    key(&[Char('r')], "r", Action::Reset, "no filter, and the order of the start"),
    key(&[Char('N')], "N", Action::Networks, "addresses joined to their networks (/24, /64), or one by one again"),
    key(&[Char('n')], "n", Action::Numbers, "ports with the names of their services, or as numbers alone"),
    key(&[Char('a')], "a", Action::Grouped, "grouped by process, by address, by port, by rule, or not"),
    key(&[Char('e')], "e", Action::Exclude, "leave out what this row is about: its address, its group"),
    key(&[Char('c')], "c", Action::Copy, "copy this row to the clipboard of the terminal"),
    key(&[Char('x')], "x", Action::Clear, "begin all counts anew: twice"),
    key(&[Char('1')], "1", Action::View(0), "Connections"),
    key(&[Char('2')], "2", Action::View(1), "Processes"),
    key(&[Char('3')], "3", Action::View(2), "Services"),
    key(&[Char('4')], "4", Action::View(3), "Remotes"),
    key(&[Char('5')], "5", Action::View(4), "Listeners"),
    key(&[Char('6')], "6", Action::View(5), "Policy"),
    key(&[Char('7'), Char('i')], "7 i", Action::View(6), "Health: what was seen and lost, and what cannot be seen"),
    key(&[Tab, Char(']')], "Tab ]", Action::NextView, "the next view"),
    key(&[BackTab, Char('[')], "Shift-Tab [", Action::PreviousView, "the view before"),
    key(&[Char('+')], "+", Action::Faster, "refresh more often. A recording is played faster"),
    key(&[Char('-')], "-", Action::Slower, "refresh less often. A recording is played slower"),
    key(&[Char('.')], ".", Action::StepOn, "a recording: to the next event"),
    key(&[Char(',')], ",", Action::StepBack, "a recording: to the event before"),
    key(&[Char(')')], ")", Action::Seconds(10), "a recording: ten seconds on"),
    key(&[Char('(')], "(", Action::Seconds(-10), "a recording: ten seconds back"),
    key(&[Char('}')], "}", Action::Seconds(60), "a recording: a minute on"),
    key(&[Char('{')], "{", Action::Seconds(-60), "a recording: a minute back"),
    key(&[Char('T')], "T", Action::Time, "a recording: to a time that is asked for"),
    key(&[Char('E')], "E", Action::Export, "write the rows that are shown to a file, as JSON lines or CSV"),
    key(&[Char('R')], "R", Action::Record, "record all that happens from now on in a file, or end that"),
    key(&[Char('P')], "P", Action::Propose, "a rule for this row, to be read; again, one with the other word. Never applied"),
    key(&[Char('w')], "w", Action::WhatIf, "what the policy says of a connection that is typed"),
    key(&[Ctrl('k')], "Ctrl-K", Action::End, "end this connection: asks first, takes root"),
    key(&[Char('?'), Char('h'), F(1)], "? h F1", Action::Help, "these keys"),
    key(&[Ctrl('z')], "Ctrl-Z", Action::Suspend, "give the terminal back until fg"),
    key(&[Char('q'), Ctrl('c'), F(10)], "q Ctrl-C F10", Action::Quit, "quit"),
];

/// What a key does.
pub(crate) fn action(press: Press) -> Option<Action> {
    let binding = KEYS.iter().find(|binding| binding.keys.contains(&press));
    binding.map(|binding| binding.action)
}

/// The keys and what they do, for the page.
pub fn table() -> impl Iterator<Item = (&'static str, &'static str)> {
    KEYS.iter().map(|binding| (binding.spelled, binding.does))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_does_two_things() {
        let mut seen = Vec::new();
        for press in KEYS.iter().flat_map(|binding| binding.keys) {
            assert!(!seen.contains(press), "{press:?}");
            seen.push(*press);
        }
    }

    #[test]
    fn keys_are_spelled_as_they_are() {
        for binding in KEYS {
            assert_eq!(
                binding.keys.len(),
                binding.spelled.split(' ').count(),
                "{}",
                binding.spelled
            );
            for (press, spelled) in binding.keys.iter().zip(binding.spelled.split(' ')) {
                match press {
                    Char(' ') => assert_eq!(spelled, "Space"),
                    Char(c) => assert_eq!(spelled, c.to_string()),
                    Ctrl(c) => assert_eq!(spelled, format!("Ctrl-{}", c.to_ascii_uppercase())),
                    F(number) => assert_eq!(spelled, format!("F{number}")),
                    _ => {}
                }
            }
        }
    }
}
