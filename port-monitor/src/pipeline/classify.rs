//! What a port number alone tells: its class, its service, and whether it is
//! the passing port of a client. Pure.

use std::ops::RangeInclusive;

use crate::{
    base::memo::Memo,
    events::{
        decode::{Direction, Event},
        record::{PortClass, PortInfo, Ports},
    },
    ports::services,
};

impl PortClass {
    /// Every class, in order of ports.
    pub const ALL: [Self; 3] = [Self::WellKnown, Self::Registered, Self::Dynamic];

    /// The class of `port`.
    pub const fn of(port: u16) -> Self {
        match port {
            0..=1023 => Self::WellKnown,
            1024..=49151 => Self::Registered,
            49152.. => Self::Dynamic,
        }
    }

    /// The ports of the class.
    pub const fn ports(self) -> RangeInclusive<u16> {
        match self {
            Self::WellKnown => 0..=1023,
            Self::Registered => 1024..=49151,
            Self::Dynamic => 49152..=u16::MAX,
        }
    }

    /// The class as the command line, policies, tables and JSON spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WellKnown => "well-known",
            Self::Registered => "registered",
            Self::Dynamic => "dynamic",
        }
    }
}

/// Classifies the ports of events. It remembers those it has classified last: a service's is in
/// all events that have to do with it, a client's in those of its connection.
#[derive(Debug)]
pub struct Classifier {
    /// The ports that this host gives to clients ([`parse_port_range`]).
    ephemeral: RangeInclusive<u16>,
    /// Of ends that are no client's.
    known: Memo<PortInfo, 512>,
}

impl Classifier {
    /// On a host that gives these ports to clients.
    pub fn new(ephemeral: RangeInclusive<u16>) -> Self {
        Self {
            ephemeral,
            known: Memo::new(),
        }
    }

    /// Both ports of an event.
    pub fn ports(&mut self, event: &Event) -> Ports {
        let inbound = event.direction() == Direction::Inbound;
        let local = event.local_port.map(|port| self.end(port, !inbound));
        let is_listener = event.action.is_listener();
        let remote = (!is_listener).then(|| self.end(event.remote_port, inbound));
        Ports { local, remote }
    }

    fn end(&mut self, port: u16, is_clients: bool) -> PortInfo {
        let info = self
            .known
            .get(port.into(), |known| known.port == port, || port_info(port));
        PortInfo {
            ephemeral: is_clients && self.ephemeral.contains(&port),
            ..*info
        }
    }
}

fn port_info(port: u16) -> PortInfo {
    let (service, status) = services::lookup(port);
    PortInfo {
        port,
        class: PortClass::of(port),
        service,
        status,
        ephemeral: false,
    }
}

/// Where the kernel tells the ports it gives to clients.
pub const EPHEMERAL_RANGE_FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// The range in the text of [`EPHEMERAL_RANGE_FILE`]: first and last port.
pub fn parse_port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next(), ports.next(), ports.next()) {
        (Some(Ok(first)), Some(Ok(last)), None) => Some(first..=last),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use crate::events::{
        decode::Action,
        record::{ServiceOrigin, ServiceStatus},
    };
    use crate::pipeline::classify::*;

    fn event(action: Action, local_port: Option<u16>, remote_port: u16) -> Event {
        Event {
            action,
            id: 1,
            ts_ns: 0,
            cpu: 0,
            owner: None,
            local_ip: Ipv4Addr::LOCALHOST.into(),
            local_port,
            remote_ip: Ipv4Addr::LOCALHOST.into(),
            remote_port,
            v4_mapped: false,
            netns_ino: 0,
            ifindex: None,
            preattach: false,
            listener: crate::events::decode::Listener::default(),
            ended: false,
            self_test: false,
            stamp: None,
            policy: 0,
        }
    }

    /// Whether the local and the remote end are ephemeral.
    fn classified(event: &Event) -> Ports {
        Classifier::new(32768..=60999).ports(event)
    }

    fn ephemeral(
        action: Action,
        local_port: u16,
        remote_port: u16,
    ) -> (Option<bool>, Option<bool>) {
        let ports = classified(&event(action, Some(local_port), remote_port));
        (
            ports.local.map(|port| port.ephemeral),
            ports.remote.map(|port| port.ephemeral),
        )
    }

    #[test]
    fn classes_change_at_1024_and_49152() {
        for (port, class) in [
            (0, PortClass::WellKnown),
            (1023, PortClass::WellKnown),
            (1024, PortClass::Registered),
            (49151, PortClass::Registered),
            (49152, PortClass::Dynamic),
            (65535, PortClass::Dynamic),
        ] {
            assert_eq!(PortClass::of(port), class, "{port}");
        }
    }

    #[test]
    fn class_is_that_of_its_ports() {
        for class in PortClass::ALL {
            assert!(class.ports().all(|port| PortClass::of(port) == class));
        }
        let count: usize = PortClass::ALL.map(|class| class.ports().len()).iter().sum();
        assert_eq!(count, 65536);
    }

    #[test]
    fn both_ends_are_classified() {
        let ports = classified(&event(Action::Connect, Some(50_000), 23));
        assert_eq!(
            ports,
            Ports {
                local: Some(PortInfo {
                    port: 50_000,
                    class: PortClass::Dynamic,
                    service: None,
                    status: ServiceStatus::Unassigned,
                    ephemeral: true,
                }),
                remote: Some(PortInfo {
                    port: 23,
                    class: PortClass::WellKnown,
                    service: Some(("telnet", ServiceOrigin::Iana)),
                    status: ServiceStatus::Assigned,
                    ephemeral: false,
                }),
            }
        );
    }

    #[test]
    fn only_the_clients_end_is_ephemeral() {
        assert_eq!(
            ephemeral(Action::Connect, 40_000, 40_000),
            (Some(true), Some(false))
        );
        assert_eq!(
            ephemeral(Action::Accept, 40_000, 40_000),
            (Some(false), Some(true))
        );
    }

    #[test]
    fn what_was_classified_before_does_not_show() {
        let mut classifier = Classifier::new(32768..=60999);
        // Three of them share a place of the memory.
        for (local, remote) in [(22, 40_000), (22 + 512, 22), (22, 22 + 1_024), (40_000, 22)] {
            for action in [Action::Connect, Action::Accept] {
                let event = event(action, Some(local), remote);
                assert_eq!(classifier.ports(&event), classified(&event));
            }
        }
    }

    #[test]
    fn client_port_outside_the_range_is_not_ephemeral() {
        for (port, expected) in [(32767, false), (32768, true), (60999, true), (61000, false)] {
            assert_eq!(
                ephemeral(Action::Connect, port, 80),
                (Some(expected), Some(false))
            );
        }
    }

    #[test]
    fn port_the_kernel_has_not_chosen_is_not_classified() {
        let ports = classified(&event(Action::Connect, None, 443));
        assert_eq!(ports.local, None);
    }

    #[test]
    fn a_listener_has_no_remote_port() {
        let ports = classified(&event(Action::Listen, Some(22), 0));
        assert_eq!(ports.remote, None);
        assert_eq!(ports.local.map(|port| port.ephemeral), Some(false));
    }

    #[test]
    fn ephemeral_range_is_read_as_the_kernel_writes_it() {
        assert_eq!(parse_port_range("32768\t60999\n"), Some(32768..=60999));
        for text in ["", "32768", "32768 x", "32768 70000", "1 2 3"] {
            assert_eq!(parse_port_range(text), None, "{text}");
        }
    }
}
