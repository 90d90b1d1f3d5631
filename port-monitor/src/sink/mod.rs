//! Where events go: each sink turns an [`Item`] into bytes, and nothing else.
//! Reading and writing is the business of [`writer`] and [`target`].

use clap::ValueEnum;

use crate::record::Item;

pub mod args;
mod cell;
pub mod color;
mod community_id;
mod errno;
mod facts;
pub mod fields;
pub mod json;
#[cfg(test)]
mod sample;
pub mod schema;
pub mod table;
pub mod target;
mod time;
pub mod writer;

/// Turns items into bytes. Does no I/O and cannot fail.
pub trait Sink: Send {
    /// Appends whole lines for `item` to `out`.
    ///
    /// An event is exactly one line.
    fn write(&mut self, out: &mut Vec<u8>, item: Item<'_>);
}

/// The sinks to choose from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SinkKind {
    /// A table for people
    #[default]
    Table,
    /// JSON Lines in Elastic Common Schema shape (see `port-monitor schema`)
    Json,
}
