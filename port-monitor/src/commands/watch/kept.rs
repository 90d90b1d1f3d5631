//! Which events the filters keep, where the kernel does not apply them: the same ones.

use std::net::IpAddr;

use port_monitor_common::policy::Network;

use crate::{
    events::record::Record,
    kernel::filters::{Family, Filters},
};

/// Whether the filters keep an event.
pub(in crate::commands) fn keeps(filters: &Filters, record: &Record) -> bool {
    // Nothing is left out: whatever is added has to be decided.
    let Filters {
        pids,
        uids,
        comms,
        groups,
        // Of a command, which another run does not follow.
        tree: _,
        local_ports,
        remote_ports,
        any_ports,
        remote_nets,
        family,
        direction,
        // Of what is shown.
        only_denied: _,
    } = filters;
    let event = &record.event;
    let owner = event.owner.as_ref();
    let is_one = |asked: &[u32], id: Option<u32>| {
        asked.is_empty() || id.is_some_and(|id| asked.contains(&id))
    };
    let is_named = || {
        owner.is_some_and(|owner| {
            let names = [owner.comm.0, owner.process_comm.0];
            names.iter().any(|name| comms.contains(name))
        })
    };
    let is_covered = || {
        let path = record.process.cgroup.as_deref().filter(|_| owner.is_some());
        path.is_some_and(|path| groups.cover(path))
    };
    // As the kernel has a port that is not chosen, and that of no peer.
    let (local, remote) = (event.local_port.unwrap_or(0), event.remote_port);
    is_one(pids, owner.map(|owner| owner.pid))
        && is_one(uids, owner.map(|owner| owner.uid))
        && (comms.is_empty() || is_named())
        && (groups.is_empty() || is_covered())
        && local_ports
            .as_ref()
            .is_none_or(|ports| ports.contains(local))
        && remote_ports
            .as_ref()
            .is_none_or(|ports| ports.contains(remote))
        && any_ports
            .as_ref()
            .is_none_or(|ports| ports.contains(local) || ports.contains(remote))
        && (remote_nets.is_empty() || is_within(remote_nets, event.remote_ip))
        && family.is_none_or(|family| (family == Family::V4) == event.remote_ip.is_ipv4())
        && direction.is_none_or(|direction| direction == event.direction())
}

fn is_within(networks: &[Network], ip: IpAddr) -> bool {
    let address = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::{
        commands::filter::{comm, network},
        consume::lines::sample::{accepted, connected},
        events::decode::Direction,
        host::groups::{Group, Groups, Meant},
    };

    /// A filter that keeps an event, and one that does not.
    fn pairs(record: &Record) -> Vec<[Filters; 2]> {
        let owner = record.event.owner.unwrap();
        let is_v4 = record.event.remote_ip.is_ipv4();
        let group = |path: &str| Group {
            label: String::new(),
            meant: Meant::Path(path.to_owned()),
        };
        let (local, remote) = (record.event.local_port.unwrap(), record.event.remote_port);
        let pair = |fill: &dyn Fn(&mut Filters, bool)| {
            [true, false].map(|is_kept| {
                let mut filters = Filters::default();
                fill(&mut filters, is_kept);
                filters
            })
        };
        let port = |port: u16| Some(port.to_string().parse().unwrap());
        let cgroup = record.process.cgroup.clone().unwrap();
        vec![
            pair(&|f, is| f.pids = vec![1, owner.pid + u32::from(!is)]),
            pair(&|f, is| f.uids = vec![owner.uid + u32::from(!is)]),
            pair(&|f, is| {
                let name = if is {
                    owner.comm.0
                } else {
                    comm("moon".as_ref()).unwrap()
                };
                f.comms = vec![name];
            }),
            pair(&|f, is| {
                f.groups = Groups::new(vec![group(if is { &cgroup } else { "/moon" })]);
            }),
            pair(&|f, is| f.local_ports = port(if is { local } else { remote })),
            pair(&|f, is| f.remote_ports = port(if is { remote } else { local })),
            pair(&|f, is| f.any_ports = port(if is { remote } else { 1 })),
            pair(&|f, is| f.any_ports = port(if is { local } else { 1 })),
            pair(&|f, is| {
                let own = record.event.remote_ip.to_string();
                let none = if is_v4 { "::/0" } else { "0.0.0.0/0" };
                f.remote_nets = vec![network(if is { &own } else { none }).unwrap()];
            }),
            pair(&|f, is| {
                f.family = Some(if is == is_v4 { Family::V4 } else { Family::V6 });
            }),
            pair(&|f, is| {
                let inbound = is == (record.event.direction() == Direction::Inbound);
                f.direction = Some(if inbound {
                    Direction::Inbound
                } else {
                    Direction::Outbound
                });
            }),
        ]
    }

    #[test]
    fn each_filter_keeps_what_it_asks_for_and_nothing_else() {
        let mut v6 = connected();
        v6.event.remote_ip = Ipv6Addr::LOCALHOST.into();
        for record in [connected(), accepted(), v6] {
            assert!(keeps(&Filters::default(), &record));
            for [kept, other] in pairs(&record) {
                assert!(keeps(&kept, &record), "{kept:?}");
                assert!(!keeps(&other, &record), "{other:?}");
            }
        }
    }

    #[test]
    fn an_owner_that_is_not_known_is_nobody_that_is_asked_for() {
        let mut record = connected();
        let owner = record.event.owner.take().unwrap();
        let of = |fill: &dyn Fn(&mut Filters)| {
            let mut filters = Filters::default();
            fill(&mut filters);
            keeps(&filters, &record)
        };
        assert!(!of(&|f| f.pids = vec![owner.pid]));
        assert!(!of(&|f| f.uids = vec![owner.uid]));
        assert!(!of(&|f| f.comms = vec![owner.comm.0]));
        let root = Group {
            label: String::new(),
            meant: Meant::Path(String::new()),
        };
        assert!(!of(&|f| f.groups = Groups::new(vec![root.clone()])));
    }
}
