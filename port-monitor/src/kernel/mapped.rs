//! The memory of an array map, mapped into this process: reading and writing it
//! takes no system call.

use std::{
    marker::PhantomData,
    os::fd::AsFd as _,
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{MapData, MapError};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use zerocopy::{FromBytes, IntoBytes};

use super::error::KernelError;

const WORD: usize = size_of::<u64>();

/// An array map whose entries are made of words. Programs, and other processes,
/// change it at any time: it is read and written by words, each of them whole.
#[derive(Debug)]
pub(super) struct Mapped<T> {
    words: NonNull<AtomicU64>,
    entries: usize,
    entry: PhantomData<T>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and its words are only
// ever accessed as atomics.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: nothing but atomics is reached through a shared reference.
unsafe impl<T> Sync for Mapped<T> {}

impl<T: FromBytes + IntoBytes> Mapped<T> {
    /// Maps all of an array, which was made with `BPF_F_MMAPABLE`.
    pub(super) fn new(map: &MapData, protection: ProtFlags) -> Result<Self, KernelError> {
        const { assert!(size_of::<T>().is_multiple_of(WORD)) };
        let info = map.info().map_err(KernelError::from)?;
        let entries = info.max_entries() as usize;
        if info.value_size() as usize != size_of::<T>() {
            return Err(KernelError::from(MapError::InvalidValueSize {
                size: info.value_size() as usize,
                expected: size_of::<T>(),
            }));
        }
        let bytes = entries * size_of::<T>();
        let (any, flags) = (ptr::null_mut(), MapFlags::SHARED);
        // SAFETY: a new mapping, at a place of the kernel's choice.
        let start = unsafe { mmap(any, bytes, protection, flags, map.fd().as_fd(), 0) }
            .map_err(|error| KernelError::Map(format!("map an array: {error}")))?;
        let words = NonNull::new(start.cast())
            .ok_or_else(|| KernelError::Map("an array is mapped at 0".to_owned()))?;
        Ok(Self {
            words,
            entries,
            entry: PhantomData,
        })
    }

    /// One word of one entry.
    fn word(&self, entry: usize, word: usize) -> Option<&AtomicU64> {
        let words = size_of::<T>() / WORD;
        if entry >= self.entries || word >= words {
            return None;
        }
        // SAFETY: within the mapping, by the line above.
        let word = unsafe { self.words.add(entry * words + word) };
        // SAFETY: the mapping lives as long as this does, and is only ever accessed
        // by whole words.
        Some(unsafe { word.as_ref() })
    }

    /// The entry, word by word; `None` beyond the end.
    pub(super) fn get(&self, entry: usize) -> Option<T> {
        let mut value = T::new_zeroed();
        for (n, to) in value.as_mut_bytes().chunks_exact_mut(WORD).enumerate() {
            to.copy_from_slice(&self.number(entry, n)?.to_ne_bytes());
        }
        Some(value)
    }

    /// One word of the entry; `None` beyond the end.
    pub(super) fn number(&self, entry: usize, word: usize) -> Option<u64> {
        Some(self.word(entry, word)?.load(Ordering::Acquire))
    }

    /// Writes the entry, word by word; nothing beyond the end.
    pub(super) fn set(&self, entry: usize, value: &T)
    where
        T: zerocopy::Immutable,
    {
        for (n, from) in value.as_bytes().chunks_exact(WORD).enumerate() {
            let (Some(word), Ok(from)) = (self.word(entry, n), from.try_into()) else {
                return;
            };
            word.store(u64::from_ne_bytes(from), Ordering::Release);
        }
    }

    /// Puts `to` in the place of `from` in a word of an entry; false where that is another.
    pub(super) fn exchange(&self, entry: usize, word: usize, from: u64, to: u64) -> bool {
        self.word(entry, word).is_some_and(|word| {
            word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        })
    }

    /// Adds to a word of an entry, which programs add to at the same time.
    pub(super) fn add(&self, entry: usize, word: usize, more: u64) {
        if let Some(word) = self.word(entry, word) {
            word.fetch_add(more, Ordering::AcqRel);
        }
    }

    /// Makes a word of an entry at least this large.
    pub(super) fn raise(&self, entry: usize, word: usize, least: u64) {
        if let Some(word) = self.word(entry, word) {
            word.fetch_max(least, Ordering::AcqRel);
        }
    }

    /// How many entries there are.
    pub(super) const fn len(&self) -> usize {
        self.entries
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        let bytes = self.entries * size_of::<T>();
        // SAFETY: the mapping of `new`, which nothing refers to any more.
        let unmapped = unsafe { munmap(self.words.as_ptr().cast(), bytes) };
        if let Err(error) = unmapped {
            log::warn!("unmap an array: {error}");
        }
    }
}
