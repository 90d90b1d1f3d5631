//! Lines on their way from a sink to the output, and the events they stand for.

pub(crate) mod cell;
pub mod color;
pub(crate) mod errno;
pub mod fields;
pub mod json;
pub(crate) mod layout;
#[cfg(test)]
pub(crate) mod sample;
pub mod table;
pub(crate) mod width;

/// Whole lines. Either each stands for one event or more, or none is an event:
/// so that a write that fails half-way still counts exactly. Events of a sink that
/// speaks at the end have no line.
#[derive(Debug, Default)]
pub struct Lines {
    /// The text.
    pub(super) bytes: Vec<u8>,
    /// Bytes of it that are written already.
    pub(super) written: usize,
    events: u64,
    repeats: Vec<Repeats>,
}

/// A line that stands for several events.
#[derive(Clone, Copy, Debug)]
struct Repeats {
    /// The position after its last byte.
    end: usize,
    /// Its events but for one.
    more: u64,
}

impl Lines {
    /// Nothing yet, with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            ..Self::default()
        }
    }

    /// The line just written stands for one event; or the event has none.
    pub(super) const fn count_event(&mut self) {
        self.events += 1;
    }

    /// The line just written stands for so many events.
    pub(crate) fn count_events(&mut self, count: u64) {
        self.events += count;
        self.repeats.push(Repeats {
            end: self.bytes.len(),
            more: count.saturating_sub(1),
        });
    }

    /// The events of all lines.
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of the text.
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The text that is not written yet.
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    /// Nothing is in it.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The events of the lines that are whole in the first `written` bytes.
    pub(super) fn events_within(&self, written: usize) -> u64 {
        let text = self.bytes.get(..written).unwrap_or(&self.bytes);
        let lines: u64 = text.iter().map(|&byte| u64::from(byte == b'\n')).sum();
        let repeats = self.repeats.iter().filter(|line| line.end <= written);
        let more: u64 = repeats.map(|line| line.more).sum();
        self.events.min(lines + more)
    }

    /// Adds `other` at the end.
    pub(super) fn append(&mut self, other: &Self) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.events += other.events;
        self.repeats
            .extend(other.repeats.iter().map(|line| Repeats {
                end: start + line.end,
                ..*line
            }));
    }

    /// Forgets everything but the room.
    pub(super) fn clear(&mut self) {
        let Self {
            bytes,
            written,
            events,
            repeats,
        } = self;
        bytes.clear();
        *written = 0;
        *events = 0;
        repeats.clear();
    }
}

#[cfg(test)]
impl Lines {
    /// Lines of which each is an event, or none.
    pub(super) fn of(text: &[u8], events: u64) -> Self {
        Self {
            bytes: text.to_vec(),
            events,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::consume::lines::*;

    /// One event, 40 in a line, and one more.
    fn lines() -> Lines {
        let mut lines = Lines::of(b"one\n", 1);
        lines.bytes.extend_from_slice(b"forty x 40\n");
        lines.count_events(40);
        lines.bytes.extend_from_slice(b"one\n");
        lines.count_event();
        lines
    }

    #[test]
    fn a_line_counts_with_its_events_when_it_is_whole() {
        let lines = lines();
        assert_eq!(lines.events(), 42);
        let within = [0, 3, 4, 14, 15, 18, 19].map(|written| lines.events_within(written));
        assert_eq!(within, [0, 0, 1, 1, 41, 41, 42]);
        assert_eq!(Lines::of(b"# two\n# lines\n", 0).events_within(14), 0);
    }

    #[test]
    fn joined_lines_count_as_they_did_apart() {
        let mut joined = lines();
        joined.append(&lines());
        assert_eq!(joined.events(), 84);
        let within = [19, 33, 34, 38].map(|written| joined.events_within(written));
        assert_eq!(within, [42, 43, 83, 84]);
        joined.clear();
        joined.append(&lines());
        assert_eq!(joined.events_within(15), 41);
    }
}
