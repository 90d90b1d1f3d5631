//! Listeners that change hands: whoever has one open when a connection comes owns it, not
//! who once made it listen.

use std::{
    fs::{self, File, OpenOptions},
    net::SocketAddr,
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    process::Command,
    ptr, thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    net::sockopt,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use crate::{
    cgroup,
    fact::Witness,
    process::{Gate, become_user, exit_now, fork, set_comm},
    scenarios::{
        identity::OTHER_USER,
        passing::{channel, receive, send},
        places,
    },
    socket::{Listener, V4, any_port, bind, local, open},
};

const BACKLOG: i32 = 16;

/// How long a daemon lives on: much longer than a look at all open files and the pause after
/// it take, also where processors are busy.
const LIFE: Duration = Duration::from_secs(3);

/// Where a program that is executed finds its listener, as systemd hands it over.
const LISTENER: RawFd = 3;
/// Where it says that it runs.
const READY: RawFd = 4;

/// A socket for a child to listen with, and where. Others may listen there too.
fn bound() -> Result<(OwnedFd, SocketAddr)> {
    let socket = open(V4)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, any_port(V4))?;
    let at = local(&socket)?;
    Ok((socket, at))
}

/// The process that listens forks one that accepts, and goes.
pub(super) fn daemon(witness: &Witness) -> Result<()> {
    let (socket, at) = bound()?;
    let (orphaned, accepted) = (&Gate::new()?, &Gate::new()?);
    let dying = &witness.of_the_dying()?;
    let parent = fork(move || {
        let listener = dying.listen_on(socket, BACKLOG)?;
        let _daemon = fork(move || {
            orphaned.pass()?;
            witness.accept_as_holder(listener)?;
            // Nobody has seen it have the listener before, so it must live to be looked at,
            // as daemons do.
            thread::sleep(LIFE);
            accepted.open()
        })?;
        exit_now()
    })?;
    parent.gone()?;
    orphaned.open()?;
    let _client = witness.connect(at)?;
    accepted.pass()
}

/// Two children that are left behind have it: whose a connection is, nobody knows before
/// one of them accepts it.
pub(super) fn orphans(witness: &Witness) -> Result<()> {
    let (socket, at) = bound()?;
    let (orphaned, accepted) = (&Gate::new()?, &Gate::new()?);
    let dying = &witness.of_the_dying()?;
    let parent = fork(move || {
        let listener = dying.listen_on(socket, BACKLOG)?;
        let _idle = fork(|| Ok(()))?;
        let _accepting = fork(move || {
            orphaned.pass()?;
            witness.accept_as_one_of_several(listener)?;
            accepted.open()
        })?;
        exit_now()
    })?;
    parent.gone()?;
    orphaned.open()?;
    let _client = witness.connect(at)?;
    accepted.pass()
}

/// The process becomes another user's, with another name, after listen.
pub(super) fn dropped(witness: &Witness) -> Result<()> {
    let (socket, at) = bound()?;
    let ready = &Gate::new()?;
    let server = fork(move || {
        let listener = witness.listen_on(socket, BACKLOG)?;
        become_user(OTHER_USER)?;
        set_comm(b"dropped")?;
        ready.open()?;
        witness.accept_as_holder(listener)
    })?;
    ready.pass()?;
    let _client = witness.connect(at)?;
    server.join()
}

/// The process executes a program after listen.
pub(super) fn executed(witness: &Witness) -> Result<()> {
    let (socket, at) = bound()?;
    let ready = &Gate::new()?;
    let _server = fork(move || {
        set_comm(b"launcher")?;
        let listener = witness.listen_on(socket, BACKLOG)?;
        execute(witness, &listener, ready, "accept-at-3")
    })?;
    be_served(witness, ready, at)
}

