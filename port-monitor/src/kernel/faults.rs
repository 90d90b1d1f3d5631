//! What is to go wrong in the kernel, for tests.

use port_monitor_common::site::Site;

use super::counters::Counters;

/// What is to go wrong, for tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Listeners that the table of them has room for; zero: as many as ever.
    pub listeners: u32,
    /// Where the programs fail, once the self-test is over.
    pub site: Option<Site>,
}

impl Faults {
    /// Has the programs fail from now on.
    pub(super) fn begin(self, counters: &Counters) {
        if let Some(site) = self.site {
            counters.inject(site);
        }
    }
}
