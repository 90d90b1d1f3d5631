//! What to watch, and how.

use std::{io::PipeReader, path::PathBuf, sync::Arc, time::Duration};

use port_monitor_common::{config::OWNER_FILTERS, event::EventKind, judging::PLACES};

use super::{backend::Backend, faults::Faults, filters::Filters};
use crate::{host::holding::Wanted, policy::tables::lower::Lowered};

impl Settings {
    /// Whose inbound connections are is to be asked when they have come.
    pub(super) fn asks_for_holders(&self, backend: Backend) -> Option<Wanted> {
        let wanted = Wanted {
            filters: self.filters.bits() & OWNER_FILTERS != 0,
            accepts: self.kinds.contains(&EventKind::Accept),
            ends: [EventKind::Close, EventKind::Progress]
                .iter()
                .any(|kind| self.kinds.contains(kind)),
        };
        (backend == Backend::Tracepoint && (wanted.accepts || wanted.ends)).then_some(wanted)
    }
}

/// The smallest ring: one page, on kernels with 4 KiB pages.
pub const MIN_RING_BYTES: u32 = 4_096;

/// The default ring: 30,840 records, a third of a second of a flood.
pub const DEFAULT_RING_BYTES: u32 = 4 << 20;

/// Ends of connections the kernel side remembers by default: 19 MB, taken at the
/// start.
pub const DEFAULT_MAX_CONNECTIONS: u32 = 131_072;

/// [`Settings::latency`] unless the user wants another.
pub const DEFAULT_LATENCY: Duration = Duration::from_millis(5);

/// The longest: losses are told within a second too.
pub const MAX_LATENCY: Duration = Duration::from_secs(1);

/// More than any host has; the kernel takes 2.4 GB for them.
pub const LIMIT_MAX_CONNECTIONS: u32 = 1 << 24;

/// Enough for the self-test's own connections.
pub const MIN_MAX_CONNECTIONS: u32 = 16;

/// What sockets older than the monitor have.
const OLDER: [EventKind; 4] = [
    EventKind::Preexisting,
    EventKind::Progress,
    EventKind::Close,
    EventKind::Unlisten,
];

/// What to watch, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The backend to use; `None`: the best one that attaches.
    pub backend: Option<Backend>,
    /// The kinds of event to report.
    pub kinds: Vec<EventKind>,
    /// What to keep.
    pub filters: Filters,
    /// Size of the ring buffer, a power of two and of pages.
    pub ring_bytes: u32,
    /// How long events may gather in the ring before they are read.
    pub latency: Duration,
    /// Ends of connections to remember until they are over.
    pub max_connections: u32,
    /// How much the eBPF programs log.
    pub log_level: Option<log::Level>,
    /// Kernel type information other than `/sys/kernel/btf/vmlinux`.
    pub btf: Option<PathBuf>,
    /// The policy that the programs judge by: [`Policy::lower_for_monitor`].
    ///
    /// [`Policy::lower_for_monitor`]: crate::policy::Policy::lower_for_monitor
    pub policy: Option<Arc<Lowered>>,
    /// Another one may take its place while the programs run.
    pub policy_changes: bool,
    /// How long the start may wait for the self-test.
    pub self_test: SelfTest,
    /// What is to go wrong, for tests.
    pub faults: Faults,
}

impl Settings {
    /// Something is to be told of sockets older than the monitor.
    pub(super) fn wants_older(&self) -> bool {
        self.kinds.iter().any(|kind| OLDER.contains(kind))
    }

    /// How many policies the programs have room for.
    pub(super) const fn policy_places(&self) -> u32 {
        if self.policy_changes { PLACES } else { 1 }
    }
}

impl Default for Settings {
    /// Nothing is reported, at the default sizes.
    fn default() -> Self {
        Self {
            backend: None,
            kinds: Vec::new(),
            filters: Filters::default(),
            ring_bytes: DEFAULT_RING_BYTES,
            latency: DEFAULT_LATENCY,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            log_level: None,
            btf: None,
            policy: None,
            policy_changes: false,
            self_test: SelfTest::default(),
            faults: Faults::default(),
        }
    }
}

/// How long the self-test may take where packets do not arrive.
#[derive(Clone, Debug)]
pub struct SelfTest {
    /// How long it waits for packets of its own.
    pub patience: Duration,
    /// When the other end of this is closed, it does not wait any longer.
    pub stop: Option<Arc<PipeReader>>,
}

impl SelfTest {
    /// Long enough for a segment that is lost once: it is sent again after a second.
    pub const PATIENCE: Duration = Duration::from_millis(1_200);
    /// Enough where it is known that packets do not arrive.
    pub const BRIEF: Duration = Duration::from_millis(100);
}

impl Default for SelfTest {
    fn default() -> Self {
        Self {
            patience: Self::PATIENCE,
            stop: None,
        }
    }
}
