//! What an export is told to do, as the configuration has it.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use clap::ValueEnum;
use hyper::Uri;

use super::tls;
use crate::base::duration;

/// Rows of a batch.
const MOST_ROWS: u32 = 100_000;

/// The keys of `[export.NAME]`. Each is a flag so that it is read as all other keys are.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Settings {
    /// What kind of receiver it is
    #[arg(long = "export-type", value_name = "NAME")]
    pub kind: Kind,
    /// Where it is asked over HTTP
    #[arg(long = "export-url", value_name = "URL")]
    pub url: Url,
    /// The table, which `port-monitor export schema` prints
    #[arg(long = "export-table", value_name = "NAME", value_parser = table)]
    pub table: Option<String>,
    /// Who asks
    #[arg(long = "export-user", value_name = "NAME", value_parser = user)]
    pub user: Option<String>,
    /// A file with the password, read at every batch
    #[arg(long = "export-password-file", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// A file with a token, read at every batch
    #[arg(long = "export-token-file", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A file with headers, each in a line, read at every batch
    #[arg(long = "export-headers-file", value_name = "FILE")]
    pub headers_file: Option<PathBuf>,
    /// What `https://` needs.
    #[command(flatten)]
    pub tls: tls::Files,
    /// How many rows at most are sent at once
    #[arg(
        long = "export-batch",
        value_name = "ROWS",
        default_value = "10000",
        value_parser = batch
    )]
    pub batch: u32,
    /// How often what has come is sent
    #[arg(
        long = "export-every",
        value_name = "TIME",
        default_value = "10s",
        value_parser = every
    )]
    pub every: Duration,
    /// How long a receiver may take.
    #[arg(skip)]
    pub limits: Limits,
}

impl Settings {
    /// A key that does not go with the others, and why.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        self.kind_has_keys()?;
        self.is_one_asker()?;
        let Some(key) = self.tls.first() else {
            return Ok(());
        };
        if !self.url.is_https {
            return Err((
                key,
                "it is for `https://`: write that in `url`, or take this away",
            ));
        }
        if self.tls.certificate_file.is_none() && self.tls.key_file.is_some() {
            return Err((
                "key-file",
                "the key of no certificate: add `certificate-file`",
            ));
        }
        Ok(())
    }

    /// Only keys that mean something to the kind of receiver.
    fn kind_has_keys(&self) -> Result<(), (&'static str, &'static str)> {
        let foreign = match self.kind {
            Kind::Clickhouse => [
                ("token-file", self.token_file.is_some(), FOR_OTLP),
                ("headers-file", self.headers_file.is_some(), FOR_OTLP),
            ]
            .to_vec(),
            Kind::Otlp => [("table", self.table.is_some(), FOR_CLICKHOUSE)].to_vec(),
        };
        let given = foreign.into_iter().find(|(_, is_given, _)| *is_given);
        given.map_or(Ok(()), |(key, _, why)| Err((key, why)))
    }

    /// One way to know who asks.
    fn is_one_asker(&self) -> Result<(), (&'static str, &'static str)> {
        let Self {
            user,
            password_file,
            token_file,
            ..
        } = self;
        if token_file.is_some() && (user.is_some() || password_file.is_some()) {
            return Err(("token-file", "it does not go with `user`: keep one of both"));
        }
        match (self.kind, user, password_file) {
            (Kind::Otlp, Some(_), None) => Err(("user", "it needs `password-file`")),
            (Kind::Otlp, None, Some(_)) => Err(("password-file", "it needs `user`")),
            _ => Ok(()),
        }
    }
}

const FOR_CLICKHOUSE: &str = "it is for `type = \"clickhouse\"`: take it away";
const FOR_OTLP: &str = "it is for `type = \"otlp\"`: take it away";

/// How long a receiver may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// To let us in.
    pub connect: Duration,
    /// To take a batch and answer.
    pub answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_mins(1),
        }
    }
}

/// A kind of receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// `ClickHouse`, 18.16 and later
    Clickhouse,
    /// A collector of OpenTelemetry, by OTLP/HTTP
    Otlp,
}

