//! The processes above a process, as `/proc` tells of them: what they run, on which
//! terminal, and which sockets they hold.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use crate::host::threads;

/// More than any tree of processes is deep.
const DEEPEST: usize = 1_000;

/// Programs through which people log in from elsewhere.
const LOGIN_SERVERS: [&str; 10] = [
    "sshd",
    "sshd-session",
    "sshd-auth",
    "dropbear",
    "dropbearmulti",
    "tinysshd",
    "telnetd",
    "in.telnetd",
    "rlogind",
    "in.rlogind",
];

/// What a process's terminal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Terminal {
    /// It has none.
    None,
    /// Some program's, which may be anywhere.
    Pseudo,
    /// A keyboard and a screen, or a serial line.
    Console,
}

impl Terminal {
    /// From the number in `/proc/PID/stat`: bits 8–15 are the major number.
    const fn numbered(number: u32) -> Self {
        match number >> 8 & 0xff {
            0 => Self::None,
            // Old pseudo terminals, and those of `/dev/pts` (`admin-guide/devices.txt`).
            3 | 136..=143 => Self::Pseudo,
            _ => Self::Console,
        }
    }
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Its executable's, without directories; its own where that cannot be read.
    pub(super) name: String,
    pub(super) terminal: Terminal,
    parent: u32,
}

impl Process {
    /// People log in through it.
    pub(super) fn is_login_server(&self) -> bool {
        LOGIN_SERVERS.contains(&&*self.name)
    }
}

/// A process and those above it, up to the one that nobody started.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) processes: Vec<Process>,
    /// The last of them is the first of all.
    pub(super) is_whole: bool,
}

/// Where `/proc` is.
#[derive(Clone, Debug)]
pub(super) struct Proc(pub(super) PathBuf);

impl Proc {
    /// What a process has, which its first thread has not any more once that has ended.
    fn path(&self, pid: u32, file: &str) -> PathBuf {
        threads::of_process(&self.0.join(pid.to_string())).join(file)
    }

    fn process(&self, pid: u32) -> Option<Process> {
        // The name may hold anything, also parentheses.
        let stat = fs::read(self.0.join(format!("{pid}/stat"))).ok()?;
        let stat = String::from_utf8_lossy(&stat);
        let (before, rest) = stat.rsplit_once(") ")?;
        let (_, comm) = before.split_once('(')?;
        let mut numbers = rest.split(' ').skip(1);
        let parent = numbers.next()?.parse().ok()?;
        let terminal = numbers.nth(2)?.parse::<i32>().ok()?.cast_unsigned();
        let exe = fs::read_link(self.path(pid, "exe")).ok();
        let exe = exe.as_deref().and_then(Path::file_name);
        let exe = exe.map(|name| name.to_string_lossy().into_owned());
        let name = match exe {
            // Of a program of many names, the process has the right one.
            Some(exe) if exe != "busybox" => exe,
            _ => comm.to_owned(),
        };
        Some(Process {
            pid,
            // One that was replaced by an update.
            name: name.trim_end_matches(" (deleted)").to_owned(),
            terminal: Terminal::numbered(terminal),
            parent,
        })
    }

    /// A process and those above it.
    pub(super) fn chain(&self, pid: u32) -> Chain {
        let mut processes: Vec<Process> = Vec::new();
        let mut next = pid;
        while next != 0 && processes.len() < DEEPEST {
            let Some(process) = self.process(next) else {
                break;
            };
            next = process.parent;
            processes.push(process);
        }
        Chain {
            processes,
            is_whole: next == 0,
        }
    }

