//! User names by uid, from whatever this host's NSS asks. That may be a server far away:
//! a name that takes long is not waited for, and the uid stands alone until it is there.

use std::{sync::Arc, time::Duration};

use super::{asker::Asker, cache::Cache};
use crate::record::Missing;

/// More uids than a host's users and containers have.
const LIMIT: usize = 4096;
/// A name that is not there by then comes in later lines.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long the first name may take, before there is an event: the C library loads what it
/// asks for names.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);

type Name = Option<Arc<str>>;

/// Names seen so far: a look-up may go over the network, so each uid is asked
/// for once.
#[derive(Debug)]
pub(super) struct Users {
    known: Cache<u32, Name>,
    asker: Asker<u32, Name>,
}

impl Users {
    /// Of this host. The name of this process's own user is looked up at once.
    pub(super) fn new() -> Self {
        let mut users = Self::by(FIRST_PATIENCE, |&uid| {
            uzers::get_user_by_uid(uid).map(|user| user.name().to_string_lossy().into())
        });
        let _: Result<Name, Missing> = users.name(rustix::process::getuid().as_raw());
        users.asker.set_patience(PATIENCE);
        users
    }

    /// Looked up by `look_up`, which is waited for no longer than `patience`.
    pub(super) fn by(
        patience: Duration,
        look_up: impl Fn(&u32) -> Name + Send + Sync + 'static,
    ) -> Self {
        Self {
            known: Cache::new(LIMIT),
            asker: Asker::new(patience, look_up),
        }
    }

    /// The name of `uid`; none when this host knows none.
    pub(super) fn name(&mut self, uid: u32) -> Result<Name, Missing> {
        let Self { known, asker } = self;
        if let Some(name) = known.get(&uid) {
            return Ok(name);
        }
        let mut found = None;
        asker.take(|answered, name| {
            if answered == uid {
                found = Some(name.clone());
            }
            known.insert(answered, name);
        });
        if let Some(name) = found {
            return Ok(name);
        }
        asker.ask(&uid, |answered, name| {
            if answered == uid {
                found = Some(name.clone());
            }
            known.insert(answered, name);
        });
        found.ok_or(Missing::Late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uid_zero_is_root_and_an_unknown_uid_has_no_name() {
        let mut users = Users::new();
        users.asker = Users::by(Duration::from_mins(1), |&uid| {
            uzers::get_user_by_uid(uid).map(|user| user.name().to_string_lossy().into())
        })
        .asker;
        for _ in 0..2 {
            assert_eq!(users.name(0), Ok(Some("root".into())));
            assert_eq!(users.name(u32::MAX - 7), Ok(None));
        }
    }
}
