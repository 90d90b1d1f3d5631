//! Connections that are open when a policy comes that denies them.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, listen, recv, send},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use super::{Enforced, enter, this_program};
use crate::{
    lab::Lab,
    process::{fork, say},
    report::Verdict,
    socket::{V4, any_port, bind, local, open},
};

/// What ending ten thousand may cost of a processor, on a machine that is not emulated:
/// how long it takes depends on what else runs there.
const LIMIT: Duration = Duration::from_secs(2);

/// Exit status of `policy diff`.
const POLICIES_DIFFER: i32 = 1;

/// Who holds connections open.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The cgroup that is held to the policy
    #[arg(long)]
    cgroup: String,
    /// Connections to the first port; a tenth of that to the second
    #[arg(long)]
    count: usize,
}

/// What waits to be accepted at one port: no more than `net.core.somaxconn`.
const EACH: usize = 4_000;

/// Connections that nobody accepts: half as many descriptors.
struct Clients {
    ports: Vec<u16>,
    sockets: Vec<OwnedFd>,
    _listeners: Vec<OwnedFd>,
}

impl Clients {
    fn new(count: usize) -> Result<Self> {
        let (mut ports, mut listeners, mut clients) = (Vec::new(), Vec::new(), Vec::new());
        while clients.len() < count {
            let listener = open(V4)?;
            bind(&listener, any_port(V4))?;
            listen(&listener, i32::try_from(EACH)?)?;
            let at = local(&listener)?;
            for _ in 0..EACH.min(count - clients.len()) {
                let client = open(V4)?;
                rustix::net::connect(&client, &at).context("connect")?;
                clients.push(client);
            }
            ports.push(at.port());
            listeners.push(listener);
        }
        Ok(Self {
            ports,
            sockets: clients,
            _listeners: listeners,
        })
    }

    /// How many of the clients' ends are still open.
    fn alive(&self) -> usize {
        let is_open = |client: &&OwnedFd| {
            let nothing = recv(client, &mut [0_u8], RecvFlags::DONTWAIT | RecvFlags::PEEK);
            matches!(nothing, Err(Errno::AGAIN))
        };
        self.sockets.iter().filter(is_open).count()
    }
}

/// Holds them, and tells with each line that comes in how many are still open.
pub(crate) fn hold(args: &Args) -> Result<()> {
    enter(&args.cgroup)?;
    let limit = getrlimit(Resource::Nofile);
    let highest = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, highest).context("raise the limit of open files")?;
    let denied = Clients::new(args.count)?;
    let allowed = Clients::new(args.count / 10)?;
    say(&format!("{:?}", denied.ports))?;
    for line in io::stdin().lines() {
        line?;
        say(&format!("{} {}", denied.alive(), allowed.alive()))?;
    }
    Ok(())
}

/// They are ended and named, and no other is.
pub(crate) fn are_ended(lab: &Lab) -> Result<Verdict> {
    let count = if lab.native { 10_000 } else { 500 };
    let enforced = Enforced::new(lab, "version = 1\nmode = \"enforce\"\n")?;
    let mut holder = this_program()?
        .args(["hold", "--cgroup", &enforced.cgroup])
        .args(["--count", &count.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the holder")?;
    let mut to_holder = holder.stdin.take().context("no stdin")?;
    let mut words = BufReader::new(holder.stdout.take().context("no stdout")?);
    let mut hear = || -> Result<String> {
        let mut line = String::new();
        words.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the holder failed");
        Ok(line.trim().to_owned())
    };
    let ports = hear()?;
    let path = enforced.write(&format!(
        "version = 1\nmode = \"enforce\"\n[apply]\nestablished = \"kill\"\n[[rule]]\nname = \
         \"no-more\"\ndirection = \"out\"\nport = {ports}\naction = \"deny\"\n"
    ))?;
    expect_listed(lab, &enforced, &path, count)?;
    let before = cpu_time_of_children()?;
    let mut apply = enforced.command("apply");
    let output = apply.arg(&path).args(enforced.place()).output()?;
    let took = cpu_time_of_children()?.saturating_sub(before);
    super::expect_success(&output)?;
    writeln!(to_holder)?;
    let alive = hear()?;
    drop(to_holder);
    holder.wait()?;
    let untouched = format!("0 {}", count / 10);
    ensure!(alive == untouched, "{alive} are open, not {untouched}");
    let text = String::from_utf8(output.stdout)?;
    let named = text
        .lines()
        .filter(|line| line.starts_with("ended out tcp 127.0.0.1:") && line.ends_with(": no-more"));
    let named = named.count();
    ensure!(named == count, "{named} were named, of {count}");
    let said = format!("{count} open connections ended");
    ensure!(text.lines().any(|line| line == said), "not said: {said}");
    ensure!(
        !lab.native || took <= LIMIT,
        "it took {took:?} of a processor"
    );
    Ok(Verdict::Pass(format!("{count}, {took:.1?} of a processor")))
}

/// What the children that were waited for have used of processors.
fn cpu_time_of_children() -> Result<Duration> {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the kernel fills in all of it, or says that it did not.
    let status = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) };
    ensure!(status == 0, "getrusage: {}", io::Error::last_os_error());
    // SAFETY: it is filled in.
    let usage = unsafe { usage.assume_init() };
    let time = |time: libc::timeval| -> Result<Duration> {
        let micros = u64::try_from(time.tv_usec)?;
        Ok(Duration::from_secs(time.tv_sec.try_into()?) + Duration::from_micros(micros))
    };
    Ok(time(usage.ru_utime)? + time(usage.ru_stime)?)
}

