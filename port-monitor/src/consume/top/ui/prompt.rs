//! A question at the foot of the screen, and what is typed there.

use crate::consume::top::keys::Press;

/// Bytes of an answer: more is none.
const ROOM: usize = 1_000;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asks {
    /// A time of the recording.
    Time,
}

impl Asks {
    /// The question.
    pub(crate) fn question(&self) -> String {
        match self {
            Self::Time => "go to the time".to_owned(),
        }
    }
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
