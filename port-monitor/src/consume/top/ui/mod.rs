//! What the user looks at: the view, its order, its filter, the row that is chosen. Pure: keys
//! in, a wish out.

mod aside;
mod list;
pub(crate) mod prompt;
mod told;
mod words;

use std::{fmt, sync::Arc, time::Duration};

pub(crate) use self::list::List;
pub use self::words::{OWN_WORDS, WORDS};
use self::{
    aside::Opened,
    prompt::{Asks, Prompt},
    words::complete,
};
use super::{
    keys::{Action, Input, Press, action},
    model::Key,
    recorder::Recorded,
    replay::{Bar, Move},
};
use crate::events::record::Record;

/// The views, by their keys from `1` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Connections,
    Processes,
    Services,
    Remotes,
    Listeners,
    Policy,
    Health,
}

impl View {
    pub(crate) const ALL: [Self; 7] = [
        Self::Connections,
        Self::Processes,
        Self::Services,
        Self::Remotes,
        Self::Listeners,
        Self::Policy,
        Self::Health,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connections => "Connections",
            Self::Processes => "Processes",
            Self::Services => "Services",
            Self::Remotes => "Remotes",
            Self::Listeners => "Listeners",
            Self::Policy => "Policy",
            Self::Health => "Health",
        }
    }

    pub(crate) const fn number(self) -> usize {
        self as usize
    }

    /// Connections, grouped another way.
    const fn grouped_next(self) -> Self {
        match self {
            Self::Processes => Self::Remotes,
            Self::Remotes => Self::Services,
            Self::Services => Self::Policy,
            Self::Policy => Self::Connections,
            Self::Connections | Self::Listeners | Self::Health => Self::Processes,
        }
    }

    fn step(self, by: usize) -> Self {
        let next = (self.number() + by) % Self::ALL.len();
        Self::ALL.get(next).copied().unwrap_or(self)
    }
}

/// What a row is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum RowId {
    /// A connection or a listener.
    Connection(u64),
    /// What has something in common.
    Group(Key),
}

/// A record that is looked for.
pub type Wanted = Arc<dyn Fn(&Record) -> bool + Send + Sync>;

/// Reads a filter as somebody types it: what is wanted, or what is wrong with it.
pub type Find = Box<dyn Fn(&str) -> Result<Wanted, String> + Send>;

/// What the user wants of whoever owns the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The end.
    Quit,
    /// The shell, until it brings this back.
    Suspend,
    /// Another time of the recording.
    Move(Move),
    /// What was asked for, and what was answered.
    Answer(Asks, String),
    /// An end of what is recorded.
    EndRecording,
    /// A rule for a connection, which allows it or not; `None` where that depends on what the
    /// policy says now.
    Propose(u64, Option<bool>),
    /// The end of a connection.
    End(u64),
    /// A text that is printed when the view is over.
    Keep(String),
    /// The row that is marked, in the clipboard.
    Copy,
    /// All counts anew.
    Clear,
}

/// What lies over the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Overlay {
    Help,
    Detail(u64),
    Text(String, Vec<String>),
    Rule(Rule),
}

/// A rule that is proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The connection.
    pub id: u64,
    /// What it says of it.
    pub allows: bool,
    /// Its text.
    pub toml: String,
}

/// What a row of the remotes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remotes {
    /// An address.
    Addresses,
    /// A network of them.
    Networks,
}

/// What reaches the view, whatever its own filter shows of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All that there is.
    All,
    /// What flags have chosen before anything was seen.
    ByFlags,
}

/// How ports are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    /// With the names of their services.
    Named,
    /// As numbers alone.
    Numbers,
}

