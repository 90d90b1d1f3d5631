//! User names by uid, from whatever this host's NSS asks. That may be a server far away:
//! a name that takes long keeps nobody waiting, and the uid stands alone until it is there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    asker::{Asker, Bell},
    cache::Cache,
};
use crate::events::record::Missing;

/// More uids than a host's users and containers have.
const LIMIT: usize = 4096;
/// How long the first name may take, before there is an event: the C library loads what it
/// asks for names.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);

type Name = Option<Arc<str>>;

/// Names seen so far: a look-up may go over the network, so each uid is asked
/// for once.
#[derive(Debug)]
pub(crate) struct Users {
    known: Cache<u32, Name>,
    asker: Asker<u32, Name>,
}

impl Users {
    /// Of this host. The name of this process's own user is looked up at once.
    pub(crate) fn new(bell: &Arc<Bell>) -> Self {
        let mut users = Self::by(bell, |&uid| {
            uzers::get_user_by_uid(uid).map(|user| user.name().to_string_lossy().into())
        });
        let deadline = Instant::now() + FIRST_PATIENCE;
        while users.name(rustix::process::getuid().as_raw()).is_none() && Instant::now() < deadline
        {
            bell.wait(FIRST_PATIENCE);
        }
        users
    }

    /// Looked up by `look_up`, each answer rings the bell.
    pub(crate) fn by(
        bell: &Arc<Bell>,
        look_up: impl Fn(&u32) -> Name + Send + Sync + 'static,
    ) -> Self {
        Self {
            known: Cache::new(LIMIT),
            asker: Asker::new(bell, look_up),
        }
    }

    /// The name of `uid`, none when this host knows none, or that it is late; `None` while it
    /// is looked up.
    pub(crate) fn name(&mut self, uid: u32) -> Option<Result<Name, Missing>> {
        let Self { known, asker } = self;
        asker.take(|uid, name| known.insert(uid, name));
        if let Some(name) = known.get(&uid) {
            return Some(Ok(name));
        }
        (!asker.ask(&uid)).then_some(Err(Missing::Late))
    }

    /// Names take long.
    pub(crate) fn hurry(&mut self) {
        self.asker.hurry();
    }

    /// From now on the name is late until it is there.
    pub(crate) fn give_up(&mut self, uid: u32) {
        self.asker.give_up(&uid);
    }
}

#[cfg(test)]
mod tests {
    use crate::pipeline::enrich::user::*;

    #[test]
    fn uid_zero_is_root_and_an_unknown_uid_has_no_name() {
        let bell = Arc::default();
        let mut users = Users::new(&bell);
        let deadline = Instant::now() + Duration::from_mins(1);
        let mut name = |uid| loop {
            if let Some(name) = users.name(uid) {
                return name;
            }
            assert!(Instant::now() < deadline, "the name never came");
            bell.wait(Duration::from_secs(1));
        };
        for _ in 0..2 {
            assert_eq!(name(0), Ok(Some("root".into())));
            assert_eq!(name(u32::MAX - 7), Ok(None));
        }
    }
}
