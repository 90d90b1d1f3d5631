//! A history as JSON lines: each connection as the line of the last that was told of it, at
//! the time of its beginning.

use crate::{
    consume::{history::read::Kept, join::State, lines::json::connection_of},
    events::wire::words::{ConnectionState, Word},
};

/// Writes JSON lines.
#[derive(Debug, Default)]
pub struct Json;

impl Json {
    /// Writes the line of a connection. What a history does not keep is absent.
    pub fn connection(out: &mut Vec<u8>, kept: &Kept) {
        let run = &kept.mark.run;
        let mut line = connection_of(&run.host, run.policy.as_deref(), &kept.record);
        if let Some(process) = &mut line.process {
            process.thread = None;
            process.start = None;
        }
        let facts = &mut line.port_monitor;
        facts.boottime_ns = None;
        facts.cpu = None;
        facts.preattach = None;
        facts.raw.thread_name = None;
        facts.handshake_us = kept.handshake_us;
        facts.connection_state = Some(Word::Known(state(kept.state)));
        // Writing into a Vec cannot fail, and every key is text.
        let _ = serde_json::to_writer(&mut *out, &line);
        out.push(b'\n');
    }
}

const fn state(state: State) -> ConnectionState {
    match state {
        State::Attempted => ConnectionState::Attempted,
        State::Open => ConnectionState::Open,
        State::Failed => ConnectionState::Failed,
        State::Closed => ConnectionState::Closed,
        State::CutOff => ConnectionState::CutOff,
        State::PushedOut => ConnectionState::PushedOut,
    }
}