/// What the user looks at.
pub struct Ui {
    pub(crate) view: View,
    pub(crate) lists: [List; 7],
    pub(crate) filter: String,
    wanted: Option<Wanted>,
    /// What is wrong with the filter.
    pub(crate) problem: Option<String>,
    /// The filter is being typed; before, it was this.
    pub(crate) typing: Option<String>,
    pub(crate) only_violations: bool,
    pub(crate) shows_ended: bool,
    /// What reaches the view.
    pub(crate) scope: Scope,
    /// What a row of the remotes is.
    pub(crate) remotes: Remotes,
    pub(crate) ports: Ports,
    /// The group whose connections are shown.
    opened: Option<Opened>,
    /// What the key before did.
    last: Option<Action>,
    pub(crate) overlay: Option<Overlay>,
    /// Rows by which the overlay is scrolled.
    pub(crate) scroll: u16,
    /// What is shown stays.
    pub(crate) is_paused: bool,
    /// How often what is shown is made anew.
    pub(crate) every: Duration,
    /// A question that is being answered.
    pub(crate) prompt: Option<Prompt>,
    /// What is to be told at the foot until the next key.
    pub(crate) said: Option<String>,
    /// Where the playing of a recording stands, and where that is on the screen.
    pub(crate) bar: Option<Bar>,
    pub(crate) bar_place: Option<(u16, u16, u16)>,
    /// How the recording stands that was begun here.
    pub(crate) recorded: Option<Recorded>,
    find: Find,
}

impl fmt::Debug for Ui {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ui")
            .field("view", &self.view)
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

/// The refresh that users of top know.
const EVERY: Duration = Duration::from_millis(500);
const OF_A_RECORDING: Duration = Duration::from_millis(200);
const MOST_OFTEN: Duration = Duration::from_millis(100);
const LEAST_OFTEN: Duration = Duration::from_secs(10);

impl Ui {
    /// At the start, with filters read by `find`.
    pub fn new(find: Find) -> Self {
        Self {
            view: View::Connections,
            lists: std::array::from_fn(|_| List::default()),
            filter: String::new(),
            wanted: None,
            problem: None,
            typing: None,
            only_violations: false,
            shows_ended: false,
            scope: Scope::All,
            remotes: Remotes::Addresses,
            ports: Ports::Named,
            opened: None,
            last: None,
            overlay: None,
            scroll: 0,
            is_paused: false,
            every: EVERY,
            prompt: None,
            said: None,
            bar: None,
            bar_place: None,
            recorded: None,
            find,
        }
    }

    /// Says that flags have chosen what is seen.
    pub const fn chosen_by_flags(&mut self) {
        self.scope = Scope::ByFlags;
    }

    /// How often what is shown is made anew.
    pub const fn every(&self) -> Duration {
        if self.bar.is_some() {
            OF_A_RECORDING
        } else {
            self.every
        }
    }

    /// What is shown is to stay as it is, but for what a key changes.
    pub const fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// The list of the view.
    pub(crate) fn list(&mut self) -> &mut List {
        let number = self.view.number();
        &mut self.lists[number]
    }

    /// Something is filtered by words.
    pub(crate) const fn has_filter(&self) -> bool {
        self.wanted.is_some()
    }

    /// The filters keep it.
    pub(crate) fn keeps(&self, record: &Record) -> bool {
        (!self.only_violations || record.is_violation())
            && self.wanted.as_ref().is_none_or(|wanted| wanted(record))
    }

    /// Takes what comes from the terminal.
    pub fn take(&mut self, input: Input) -> Option<Wish> {
        self.said = None;
        if !matches!(input, Input::Key(_)) {
            self.last = None;
        }
        match input {
            Input::Key(press) if self.prompt.is_some() => self.answer(press),
            Input::Key(press) if self.typing.is_some() => self.type_filter(press),
            Input::Key(press) => self.press(press),
            Input::WheelUp => {
                self.step(-3);
                None
            }
            Input::WheelDown => {
                self.step(3);
                None
            }
            Input::Click(column, row) => {
                let wish = self.click_bar(column, row);
                if wish.is_none() {
                    self.click(column, row);
                }
                wish
            }
        }
    }

