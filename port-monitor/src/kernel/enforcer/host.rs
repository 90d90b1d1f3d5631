//! What the kernel knows the names of a policy by, and this host's addresses.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use port_monitor_common::{addr::v4_mapped, event::FileId};

use crate::{
    host::{cgroup::CgroupTree, clock::WallClock, file_id},
    policy::tables::lower::Places,
};

/// This host.
#[derive(Clone, Copy, Debug)]
pub struct HostPlaces {
    /// Wall-clock time, ns since the Unix epoch: rules that have ended by then are left out.
    pub now_ns: i64,
}

impl Places for HostPlaces {
    fn cgroups(&self) -> Vec<(String, u64)> {
        let mut groups = Vec::new();
        if let Some(tree) = CgroupTree::find(Path::new("/proc")) {
            tree.walk(|id, path| match path.to_str() {
                Some("") => groups.push((String::new(), id)),
                Some(path) => groups.push((format!("/{path}"), id)),
                // A policy cannot name it.
                None => {}
            });
        }
        groups
    }

    fn executable(&self, path: &Path) -> Result<(u32, u64), io::Error> {
        let FileId { device, inode } = file_id::on_host(path)?;
        Ok((device, inode))
    }

    fn boot_ns(&self, wall_ns: i64) -> u64 {
        let boot_ns = i128::from(wall_ns) - WallClock::sample().wall_ns(0);
        u64::try_from(boot_ns.clamp(1, i128::from(i64::MAX) - 1)).unwrap_or(1)
    }

    fn now_ns(&self) -> i64 {
        self.now_ns
    }
}

/// The addresses of this host in its network namespace, IPv4 as IPv4-mapped.
pub(super) fn addresses() -> Vec<[u8; 16]> {
    let v4 = fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    local_v4(&v4).chain(local_v6(&v6)).collect()
}

/// An address on a line of its own, and what it is on the next:
/// `|-- 10.0.0.5`, `/32 host LOCAL`.
pub(in crate::kernel) fn local_v4(fib_trie: &str) -> impl Iterator<Item = [u8; 16]> {
    let lines = fib_trie.lines().map(str::trim);
    let pairs = lines.clone().zip(lines.skip(1));
    pairs.filter_map(|(addr, what)| {
        let addr: Ipv4Addr = addr.strip_prefix("|-- ")?.parse().ok()?;
        (what == "/32 host LOCAL").then(|| v4_mapped(addr.octets()))
    })
}

/// `fe800000000000000000000000000001 02 40 20 80 eth0`.
pub(in crate::kernel) fn local_v6(if_inet6: &str) -> impl Iterator<Item = [u8; 16]> {
    if_inet6.lines().filter_map(|line| {
        let bits = u128::from_str_radix(line.split(' ').next()?, 16).ok()?;
        Some(Ipv6Addr::from_bits(bits).octets())
    })
}

#[cfg(test)]
mod tests {
    use crate::kernel::enforcer::host::*;

    #[test]
    fn local_addresses_are_those_of_hosts() {
        let fib_trie = "Main:\n  +-- 0.0.0.0/0 2 0 2\n     |-- 10.0.0.0\n        /24 link \
                        UNICAST\n     |-- 10.0.0.5\n        /32 host LOCAL\n     |-- \
                        10.0.0.255\n        /32 link BROADCAST\n";
        let found: Vec<_> = local_v4(fib_trie).collect();
        assert_eq!(found, [v4_mapped([10, 0, 0, 5])]);
    }

    #[test]
    fn ipv6_addresses_are_read_as_they_are_written() {
        let found: Vec<_> =
            local_v6("00000000000000000000000000000001 01 80 10 80       lo\n").collect();
        assert_eq!(found, [Ipv6Addr::LOCALHOST.octets()]);
    }
}
