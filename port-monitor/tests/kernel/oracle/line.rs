//! What the other monitors print, a line each.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail};

/// What a line says of one end of a connection.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Says {
    /// tcptracer's `C`, `A` and `X`.
    Connected,
    Accepted,
    Closed,
    /// tcplife: kilobytes sent and received, as printed, and milliseconds.
    Lived(String, String, f64),
    /// tcpconnlat: milliseconds.
    Answered(f64),
}

/// A line of another monitor.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) pid: u32,
    pub(crate) comm: String,
    /// Without the IPv6 form of an IPv4 address.
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// The addresses had that form.
    pub(crate) v4_mapped: bool,
    pub(crate) says: Says,
}

/// All that a tool told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) lines: Vec<Line>,
    /// How often the kernel skipped one of its programs.
    pub(crate) skipped: u64,
}

impl Line {
    /// `T PID COMM IP SADDR DADDR SPORT DPORT`
    pub(crate) fn of_tcptracer(text: &str) -> Result<Self> {
        let mut words = Words::of(text);
        let says = match words.word()? {
            "C" => Says::Connected,
            "A" => Says::Accepted,
            "X" => Says::Closed,
            other => bail!("`{other}` in: {text}"),
        };
        let (pid, comm, _) = (words.parse()?, words.word()?, words.word()?);
        let (local, remote) = (words.parse()?, words.parse()?);
        let ports = (words.parse()?, words.parse()?);
        Ok(Self::new(text, (pid, comm), (local, remote), ports, says))
    }

    /// `PID COMM LADDR LPORT RADDR RPORT TX_KB RX_KB MS`
    pub(crate) fn of_tcplife(text: &str) -> Result<Self> {
        let mut words = Words::of(text);
        let (pid, comm) = (words.parse()?, words.word()?);
        let (local, local_port) = (words.parse()?, words.parse()?);
        let (remote, remote_port) = (words.parse()?, words.parse()?);
        let (sent, received) = (words.word()?.to_owned(), words.word()?.to_owned());
        let says = Says::Lived(sent, received, words.parse()?);
        let ports = (local_port, remote_port);
        Ok(Self::new(text, (pid, comm), (local, remote), ports, says))
    }

    /// `PID COMM IP SADDR LPORT DADDR DPORT LAT(ms)`
    pub(crate) fn of_tcpconnlat(text: &str) -> Result<Self> {
        let mut words = Words::of(text);
        let (pid, comm, _) = (words.parse()?, words.word()?, words.word()?);
        let (local, local_port) = (words.parse()?, words.parse()?);
        let (remote, remote_port) = (words.parse()?, words.parse()?);
        let says = Says::Answered(words.parse()?);
        let ports = (local_port, remote_port);
        Ok(Self::new(text, (pid, comm), (local, remote), ports, says))
    }

    fn new(
        text: &str,
        (pid, comm): (u32, &str),
        (local, remote): (IpAddr, IpAddr),
        (local_port, remote_port): (u16, u16),
        says: Says,
    ) -> Self {
        let plain = remote.to_canonical();
        Self {
            text: text.to_owned(),
            pid,
            comm: comm.to_owned(),
            local: SocketAddr::new(local.to_canonical(), local_port),
            remote: SocketAddr::new(plain, remote_port),
            v4_mapped: plain != remote,
            says,
        }
    }
}

/// The words of a line, none of which may be missing.
struct Words<'a> {
    line: &'a str,
    rest: std::str::SplitWhitespace<'a>,
}

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        Self {
            line,
            rest: line.split_whitespace(),
        }
    }

    fn word(&mut self) -> Result<&'a str> {
        let line = self.line;
        self.rest
            .next()
            .with_context(|| format!("too few words: {line}"))
    }

    fn parse<T>(&mut self) -> Result<T>
    where
        T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
    {
        let word = self.word()?;
        word.parse()
            .with_context(|| format!("`{word}` in: {}", self.line))
    }
}