    fn type_filter(&mut self, press: Press) -> Option<Wish> {
        match press {
            Press::Ctrl('c') => return Some(Wish::Quit),
            Press::Enter => self.typing = None,
            Press::Esc => {
                let before = self.typing.take().unwrap_or_default();
                self.set_filter(before);
            }
            Press::Backspace => {
                let mut filter = self.filter.clone();
                if filter.pop().is_none() {
                    self.typing = None;
                }
                self.set_filter(filter);
            }
            Press::Ctrl('u') => self.set_filter(String::new()),
            Press::Ctrl('w') => self.drop_term(),
            Press::Tab => {
                let filter = complete(&self.filter);
                self.set_filter(filter);
            }
            Press::Char(c) if self.filter.len() < 200 => {
                let mut filter = self.filter.clone();
                filter.push(c);
                self.set_filter(filter);
            }
            _ => {}
        }
        None
    }

    /// Filters by `filter` from now on; by the one before, as long as this one is not right.
    pub(crate) fn set_filter(&mut self, filter: String) {
        if filter.trim().is_empty() {
            self.wanted = None;
            self.problem = None;
        } else {
            match (self.find)(&filter) {
                Ok(wanted) => {
                    self.wanted = Some(wanted);
                    self.problem = None;
                }
                Err(problem) => self.problem = Some(problem),
            }
        }
        self.filter = filter;
    }

    fn drop_term(&mut self) {
        let kept = self.filter.trim_end();
        let kept = kept.rfind(' ').map_or("", |end| &kept[..=end]);
        self.set_filter(kept.to_owned());
    }

    fn press(&mut self, press: Press) -> Option<Wish> {
        let action = action(press);
        let before = std::mem::replace(&mut self.last, action);
        let action = action?;
        if let Some(wish) = self.wish_of_overlay(action) {
            return Some(wish);
        }
        if self.overlay.is_some() && self.press_overlay(action) {
            return None;
        }
        if let Some(wanted) = self.wanted_move(action) {
            return wanted.map(Wish::Move);
        }
        match action {
            Action::Quit => return Some(Wish::Quit),
            Action::Suspend => return Some(Wish::Suspend),
            Action::Up => self.step(-1),
            Action::Down => self.step(1),
            Action::PageUp => self.page(-1),
            Action::PageDown => self.page(1),
            Action::First => self.step(isize::MIN / 2),
            Action::Last => self.step(isize::MAX / 2),
            Action::Open => self.open(),
            Action::Back => self.back(),
            Action::Filter => self.typing = Some(self.filter.clone()),
            Action::DropTerm => self.drop_term(),
            Action::NextColumn => self.sort_by(1),
            Action::PreviousColumn => self.sort_by(-1),
            Action::Aside => self.aside(),
            Action::AsideBack => self.aside_back(),
            Action::Reverse => self.list().reverse(),
            Action::Hold => self.list().hold(),
            Action::Pause => self.is_paused = !self.is_paused,
            Action::Ended => self.shows_ended = !self.shows_ended,
            Action::Violations => self.only_violations = !self.only_violations,
            Action::Reset => self.reset(),
            Action::Numbers | Action::Grouped | Action::Exclude | Action::Networks => {
                self.look(action);
            }
            Action::Clear if before == Some(Action::Clear) && self.bar.is_none() => {
                self.last = None;
                return Some(Wish::Clear);
            }
            Action::Copy | Action::Clear => return self.begin(action),
            Action::View(number) => self.show(View::ALL.get(number).copied()),
            Action::NextView => self.show(Some(self.view.step(1))),
            Action::PreviousView => self.show(Some(self.view.step(View::ALL.len() - 1))),
            Action::StepOn | Action::StepBack | Action::Seconds(_) => {}
            Action::Time
            | Action::Export
            | Action::Record
            | Action::Propose
            | Action::WhatIf
            | Action::End => {
                return self.begin(action);
            }
            Action::Faster => self.every = (self.every / 2).max(MOST_OFTEN),
            Action::Slower => self.every = (self.every * 2).min(LEAST_OFTEN),
            Action::Help => self.lay_over(Overlay::Help),
        }
        None
    }

