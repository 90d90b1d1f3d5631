//! Wire types as aya's `Pod`, through one implementation for all of them.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A wire type from `port-monitor-common`, for aya's maps and globals.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Wire<T>(pub(super) T);

// SAFETY: `IntoBytes` proves that there is no padding, `FromBytes` that every
// bit pattern is valid; `repr(transparent)` gives `Wire<T>` the layout of `T`.
unsafe impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> aya::Pod for Wire<T> {}
