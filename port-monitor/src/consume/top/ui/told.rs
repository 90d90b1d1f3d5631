//! What is told and asked beside the rows: at the foot, over the view, and by the bar of a
//! recording.

use super::{
    List, Overlay, RowId, Rule, Ui, View, Wish,
    prompt::{Asks, Prompt, Typed},
};
use crate::consume::top::{
    keys::{Action, Press},
    recorder::Recorded,
    replay::{Bar, Move, Way},
};

impl Ui {
    /// Where the playing of a recording stands.
    pub const fn set_bar(&mut self, bar: Bar) {
        self.bar = Some(bar);
    }

    /// Tells something at the foot until the next key.
    pub fn say(&mut self, text: String) {
        self.said = Some(text);
    }

    /// Asks something.
    pub fn ask(&mut self, asks: Asks) {
        self.overlay = None;
        self.prompt = Some(Prompt {
            asks,
            text: String::new(),
            problem: None,
        });
    }

    /// Asks again, because the answer was of no use.
    pub fn ask_again(&mut self, asks: Asks, text: String, problem: String) {
        self.prompt = Some(Prompt {
            asks,
            text,
            problem: Some(problem),
        });
    }

    /// How the recording stands that was begun here.
    pub fn set_recorded(&mut self, recorded: Option<Recorded>) {
        self.recorded = recorded;
    }

    /// Shows a text over the view.
    pub fn show_text(&mut self, title: String, lines: Vec<String>) {
        self.lay_over(Overlay::Text(title, lines));
    }

    /// Shows a rule over the view.
    pub fn show_rule(&mut self, rule: Rule) {
        self.lay_over(Overlay::Rule(rule));
    }

    /// What was asked for of a recording takes time.
    pub fn is_behind(&self) -> bool {
        self.bar.is_some_and(|bar| bar.is_behind)
    }

    /// A text is being typed, a filter or an answer.
    pub const fn is_typing(&self) -> bool {
        self.typing.is_some() || self.prompt.is_some()
    }

    /// The connection that is told all about, or is marked in the list of the view.
    pub(crate) fn connection_of(&self, list: &List) -> Option<u64> {
        match (&self.overlay, &list.marked) {
            (Some(Overlay::Detail(id)), _) | (_, Some(RowId::Connection(id))) => Some(*id),
            _ => None,
        }
    }

    /// The rule that is shown.
    #[cfg(test)]
    pub(crate) fn rule(&self) -> Option<&Rule> {
        match &self.overlay {
            Some(Overlay::Rule(rule)) => Some(rule),
            _ => None,
        }
    }

    /// The text that is shown.
    #[cfg(test)]
    pub(crate) fn text(&self) -> Option<&[String]> {
        match &self.overlay {
            Some(Overlay::Text(_, lines)) => Some(lines),
            _ => None,
        }
    }

    /// What is said.
    #[cfg(test)]
    pub(crate) fn said(&self) -> Option<&str> {
        self.said.as_deref()
    }

    /// What is asked.
    #[cfg(test)]
    pub(crate) fn asks(&self) -> Option<&Asks> {
        self.prompt.as_ref().map(|prompt| &prompt.asks)
    }

    pub(super) fn answer(&mut self, press: Press) -> Option<Wish> {
        if press == Press::Ctrl('c') {
            return Some(Wish::Quit);
        }
        let mut prompt = self.prompt.take()?;
        match prompt.press(press) {
            Typed::Goes => {}
            Typed::Done => return Some(Wish::Answer(prompt.asks, prompt.text)),
            Typed::Stays => self.prompt = Some(prompt),
        }
        None
    }

    /// Where a key moves a recording to; outside of one that is told.
    #[expect(
        clippy::option_option,
        reason = "a key may be of a recording, and ask for nothing where there is none"
    )]
    pub(super) fn wanted_move(&mut self, action: Action) -> Option<Option<Move>> {
        let is_recording = self.bar.is_some();
        let wanted = match action {
            Action::Pause if is_recording => Move::Toggle,
            Action::Faster if is_recording => Move::Speed(Way::Forth),
            Action::Slower if is_recording => Move::Speed(Way::Back),
            Action::Time if is_recording => return None,
            Action::Time => Move::Toggle,
            Action::StepOn => Move::Step(Way::Forth),
            Action::StepBack => Move::Step(Way::Back),
            Action::Seconds(seconds) => Move::By(seconds),
            _ => return None,
        };
        if !is_recording {
            self.say("only a recording has other times: `port-monitor top --replay FILE`".into());
        }
        Some(is_recording.then_some(wanted))
    }

    pub(super) fn click_bar(&mut self, column: u16, row: u16) -> Option<Wish> {
        let (from, to, bar_row) = self.bar_place?;
        let bar = self.bar?;
        if row != bar_row || !(from..to).contains(&column) {
            return None;
        }
        let cells = i128::from((to - from).saturating_sub(1).max(1));
        let passed_ns = (bar.end_ns - bar.begin_ns) * i128::from(column - from) / cells;
        Some(Wish::Move(Move::To(bar.begin_ns + passed_ns)))
    }

    /// What a key asks for of what lies over the view.
    pub(super) fn wish_of_overlay(&mut self, action: Action) -> Option<Wish> {
        match (action, &self.overlay) {
            (Action::Propose, Some(Overlay::Rule(rule))) => {
                return Some(Wish::Propose(rule.id, Some(!rule.allows)));
            }
            (Action::Copy, Some(Overlay::Detail(_))) => return Some(Wish::Copy),
            (Action::End, Some(Overlay::Detail(id))) => return Some(Wish::End(*id)),
            (Action::Propose, Some(Overlay::Detail(id))) => return Some(Wish::Propose(*id, None)),
            (Action::Export, Some(Overlay::Rule(rule))) => {
                let toml = rule.toml.clone();
                self.say("the rule is printed when this ends".to_owned());
                return Some(Wish::Keep(toml));
            }
            _ => {}
        }
        None
    }

    /// Begins with what takes a word more, or a wish.
    pub(super) fn begin(&mut self, action: Action) -> Option<Wish> {
        match action {
            Action::Time => self.ask(Asks::Time),
            Action::Export if self.view == View::Health => {
                self.say("Health has no rows: 1 to 6 choose a view that has".to_owned());
            }
            Action::Export => self.ask(Asks::Export),
            Action::End => match self.list().marked {
                Some(RowId::Connection(id)) => return Some(Wish::End(id)),
                _ => self.say("choose a connection to end".to_owned()),
            },
            Action::Copy if self.list().marked.is_some() => return Some(Wish::Copy),
            Action::Copy => self.say("no row is chosen".to_owned()),
            Action::Clear if self.bar.is_some() => {
                self.say("a recording counts from its beginning on".to_owned());
            }
            Action::Clear => self.say("x once more begins all counts anew".to_owned()),
            Action::WhatIf => self.ask(Asks::WhatIf),
            Action::Propose => match self.list().marked {
                Some(RowId::Connection(id)) => return Some(Wish::Propose(id, None)),
                Some(RowId::Group(_)) => {
                    self.say("a rule is of one connection: Enter shows those of this row".into());
                }
                None => self.say("no row is chosen".to_owned()),
            },
            Action::Record if self.bar.is_some() => {
                self.say("this is a recording: it is in its file already".to_owned());
            }
            Action::Record if self.recorded.is_some() => return Some(Wish::EndRecording),
            Action::Record => self.ask(Asks::Record),
            _ => {}
        }
        None
    }
}
