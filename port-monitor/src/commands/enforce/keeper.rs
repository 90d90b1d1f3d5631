//! Renews the lease of a followed policy, on a thread of its own: whatever else takes long,
//! and whoever holds the lock, the policy is followed.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use crate::kernel::enforcer::{PolicyId, Watch};

/// How often: several times in the shortest lease.
const TICK: Duration = Duration::from_millis(500);

/// The thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    followed: Sender<(Arc<Watch>, PolicyId)>,
}

impl Keeper {
    /// Starts it; it follows nothing yet.
    pub(super) fn start() -> io::Result<Self> {
        let (sender, followed) = mpsc::channel::<(Arc<Watch>, PolicyId)>();
        let keep = move || {
            let mut current: Option<(Arc<Watch>, PolicyId)> = None;
            loop {
                match followed.recv_timeout(TICK) {
                    Ok(next) => current = Some(next),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                if let Some((watch, policy)) = &current {
                    watch.renew(*policy);
                }
            }
        };
        thread::Builder::new()
            .name("lease".to_owned())
            .spawn(keep)?;
        Ok(Self { followed: sender })
    }

    /// Renews this policy's from now on, and no other's.
    pub(super) fn follow(&self, watch: Arc<Watch>, policy: PolicyId) {
        // The thread takes messages for as long as this lives.
        let _ = self.followed.send((watch, policy));
    }
}
