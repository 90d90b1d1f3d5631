//! In words: what the self-test could not prove, and why.

use std::net::IpAddr;

use super::{
    Attached,
    play::{Obstacle, Reached},
};

/// A sentence for each of the reasons that connections were blocked, which came so far.
pub(super) fn sentences(
    blocked: &[(IpAddr, Reached, Obstacle)],
    attached: Attached,
    rules: &[String],
    is_private: bool,
) -> Vec<String> {
    let mut sentences: Vec<(String, String)> = Vec::new();
    for (addr, reached, obstacle) in blocked {
        let family = if addr.is_ipv4() { "IPv4" } else { "IPv6" };
        let events = events(*reached, attached).join(", ");
        let rest = format!(": {}", why(obstacle, rules, is_private));
        let what = format!("the fields of {events} over {family}");
        match sentences.iter_mut().find(|(_, other)| *other == rest) {
            Some((other, _)) if other.contains(&events) => {
                other.push_str(" and ");
                other.push_str(family);
            }
            _ => sentences.push((what, rest)),
        }
    }
    let whole = sentences.into_iter().map(|(what, rest)| what + &rest);
    whole.collect()
}

/// The events that a connection that came so far proves nothing about.
fn events(reached: Reached, attached: Attached) -> Vec<&'static str> {
    let mut events = Vec::new();
    if reached < Reached::Listening && attached.listen {
        events.extend(["listen", "unlisten"]);
    }
    if reached < Reached::Connecting {
        events.push("connect");
    }
    events.push("accept");
    if attached.outcomes {
        events.extend(["connected", "close"]);
    }
    events
}

fn why(obstacle: &Obstacle, rules: &[String], is_private: bool) -> String {
    let hint = match obstacle {
        Obstacle::Stopped => return obstacle.to_string(),
        _ if !rules.is_empty() => format!("denied by {}", rules.join(", ")),
        Obstacle::Refused { .. } if is_private => {
            "refused by an eBPF program or a security module".to_owned()
        }
        _ if is_private => {
            "dropped by a filter of this cgroup, such as systemd's IPAddressDeny=".to_owned()
        }
        _ => "look at the loopback interface, the firewall, and filters of this cgroup such as \
              systemd's IPAddressDeny="
            .to_owned(),
    };
    // How long it waited differs, why does not.
    match obstacle {
        Obstacle::Silence(_) => format!("no packet of the self-test arrived ({hint})"),
        _ => format!("{obstacle} ({hint})"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        net::{Ipv4Addr, Ipv6Addr},
        time::Duration,
    };

    use crate::kernel::backend::Backend;
    use crate::kernel::self_test::unproven::*;

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
    const ALL: Attached = Attached {
        backend: Backend::Fentry,
        outcomes: true,
        listen: true,
        unsent: true,
        accept: Some("pm_accept_fe2"),
    };

    fn silence(limit: u64) -> Obstacle {
        Obstacle::Silence(Duration::from_millis(limit))
    }

    fn denied() -> Obstacle {
        Obstacle::Refused {
            call: "connect",
            error: io::Error::from_raw_os_error(1),
        }
    }

    #[test]
    fn families_with_one_reason_share_a_sentence() {
        let blocked = [
            (V4, Reached::Connecting, silence(1_200)),
            (V6, Reached::Connecting, silence(100)),
        ];
        assert_eq!(
            sentences(&blocked, ALL, &[], true),
            [
                "the fields of accept, connected, close over IPv4 and IPv6: no packet of the \
                 self-test arrived (dropped by a filter of this cgroup, such as systemd's \
                 IPAddressDeny=)"
            ]
        );
    }

    #[test]
    fn families_that_came_differently_far_have_a_sentence_each() {
        let blocked = [
            (V4, Reached::Connecting, silence(1_200)),
            (V6, Reached::Listening, denied()),
        ];
        let rules = ["rule `x` of the policy in force".to_owned()];
        assert_eq!(
            sentences(&blocked, ALL, &rules, true),
            [
                "the fields of accept, connected, close over IPv4: no packet of the self-test \
                 arrived (denied by rule `x` of the policy in force)",
                "the fields of connect, accept, connected, close over IPv6: connect: Operation \
                 not permitted (os error 1) (denied by rule `x` of the policy in force)",
            ]
        );
    }

    #[test]
    fn only_what_is_attached_is_missed() {
        let few = Attached {
            outcomes: false,
            listen: false,
            ..ALL
        };
        let blocked = [(V4, Reached::Nothing, Obstacle::Stopped)];
        assert_eq!(
            sentences(&blocked, few, &[], false),
            ["the fields of connect, accept over IPv4: the self-test was stopped by a signal"]
        );
    }

    #[test]
    fn in_the_hosts_own_namespace_its_firewall_is_a_suspect() {
        let blocked = [(V4, Reached::Connecting, silence(1_200))];
        let sentences = sentences(&blocked, ALL, &[], false);
        assert!(sentences[0].contains("firewall"), "{sentences:?}");
    }
}
