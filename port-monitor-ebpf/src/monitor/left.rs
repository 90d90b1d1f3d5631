//! `iter/bpf_map_elem`: what is left, at the stop, of connections and listeners that are
//! over: every program missed their end. The first look, while the programs are attached,
//! notes what is over; the second one, when none runs any more, counts what was noted and
//! is still there. So nothing counts that a program was just telling.

use port_monitor_common::{counters::Extra, event::EventKind, tcp_state::TcpState};

use crate::{
    account,
    globals::config,
    maps::values::Connection,
    monitor::progress::Element,
    read::{mem::Probe, sock, task},
    report::connection::OUTCOMES,
};

/// [`Connection::end`]: it is over, at the first look at the stop.
const LEFT: u8 = 2;

impl Connection {
    /// The user asks for what is still to be told of it.
    #[inline(always)]
    pub(crate) fn is_rest_wanted(&self) -> bool {
        let kinds = if self.is_open() {
            EventKind::Close.bit()
        } else if self.is_listener() {
            EventKind::Unlisten.bit()
        } else {
            OUTCOMES | EventKind::Close.bit()
        };
        config!(kinds) & kinds != 0 && !task::is_monitor(self.owner.tgid)
    }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
extern "C" fn pm_left_it(ctx: *const Element) -> i32 {
    // SAFETY: the kernel passes its iterator context.
    let key = unsafe { (*ctx).key };
    // SAFETY: as above.
    let value = unsafe { (*ctx).value };
    if key.is_null() || value.is_null() {
        // There are no more.
        return 0;
    }
    // SAFETY: a key of either table.
    let sk = unsafe { key.read_volatile() } as *const u8;
    // SAFETY: a value of either table.
    let entry = unsafe { &mut *value.cast::<Connection>() };
    if entry.end == LEFT {
        entry.set_over();
        account::count_extra(Extra::Unseen);
    } else if entry.is_known() && entry.is_rest_wanted() && is_over(sk, entry) {
        entry.end = LEFT;
    }
    0
}

/// Something of it has happened that no program saw: it is over, it is established and
/// still noted as an attempt, or its socket is another one's.
#[inline(always)]
fn is_over(sk: *const u8, entry: &Connection) -> bool {
    let is_listener = entry.is_listener();
    let Some(state) = sock::state::<Probe>(sk) else {
        return true;
    };
    if !sock::is_tcp::<Probe>(sk) {
        // The memory of the socket serves something else.
        return true;
    }
    match state {
        // What begins is noted before its state changes, on the tracepoint backend; an attempt
        // that fails within `connect` is over when that returns.
        TcpState::CLOSE => entry.is_open() || !sock::is_within_connect::<Probe>(sk),
        TcpState::LISTEN => !is_listener,
        TcpState::SYN_SENT | TcpState::SYN_RECV => is_listener,
        _ => !entry.is_open(),
    }
}
