//! Rows as lines of JSON, which `ClickHouse` takes as `JSONEachRow`.

use crate::consume::history::outbox::Ended;

/// Bytes of JSON that are sent at once.
const BATCH_BYTES: usize = 4 << 20;

/// Rows that are sent at once.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    /// Adds a row, if there is room for it. There is for the first one.
    pub(super) fn add(&mut self, row: &Ended) -> bool {
        let before = self.0.len();
        // Neither is memory short, nor is there a map with other keys than texts.
        if serde_json::to_writer(&mut self.0, row).is_ok() {
            self.0.push(b'\n');
        }
        let has_room = before == 0 || self.0.len() <= BATCH_BYTES;
        if !has_room {
            self.0.truncate(before);
        }
        has_room
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
