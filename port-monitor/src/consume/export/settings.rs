//! What an export is told to do, as the configuration has it.

use std::{fmt, iter, path::PathBuf, str::FromStr, time::Duration};

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
    /// Where it is
    #[arg(long = "export-url", value_name = "URL")]
    pub url: Urls,
    /// The table, which `port-monitor export schema` prints
    #[arg(long = "export-table", value_name = "NAME", value_parser = table)]
    pub table: Option<String>,
    /// What messages are about
    #[arg(long = "export-subject", value_name = "NAME", value_parser = subject)]
    pub subject: Option<String>,
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
    pub fn check(&self) -> Result<(), Wrong> {
        self.kind_has_address()?;
        self.kind_has_keys()?;
        self.is_one_asker()?;
        let Some(key) = self.tls.first() else {
            return Ok(());
        };
        if !self.url.first.scheme.is_tls() {
            let why = match self.kind {
                Kind::Nats => "it is for `tls://`: write that in `url`, or take this away",
                _ => "it is for `https://`: write that in `url`, or take this away",
            };
            return Err((key, why));
        }
        if self.tls.certificate_file.is_none() && self.tls.key_file.is_some() {
            return Err((
                "key-file",
                "the key of no certificate: add `certificate-file`",
            ));
        }
        Ok(())
    }

    /// An address that is one of its kind of receiver.
    fn kind_has_address(&self) -> Result<(), Wrong> {
        let Urls { first, others } = &self.url;
        let is_nats = matches!(first.scheme, Scheme::Nats | Scheme::Tls);
        let has_path = |url: &Url| url.path.len() > 1 || url.query.is_some();
        let is_other = |url: &Url| url.scheme != first.scheme;
        let why = match self.kind {
            _ if others.iter().any(is_other) => {
                "servers of one receiver are asked alike: begin all with the same"
            }
            Kind::Nats if !is_nats => "NATS is asked by `nats://` or `tls://`",
            Kind::Nats if self.url.all().any(has_path) => {
                "a path means nothing to NATS: take it away, and write `subject`"
            }
            Kind::Nats => return Ok(()),
            _ if is_nats => "`nats://` and `tls://` are for `type = \"nats\"`",
            _ if !others.is_empty() => "several servers are for `type = \"nats\"`: write one",
            _ => return Ok(()),
        };
        Err(("url", why))
    }

    /// Only keys that mean something to the kind of receiver.
    fn kind_has_keys(&self) -> Result<(), Wrong> {
        for (key, is_given, kinds, why) in [
            (
                "table",
                self.table.is_some(),
                &[Kind::Clickhouse][..],
                "it is for `type = \"clickhouse\"`: take it away",
            ),
            (
                "subject",
                self.subject.is_some(),
                &[Kind::Nats],
                "it is for `type = \"nats\"`: take it away",
            ),
            (
                "token-file",
                self.token_file.is_some(),
                &[Kind::Otlp, Kind::Nats],
                "it is for `type = \"otlp\"` or `\"nats\"`: take it away",
            ),
            (
                "headers-file",
                self.headers_file.is_some(),
                &[Kind::Otlp],
                "it is for `type = \"otlp\"`: take it away",
            ),
        ] {
            if is_given && !kinds.contains(&self.kind) {
                return Err((key, why));
            }
        }
        Ok(())
    }

    /// One way to know who asks.
    fn is_one_asker(&self) -> Result<(), Wrong> {
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
            (Kind::Clickhouse, ..) => Ok(()),
            (_, Some(_), None) => Err(("user", "it needs `password-file`")),
            (_, None, Some(_)) => Err(("password-file", "it needs `user`")),
            _ => Ok(()),
        }
    }
}

/// A key, and what is wrong with it.
type Wrong = (&'static str, &'static str);

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
    /// A stream of NATS `JetStream`
    Nats,
}

/// The servers of a receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Urls {
    /// The one that is asked first.
    pub first: Url,
    /// Those that are asked where it is not there.
    pub others: Vec<Url>,
}

impl Urls {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Url> {
        iter::once(&self.first).chain(&self.others)
    }
}

impl FromStr for Urls {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut urls = text.split(',').map(str::parse);
        Ok(Self {
            first: urls.next().unwrap_or(Err(FORM))?,
            others: urls.collect::<Result<_, _>>()?,
        })
    }
}

/// How a receiver is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP, in the clear.
    Http,
    /// HTTP by TLS.
    Https,
    /// The protocol of NATS, in the clear.
    Nats,
    /// The protocol of NATS by TLS.
    Tls,
}

impl Scheme {
    const ALL: [Self; 4] = [Self::Http, Self::Https, Self::Nats, Self::Tls];

    const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Nats => "nats",
            Self::Tls => "tls",
        }
    }

    const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
            Self::Nats | Self::Tls => 4222,
        }
    }

    /// It is asked by TLS.
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }
}

const FORM: &str = "not an address of a receiver: write https://HOST:8443, http://HOST:8123 or \
                    nats://HOST:4222";

/// The address of a receiver, with what it is asked besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// How it is asked.
    pub scheme: Scheme,
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
        let path = match self.scheme {
            Scheme::Http | Scheme::Https => &self.path,
            Scheme::Nats | Scheme::Tls => "",
        };
        write!(f, "{}://{}{path}", self.scheme.name(), self.authority)
    }
}

impl FromStr for Url {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, _) = text.split_once("://").ok_or(FORM)?;
        let scheme = Scheme::ALL.into_iter().find(|known| known.name() == scheme);
        let scheme = scheme.ok_or(FORM)?;
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
            scheme,
            host: bare.unwrap_or(host).to_owned(),
            port: match authority.port_u16() {
                Some(port) if port > 0 => port,
                None if !has_port => scheme.port(),
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

/// What a message is about: words with dots between, without those that NATS has a use for.
fn subject(text: &str) -> Result<String, &'static str> {
    let is_word = |word: &str| {
        let is_plain = |c: char| c.is_ascii_graphic() && !"*>$".contains(c);
        !word.is_empty() && word.chars().all(is_plain)
    };
    if !text.split('.').all(is_word) {
        return Err("not what a message can be about: write words with dots between");
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
        assert!(!url.scheme.is_tls());
        let url: Url = "https://db.example/a".parse().unwrap();
        assert_eq!((url.scheme.is_tls(), url.port), (true, 443));
        assert_eq!(url.to_string(), "https://db.example/a");
        let urls: Urls = "nats://a,nats://b:1".parse().unwrap();
        let urls: Vec<_> = urls.all().map(|url| (url.to_string(), url.port)).collect();
        let nats = |url: &str, port| (url.to_owned(), port);
        assert_eq!(urls, [nats("nats://a", 4222), nats("nats://b:1", 1)]);
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
            assert!(text.parse::<Urls>().is_err(), "{text}");
        }
        for text in ["nats://a,", ",nats://a", "nats://a, nats://b"] {
            assert!(text.parse::<Urls>().is_err(), "{text}");
        }
    }

    #[test]
    fn messages_are_about_something() {
        for text in ["fleet.connections", "a", "eu-west.a_b"] {
            assert!(subject(text).is_ok(), "{text}");
        }
        for text in ["", ".a", "a..b", "a b", "a.*", "a.>", "$JS.API", "a\r\nPUB"] {
            assert!(subject(text).is_err(), "{text}");
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
