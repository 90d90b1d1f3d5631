//! To the side: from a group to its connections and back, and from column to column.

use super::{Key, RowId, Ui, View, words::filter_of};

/// A group whose connections are shown, and what was before.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    /// Where it is.
    view: View,
    /// The filter before, and the one that its connections are shown by.
    before: String,
    filter: String,
}

impl Ui {
    /// Shows the connections of a group.
    pub(super) fn open_group(&mut self, key: &Key) {
        let Some(filter) = filter_of(key) else {
            return;
        };
        self.opened = Some(Opened {
            view: self.view,
            before: self.filter.clone(),
            filter: filter.clone(),
        });
        self.set_filter(filter);
        self.view = View::Connections;
    }

    /// A group is opened; of other lists, columns further right come into sight.
    pub(super) fn aside(&mut self) {
        let list = self.list();
        match list.marked.clone() {
            Some(RowId::Group(key)) => self.open_group(&key),
            _ => list.aside = list.aside.saturating_add(1),
        }
    }

    /// Columns further left come into sight; where none are, the group is closed again.
    pub(super) fn aside_back(&mut self) {
        let list = self.list();
        if list.aside > 0 {
            list.aside -= 1;
            return;
        }
        let is_shown = |opened: &Opened| opened.filter == self.filter;
        if self.view == View::Connections
            && let Some(opened) = self.opened.take_if(|opened| is_shown(opened))
        {
            self.set_filter(opened.before);
            self.view = opened.view;
        }
    }

    /// Orders by a column further on, of those that are in sight.
    pub(super) fn sort_by(&mut self, by: isize) {
        let list = self.list();
        let in_sight: Vec<usize> = list.headings.iter().map(|heading| heading.2).collect();
        let columns = isize::try_from(in_sight.len()).unwrap_or(0);
        if columns == 0 {
            return;
        }
        let now = list.column;
        let now = now.and_then(|now| in_sight.iter().position(|column| *column == now));
        let next = match now.and_then(|place| isize::try_from(place).ok()) {
            Some(place) => (place + by).rem_euclid(columns),
            None if by > 0 => 0,
            None => columns - 1,
        };
        let next = usize::try_from(next).ok();
        list.column = next.and_then(|place| in_sight.get(place).copied());
        list.is_reversed = false;
        list.held = None;
    }
}
