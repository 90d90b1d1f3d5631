//! The vectors, under one policy.

use std::{
    fs,
    net::{Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
};

use anyhow::{Context as _, Result, ensure};
use rustix::net::listen;

use super::{
    Enforced, owner, report_instructions, this_program,
    vector::{About, PORTS, Vector},
};
use crate::{
    cgroup::UNIT,
    lab::Lab,
    report::{ANY_BACKEND, Report, Verdict},
    socket::{V6, bind, open, set_tcp},
};

/// Room for everybody who connects and is never accepted.
const BACKLOG: i32 = 4_096;

/// What the tries aim at.
struct Targets {
    base: u16,
    /// Dual-stack listeners, of this process: the policy does not hold it natively.
    _listeners: Vec<OwnedFd>,
}

impl Targets {
    /// Takes as many free ports in a row as the policy speaks of, and listens at those
    /// that are connected to.
    fn new() -> Result<Self> {
        let first_of_clients = first_client_port()?;
        // None that a client may be given between two tries.
        let (base, sockets) = (1..100)
            .filter_map(|nth| first_of_clients.checked_sub(nth * PORTS))
            .find_map(|base| Some((base, held_ports(base).ok()?)))
            .context("find free ports in a row")?;
        let mut listeners = Vec::new();
        for (index, socket) in (0_u16..).zip(sockets) {
            let about = [About::Port, About::Loopback, About::Owner].map(|about| about as u16);
            if about.contains(&(index & !1)) {
                set_tcp(&socket, libc::TCP_FASTOPEN, 16)?;
                listen(&socket, BACKLOG)?;
                listeners.push(socket);
            }
        }
        Ok(Self {
            base,
            _listeners: listeners,
        })
    }

    fn port(&self, about: About) -> u16 {
        self.base + about as u16
    }

    /// The policy they are denied by.
    fn policy(&self, copy: &str) -> String {
        let rule = |name: &str, direction: &str, what: &str| {
            format!(
                "[[rule]]\nname = \"{name}\"\ndirection = \"{direction}\"\naction = \"deny\"\n\
                 {what}\n"
            )
        };
        let port = |about: About| format!("port = {}", self.port(about));
        let and = |about: About, more: &str| format!("{}\n{more}", port(about));
        [
            "version = 1\nmode = \"enforce\"\n".to_owned(),
            rule("port", "out", &port(About::Port)),
            rule(
                "loopback",
                "out",
                &and(About::Loopback, "to = [\"127.0.0.0/8\", \"::1\"]"),
            ),
            rule("datagram", "out", &and(About::Datagram, "proto = \"udp\"")),
            rule("inbound", "in", &port(About::Inbound)),
            rule(
                "source",
                "in",
                &and(About::Source, "from = \"127.66.0.0/16\""),
            ),
            rule("listen", "listen", &port(About::Listen)),
            rule(
                "no-listener",
                "listen",
                &format!("user = {}", owner::NO_LISTENER),
            ),
            rule(
                "by-user",
                "out",
                &and(About::Owner, &format!("user = {}", owner::DENIED_USER)),
            ),
            rule(
                "by-unit",
                "out",
                &and(About::Owner, &format!("unit = \"{UNIT}\"")),
            ),
            rule(
                "by-exe",
                "out",
                &and(About::Owner, &format!("exe = \"{copy}\"")),
            ),
            // The same file: neither rule may take the place of the other.
            rule(
                "by-exe-elsewhere",
                "out",
                &format!("port = 1\nexe = \"{}\"", by_way_of_its_directory(copy)),
            ),
            rule(
                "by-listener",
                "in",
                &and(About::Listener, &format!("user = {}", owner::DENIED_USER)),
            ),
        ]
        .concat()
    }
}

/// `/tmp/a/../a/b` for `/tmp/a/b`.
fn by_way_of_its_directory(path: &str) -> String {
    let (directory, file) = path.rsplit_once('/').unwrap_or(("", path));
    let name = directory.rsplit('/').next().unwrap_or_default();
    format!("{directory}/../{name}/{file}")
}

/// The first port that the kernel gives to clients.
fn first_client_port() -> Result<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let first = range.split_whitespace().next().context("no range")?;
    Ok(first.parse()?)
}

/// Sockets that hold ports in a row.
fn held_ports(base: u16) -> Result<Vec<OwnedFd>> {
    let hold = |port| {
        let socket = open(V6)?;
        bind(&socket, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))?;
        Ok(socket)
    };
    (base..base + PORTS).map(hold).collect()
}

/// Tries the vectors and reports each.
pub(crate) fn run(lab: &Lab, vectors: &[&'static Vector], report: &mut Report) -> Result<()> {
    if vectors.is_empty() {
        return Ok(());
    }
    let targets = Targets::new()?;
    let copy = lab.new_path("copy");
    fs::copy(std::env::current_exe()?, &copy).context("copy this program")?;
    let copy = copy.to_str().context("the path is not UTF-8")?;
    let enforced = Enforced::new(lab, &targets.policy(copy));
    let enforced = match enforced {
        Ok(enforced) => enforced,
        Err(error) => {
            report.case(ANY_BACKEND, "enforce-apply", &Err(error))?;
            return Ok(());
        }
    };
    report_instructions()?;
    let unit = lab.cgroups.held_unit(&enforced.cgroup);
    for vector in vectors {
        let command = |name: &str| {
            let mut command = this_program()?;
            command
                .args(["vector", name])
                .args(["--cgroup", &enforced.cgroup, "--unit", &unit])
                .args(["--copy", copy]);
            Ok(command)
        };
        let checked = vector.check(lab.native, targets.base, command);
        report.case(ANY_BACKEND, vector.name, &checked.map(|()| Verdict::pass()))?;
    }
    report.case(ANY_BACKEND, "enforce-attached", &whole(&enforced))?;
    Ok(())
}

/// Everything is still attached, and the tables held together.
fn whole(enforced: &Enforced<'_>) -> Result<Verdict> {
    let status = enforced.status()?;
    let links = status["links"].as_array().context("no links")?;
    ensure!(links.len() >= 8, "{links:?}");
    ensure!(
        links.iter().all(|link| link["attached"] == true),
        "{links:?}"
    );
    ensure!(enforced.hits("inconsistent tables").is_err(), "{status}");
    Ok(Verdict::pass())
}
