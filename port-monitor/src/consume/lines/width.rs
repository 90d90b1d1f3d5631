//! From how many columns of a terminal on there is room for what.

/// The narrowest terminal the table is laid out for; narrower ones wrap.
pub(crate) const NARROWEST: usize = 40;
/// From this width on there is a process id.
pub(crate) const WITH_PID: usize = 64;
/// From this width on there are both ends.
pub(crate) const WITH_BOTH_ENDS: usize = 80;
/// From this width on there is the time.
pub(crate) const WITH_TIME: usize = 57;
/// From this width on the columns are as wide as names usually are.
pub(crate) const NORMAL: usize = 100;
/// From this width on the columns have room for IPv6 and long names.
pub(crate) const WIDE: usize = 150;

/// The mark and the space after it.
pub(crate) const MARK_WIDTH: usize = 2;
