//! A bounded memory of what was made lately.

use std::array;

/// Remembers values, each in the one place its hash gives. A value that needs
/// another one's place takes it over: the memory is bounded without keeping
/// books, and a look-up costs one comparison.
#[derive(Debug)]
pub(crate) struct Memo<T, const PLACES: usize> {
    places: Box<[Option<T>; PLACES]>,
}

impl<T, const PLACES: usize> Memo<T, PLACES> {
    pub(crate) fn new() -> Self {
        Self {
            places: Box::new(array::from_fn(|_| None)),
        }
    }

    /// The value that `is_it` recognizes, made anew unless it is remembered.
    pub(crate) fn get(
        &mut self,
        hash: usize,
        is_it: impl FnOnce(&T) -> bool,
        make: impl FnOnce() -> T,
    ) -> &mut T {
        self.get_or_remake(hash, is_it, |_| make())
    }

    /// The value that `is_it` recognizes; unless it is remembered, it is made anew, perhaps of
    /// the one whose place it takes.
    pub(crate) fn get_or_remake(
        &mut self,
        hash: usize,
        is_it: impl FnOnce(&T) -> bool,
        make: impl FnOnce(Option<T>) -> T,
    ) -> &mut T {
        let place = &mut self.places[hash % PLACES];
        let other = place.take_if(|value| !is_it(value));
        place.get_or_insert_with(|| make(other))
    }
}

#[cfg(test)]
mod tests {
    use crate::base::memo::*;

    #[test]
    fn a_value_is_made_again_only_after_another_took_its_place() {
        let mut memo = Memo::<usize, 4>::new();
        let mut calls = Vec::new();
        for key in [1, 1, 2, 5, 2, 1, 1] {
            let make = || {
                calls.push(key);
                key
            };
            assert_eq!(*memo.get(key, |&value| value == key, make), key);
        }
        assert_eq!(calls, [1, 2, 5, 1]);
    }
}
