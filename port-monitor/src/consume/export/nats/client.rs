//! The text protocol of NATS, as far as a message is published with it and acknowledged.

use std::path::Path;

use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use crate::consume::export::{
    Settings,
    connect::{self, Stream, broken},
    http::{self, PostError, Wish},
    secret,
    settings::Url,
};

/// Bytes of a line of a server. Most of them are an `INFO` with the servers of a cluster.
const LINE_BYTES: u64 = 64 << 10;
/// Bytes of a message to us: an acknowledgement, or an error with its reason.
const MESSAGE_BYTES: usize = 64 << 10;
/// The one subscription that there is.
const SID: &str = "1";

/// What a server tells of itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Info {
    max_payload: usize,
    headers: bool,
    tls_required: bool,
    tls_available: bool,
}

/// A message as it is published.
#[derive(Debug)]
pub(super) struct Message<'m> {
    pub(super) subject: &'m str,
    /// Each with its name, its value and the end of its line.
    pub(super) headers: String,
    pub(super) payload: &'m [u8],
}

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    /// Of a message that nobody was there for.
    pub(super) status: Option<u16>,
    pub(super) payload: Vec<u8>,
}

/// A connection to a server.
pub(super) struct Client<'c> {
    url: &'c Url,
    stream: BufReader<Box<dyn Stream>>,
    max_payload: usize,
}

impl<'c> Client<'c> {
    /// A connection that the server has taken.
    pub(super) async fn connect(settings: &'c Settings, url: &'c Url) -> Result<Self, PostError> {
        let connect = connect_line(settings, url)?;
        let tls = connect::tls(settings, url)?;
        let mut stream = BufReader::new(connect::tcp(url).await?);
        let info = info(url, &line(url, &mut stream).await?)?;
        let stream: Box<dyn Stream> = match &tls {
            Some(tls) if info.tls_required || info.tls_available => {
                connect::over_tls(url, tls, stream.into_inner()).await?
            }
            Some(_) => return Err(told(url, Wish::Change, "it does not speak TLS there")),
            None if info.tls_required => {
                return Err(told(
                    url,
                    Wish::Change,
                    "it wants TLS: write `tls://` into `url`",
                ));
            }
            None => Box::new(stream.into_inner()),
        };
        if !info.headers {
            return Err(told(
                url,
                Wish::Change,
                "it takes no headers: it is older than 2.2",
            ));
        }
        let mut client = Self {
            url,
            stream: BufReader::new(stream),
            max_payload: info.max_payload,
        };
        connect::explained(client.begin(&connect).await, tls.as_ref())?;
        Ok(client)
    }

    /// Says who we are, and has that answered.
    async fn begin(&mut self, connect: &str) -> Result<(), PostError> {
        self.write(format!("{connect}PING\r\n").as_bytes()).await?;
        while self.line().await? != "PONG" {}
        Ok(())
    }

    /// Publishes a message, and returns what comes back.
    pub(super) async fn request(&mut self, message: &Message<'_>) -> Result<Reply, PostError> {
        let Message {
            subject,
            headers,
            payload,
        } = message;
        let headers = format!("NATS/1.0\r\n{headers}\r\n");
        let size = headers.len() + payload.len();
        if size > self.max_payload {
            let reason = format!(
                "it takes {} bytes at most, and these are {size}",
                self.max_payload
            );
            return Err(told(self.url, Wish::Less, &reason));
        }
        let inbox = inbox();
        let head = format!(
            "SUB {inbox} {SID}\r\nHPUB {subject} {inbox} {} {size}\r\n{headers}",
            headers.len()
        );
        self.write(&[head.as_bytes(), payload, b"\r\n"].concat())
            .await?;
        loop {
            let line = self.line().await?;
            if let Some(reply) = self.reply(&line).await? {
                return Ok(reply);
            }
        }
    }

