//! One connection by whom the policy means, and one by somebody else.

use std::{
    net::SocketAddr,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    net::{connect, listen, sockopt},
    process::{
        DumpableBehavior, Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open,
        set_dumpable_behavior,
    },
    thread::{UnshareFlags, unshare_unsafe},
};

use super::vector::{About, Aim, Outcome, Side, Vector, into, out};
use crate::{
    cgroup,
    process::{Gate, become_user, fork},
    scenarios::passing,
    socket::{V4, bind, open, set_tcp},
};

pub(super) const ALL: &[Vector] = &[
    out("enforce-user", user),
    out("enforce-unit", unit),
    out("enforce-cgroup", below_unit),
    out("enforce-exe", exe),
    out("bypass-hard-link", hard_link),
    out("bypass-received", received),
    out("bypass-taken", taken),
    out("bypass-cgroup-namespace", cgroup_namespace),
    out("bypass-user-namespace", user_namespace),
    into("enforce-in-user", listener_of_user).silent(),
];

/// The user the policy denies the owner's port.
pub(super) const DENIED_USER: u32 = 1234;
/// The user who may not listen.
pub(super) const NO_LISTENER: u32 = 1235;
/// One it does not speak of.
const OTHER_USER: u32 = 1236;

fn try_port(aim: &Aim) -> Result<Outcome> {
    let at = SocketAddr::new(V4, aim.denied_port(About::Owner));
    Ok(Outcome::of(&connect(&open(V4)?, &at)))
}

fn user(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    become_user(match aim.side {
        Side::Denied => DENIED_USER,
        Side::Allowed => OTHER_USER,
    })?;
    try_port(aim)
}

fn unit(aim: &Aim) -> Result<Outcome> {
    match aim.side {
        Side::Denied => cgroup::enter(&aim.unit)?,
        Side::Allowed => aim.enter()?,
    }
    try_port(aim)
}

/// In a cgroup that is newer than the policy, below the unit's.
fn below_unit(aim: &Aim) -> Result<Outcome> {
    let parent = match aim.side {
        Side::Denied => aim.unit.clone(),
        Side::Allowed => aim.cgroup.clone(),
    };
    let child = format!("{parent}/newer-{}", std::process::id());
    let directory = cgroup::directory(&child)?;
    std::fs::create_dir(&directory).context("make a cgroup")?;
    cgroup::enter(&child)?;
    let outcome = try_port(aim);
    cgroup::enter(if parent.is_empty() { "/" } else { &parent })?;
    std::fs::remove_dir(&directory).context("remove a cgroup")?;
    outcome
}

/// A copy of this program is another executable: it makes the allowed try, and is
/// the one that is denied.
fn exe(aim: &Aim) -> Result<Outcome> {
    match aim.side {
        Side::Allowed => {
            aim.enter()?;
            try_port(aim)
        }
        Side::Denied => become_program(aim, &aim.copy),
    }
}

/// The executable that the policy means, by another name.
fn hard_link(aim: &Aim) -> Result<Outcome> {
    match aim.side {
        Side::Allowed => exe(aim),
        Side::Denied => {
            let link = aim.copy.with_extension("link");
            std::fs::hard_link(&aim.copy, &link).context("link the copy")?;
            become_program(aim, &link)
        }
    }
}

/// Makes the try that is allowed to this program as another one.
fn become_program(aim: &Aim, program: &Path) -> Result<Outcome> {
    let mut command = Command::new(program);
    command
        .args(["vector", "enforce-exe", "--side", "allowed"])
        .args(["--base", &aim.base.to_string()])
        .args(["--cgroup", &aim.cgroup, "--unit", &aim.unit])
        .arg("--copy")
        .arg(&aim.copy);
    bail!("become {}: {}", program.display(), command.exec())
}

