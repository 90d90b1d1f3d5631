//! Finds the values that the programs read by: what only one option or one kind of program
//! reads refuses only that.

use std::ops::Deref;

use port_monitor_common::offsets::{Need, Offsets, Place};

use super::{Btf, BtfError};
use crate::base::order;

/// The struct that [`Btf::ring_sleeps`] looks into.
const RING: &str = "bpf_ringbuf";

/// Where the kernel has what the programs read.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// The offsets; those of a [`Need`] that misses something are all zero.
    pub offsets: Offsets,
    /// Who misses something, and the first thing that is missing.
    pub missing: Vec<(Need, BtfError)>,
}

/// The structs that are looked into.
pub(super) fn structs() -> Vec<&'static str> {
    let names = Offsets::PLACES.iter().filter_map(|(place, _)| match place {
        Place::Field(path) | Place::FieldOrNone(path) | Place::BitByte(path) | Place::Bit(path) => {
            Some(path.split_once('.')?.0)
        }
        Place::Function(_) => None,
    });
    let names = order::set(names.chain([RING]));
    names.into_iter().collect()
}

/// The functions that are asked for.
pub fn functions() -> impl Iterator<Item = &'static str> {
    Offsets::PLACES.iter().filter_map(|(place, _)| match place {
        Place::Function(name) => Some(*name),
        _ => None,
    })
}

/// Every value that the eBPF programs may read by; the error names the first that every run
/// needs and this kernel does not have.
pub fn offsets<B: Deref<Target = [u8]>>(btf: &Btf<B>) -> Result<Found, BtfError> {
    let mut missing: Vec<(Need, BtfError)> = Vec::new();
    let mut values = Vec::with_capacity(Offsets::PLACES.len());
    for (place, need) in Offsets::PLACES {
        values.push(match value(btf, place) {
            Ok(value) => value,
            Err(error) if need == Need::EveryRun => return Err(error),
            Err(error) => {
                if missing.iter().all(|(who, _)| *who != need) {
                    missing.push((need, error));
                }
                0
            }
        });
    }
    let mut values = values.into_iter();
    let offsets = Offsets::found(|_, need| {
        let value = values.next().unwrap_or_default();
        let is_whole = missing.iter().all(|(who, _)| *who != need);
        if is_whole { value } else { 0 }
    });
    Ok(Found { offsets, missing })
}

fn value<B: Deref<Target = [u8]>>(btf: &Btf<B>, place: Place) -> Result<u32, BtfError> {
    let bit = |path| btf.bit_offset(path).unwrap_or((0, 0));
    match place {
        Place::Field(path) => btf.member_offset(path),
        Place::FieldOrNone(path) => match btf.member_offset(path) {
            Err(BtfError::NoStruct(_) | BtfError::NoField(_)) => Ok(0),
            found => found,
        },
        Place::BitByte(path) => Ok(bit(path).0),
        Place::Bit(path) => Ok(bit(path).1),
        Place::Function(name) => Ok(btf.function(name).is_some().into()),
    }
}
