//! Which listener a connection came to (tracepoint backend).

use port_monitor_common::event::{EventKind, FLAG_INBOUND, OwnerSource, TcpEvent};

use crate::{
    maps::{
        LET_GO, LISTENERS,
        values::{LetGo, Listener, ListenerKey},
    },
    read::{
        mem::{self, Probe},
        sock::{self, Addr, WILDCARD, WILDCARD_V4},
        task,
    },
    report::{emit, filter},
};

/// Makes it the event of an inbound connection whose handshake is complete; what
/// the owner filters say where nothing is known of who listens. Else they are asked when it
/// is. `ended` is `FLAG_ENDED` where it is over.
#[inline(always)]
pub(crate) fn established(sk: *const u8, event: &mut TcpEvent, ended: u16) -> Option<bool> {
    if !sock::is_tcp::<Probe>(sk) {
        return None;
    }
    event.kind = EventKind::Accept as u8;
    event.flags = FLAG_INBOUND | ended;
    event.id = emit::connection_id::<Probe>(sk, event.ts_ns);
    let known = if sock::is_let_go(sk) {
        None
    } else {
        find_listener(event)
    };
    let listener = known.filter(|listener| listener.is_ambiguous == 0);
    let Some(listener) = listener else {
        if sock::is_fast_open(sk)
            && let Some(let_go) = find_let_go(event)
        {
            // It came before that: else nobody would have taken its request.
            event.ts_ns = let_go.closed_ns;
            event.detail = let_go.number as u32;
            return Some(true);
        }
        return Some(filter::unknown_owner_passes());
    };
    event.detail = listener.number;
    if task::is_monitor(listener.owner.tgid) {
        mem::copy(&listener.owner, &mut event.owner);
        event.owner_source = OwnerSource::Listener as u8;
    } else if listener.is_asked == 0
        && emit::is_wanted(EventKind::Accept)
        && filter::flow_passes(event)
    {
        listener.is_asked = 1;
    }
    Some(true)
}

/// The listener a connection came to: its very address, else a wildcard; an
/// IPv6 wildcard takes IPv4 too.
#[inline(always)]
pub(crate) fn find_listener(event: &TcpEvent) -> Option<&'static mut Listener> {
    // SAFETY: the entry is read at once; a listener closed meanwhile leaves
    // its last owner. One field is written, which nobody else writes.
    find(event, |key| {
        Some(unsafe { &mut *LISTENERS.get_ptr_mut(key)? })
    })
}

/// The one it came to that was closed since, likewise.
#[inline(always)]
fn find_let_go(event: &TcpEvent) -> Option<LetGo> {
    // SAFETY: copied at once.
    find(event, |key| unsafe { LET_GO.get(key) }.copied())
}

#[inline(always)]
fn find<T>(event: &TcpEvent, mut lookup: impl FnMut(ListenerKey) -> Option<T>) -> Option<T> {
    let addr = sock::words(&event.local_addr);
    lookup(key(event, addr))
        .or_else(|| {
            if sock::is_v4(&addr) {
                lookup(key(event, WILDCARD_V4))
            } else {
                None
            }
        })
        .or_else(|| lookup(key(event, WILDCARD)))
}

#[inline(always)]
pub(crate) fn key(event: &TcpEvent, addr: Addr) -> ListenerKey {
    ListenerKey {
        addr,
        netns_ino: event.netns_ino,
        port: event.local_port.into(),
    }
}
