//! A bounded map that forgets what nobody asked for lately.

use std::{collections::HashMap, hash::Hash, mem};

/// Two generations: a full young one replaces the old one, and what is asked for
/// moves back to the young one. Least-recently-used but for one generation, at
/// the price of two hash look-ups and no list.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    generation: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    /// A cache of at most `limit` entries.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            generation: limit / 2,
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.insert(key, value.clone());
        Some(value)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.generation {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use crate::pipeline::enrich::cache::*;

    #[test]
    fn entries_stay_within_the_limit() {
        let mut cache = Cache::new(8);
        for key in 0..1000 {
            cache.insert(key, ());
            assert!(cache.young.len() + cache.old.len() <= 8);
        }
    }

    #[test]
    fn what_is_asked_for_outlives_what_is_not() {
        let mut cache = Cache::new(8);
        cache.insert("kept", 1);
        cache.insert("forgotten", 2);
        for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            cache.insert(key, 0);
            assert_eq!(cache.get(&"kept"), Some(1));
        }
        assert_eq!(cache.get(&"forgotten"), None);
    }
}