/// Whoever listens has another process execute the service, and goes.
pub(super) fn activated(witness: &Witness) -> Result<()> {
    let (socket, at) = bound()?;
    let ready = &Gate::new()?;
    let dying = &witness.of_the_dying()?;
    let giver = fork(move || {
        set_comm(b"giver")?;
        let listener = dying.listen_on(socket, BACKLOG)?;
        let _service = fork(|| execute(witness, &listener, ready, "accept-at-3"))?;
        exit_now()
    })?;
    giver.gone()?;
    be_served(witness, ready, at)
}

/// Whoever listens has the service executed in a cgroup of its own, and keeps the listener,
/// as systemd does.
pub(super) fn activated_and_kept(witness: &Witness) -> Result<()> {
    let (socket, at) = bound()?;
    let ready = &Gate::new()?;
    let _giver = fork(move || {
        let listener = witness.listen_on(socket, BACKLOG)?;
        let _service = fork(|| {
            cgroup::enter(&places::own_cgroups()?.unit())?;
            execute(witness, &listener, ready, "accept-at-3-of-several")
        })?;
        listener.keep();
        Ok(())
    })?;
    be_served(witness, ready, at)
}

/// The listener is sent to another process, and closed where it was.
pub(super) fn handed_over(witness: &Witness) -> Result<()> {
    let (socket, at) = bound()?;
    let (ours, theirs) = &channel()?;
    let ready = &Gate::new()?;
    let giver = fork(move || {
        let listener = witness.listen_on(socket, BACKLOG)?;
        send(ours, &[listener.socket.as_fd()])
    })?;
    giver.join()?;
    let server = fork(|| {
        let socket = receive(theirs)?.pop().context("no socket came")?;
        ready.open()?;
        witness.accept_as_holder(Listener { socket, at })
    })?;
    ready.pass()?;
    let _client = witness.connect(at)?;
    server.join()
}

/// Another process takes the listener from the one that has it, which then closes it.
pub(super) fn taken(witness: &Witness) -> Result<()> {
    let (socket, at) = bound()?;
    let number = socket.as_raw_fd();
    let (listens, taken, ready) = (&Gate::new()?, &Gate::new()?, &Gate::new()?);
    let giver = fork(move || {
        let _listener = witness.listen_on(socket, BACKLOG)?;
        listens.open()?;
        taken.pass()
    })?;
    listens.pass()?;
    let process = Pid::from_raw(giver.pid().try_into()?).context("pid 0")?;
    let server = fork(|| {
        let process = pidfd_open(process, PidfdFlags::empty()).context("pidfd_open")?;
        let socket = pidfd_getfd(&process, number, PidfdGetfdFlags::empty());
        let socket = socket.context("pidfd_getfd")?;
        taken.open()?;
        ready.pass()?;
        witness.accept_as_holder(Listener { socket, at })
    })?;
    giver.join()?;
    ready.open()?;
    let _client = witness.connect(at)?;
    server.join()
}

/// Of two processes that listen at one address one is left.
pub(super) fn left_alone(witness: &Witness) -> Result<()> {
    let (socket, at) = bound()?;
    let (listens, closed) = (&Gate::new()?, &Gate::new()?);
    let other = fork(move || {
        listens.pass()?;
        witness.listen_on(socket, BACKLOG).map(drop)
    })?;
    // After the fork: neither has the other's.
    let second = open(V4)?;
    sockopt::set_socket_reuseport(&second, true)?;
    bind(&second, at)?;
    let server = fork(move || {
        let listener = witness.listen_on(second, BACKLOG)?;
        listens.open()?;
        closed.pass()?;
        witness.accept_as_holder(listener)
    })?;
    other.join()?;
    closed.open()?;
    let _client = witness.connect(at)?;
    server.join()
}

/// The process that listens is killed once it has accepted: its memory goes before its files
/// do, and with it what it executes.
pub(super) fn killed(witness: &Witness) -> Result<()> {
    let (socket, at) = bound()?;
    let ready = &Gate::new()?;
    let dying = &witness.of_the_dying()?;
    let server = fork(move || {
        let listener = dying.listen_on(socket, BACKLOG)?;
        fill_memory()?;
        ready.open()?;
        dying.accept_as_holder(listener)?;
        exit_now()
    })?;
    ready.pass()?;
    let _client = witness.connect(at)?;
    server.gone()
}

