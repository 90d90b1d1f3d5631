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
    /// A program that does not work: one of [`PROGRAMS`].
    pub program: Option<&'static str>,
}

/// The programs that the self-test has to find out when they do not work.
pub const PROGRAMS: [&str; 23] = [
    "pm_accept_fe2",
    "pm_accept_fe4",
    "pm_again_bt",
    "pm_again_rt",
    "pm_again_tp",
    "pm_before_rt",
    "pm_call_kp",
    "pm_connect_fe",
    "pm_connect_kp",
    "pm_denied_fe",
    "pm_denied_krp",
    "pm_graft_fe",
    "pm_graft_kp",
    "pm_graft_mkp",
    "pm_local_rt",
    "pm_local_tp",
    "pm_outcome_bt",
    "pm_outcome_rt",
    "pm_remote_rt",
    "pm_remote_tp",
    "pm_unsent4_fe",
    "pm_unsent6_fe",
    "pm_unsent_krp",
];

impl Faults {
    /// Has the programs fail from now on.
    pub(super) fn begin(self, counters: &Counters) {
        if let Some(site) = self.site {
            counters.inject(site);
        }
    }
}
