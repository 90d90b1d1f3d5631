//! Records decoded: whole, odd and broken.

use port_monitor_common::event::CloseEvent;
use proptest::prelude::*;
use zerocopy::IntoBytes as _;

use crate::events::decode::*;

fn wire(kind: EventKind) -> TcpEvent {
    TcpEvent {
        abi: ABI_VERSION,
        kind: kind as u8,
        family: AF_INET,
        ..TcpEvent::default()
    }
}

fn close_event() -> CloseEvent {
    CloseEvent {
        event: TcpEvent {
            flags: FLAG_INBOUND,
            detail: 104,
            ..wire(EventKind::Close)
        },
        stats: CloseStats {
            duration_ns: 1 << 40,
            bytes_received: 1 << 33,
            bytes_sent: 7,
            retransmits: 3,
            closed_by: ClosedBy::PeerReset as u8,
            closer_tgid: 77,
            ..CloseStats::default()
        },
    }
}

#[test]
fn an_end_comes_out_as_it_went_in() {
    let event = decode(close_event().as_bytes()).unwrap();
    let close = Close {
        duration_ns: Some(1 << 40),
        bytes_received: 1 << 33,
        bytes_sent: 7,
        retransmits: 3,
        closing_pid: Some(77),
        errno: Some(104),
        ..Close::new(Direction::Inbound, ClosedBy::PeerReset)
    };
    assert_eq!(event.action, Action::Close(close));
    assert_eq!(event.direction(), Direction::Inbound);
}

#[test]
fn the_closing_process_is_named_only_where_it_is_not_the_owner() {
    let mut record = close_event();
    let closing_pid = |record: CloseEvent| {
        let event = decode(record.as_bytes()).unwrap();
        event.action.close().and_then(|close| close.closing_pid)
    };
    record.event.owner.tgid = 77;
    assert_eq!(closing_pid(record), None);
    record.stats.closer_tgid = 0;
    assert_eq!(closing_pid(record), None);
}

#[test]
fn a_listener_found_at_the_start_is_inbound_and_has_no_peer() {
    let found = TcpEvent {
        detail: 10,
        ..wire(EventKind::Preexisting)
    };
    let event = decode(found.as_bytes()).unwrap();
    let direction = Direction::Inbound;
    let state = TcpState::LISTEN;
    let duration_ns = None;
    assert_eq!(
        event.action,
        Action::Preexisting {
            direction,
            state,
            duration_ns
        }
    );
    assert!(event.action.is_listener());
    let wrong = TcpEvent {
        detail: 256,
        ..found
    };
    assert_eq!(decode(wrong.as_bytes()), Err(DecodeError::State(256)));
}

#[test]
fn the_executable_is_the_file_or_none() {
    let mut wire = wire(EventKind::Connect);
    wire.owner_source = OwnerSource::Connect as u8;
    let owner = |wire: TcpEvent| decode(wire.as_bytes()).unwrap().owner.unwrap();
    assert_eq!(owner(wire).exe, None);
    assert!(!owner(wire).is_kernel);
    wire.owner.exe_device = 254 << 20 | 1;
    wire.owner.exe_inode = 1 << 40;
    wire.owner.flags = OWNER_KERNEL | 7 << 1;
    let (device, inode) = (254 << 20 | 1, 1 << 40);
    assert_eq!(owner(wire).exe, Some(FileId { device, inode }));
    assert!(owner(wire).is_kernel);
    assert_eq!(decode(wire.as_bytes()).unwrap().policy, 7);
}

#[test]
fn a_record_has_the_size_of_its_kind() {
    let close = close_event();
    let short = &close.as_bytes()[..EVENT_SIZE];
    assert_eq!(decode(short), Err(DecodeError::Size(EVENT_SIZE)));
    let mut long = wire(EventKind::Accept).as_bytes().to_vec();
    assert!(decode(&long).is_ok());
    long.push(0);
    assert_eq!(decode(&long), Err(DecodeError::Size(EVENT_SIZE + 1)));
    assert_eq!(decode(&[]), Err(DecodeError::Size(0)));
}

#[test]
fn what_this_version_does_not_know_is_named() {
    let mut close = close_event();
    close.stats.closed_by = 7;
    assert_eq!(decode(close.as_bytes()), Err(DecodeError::ClosedBy(7)));
    close.event.owner_source = 9;
    close.stats.closed_by = 0;
    assert_eq!(decode(close.as_bytes()), Err(DecodeError::OwnerSource(9)));
    close.event.kind = 77;
    assert_eq!(decode(close.as_bytes()), Err(DecodeError::Kind(77)));
    close.event.family = 1;
    assert_eq!(decode(close.as_bytes()), Err(DecodeError::Family(1)));
    close.event.abi = 99;
    assert_eq!(decode(close.as_bytes()), Err(DecodeError::Abi(99)));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), known in any::<bool>()) {
        if let ([abi, kind, family, ..], true) = (&mut *bytes, known) {
            *abi = ABI_VERSION;
            *kind = 1 + *kind % 8;
            *family = AF_INET;
        }
        let _ = decode(&bytes);
    }
}
