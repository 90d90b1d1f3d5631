//! What a line tells of the process at the other end, rendered once per process.

use std::sync::Arc;

use super::{line::Line, raw};
use crate::{base::memo::Memo, events::record::Peer};

/// The texts of the peers last seen.
#[derive(Debug)]
pub(crate) struct PeerTexts(Memo<PeerText, 256>);

/// What is told of a peer.
#[derive(Debug)]
pub(crate) struct PeerText {
    /// All that the text depends on. Held on to, so that its address stays its own.
    peer: Arc<Peer>,
    /// `"peer_process":…`, after a comma.
    pub(crate) facts: Vec<u8>,
    /// Its fields of `raw`; mostly empty.
    pub(crate) raw: Vec<u8>,
}

impl PeerTexts {
    /// Nothing seen yet.
    pub(crate) fn new() -> Self {
        Self(Memo::new())
    }

    /// The text of `peer`.
    pub(crate) fn text(&mut self, peer: &Arc<Peer>) -> &PeerText {
        // No two of them begin in one half of a cache line.
        let hash = Arc::as_ptr(peer).addr() / 32;
        self.0.get(
            hash,
            |text| Arc::ptr_eq(&text.peer, peer),
            || PeerText::new(peer),
        )
    }
}

impl PeerText {
    fn new(peer: &Arc<Peer>) -> Self {
        let exe = peer.process.exe.known();
        let exe = exe.map(|exe| exe.as_os_str().as_encoded_bytes());
        let mut facts = Vec::new();
        let mut line = Line(&mut facts);
        line.raw(r#","peer_process":{"pid":"#);
        line.number(peer.pid);
        line.raw(r#","name":"#);
        line.string(peer.comm.as_bytes());
        if let Some(exe) = exe {
            line.raw(r#","executable":"#);
            line.string(exe);
        }
        line.raw(r#","start_boottime_ns":""#);
        line.number(peer.start_ns);
        line.raw(r#""}"#);
        let mut fields = Vec::new();
        let name = peer.comm.as_bytes();
        raw::push_field(&mut fields, r#""port_monitor.peer_process.name":"#, name);
        if let Some(exe) = exe {
            raw::push_field(
                &mut fields,
                r#""port_monitor.peer_process.executable":"#,
                exe,
            );
        }
        Self {
            peer: Arc::clone(peer),
            facts,
            raw: fields,
        }
    }
}