    /// The inodes of the sockets a process holds, by number of descriptor.
    pub(super) fn sockets(&self, pid: u32) -> Vec<u64> {
        let Ok(entries) = fs::read_dir(self.path(pid, "fd")) else {
            return Vec::new();
        };
        let mut found: Vec<(u32, u64)> = entries
            .flatten()
            .filter_map(|entry| {
                let number = entry.file_name().to_str()?.parse().ok()?;
                let target = fs::read_link(entry.path()).ok()?;
                let inode = target.to_str()?.strip_prefix("socket:[")?;
                Some((number, inode.strip_suffix(']')?.parse().ok()?))
            })
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, inode)| inode).collect()
    }

    /// Every process.
    fn pids(&self) -> Vec<u32> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }

    /// The processes that hold one of these sockets.
    pub(super) fn holders(&self, inodes: &[u64]) -> Vec<u32> {
        let mut pids = self.pids();
        pids.retain(|pid| {
            let mut held = self.sockets(*pid).into_iter();
            held.any(|inode| inodes.contains(&inode))
        });
        pids
    }

    /// The servers of logins in the session of systemd that a process is in, which it
    /// cannot leave by becoming nobody's child.
    pub(super) fn servers_beside(&self, pid: u32) -> Vec<u32> {
        let Some(scope) = self.session_scope(pid) else {
            return Vec::new();
        };
        let mut pids = self.pids();
        pids.retain(|pid| {
            let process = self.process(*pid);
            process.is_some_and(|process| process.is_login_server())
                && self.session_scope(*pid).as_ref() == Some(&scope)
        });
        pids
    }

    /// The cgroup of a session: `/user.slice/user-1000.slice/session-3.scope` in
    /// `0::/user.slice/user-1000.slice/session-3.scope`.
    fn session_scope(&self, pid: u32) -> Option<String> {
        let groups = fs::read_to_string(self.path(pid, "cgroup")).ok()?;
        groups.lines().find_map(|line| {
            let path = line.splitn(3, ':').nth(2)?;
            let (_, name) = path.split_once("/session-")?;
            let rest = name.split_once(".scope")?.1;
            path.strip_suffix(rest).map(str::to_owned)
        })
    }

    /// The ends of the connection that a process began with in its environment.
    pub(super) fn ssh_connection(&self, pid: u32) -> Option<Ends> {
        let environment = fs::read(self.path(pid, "environ")).ok()?;
        let mut variables = environment.split(|&byte| byte == 0);
        let value = variables.find_map(|text| text.strip_prefix(b"SSH_CONNECTION="))?;
        Ends::parse(str::from_utf8(value).ok()?)
    }
}

/// The two ends of a connection that was accepted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::commands) struct Ends {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