    /// The message that a line is the head of, if it is.
    async fn reply(&mut self, line: &str) -> Result<Option<Reply>, PostError> {
        let mut words = line.split_ascii_whitespace();
        let has_headers = match words.next() {
            Some("MSG") => false,
            Some("HMSG") => true,
            _ => return Ok(None),
        };
        let mut numbers = words.rev().map_while(|word| word.parse::<usize>().ok());
        let strange = || told(self.url, Wish::Again, "a message without its size");
        let size = numbers
            .next()
            .filter(|size| *size <= MESSAGE_BYTES)
            .ok_or_else(strange)?;
        let of_headers = if has_headers {
            let of_headers = numbers.next().filter(|of| *of <= size);
            of_headers.ok_or_else(strange)?
        } else {
            0
        };
        let mut bytes = vec![0; size + 2];
        let read = self.stream.read_exact(&mut bytes).await;
        read.map_err(|error| broken(self.url, &error))?;
        bytes.truncate(size);
        let payload = bytes.split_off(of_headers);
        let first = str::from_utf8(&bytes).unwrap_or_default().lines().next();
        let status = first.and_then(|line| line.strip_prefix("NATS/1.0 ")?.get(..3)?.parse().ok());
        Ok(Some(Reply { status, payload }))
    }

    /// The next line but those that need no more than an answer.
    async fn line(&mut self) -> Result<String, PostError> {
        loop {
            let line = line(self.url, &mut self.stream).await?;
            if line == "PING" {
                self.write(b"PONG\r\n").await?;
            } else if let Some(error) = line.strip_prefix("-ERR ") {
                return Err(told(
                    self.url,
                    wish(error),
                    &http::first_line(error.as_bytes()),
                ));
            } else {
                return Ok(line);
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), PostError> {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        written.await.map_err(|error| broken(self.url, &error))
    }
}

/// A line, without its end.
async fn line(
    url: &Url,
    stream: &mut BufReader<impl tokio::io::AsyncRead + Unpin>,
) -> Result<String, PostError> {
    let mut bytes = Vec::new();
    let mut limited = stream.take(LINE_BYTES);
    let read = limited.read_until(b'\n', &mut bytes).await;
    read.map_err(|error| broken(url, &error))?;
    if bytes.last() != Some(&b'\n') {
        if bytes.len() as u64 == LINE_BYTES {
            return Err(told(
                url,
                Wish::Change,
                "no NATS server: a line without end",
            ));
        }
        return Err(broken(url, &std::io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(String::from_utf8_lossy(bytes.trim_ascii_end()).into_owned())
}

/// What a server says first.
fn info(url: &Url, line: &str) -> Result<Info, PostError> {
    let text = line.strip_prefix("INFO ").unwrap_or_default();
    let info = serde_json::from_str(text);
    info.map_err(|_| {
        let reason = format!(
            "no NATS server: it says {}",
            http::first_line(line.as_bytes())
        );
        told(url, Wish::Change, &reason)
    })
}

fn connect_line(settings: &Settings, url: &Url) -> Result<String, PostError> {
    let read = |path: Option<&Path>| path.map(secret::text).transpose();
    let mut connect = json!({
        "verbose": false,
        "pedantic": false,
        "tls_required": url.scheme.is_tls(),
        "name": env!("CARGO_PKG_NAME"),
        "lang": "rust",
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": 1,
        "headers": true,
        "no_responders": true,
    });
    for (key, value) in [
        ("user", settings.user.clone()),
        ("pass", read(settings.password_file.as_deref())?),
        ("auth_token", read(settings.token_file.as_deref())?),
    ] {
        if let Some(value) = value {
            connect[key] = value.into();
        }
    }
    Ok(format!("CONNECT {connect}\r\n"))
}

/// What a server wants that ends a connection with that.
fn wish(error: &str) -> Wish {
    let error = error.to_ascii_lowercase();
    if error.contains("maximum payload") {
        Wish::Less
    } else if ["authorization", "authentication", "permissions"]
        .iter()
        .any(|what| error.contains(what))
    {
        Wish::Change
    } else {
        Wish::Again
    }
}

pub(super) fn told(url: &Url, wish: Wish, reason: &str) -> PostError {
    PostError::Told {
        url: url.to_string(),
        reason: reason.to_owned(),
        wish,
    }
}

/// A subject that nobody else has.
fn inbox() -> String {
    let mut bytes = [0; 16];
    // Without chance it is the first connection of this process at this time.
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) != Ok(16) {
        let now = jiff::Timestamp::now().as_nanosecond().to_le_bytes();
        bytes.copy_from_slice(&now);
    }
    format!("_INBOX.{:032x}", u128::from_le_bytes(bytes))
}
