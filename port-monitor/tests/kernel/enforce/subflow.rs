//! A later subflow of an MPTCP connection: the peer says where to, and a thread of the
//! kernel connects.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::{AsFd, AsRawFd as _},
    process::{Child, ChildStdout, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rustix::net::{accept, connect, listen};

use super::{Enforced, enter, life::rule, mptcp_pm, this_program};
use crate::{
    lab::Lab,
    process::{say, wait_until},
    report::Verdict,
    scenarios::places,
    socket::{V4, any_port, bind, local, open_mptcp},
};

/// Where the peer says that it can be reached too.
const ANNOUNCED: SocketAddr = SocketAddr::new(IpAddr::V4(places::SECOND_ADDRESS), 4_444);

/// Where the connection is opened from.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    cgroup: String,
}

/// Opens an MPTCP connection to loopback, whose server announces another address; tells
/// for each line that comes in how many further subflows there are.
pub(crate) fn run(args: &Args) -> Result<()> {
    enter(&args.cgroup)?;
    places::enter_loopback_netns()?;
    places::add_second_address()?;
    mptcp_pm::announce(places::SECOND_ADDRESS, ANNOUNCED.port())?;
    let listener = open_mptcp(V4)?;
    bind(&listener, any_port(V4))?;
    listen(&listener, 8)?;
    let client = open_mptcp(V4)?;
    connect(&client, &local(&listener)?).context("connect")?;
    let mut server = TcpStream::from(accept(&listener)?);
    let mut client = TcpStream::from(client);
    let stdin = std::io::stdin();
    for line in stdin.lines() {
        line?;
        // What is sent makes both ends sure of each other.
        client.write_all(b"?")?;
        server.read_exact(&mut [0])?;
        server.write_all(b"!")?;
        client.read_exact(&mut [0])?;
        say(&subflows(&client)?.max(subflows(&server)?).to_string())?;
    }
    Ok(())
}

/// Subflows beyond the first: the first byte of `struct mptcp_info`.
fn subflows(socket: impl AsFd) -> Result<u8> {
    const SOL_MPTCP: libc::c_int = 284;
    const MPTCP_INFO: libc::c_int = 1;
    let mut info = [0_u8; 8];
    let mut size = libc::socklen_t::try_from(size_of_val(&info))?;
    // SAFETY: the descriptor is open, and the kernel writes at most `size` bytes to
    // `info`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            SOL_MPTCP,
            MPTCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if status != 0 {
        return Err(std::io::Error::last_os_error()).context("get MPTCP_INFO");
    }
    Ok(info[0])
}

/// The process of [`run`].
struct Connection {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Connection {
    fn open(enforced: &Enforced<'_>) -> Result<Self> {
        let mut child = this_program()?
            .args(["subflow", "--cgroup", &enforced.cgroup])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a connection")?;
        let answers = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self { child, answers })
    }

    /// How many further subflows it has.
    fn subflows(&mut self) -> Result<u8> {
        let stdin = self.child.stdin.as_mut().context("no stdin")?;
        writeln!(stdin)?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        line.trim().parse().context("the connection failed")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Its status says nothing that its answers did not.
        let _ = self.child.wait();
    }
}

/// It is judged like any other connection, by rules and by the default.
pub(crate) fn is_judged(lab: &Lab) -> Result<Verdict> {
    let policy = |outbound: &str, rules: &str| {
        format!(
            "version = 1\nmode = \"enforce\"\n[default]\ninbound = {{ action = \"allow\" }}\n\
             outbound = {{ action = \"{outbound}\" }}\n{rules}"
        )
    };
    let named = |action| rule("announced", ANNOUNCED.port(), action);
    let enforced = Enforced::new(lab, &policy("deny", &named("allow")))?;
    let mut open = Connection::open(&enforced)?;
    wait_until(|| Ok(open.subflows()? > 0)).context("no subflow where one may be")?;
    ensure!(enforced.hits("announced")? > 0, "not by the rule");
    drop(open);

    for (text, decides) in [
        (policy("allow", &named("deny")), "announced"),
        (
            policy("deny", &rule("other", 1, "allow")),
            "default outbound",
        ),
    ] {
        enforced.apply(&text, &["--no-confirm"])?;
        let mut open = Connection::open(&enforced)?;
        wait_until(|| Ok(open.subflows()? > 0 || enforced.hits(decides)? > 0))
            .with_context(|| format!("{decides} decides nothing"))?;
        ensure!(open.subflows()? == 0, "a subflow in spite of {decides}");
    }
    Ok(Verdict::pass())
}
