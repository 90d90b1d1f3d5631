//! Who has which listener open: what is asked of the kernel, and its answer.

use std::{collections::HashMap, io};

use port_monitor_common::listener::Holder;

/// Who answers.
pub trait Source: Send {
    /// Who has which listener open now, and who has closed a socket of one since the last look.
    fn look(&mut self) -> io::Result<Seen>;
}

/// What a look has shown.
#[derive(Default)]
pub struct Seen {
    /// By the number of the listener.
    pub(crate) open: HashMap<u32, Vec<Holder>>,
    /// In the order in which they closed it.
    pub(crate) closed: Vec<Holder>,
    /// Some who closed one before this, `CLOCK_BOOTTIME` ns, are missing there.
    pub(crate) lost_ns: Option<u64>,
}

impl Seen {
    /// Of those who have a listener open, and of those who closed one.
    pub fn new(holders: Vec<Holder>, closers: Vec<Holder>) -> Self {
        let mut open = HashMap::<_, Vec<_>>::new();
        for holder in holders {
            open.entry(holder.listener).or_default().push(holder);
        }
        Self {
            open,
            closed: closers,
            lost_ns: None,
        }
    }

    /// Who has it open.
    pub(crate) fn of(&self, listener: u32) -> &[Holder] {
        self.open.get(&listener).map_or(&[], Vec::as_slice)
    }
}

/// What of inbound connections is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// There are filters of owners.
    pub filters: bool,
    /// Their beginnings.
    pub accepts: bool,
    /// Their ends, or their progress.
    pub ends: bool,
}
