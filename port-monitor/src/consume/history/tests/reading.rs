//! What was written is read back.

use proptest::prelude::*;

use super::*;
use crate::{
    consume::{
        history::read::{Kept, ReadError, Reader, Wanted},
        lines::json::any::records,
    },
    events::decode::{Comm, Owner},
};

/// What a history must know of a connection, as text.
fn known<M>(connection: &Connection<M>) -> String {
    let Record {
        event,
        process,
        judgement,
        ..
    } = &connection.record;
    let name = connection.record.process_name();
    let name = name.as_ref().map(Comm::as_bytes);
    // Threads, files and whether the kernel acts are not kept, nor what follows a name.
    let owner = event.owner.map(|owner| Owner {
        tid: 0,
        comm: Comm::default(),
        process_comm: Comm::default(),
        exe: None,
        is_kernel: false,
        ..owner
    });
    let exe = process.exe.known().filter(|_| owner.is_some());
    let carried = match connection.state {
        State::Failed | State::Attempted => None,
        _ => event.action.carried(),
    };
    let errno = match event.action {
        Action::Failed { errno } => errno,
        _ => None,
    };
    format!(
        "{:?}",
        (
            (event.id, connection.beginning, connection.state),
            (event.local_ip, event.local_port, event.direction()),
            (event.remote_ip, event.remote_port, event.v4_mapped),
            (event.netns_ino, event.ifindex, connection.handshake_us),
            (
                owner,
                name,
                exe,
                &process.user,
                &process.cgroup,
                &process.unit
            ),
            // Whose rule it was is not kept.
            (
                judgement.as_ref().map(|said| (said.verdict, &said.rule)),
                carried,
                errno,
            ),
        )
    )
}

fn read(path: &Path) -> Vec<Kept> {
    let mut all = Vec::new();
    let reader = Reader::open(path).unwrap();
    reader
        .connections::<ReadError>(&Wanted::default(), None, |mut kept| {
            if let Some(owner) = &mut kept.record.event.owner {
                owner.is_kernel = false;
            }
            all.push(kept);
            Ok(())
        })
        .unwrap();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn connections_are_read_as_they_were_joined(records in records()) {
        let place = Place::new();
        // Whatever its time, nothing is too old.
        let age = Duration::MAX;
        let mut history = place.open_keeping(Keep { age, ..KEEP });
        history.take(Item::Header(&header()));
        let mut join = Join::<()>::default();
        let mut done = Vec::new();
        for record in &records {
            history.take(Item::Event(record));
            join.take(record, &mut done);
        }
        join.end(&mut done);
        history.settle();
        drop(history);
        let connections = done.iter().filter(|connection| !connection.is_listener());
        let mut fed: Vec<_> = connections.map(known).collect();
        let mut told: Vec<_> = read(&place.path()).iter().map(known).collect();
        fed.sort();
        told.sort();
        prop_assert_eq!(fed, told);
    }
}