impl Ends {
    /// `192.0.2.7 51234 192.0.2.1 22`.
    pub(in crate::commands) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let mut end = || {
            // A link-local address has its zone behind it.
            let ip: IpAddr = words.next()?.split('%').next()?.parse().ok()?;
            Some(SocketAddr::new(
                ip.to_canonical(),
                words.next()?.parse().ok()?,
            ))
        };
        Some(Self {
            peer: end()?,
            local: end()?,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use crate::commands::enforce::session::tree::*;

    /// `/dev/pts/3` and `/dev/tty1`, as `stat` numbers them.
    pub(crate) const PTS: u32 = 136 << 8 | 3;
    pub(crate) const TTY: u32 = 4 << 8 | 1;

    /// A `/proc` of our own making.
    pub(crate) struct FakeProc {
        dir: TempDir,
        pub(crate) proc: Proc,
    }

    impl FakeProc {
        pub(crate) fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let proc = Proc(dir.path().to_owned());
            Self { dir, proc }
        }

        /// Adds a process: its number, that of its parent, executable and terminal.
        pub(crate) fn add(&self, pid: u32, parent: u32, exe: &str, terminal: u32) -> &Self {
            let dir = self.dir.path().join(pid.to_string());
            fs::create_dir_all(dir.join("fd")).unwrap();
            let stat = format!("{pid} (a) b) c) S {parent} 1 1 {terminal} -1 0 1 2\n");
            fs::write(dir.join("stat"), stat).unwrap();
            symlink(exe, dir.join("exe")).unwrap();
            self
        }

        /// Gives a process a socket.
        pub(crate) fn hold(&self, pid: u32, fd: u32, inode: u64) -> &Self {
            let dir = self.dir.path().join(pid.to_string());
            symlink(format!("socket:[{inode}]"), dir.join(format!("fd/{fd}"))).unwrap();
            self
        }

        /// Ends the first thread of a process, which goes on in another one.
        pub(crate) fn end_first_thread(&self, pid: u32) -> &Self {
            let dir = self.dir.path().join(pid.to_string());
            let thread = dir.join("task/9");
            fs::create_dir_all(&thread).unwrap();
            let stat = fs::read_to_string(dir.join("stat")).unwrap();
            let stat = format!("{} {}", stat.trim_end(), "0 ".repeat(20));
            fs::write(thread.join("stat"), &stat).unwrap();
            fs::write(dir.join("stat"), stat.replace(") S ", ") Z ")).unwrap();
            for file in ["exe", "fd"] {
                fs::rename(dir.join(file), thread.join(file)).unwrap();
            }
            self
        }

        /// Puts a process into a cgroup.
        pub(crate) fn put(&self, pid: u32, cgroup: &str) -> &Self {
            let path = self.dir.path().join(format!("{pid}/cgroup"));
            fs::write(path, format!("4:memory:/a\n0::{cgroup}\n")).unwrap();
            self
        }

        /// Gives a process a variable, between two others.
        pub(crate) fn set(&self, pid: u32, variable: &str) -> &Self {
            let path = self.dir.path().join(format!("{pid}/environ"));
            fs::write(path, format!("A=1\0{variable}\0B=2\0")).unwrap();
            self
        }
    }

    #[test]
    fn a_chain_ends_at_the_process_that_nobody_started() {
        let host = FakeProc::new();
        host.add(1, 0, "/usr/lib/systemd/systemd", 0)
            .add(700, 1, "/usr/sbin/sshd", 0)
            .add(812, 700, "/usr/lib/openssh/sshd-session (deleted)", 0)
            .add(900, 812, "/usr/bin/bash", PTS);
        let chain = host.proc.chain(900);
        assert!(chain.is_whole);
        let names: Vec<_> = chain.processes.iter().map(|found| &*found.name).collect();
        assert_eq!(names, ["bash", "sshd-session", "sshd", "systemd"]);
        let servers = chain.processes.iter().map(Process::is_login_server);
        assert!(servers.eq([false, true, true, false]));
        assert_eq!(chain.processes[0].terminal, Terminal::Pseudo);
        assert_eq!(chain.processes[1].terminal, Terminal::None);
    }

    #[test]
    fn a_process_without_its_first_thread_is_known_by_another() {
        let host = FakeProc::new();
        host.add(700, 0, "/usr/sbin/dropbear", PTS)
            .hold(700, 4, 71)
            .end_first_thread(700);
        let chain = host.proc.chain(700);
        assert!(chain.is_whole && chain.processes[0].is_login_server());
        assert_eq!(chain.processes[0].terminal, Terminal::Pseudo);
        assert_eq!(host.proc.holders(&[71]), [700]);
    }

    #[test]
    fn a_chain_with_a_process_missing_or_in_a_circle_is_not_whole() {
        let host = FakeProc::new();
        host.add(900, 812, "/usr/bin/bash", PTS);
        assert!(!host.proc.chain(900).is_whole);
        host.add(812, 900, "/usr/bin/bash", TTY);
        assert!(!host.proc.chain(900).is_whole);
    }

    #[test]
    fn terminals_are_told_apart() {
        for (number, terminal) in [
            (0, Terminal::None),
            (PTS, Terminal::Pseudo),
            // The 70,000th: bits of its minor number lie above.
            (139 << 8 | 0x70 | 0x1110 << 16, Terminal::Pseudo),
            (TTY, Terminal::Console),
            (4 << 8 | 64, Terminal::Console),
            (204 << 8 | 64, Terminal::Console),
        ] {
            assert_eq!(Terminal::numbered(number), terminal, "{number:x}");
        }
    }

    #[test]
    fn sockets_come_by_descriptor_and_have_holders() {
        let host = FakeProc::new();
        host.add(5, 1, "/bin/a", 0).hold(5, 10, 71).hold(5, 4, 72);
        host.add(6, 1, "/bin/b", 0).hold(6, 3, 72);
        assert_eq!(host.proc.sockets(5), [72, 71]);
        let mut holders = host.proc.holders(&[72]);
        holders.sort_unstable();
        assert_eq!(holders, [5, 6]);
        assert!(host.proc.holders(&[9]).is_empty());
    }

    #[test]
    fn the_server_of_a_session_is_in_its_scope() {
        let host = FakeProc::new();
        let scope = "/user.slice/user-1000.slice/session-3.scope";
        host.add(5, 1, "/usr/sbin/sshd", 0).put(5, scope);
        host.add(6, 1, "/usr/sbin/sshd", 0)
            .put(6, "/user.slice/user-1000.slice/session-31.scope");
        host.add(7, 1, "/bin/bash", 0)
            .put(7, &format!("{scope}/below"));
        host.add(8, 1, "/bin/bash", 0)
            .put(8, "/system.slice/cron.service");
        assert_eq!(host.proc.servers_beside(7), [5]);
        assert!(host.proc.servers_beside(8).is_empty());
    }

    #[test]
    fn ends_are_read_with_zones_and_mapped_addresses() {
        let host = FakeProc::new();
        host.add(5, 1, "/bin/a", 0)
            .set(5, "SSH_CONNECTION=fe80::1%eth0 51234 fe80::2%eth0 2222");
        let ends = host.proc.ssh_connection(5).unwrap();
        assert_eq!(ends.peer, "[fe80::1]:51234".parse().unwrap());
        assert_eq!(ends.local, "[fe80::2]:2222".parse().unwrap());
        let mapped = Ends::parse("::ffff:192.0.2.7 51234 ::ffff:192.0.2.1 22").unwrap();
        assert_eq!(mapped.peer, "192.0.2.7:51234".parse().unwrap());
        assert_eq!(Ends::parse("nonsense"), None);
        host.add(6, 1, "/bin/b", 0).set(6, "NOT_SSH_CONNECTION=a");
        assert_eq!(host.proc.ssh_connection(6), None);
    }
}
