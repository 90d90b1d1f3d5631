//! What rows begin with: columns about the owner, whose text is the same for all its
//! rows of a second, rendered once.

use std::{ptr, sync::Arc};

use crate::{
    base::{
        memo::Memo,
        time::{is_within, start_of_second},
    },
    consume::lines::fields::dir_text,
    events::{
        decode::Owner,
        record::{Process, Record},
    },
};

/// The beginnings of the rows last written.
pub(crate) type Leads = Memo<Lead, 128>;

/// The beginning of a row.
#[derive(Debug)]
pub(crate) struct Lead {
    /// When it was, who it was and which way it went: all that the text depends on.
    second_ns: i128,
    owner: Option<Owner>,
    process: Arc<Process>,
    dir: &'static str,
    pub(crate) text: Vec<u8>,
    /// The position after it.
    pub(crate) end: usize,
}

impl Lead {
    /// The beginning of the row of `record` among `leads`; `render` writes it, and says
    /// where it ends.
    pub(crate) fn of<'a>(
        record: &Record,
        leads: &'a mut Leads,
        render: impl FnOnce(&mut Vec<u8>) -> usize,
    ) -> &'a Self {
        let event = &record.event;
        let dir = dir_text(event);
        let owner = event.owner.as_ref();
        let (thread, source) = owner.map_or((0, 0), |owner| (owner.tid, owner.source as usize));
        // The low bits of their first letters tell the directions apart; of ends, which have
        // one, the source tells which way they went.
        let way = dir.bytes().next().unwrap_or_default() & 7;
        let hash = (thread as usize).wrapping_add(8 * usize::from(way) + 64 * source);
        leads.get(
            hash,
            |lead| {
                is_within(record.wall_ns, lead.second_ns)
                    && ptr::eq(lead.dir, dir)
                    && lead.owner == event.owner
                    && Arc::ptr_eq(&lead.process, &record.process)
            },
            || {
                let mut text = Vec::new();
                let end = render(&mut text);
                Self {
                    second_ns: start_of_second(record.wall_ns),
                    owner: event.owner,
                    process: Arc::clone(&record.process),
                    dir,
                    text,
                    end,
                }
            },
        )
    }
}