/// A connection that its process has closed, and that has more to send than its peer takes:
/// nobody holds it, and whose it was is not told. A rule that asks for a user leaves it alone, one that does not ends it.
pub(crate) fn is_not_guessed(lab: &Lab) -> Result<Verdict> {
    let enforced = Enforced::new(lab, "version = 1\nmode = \"enforce\"\n")?;
    let listener = open(V4)?;
    bind(&listener, any_port(V4))?;
    listen(&listener, 1)?;
    let (at, cgroup) = (local(&listener)?, enforced.cgroup.clone());
    let closing = fork(move || {
        enter(&cgroup)?;
        let socket = open(V4)?;
        rustix::net::connect(&socket, &at).context("connect")?;
        let much = vec![0; 65_536];
        while send(&socket, &much, SendFlags::DONTWAIT).is_ok() {}
        Ok(())
    })?;
    let peer = rustix::net::accept(&listener).context("accept")?;
    closing.join()?;
    let port = at.port();
    let apply = |user: &str| -> Result<String> {
        let path = enforced.write(&format!(
            "version = 1\nmode = \"enforce\"\n[apply]\nestablished = \"kill\"\n[[rule]]\nname = \
             \"no-more\"\ndirection = \"out\"\nport = {port}\n{user}action = \"deny\"\n"
        ))?;
        let mut apply = enforced.command("apply");
        let output = apply.arg(&path).args(enforced.place()).output()?;
        super::expect_success(&output)?;
        Ok(String::from_utf8(output.stdout)?)
    };
    let left = apply("user = 0\n")?;
    ensure!(
        left.contains("1 open connection left: no process holds") && !left.contains("ended"),
        "with a user: {left}"
    );
    let ended = apply("")?;
    ensure!(
        ended.contains("1 open connection ended"),
        "without: {ended}"
    );
    drop(peer);
    Ok(Verdict::pass())
}

/// `policy diff` lists what the policy will end, and changes nothing.
fn expect_listed(lab: &Lab, enforced: &Enforced<'_>, new: &Path, count: usize) -> Result<()> {
    let old = enforced.write("version = 1\n")?;
    let mut diff = Command::new(&lab.program);
    diff.args(["policy", "diff", "--open"]).args([&old, new]);
    let output = diff.output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(POLICIES_DIFFER),
        "diff: {}: {error}",
        output.status
    );
    let text = String::from_utf8(output.stdout)?;
    let listed = text
        .lines()
        .filter(|line| line.starts_with("open out tcp 127.0.0.1:") && line.ends_with(": no-more"));
    let listed = listed.count();
    ensure!(listed == count, "{listed} were listed, of {count}");
    let said = format!("{count} open connections denied by {}", new.display());
    ensure!(text.lines().any(|line| line == said), "not said: {said}");
    Ok(())
}
