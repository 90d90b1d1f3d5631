//! Order where it need not come quickly: the standard library's sort is there once for each type
//! that is sorted, and takes more code than most of what sorts does otherwise.

use std::{cmp::Ordering, collections::BTreeSet, mem};

/// Sorts as [`slice::sort_by_key`] does; of equals, what was first stays first. For what is not
/// much, or not sorted often.
pub(crate) fn sort_by_key<T, K: Ord>(items: &mut Vec<T>, key: impl FnMut(&T) -> K) {
    let keys: Vec<K> = items.iter().map(key).collect();
    let order = order(keys.len(), &|one, other| {
        keys.get(one).cmp(&keys.get(other))
    });
    let mut places: Vec<Option<T>> = mem::take(items).into_iter().map(Some).collect();
    items.extend(
        order
            .into_iter()
            .filter_map(|at| places.get_mut(at)?.take()),
    );
}

/// The numbers below `count`, in the order of what they stand for.
fn order(count: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|&one, &other| compare(one, other));
    order
}

/// The set of these, one put into it after the other: to collect them sorts them first.
pub(crate) fn set<T: Ord>(items: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    let mut set = BTreeSet::new();
    set.extend(items);
    set
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::base::order::*;

    proptest! {
        #[test]
        fn order_is_that_of_the_standard_library(mut items: Vec<(u8, String)>) {
            let mut sorted = items.clone();
            sorted.sort_by_key(|(number, _)| number % 8);
            sort_by_key(&mut items, |(number, _)| number % 8);
            prop_assert_eq!(&items, &sorted);
            let collected: BTreeSet<_> = sorted.into_iter().collect();
            prop_assert_eq!(set(items), collected);
        }
    }
}
