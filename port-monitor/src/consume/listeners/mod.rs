//! The audit: counts the events of a run into listeners, and writes those at the
//! end. Which of them is decided here, how they look in `table` and `json`.

mod json;
mod table;
#[cfg(test)]
mod tests;
pub mod uses;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use self::{json::JsonForm, table::TableForm};
use super::{Lines, Sink};
use crate::{
    base::{order, zone},
    consume::listeners::uses::{AuditedListener, AuditedListeners, Scope, Selection},
    events::record::{Header, Item, Summary},
};

/// What is counted while listeners are found, and read when the run is over.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<AtomicU64>);

impl Tally {
    /// How many there are.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

/// Which listeners are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// All of them, with their use.
    Used,
    /// Those nobody used.
    Unused,
}

/// What an audit lists.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The listeners that are meant.
    pub selection: Selection,
    /// Which of them are listed.
    pub listed: Listed,
    /// Also those that closed and break no policy.
    pub with_closed: bool,
    /// How long is watched; `None` for a look at what listens now.
    pub watch: Option<Duration>,
    /// Where listeners that break the policy are counted.
    pub violations: Tally,
    /// Where closed listeners are counted that had to be forgotten.
    pub forgotten: Tally,
}

impl Listing {
    fn lists(&self, listener: &AuditedListener) -> bool {
        let is_meant = match self.listed {
            Listed::Used => true,
            Listed::Unused => has_known_uses(listener) && listener.uses.accepts == 0,
        };
        let is_open = listener.closed_ns().is_none();
        is_meant && (is_open || self.with_closed || listener.is_violation())
    }
}

/// Whether the use of a listener can be told: an accept finds it by its port.
const fn has_known_uses(listener: &AuditedListener) -> bool {
    listener.record.event.local_port.is_some()
}

/// Writes an audit.
#[derive(Debug)]
pub struct ListenerSink {
    listing: Listing,
    listeners: AuditedListeners,
    header: Option<Header>,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Table(TableForm),
    Json(JsonForm),
}

/// Everything there is to write at the end.
#[derive(Debug)]
struct Audit<'a> {
    header: &'a Header,
    listing: &'a Listing,
    /// The listed listeners, network namespace by network namespace, the most exposed
    /// first.
    listeners: Vec<&'a AuditedListener>,
    totals: Totals,
    /// With the listeners for violations.
    summary: Summary,
}

impl Audit<'_> {
    /// How long a listener was watched.
    fn watched(&self, listener: &AuditedListener) -> Duration {
        listener.watched(self.header.wall_ns, self.summary.wall_ns)
    }
}

/// The listeners that are meant, listed or not.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    /// Open ones, by [`Scope::ALL`].
    open: [u64; Scope::ALL.len()],
    closed: u64,
    /// Open ones whose use cannot be told.
    unknown_use: u64,
    /// Closed ones that are not known any more.
    forgotten: u64,
    /// Accepts at no listener that is known.
    strays: u64,
}

impl Totals {
    fn of(listeners: &AuditedListeners, selection: &Selection) -> Self {
        let mut totals = Self {
            forgotten: listeners.forgotten,
            strays: listeners.strays,
            ..Self::default()
        };
        for listener in listeners
            .iter()
            .filter(|listener| selection.takes(&listener.record))
        {
            if listener.closed_ns().is_some() {
                totals.closed += 1;
                continue;
            }
            totals.unknown_use += u64::from(!has_known_uses(listener));
            for (scope, count) in Scope::ALL.iter().zip(&mut totals.open) {
                *count += u64::from(*scope == listener.scope());
            }
        }
        totals
    }
}

impl ListenerSink {
    /// An audit as a table for a terminal of `width` columns, or for none.
    pub fn table(listing: Listing, width: Option<usize>, color: bool, verbose: bool) -> Self {
        let mut form = TableForm::new(width, color, zone::local());
        form.verbose = verbose;
        Self::new(listing, Form::Table(form))
    }

    /// An audit as JSON lines.
    pub fn json(listing: Listing) -> Self {
        Self::new(listing, Form::Json(JsonForm::default()))
    }

    fn new(listing: Listing, form: Form) -> Self {
        Self {
            listing,
            listeners: AuditedListeners::default(),
            header: None,
            form,
        }
    }

    fn event(&mut self, record: &crate::events::record::Record) {
        let began_ns = self.header.as_ref().map(|header| header.boot_ns);
        // What is older than the audit was reported before it began: by the clock that
        // nobody sets.
        if !self.listeners.is_settled() && began_ns.is_some_and(|began| record.event.ts_ns > began)
        {
            self.listeners.settle();
        }
        self.listeners.take(record);
        let event = &record.event;
        let judgement = record.judgement.as_ref();
        if event.action.is_listener()
            && !event.action.is_end()
            && judgement.is_some_and(crate::events::record::Judgement::is_violation)
            && self.listing.selection.takes(record)
        {
            self.listing.violations.add(1);
        }
    }

    fn summary(&mut self, out: &mut Vec<u8>, summary: &Summary) {
        self.listeners.settle();
        let Some(header) = &self.header else {
            return;
        };
        let listing = &self.listing;
        listing.forgotten.add(self.listeners.forgotten);
        let is_listed = |listener: &&AuditedListener| {
            listing.selection.takes(&listener.record) && listing.lists(listener)
        };
        let mut listeners: Vec<&AuditedListener> =
            self.listeners.iter().filter(is_listed).collect();
        order::sort_by_key(&mut listeners, |listener| {
            let event = &listener.record.event;
            let at = (event.local_port, event.local_ip, event.ts_ns, event.id);
            (event.netns_ino, listener.scope(), at)
        });
        let audit = Audit {
            header,
            listing,
            listeners,
            totals: Totals::of(&self.listeners, &listing.selection),
            summary: Summary {
                violations: listing.violations.get(),
                ..summary.clone()
            },
        };
        match &mut self.form {
            Form::Table(table) => table.audit(out, &audit),
            Form::Json(_) => JsonForm::audit(out, &audit),
        }
    }
}

impl Sink for ListenerSink {
    fn write(&mut self, lines: &mut Lines, item: Item<'_>) {
        match item {
            Item::Event(record) => {
                self.event(record);
                lines.count_event();
            }
            Item::Summary(summary) => self.summary(&mut lines.bytes, summary),
            Item::Header(header) => {
                self.header = Some(header.clone());
                match &mut self.form {
                    Form::Table(table) => {
                        table.header(&mut lines.bytes, header, self.listing.watch);
                    }
                    Form::Json(json) => json.stream(lines, item),
                }
            }
            // An audit has one policy.
            Item::Policy(_) => {}
            Item::Loss(loss) => match &mut self.form {
                Form::Table(table) => table.loss(&mut lines.bytes, loss),
                Form::Json(json) => json.stream(lines, item),
            },
        }
    }

    fn resize(&mut self, _lines: &mut Lines, width: usize) {
        if let Form::Table(table) = &mut self.form {
            table.width = Some(width);
        }
    }
}
