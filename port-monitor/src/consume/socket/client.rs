//! A client that is told events: a consumer of its own, so that it costs nobody but itself what
//! it is too slow for.

use std::{
    io::{ErrorKind, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::{
    consume::{
        Lines, Sink as _,
        consumer::{Consumer, END_GRACE, Gaps, Kinds, Needs, Stats},
        found::Part,
        lines::json::Json,
    },
    events::record::{Account, Dropped, Item},
};

/// Bytes that are written at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes that wait for a client that takes nothing. What is more is dropped.
const WAITING_BYTES: usize = 1 << 20;
/// How long a client that has no room is waited for; its queue fills meanwhile. One that took
/// nothing is not waited for again until it does.
const PATIENCE: Duration = END_GRACE;

/// A client at the other end of a stream that does not block.
pub(super) struct Client {
    name: &'static str,
    kinds: Kinds,
    stream: UnixStream,
    state: State,
    json: Json,
    chunk: Lines,
    gaps: Gaps,
    taken: u64,
    dropped: Dropped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It takes what comes.
    Reads,
    /// It took nothing for a while.
    Stuck,
    /// It takes nothing any more.
    Gone,
}

impl Client {
    pub(super) fn new(name: &'static str, kinds: Kinds, stream: UnixStream) -> Self {
        Self {
            name,
            kinds,
            stream,
            state: State::Reads,
            json: Json::new(),
            chunk: Lines::with_capacity(CHUNK_BYTES),
            gaps: Gaps::default(),
            taken: 0,
            dropped: Dropped::default(),
        }
    }

    const fn has_room(&self) -> bool {
        self.chunk.len() < WAITING_BYTES
    }

    /// Writes as much as the client takes. What is left stays.
    fn write(&mut self) {
        while !self.chunk.rest().is_empty() && self.state != State::Gone {
            match self.stream.write(self.chunk.rest()) {
                Ok(0) => self.state = State::Gone,
                Ok(count) => {
                    self.chunk.written += count;
                    self.state = State::Reads;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.state == State::Stuck || !self.has_room_within(PATIENCE) {
                        self.state = State::Stuck;
                        return;
                    }
                }
                Err(_) => self.state = State::Gone,
            }
        }
        self.forget();
    }

    /// Counts what is formatted, by whether it is written, and forgets it.
    fn forget(&mut self) {
        let (events, taken) = (
            self.chunk.events(),
            self.chunk.events_within(self.chunk.written),
        );
        self.taken += taken;
        match self.state {
            State::Gone => self.dropped.failed += events - taken,
            State::Reads | State::Stuck => self.dropped.queue_full += events - taken,
        }
        self.chunk.clear();
    }

    /// Whether the client has room, or is gone, after so long at most.
    fn has_room_within(&self, patience: Duration) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::OUT)];
        let timeout = Timespec::try_from(patience).ok();
        matches!(poll(&mut fds, timeout.as_ref()), Ok(1) | Err(Errno::INTR))
    }
}

impl Consumer for Client {
    fn name(&self) -> &'static str {
        self.name
    }

    fn needs(&self) -> Needs {
        Needs {
            kinds: self.kinds,
            allowed: true,
            peers: true,
        }
    }

    fn is_owed_all(&self) -> bool {
        false
    }

    fn part(&self) -> Part {
        Part::Asks
    }

    fn take(&mut self, item: Item<'_>) {
        if self.state == State::Gone || !self.has_room() {
            if let Item::Event(_) = item {
                match self.state {
                    State::Gone => self.dropped.failed += 1,
                    State::Reads | State::Stuck => self.dropped.queue_full += 1,
                }
            }
            return;
        }
        self.json.write(&mut self.chunk, item);
        if self.chunk.len() >= CHUNK_BYTES {
            self.write();
        }
    }

    fn tick(&mut self, stats: &Stats) {
        self.write();
        let has_room = self.has_room();
        let (json, chunk) = (&mut self.json, &mut self.chunk);
        let dropped = stats.queue_full + self.dropped.queue_full;
        self.gaps.tell(stats, dropped, |loss| {
            if has_room {
                json.write(chunk, Item::Loss(loss));
            }
            has_room
        });
    }

    /// What it does not take at the end it is too slow for.
    fn settle(&mut self) {
        let deadline = Instant::now() + END_GRACE;
        self.write();
        while !self.chunk.is_empty() && Instant::now() < deadline {
            self.has_room_within(deadline.saturating_duration_since(Instant::now()));
            self.write();
        }
        if !self.chunk.is_empty() {
            self.forget();
            self.state = State::Gone;
            // A line may be cut: nothing can come behind it. One that is gone needs no end.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    fn account(&mut self) -> Account {
        self.write();
        Account {
            delivered: self.taken + self.dropped.total(),
            taken: self.taken,
            hidden: 0,
            dropped: self.dropped,
            error: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::consume::lines::sample::{connected, header, summary};

    fn client() -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Client::new("client-1", Kinds::ALL, ours), theirs)
    }

    /// Events and losses that were read.
    fn told(text: &str) -> (u64, u64) {
        let value = |line| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let lost = text.lines().map(value);
        let lost = lost.filter_map(|line| line["port_monitor"]["total"].as_u64());
        let events = text.lines().filter(|line| line.contains("\"connected\""));
        (events.count() as u64, lost.max().unwrap_or(0))
    }

    #[test]
    fn one_that_takes_nothing_is_waited_for_once_and_told_what_it_lost() {
        let (mut client, mut stream) = client();
        client.take(Item::Header(&header()));
        let begun = Instant::now();
        for _ in 0..20_000 {
            client.take(Item::Event(&connected()));
        }
        client.tick(&Stats::default());
        let account = client.account();
        assert!(begun.elapsed() < PATIENCE * 20, "{:?}", begun.elapsed());
        let dropped = account.dropped.queue_full;
        assert!(dropped > 15_000, "{account:?}");
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        // It has room again as soon as it reads.
        while client.account().taken + dropped < 20_000 {
            std::thread::yield_now();
        }
        client.tick(&Stats {
            queue_full: 7,
            ..Stats::default()
        });
        client.take(Item::Event(&connected()));
        client.settle();
        client.take(Item::Summary(&summary()));
        let account = client.account();
        assert!(account.adds_up());
        assert_eq!(account.taken + account.dropped.total(), 20_001);
        drop(client);
        let text = reader.join().unwrap();
        assert_eq!(told(&text), (account.taken, dropped + 7));
        assert!(text.lines().last().unwrap().contains("\"summary\""));
    }

    #[test]
    fn one_that_has_not_taken_all_at_the_end_was_too_slow() {
        let (mut client, stream) = client();
        for _ in 0..500 {
            client.take(Item::Event(&connected()));
        }
        let begun = Instant::now();
        client.settle();
        assert!(begun.elapsed() < END_GRACE * 2);
        let account = client.account();
        assert!(account.adds_up() && !account.is_incomplete());
        assert_eq!(account.delivered, 500);
        assert!(
            account.taken > 0 && account.dropped.queue_full > 0,
            "{account:?}"
        );
        drop(stream);
    }

    #[test]
    fn one_that_is_gone_costs_nothing() {
        let (mut client, stream) = client();
        drop(stream);
        for _ in 0..500 {
            client.take(Item::Event(&connected()));
        }
        let account = client.account();
        assert_eq!((account.taken, account.dropped.failed), (0, 500));
        assert!(!account.is_incomplete());
    }
}
