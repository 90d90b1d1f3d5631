//! What the service manager is told, by the protocol of `sd_notify(3)`. Without one nobody is
//! told anything.

use std::{
    io,
    sync::mpsc::{SyncSender, sync_channel},
    thread,
};

use sd_notify::{NotifyState, notify, watchdog_enabled};

/// The service has begun, or has what is new to it.
pub(in crate::commands) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is read again.
pub(in crate::commands) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => log::warn!("the monotonic clock: {error}"),
    }
}

/// The service comes to its end.
pub(in crate::commands) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        log::warn!("tell the service manager: {error}");
    }
}

/// Tells the watchdog of the service manager that the thread lives which says so. A thread of
/// its own does the telling: whoever lives must not wait for a socket.
pub(in crate::commands) struct Watchdog(Option<SyncSender<()>>);

impl Watchdog {
    /// A watchdog, where the service manager wants one.
    pub(in crate::commands) fn start() -> io::Result<Self> {
        if watchdog_enabled().is_none() {
            return Ok(Self(None));
        }
        let (sender, signs) = sync_channel(1);
        thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || signs.iter().for_each(|()| tell(&[NotifyState::Watchdog])))?;
        Ok(Self(Some(sender)))
    }

    /// This thread lives.
    pub(in crate::commands) fn feed(&self) {
        if let Some(sender) = &self.0 {
            // One sign that waits says enough.
            let _ = sender.try_send(());
        }
    }
}