    /// Shows the same rows otherwise.
    fn look(&mut self, action: Action) {
        match action {
            Action::Numbers => {
                self.ports = match self.ports {
                    Ports::Named => Ports::Numbers,
                    Ports::Numbers => Ports::Named,
                };
            }
            Action::Grouped => self.show(Some(self.view.grouped_next())),
            Action::Exclude => self.exclude(),
            _ => {
                self.remotes = match self.remotes {
                    Remotes::Addresses => Remotes::Networks,
                    Remotes::Networks => Remotes::Addresses,
                };
                self.show(Some(View::Remotes));
            }
        }
    }

    /// What keys do while something lies over the view; whether that was all.
    fn press_overlay(&mut self, action: Action) -> bool {
        match action {
            Action::Up => self.scroll = self.scroll.saturating_sub(1),
            Action::Down => self.scroll = self.scroll.saturating_add(1),
            Action::PageUp => self.scroll = self.scroll.saturating_sub(10),
            Action::PageDown => self.scroll = self.scroll.saturating_add(10),
            Action::First => self.scroll = 0,
            Action::Back | Action::Open | Action::Help => self.overlay = None,
            Action::Quit | Action::Suspend | Action::Pause => return false,
            _ => {
                self.overlay = None;
                return false;
            }
        }
        true
    }

    fn lay_over(&mut self, overlay: Overlay) {
        self.overlay = Some(overlay);
        self.scroll = 0;
    }

    fn show(&mut self, view: Option<View>) {
        self.view = view.unwrap_or(self.view);
        self.overlay = None;
    }

    fn page(&mut self, way: isize) {
        let page = isize::try_from(self.list().page.saturating_sub(1).max(1)).unwrap_or(1);
        self.step(way * page);
    }

    fn step(&mut self, by: isize) {
        if self.overlay.is_some() {
            let by = i16::try_from(by.clamp(-100, 100)).unwrap_or(0);
            self.scroll = self.scroll.saturating_add_signed(by);
        } else {
            let list = self.list();
            list.step = list.step.saturating_add(by);
        }
    }

    fn back(&mut self) {
        if self.filter.is_empty() {
            self.only_violations = false;
        } else {
            self.set_filter(String::new());
        }
    }

    fn reset(&mut self) {
        self.set_filter(String::new());
        self.only_violations = false;
        self.shows_ended = false;
        self.remotes = Remotes::Addresses;
        self.ports = Ports::Named;
        *self.list() = List::default();
    }

    /// A click: on a heading it sorts, on a row it chooses.
    fn click(&mut self, column: u16, row: u16) {
        if self.overlay.take().is_some() {
            return;
        }
        let list = self.list();
        if row == list.heading_row {
            let heading = list.headings.iter();
            let mut heading = heading.filter(|(from, to, _)| (*from..*to).contains(&column));
            if let Some(&(_, _, number)) = heading.next() {
                list.is_reversed = list.column == Some(number) && !list.is_reversed;
                list.column = Some(number);
                list.held = None;
            }
        } else if row > list.heading_row {
            let at = list.offset + usize::from(row - list.heading_row - 1);
            if at < list.rows {
                list.chosen = None;
                list.at = at;
                list.step = 0;
            }
        }
    }

    /// All about the chosen row.
    fn open(&mut self) {
        let Some(chosen) = self.list().marked.clone() else {
            return;
        };
        match chosen {
            RowId::Connection(id) => self.lay_over(Overlay::Detail(id)),
            RowId::Group(key) => self.open_group(&key),
        }
    }
}

#[cfg(test)]
mod tests;
