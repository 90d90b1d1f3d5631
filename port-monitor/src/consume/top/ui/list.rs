//! How a list is looked at: its order, the row that is chosen, the part that is on the screen.

use std::net::IpAddr;

use super::RowId;

/// How a list is looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct List {
    /// The column of the order; the view's own before one is chosen.
    pub(crate) column: Option<usize>,
    /// The other way round.
    pub(crate) is_reversed: bool,
    /// The row that is chosen, which may be gone.
    pub(crate) chosen: Option<RowId>,
    /// The row that is marked on the screen: the chosen one, or the first before anybody chose.
    pub(crate) marked: Option<RowId>,
    /// The address at the other end of it, or of the connection that is told all about.
    pub(crate) remote: Option<IpAddr>,
    /// Where it was, for when it is gone.
    pub(crate) at: usize,
    /// The first row on the screen.
    pub(crate) offset: usize,
    /// So many rows there are, and so many the screen has room for.
    pub(crate) rows: usize,
    pub(crate) page: usize,
    /// Columns on the left that are not shown, so that those further right are.
    pub(crate) aside: usize,
    /// Steps that the chosen row is to be moved by at the next look.
    pub(crate) step: isize,
    /// The order as it is to stay.
    pub(crate) held: Option<Vec<RowId>>,
    /// Where the columns' headings begin and end on the screen, and their row.
    pub(crate) headings: Vec<(u16, u16, usize)>,
    pub(crate) heading_row: u16,
}

impl List {
    /// Moves the chosen row and the screen as the user wants. The chosen one is at `place` now,
    /// and there is room for `page` rows. Says whether anybody has moved.
    pub(crate) fn choose(&mut self, place: Option<usize>, page: usize) -> bool {
        let follows = self.chosen.is_some() || self.at > 0 || self.step != 0;
        self.page = page;
        let bottom = self.rows.saturating_sub(1);
        // One that is gone leaves its place to the next.
        let at = place.unwrap_or(self.at).min(bottom);
        // Before anybody moves, the first row stays the chosen one.
        let at = if follows { at } else { 0 };
        self.at = at.saturating_add_signed(self.step).min(bottom);
        let lowest = (self.at + 1).saturating_sub(page);
        self.offset = self.offset.clamp(lowest, self.at.max(lowest));
        self.offset = self.offset.min(self.rows.saturating_sub(page));
        if !follows {
            self.offset = 0;
        }
        self.step = 0;
        follows
    }

    pub(super) fn reverse(&mut self) {
        self.is_reversed = !self.is_reversed;
        self.held = None;
    }

    pub(super) fn hold(&mut self) {
        self.held = self.held.is_none().then(Vec::new);
    }
}
