//! What is open at a moment between two events, as it is told to a consumer that joins then.

use std::sync::Arc;

use super::join::Connection;
use crate::events::record::Record;

/// What a consumer has to do with what is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Nothing.
    None,
    /// It remembers that, for those that ask.
    Remembers,
    /// It asks to be told that first when it joins.
    Asks,
}

/// What is open at a moment.
#[derive(Debug, Default)]
pub struct Open {
    connections: Vec<Arc<Connection<()>>>,
    /// So many more may be.
    missing: u64,
}

impl Open {
    /// These, and so many that are not known any more.
    pub const fn new(connections: Vec<Arc<Connection<()>>>, missing: u64) -> Self {
        Self {
            connections,
            missing,
        }
    }

    /// So many more may be open, of which nothing is known any more.
    pub const fn missing(&self) -> u64 {
        self.missing
    }

    /// What is told of them in a stream that begins at this time, ns since the Unix epoch: the
    /// oldest first. What one has carried follows it, where that is known.
    pub fn records(mut self, wall_ns: i128) -> impl Iterator<Item = Record> {
        let connections = &mut self.connections;
        connections.sort_unstable_by_key(|connection| (connection.began_ns, connection.id()));
        let connections = self.connections.into_iter();
        connections.flat_map(move |connection| {
            let found = connection.as_found(wall_ns);
            let so_far = found.is_some().then(|| connection.so_far().cloned());
            found.into_iter().chain(so_far.flatten())
        })
    }
}