/// Somebody else made the socket: who connects is whom it is about.
fn received(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let (maker, user) = match aim.side {
        Side::Denied => (OTHER_USER, DENIED_USER),
        Side::Allowed => (DENIED_USER, OTHER_USER),
    };
    let (ours, theirs) = passing::channel()?;
    let making = fork(move || {
        become_user(maker)?;
        passing::send(&theirs, &[open(V4)?.as_fd()])
    })?;
    let mut sockets = passing::receive(&ours)?;
    making.join()?;
    become_user(user)?;
    let at = SocketAddr::new(V4, aim.denied_port(About::Owner));
    let socket = sockets.pop().context("no socket came")?;
    Ok(Outcome::of(&connect(&socket, &at)))
}

/// The socket is taken from a process that did not pass it on.
fn taken(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let (maker, user) = match aim.side {
        Side::Denied => (OTHER_USER, DENIED_USER),
        Side::Allowed => (DENIED_USER, OTHER_USER),
    };
    let (ready, told) = rustix::pipe::pipe()?;
    let forever = Gate::new()?;
    let making = fork(move || {
        become_user(maker)?;
        let socket = open(V4)?;
        rustix::io::write(&told, &socket.as_raw_fd().to_ne_bytes())?;
        // Until it is killed.
        forever.pass()
    })?;
    let mut number = [0; 4];
    rustix::io::read(&ready, &mut number)?;
    let pid = Pid::from_raw(making.pid().try_into()?).context("pid 0")?;
    let process = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
    let number = i32::from_ne_bytes(number);
    let socket = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).context("pidfd_getfd")?;
    making.kill()?;
    become_user(user)?;
    let at = SocketAddr::new(V4, aim.denied_port(About::Owner));
    Ok(Outcome::of(&connect(&socket, &at)))
}

/// In a namespace in which the unit's cgroup is the root.
fn cgroup_namespace(aim: &Aim) -> Result<Outcome> {
    match aim.side {
        Side::Denied => cgroup::enter(&aim.unit)?,
        Side::Allowed => aim.enter()?,
    }
    // SAFETY: a cgroup namespace changes nothing that memory safety rests on.
    unsafe { unshare_unsafe(UnshareFlags::NEWCGROUP) }.context("unshare(CLONE_NEWCGROUP)")?;
    try_port(aim)
}

/// In a namespace in which the user is root.
fn user_namespace(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let user = match aim.side {
        Side::Denied => DENIED_USER,
        Side::Allowed => OTHER_USER,
    };
    become_user(user)?;
    // Who changes the user gives up the files of the process in /proc.
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    // SAFETY: a user namespace changes nothing that memory safety rests on.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }.context("unshare(CLONE_NEWUSER)")?;
    std::fs::write("/proc/self/uid_map", format!("0 {user} 1")).context("write uid_map")?;
    ensure!(rustix::process::getuid().is_root(), "not root there");
    try_port(aim)
}

/// A listener of the user the policy means; the peer is somebody else.
fn listener_of_user(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let at = SocketAddr::new(V4, aim.denied_port(About::Listener));
    let (ready, told) = rustix::pipe::pipe()?;
    let forever = Gate::new()?;
    let side = aim.side;
    let listening = fork(move || {
        become_user(match side {
            Side::Denied => DENIED_USER,
            Side::Allowed => OTHER_USER,
        })?;
        let listener = open(V4)?;
        sockopt::set_socket_reuseaddr(&listener, true)?;
        bind(&listener, at)?;
        listen(&listener, 8)?;
        rustix::io::write(&told, b"!")?;
        // Until it is killed.
        forever.pass()
    })?;
    if rustix::io::read(&ready, &mut [0])? == 0 {
        listening.join()?;
        bail!("nobody listens");
    }
    let socket = open(V4)?;
    set_tcp(&socket, libc::TCP_SYNCNT, 1)?;
    let outcome = Outcome::of(&connect(&socket, &at));
    listening.kill()?;
    Ok(outcome)
}
