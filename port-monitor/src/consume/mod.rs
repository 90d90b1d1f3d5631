//! Where events go: to consumers. What is shown is one of them: its sink turns an [`Item`]
//! into bytes, and nothing else. Reading and writing is the business of [`output`].

use clap::ValueEnum;

use crate::events::record::Item;

pub mod alert;
pub mod consumer;
pub mod consumers;
pub mod counted;
mod endpoint;
pub mod enforced;
pub mod export;
pub mod fan_out;
pub mod found;
pub mod history;
pub mod join;
pub mod lines;
pub mod listeners;
pub mod metrics;
pub mod open;
pub mod output;
pub mod shown;
pub mod socket;
#[cfg(feature = "top")]
pub mod top;

pub use fan_out::FanOut;
pub use lines::Lines;
pub use shown::Shown;

/// Turns items into bytes. Does no I/O and cannot fail.
pub trait Sink: Send {
    /// Appends whole lines for `item` to `lines`, and counts their events.
    ///
    /// A sink may hold an event back, to write one line for several; before
    /// anything else is written, the caller has these released.
    fn write(&mut self, lines: &mut Lines, item: Item<'_>);

    /// Appends lines for the events held back that are `due`.
    fn release(&mut self, _lines: &mut Lines, _due: Due) {}

    /// The terminal has so many columns from now on. Nothing is held back.
    fn resize(&mut self, _lines: &mut Lines, _width: usize) {}
}

/// Which of the events held back are to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// All of them.
    Now,
    /// Those of seconds that are over by this wall-clock time, ns since the Unix
    /// epoch.
    By(i128),
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

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt as _, sync::Arc};

    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::lines::{
        fields::FIELDS,
        json::Json,
        sample::{comm, header, violation},
        table::{Options, Table},
    };
    use crate::consume::*;
    use crate::{
        base::sanitize::is_hostile,
        events::record::{Field, Judgement, Process},
    };

    /// Every item with text from outside in every place that takes it.
    fn stream(sink: &mut dyn Sink, bytes: &[u8], text: &str) -> Vec<u8> {
        let mut header = header();
        header.kernel = text.into();
        header.host = text.into();
        header.policy = Some(text.into());
        header.blind_spots = vec![text.into()];
        header.unproven = vec![text.into()];
        let mut record = violation();
        if let Some(owner) = &mut record.event.owner {
            owner.comm = comm(&bytes[..bytes.len().min(15)]);
            owner.process_comm = owner.comm;
        }
        let shared: Arc<str> = text.into();
        record.process = Arc::new(Process {
            exe: Field::Known(OsString::from_vec(bytes.to_vec()).into()),
            user: Some(Arc::clone(&shared)),
            cgroup: Some(Arc::clone(&shared)),
            unit: Some(Arc::clone(&shared)),
            ..(*record.process).clone()
        });
        if let Some(Judgement { rule, .. }) = &mut record.judgement {
            *rule = Some(shared);
        }
        let mut lines = Lines::default();
        sink.write(&mut lines, Item::Header(&header));
        sink.write(&mut lines, Item::Event(&record));
        lines.bytes
    }

    fn tables() -> impl Iterator<Item = Table> {
        [None, Some(80), Some(200)].into_iter().map(|width| {
            Table::new(Options {
                width,
                color: false,
                verbose: true,
                aggregate: false,
                fields: FIELDS.iter().collect(),
                zone: TimeZone::UTC,
            })
        })
    }

    proptest! {
        #[test]
        fn nothing_hostile_leaves_a_sink(bytes in any::<Vec<u8>>(), text in any::<String>()) {
            let mut sinks: Vec<Box<dyn Sink>> = vec![Box::new(Json::new())];
            sinks.extend(tables().map(|table| Box::new(table) as _));
            for sink in &mut sinks {
                let out = String::from_utf8(stream(&mut **sink, &bytes, &text)).unwrap();
                prop_assert!(!out.chars().any(|c| c != '\n' && is_hostile(c)), "{out:?}");
                prop_assert!(out.ends_with('\n'));
            }
        }

        #[test]
        fn json_gives_names_back_unchanged(text in any::<String>()) {
            let out = stream(&mut Json::new(), text.as_bytes(), &text);
            let line = out.split(|&byte| byte == b'\n').nth(1).unwrap();
            let line: serde_json::Value = serde_json::from_slice(line).unwrap();
            prop_assert_eq!(&line["user"]["name"], &text);
            prop_assert_eq!(&line["rule"]["name"], &text);
            prop_assert_eq!(&line["process"]["executable"], &text);
        }
    }
}
