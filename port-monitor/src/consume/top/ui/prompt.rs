//! A question at the foot of the screen, and what is typed there.

use std::path::{Path, PathBuf};

use crate::{base::sanitize::Escaped, consume::top::keys::Press};

/// Bytes of an answer: more is none.
const ROOM: usize = 1_000;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asks {
    /// A time of the recording.
    Time,
    /// The file that what is shown is written to.
    Export,
    /// Whether what that file has may go.
    Overwrite(PathBuf),
    /// The file that events are recorded in.
    Record,
    /// Whether they may come behind what that file has.
    Append(PathBuf),
    /// A connection that the policy is to judge.
    WhatIf,
    /// Whether this connection is to end, told by its ends.
    End(u64, String),
    /// Whether it is to end although it is one of these.
    EndReally(u64, &'static str),
}

impl Asks {
    /// The question.
    pub(crate) fn question(&self) -> String {
        match self {
            Self::Time => "go to the time".to_owned(),
            Self::Export => "write to FILE.json or FILE.csv".to_owned(),
            Self::Record => "record in FILE".to_owned(),
            Self::End(_, ends) => format!("end {ends}? y"),
            Self::EndReally(_, what) => format!("it is {what}. Write end to end it"),
            Self::WhatIf => "what if: out tcp ADDR:PORT [--user U]".to_owned(),
            Self::Overwrite(path) => format!("{} is there. Overwrite it? y", named(path)),
            Self::Append(path) => format!("{} is there. Append to it? y", named(path)),
        }
    }
}

fn named(path: &Path) -> String {
    Escaped(path.as_os_str().as_encoded_bytes()).to_string()
}

/// A question that is being answered.
#[derive(Clone, Debug)]
pub(crate) struct Prompt {
    pub(crate) asks: Asks,
    pub(crate) text: String,
    /// What is wrong with the answer before.
    pub(crate) problem: Option<String>,
}

/// What a key makes of a question.
pub(super) enum Typed {
    /// It goes without an answer.
    Goes,
    /// It is answered.
    Done,
    /// It stays.
    Stays,
}

impl Prompt {
    pub(super) fn press(&mut self, press: Press) -> Typed {
        self.problem = None;
        match press {
            Press::Esc => return Typed::Goes,
            Press::Enter => return Typed::Done,
            Press::Backspace => {
                self.text.pop();
            }
            Press::Ctrl('u') => self.text.clear(),
            Press::Char(c) if self.text.len() < ROOM => self.text.push(c),
            _ => {}
        }
        Typed::Stays
    }
}