/// The address of a receiver, with what it is asked besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// It is asked by TLS.
    pub is_https: bool,
    /// The name or the address of the host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Both, as they are written.
    pub authority: String,
    /// The path, from its slash on.
    pub path: String,
    /// What follows the question mark.
    pub query: Option<String>,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

impl FromStr for Url {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str =
            "not an address of a receiver: write https://HOST:8443 or http://HOST:8123";
        let is_https = text.starts_with("https://");
        if !is_https && !text.starts_with("http://") {
            return Err(FORM);
        }
        let uri: Uri = text.parse().map_err(|_| FORM)?;
        let authority = uri.authority().ok_or(FORM)?;
        if authority.as_str().contains('@') {
            return Err("a user is no part of it: write `user` and `password-file`");
        }
        let host = authority.host();
        if host.is_empty() || text.contains('#') {
            return Err(FORM);
        }
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let has_port = authority.as_str().len() > host.len();
        Ok(Self {
            is_https,
            host: bare.unwrap_or(host).to_owned(),
            port: match authority.port_u16() {
                Some(port) if port > 0 => port,
                None if !has_port => {
                    if is_https {
                        443
                    } else {
                        80
                    }
                }
                _ => return Err(FORM),
            },
            authority: authority.as_str().to_owned(),
            path: uri.path().to_owned(),
            query: uri.query().map(str::to_owned),
        })
    }
}

/// The name of a table, with its database or without. What it is made of has no meaning in a
/// text of SQL, or in an address.
fn table(text: &str) -> Result<String, &'static str> {
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() > 2 || !parts.iter().all(|part| is_name(part)) {
        return Err("not the name of a table: write `connections` or `fleet.connections`");
    }
    Ok(text.to_owned())
}

fn user(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_graphic()) {
        return Err("not the name of a user: write printable ASCII without spaces");
    }
    Ok(text.to_owned())
}

fn batch(text: &str) -> Result<u32, &'static str> {
    let rows = text.parse().ok();
    let rows = rows.filter(|rows| (1..=MOST_ROWS).contains(rows));
    rows.ok_or("not a number of rows: write 1 to 100000")
}

fn every(text: &str) -> Result<Duration, String> {
    let every = duration::parse_some(text, "1s or more").map_err(|error| error.to_string())?;
    if every < Duration::from_secs(1) {
        return Err("less than 1 s: write 1s or more".to_owned());
    }
    Ok(every)
}

/// The name of an export: it is a label of metrics, and a word in the journal.
pub fn parse_name(text: &str) -> Result<String, &'static str> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty() || text.len() > 32 || !text.chars().all(is_plain) {
        return Err("not the name of an export: write up to 32 of a-z, 0-9 and `-`");
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart() {
        let url: Url = "http://[::1]:8123/a?x=1&y=2".parse().unwrap();
        assert_eq!((&*url.host, url.port), ("::1", 8123));
        assert_eq!((&*url.path, url.query.as_deref()), ("/a", Some("x=1&y=2")));
        assert_eq!(url.authority, "[::1]:8123");
        let url: Url = "http://db.example".parse().unwrap();
        assert_eq!((&*url.host, url.port, &*url.path), ("db.example", 80, "/"));
        assert!(!url.is_https);
        let url: Url = "https://db.example/a".parse().unwrap();
        assert_eq!((url.is_https, url.port), (true, 443));
        assert_eq!(url.to_string(), "https://db.example/a");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "db.example:8123",
            "http://",
            "http://:8123",
            "http://a:0/",
            "http://a:99999/",
            "http://a:b/",
            "http://u:p@a/",
            "http://a/#b",
            "https://",
            "HTTPS://a/",
            "ftp://a/",
        ] {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_name_of_a_table_is_no_sql() {
        for name in ["connections", "fleet.connections_all", "_a1"] {
            assert!(table(name).is_ok(), "{name}");
        }
        for name in ["", "a.b.c", "a b", "a;b", "1a", "a.", "a`"] {
            assert!(table(name).is_err(), "{name}");
        }
    }
}
