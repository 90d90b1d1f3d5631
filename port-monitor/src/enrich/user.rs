//! User names by uid, from whatever this host's NSS asks.

use std::sync::Arc;

use super::cache::Cache;

/// More uids than a host's users and containers have.
const LIMIT: usize = 4096;

/// Names seen so far: a look-up may go over the network, so each uid is asked
/// for once.
#[derive(Debug)]
pub(super) struct Users(Cache<u32, Option<Arc<str>>>);

impl Users {
    pub(super) fn new() -> Self {
        Self(Cache::new(LIMIT))
    }

    /// The name of `uid`; `None` when this host knows none.
    pub(super) fn name(&mut self, uid: u32) -> Option<Arc<str>> {
        if let Some(name) = self.0.get(&uid) {
            return name;
        }
        let name = uzers::get_user_by_uid(uid).map(|user| user.name().to_string_lossy().into());
        self.0.insert(uid, name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uid_zero_is_root_and_an_unknown_uid_has_no_name() {
        let mut users = Users::new();
        for _ in 0..2 {
            assert_eq!(users.name(0).as_deref(), Some("root"));
            assert_eq!(users.name(u32::MAX - 7), None);
        }
    }
}