/// A child that has the listener too exits while the connection comes, as a worker does that
/// has served its last.
pub(super) fn left_by_child(witness: &Witness) -> Result<()> {
    let (socket, at) = bound()?;
    let (ready, go) = (&Gate::new()?, &Gate::new()?);
    let server = fork(move || {
        let listener = witness.listen_on(socket, BACKLOG)?;
        let _child = fork(|| {
            fill_memory()?;
            ready.open()?;
            go.pass()?;
            exit_now()
        })?;
        witness.accept_as_holder(listener)
    })?;
    ready.pass()?;
    go.open()?;
    let _client = witness.connect(at)?;
    server.join()
}

/// Takes so much memory that to give it back takes longer than to look who has a listener.
fn fill_memory() -> Result<()> {
    const SIZE: usize = 128 << 20;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a mapping of its own, wherever the kernel likes.
    let memory = unsafe { libc::mmap(ptr::null_mut(), SIZE, protection, flags, -1, 0) };
    ensure!(memory != libc::MAP_FAILED, "no memory");
    // Page by page: this process has it until it ends.
    // SAFETY: the mapping, which nothing else refers to.
    unsafe { libc::madvise(memory, SIZE, libc::MADV_NOHUGEPAGE) };
    // SAFETY: as above.
    unsafe { libc::memset(memory, 1, SIZE) };
    Ok(())
}

/// Connects to a program that was executed, and waits until it has closed the connection.
fn be_served(witness: &Witness, ready: &Gate, at: SocketAddr) -> Result<()> {
    ready.pass()?;
    let client = witness.connect(at)?;
    let read = rustix::io::read(&client, &mut [0]).context("wait for the service")?;
    ensure!(read == 0, "the service sent something");
    Ok(())
}

/// Becomes a workload that finds its listener at [`LISTENER`].
fn execute(witness: &Witness, listener: &Listener, ready: &Gate, workload: &str) -> Result<()> {
    let facts = witness.path()?;
    let nowhere = OpenOptions::new().write(true).open("/dev/null")?;
    let mut command = Command::new("/proc/self/exe");
    command.arg("workload").arg(workload).arg(facts);
    // Of its end the runner must not hear.
    command.stdout(nowhere);
    let (socket, ready) = (listener.socket.as_raw_fd(), ready.opener());
    let move_both = move || {
        // First away from where they are to be.
        // SAFETY: takes open descriptors.
        let moved = [socket, ready].map(|fd| unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 10) });
        for (from, to) in moved.into_iter().zip([LISTENER, READY]) {
            // SAFETY: as above.
            if unsafe { libc::dup2(from, to) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: it makes system calls only.
    Err(unsafe { command.pre_exec(move_both) }.exec()).context("execute this program")
}

/// Accepts at the listener that was handed over, which nobody else has.
pub(crate) fn accept_at_3(witness: &Witness) -> Result<()> {
    witness.accept_as_holder(handed_listener()?)
}

/// Accepts at the listener that was handed over, which whoever did that has too.
pub(crate) fn accept_at_3_of_several(witness: &Witness) -> Result<()> {
    witness.accept_as_one_of_several(handed_listener()?)
}

fn handed_listener() -> Result<Listener> {
    for fd in [LISTENER, READY] {
        let link = fs::read_link(format!("/proc/self/fd/{fd}"));
        link.with_context(|| format!("descriptor {fd} was not handed over"))?;
    }
    // SAFETY: it is open, and nobody else's in this process.
    let socket = unsafe { OwnedFd::from_raw_fd(LISTENER) };
    // SAFETY: as above.
    let ready = unsafe { File::from_raw_fd(READY) };
    rustix::io::write(&ready, b"!")?;
    let at = local(&socket)?;
    Ok(Listener { socket, at })
}
