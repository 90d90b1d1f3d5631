//! An array of maps from which a map can be taken away.
//!
//! Works around: the kernel deletes entries of an array of maps, and aya's `ArrayOfMaps` has
//! no method for it. The methods of a hash of maps make the same calls.
//!
//! Since: policies have tables of their own; `maps/of_maps/array.rs` of aya.
//!
//! Until: `ArrayOfMaps` can take a map away.
//!
//! Looked at: aya 0.14.0

use aya::maps::{HashOfMaps, MapData};

/// A table of each generation: an array of maps.
pub(in crate::kernel) type InEachGeneration<Table> = HashOfMaps<MapData, u32, Table>;
