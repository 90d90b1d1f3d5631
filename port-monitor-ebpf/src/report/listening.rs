//! The sockets that listen, from the beginning to the end that is told.

use port_monitor_common::{
    event::{EventKind, TcpEvent},
    site::Site,
};

use crate::{
    account::{Removal, removal},
    maps::{LISTENING, values::Connection},
};

/// The listener that is remembered on `sk`.
#[inline(always)]
pub(crate) fn known(sk: *const u8) -> Option<&'static mut Connection> {
    // SAFETY: a map value; only changes of this very socket's state, which do not run
    // concurrently, write or remove it.
    let known = unsafe { &mut *LISTENING.get_ptr_mut(sk as u64)? };
    known.is_known().then_some(known)
}

/// Makes it the event of the end of `sk`, which is forgotten. Of several programs
/// that see it, one is told so.
#[inline(always)]
pub(crate) fn recall(sk: *const u8, event: &mut TcpEvent) -> Option<()> {
    let listening = known(sk)?;
    event.kind = EventKind::Unlisten as u8;
    listening.identify(event);
    match removal(Site::ForgetListener, || LISTENING.remove(sk as u64)) {
        Removal::Removed => Some(()),
        Removal::Absent => None,
        Removal::Failed => {
            listening.set_over();
            Some(())
        }
    }
}
