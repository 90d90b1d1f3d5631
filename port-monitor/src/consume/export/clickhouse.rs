//! A batch of rows as `ClickHouse` takes it: JSON lines, compressed, with one INSERT.

use std::{
    fs,
    io::{self, Write as _},
};

use flate2::{Compression, write::GzEncoder};
use hyper::header::{HeaderName, HeaderValue};

use super::{
    Settings,
    http::{PostError, Request},
};
use crate::consume::history::outbox::Ended;

/// Bytes of JSON that are sent at once.
const BATCH_BYTES: usize = 4 << 20;

const USER: HeaderName = HeaderName::from_static("x-clickhouse-user");
const KEY: HeaderName = HeaderName::from_static("x-clickhouse-key");

/// Rows that are sent at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    lines: Vec<u8>,
}

impl Batch {
    /// Adds a row; whether there is room for more.
    pub(super) fn add(&mut self, row: &Ended) -> bool {
        // Neither is memory short, nor is there a map with other keys than texts.
        if serde_json::to_writer(&mut self.lines, row).is_ok() {
            self.lines.push(b'\n');
        }
        !self.is_full()
    }

    /// No more is sent at once.
    pub(super) const fn is_full(&self) -> bool {
        self.lines.len() >= BATCH_BYTES
    }

    /// The request that inserts them.
    pub(super) fn request(self, settings: &Settings) -> Result<Request, PostError> {
        let mut headers = Vec::new();
        if let Some(user) = &settings.user {
            headers.push((USER, value(user.as_bytes())?));
        }
        if let Some(path) = &settings.password_file {
            let password = fs::read(path).map_err(|error| {
                PostError::Password(format!("read {}: {error}", path.display()))
            })?;
            let mut password = value(password.trim_ascii_end())?;
            password.set_sensitive(true);
            headers.push((KEY, password));
        }
        let own = settings.url.query.as_deref();
        Ok(Request {
            target: format!(
                "{}?query=INSERT%20INTO%20{}%20FORMAT%20JSONEachRow{}{}",
                settings.url.path,
                settings.table,
                own.map_or("", |_| "&"),
                own.unwrap_or_default()
            ),
            headers,
            body: gzip(&self.lines).map_err(PostError::Io)?,
        })
    }
}

fn value(bytes: &[u8]) -> Result<HeaderValue, PostError> {
    let value = HeaderValue::from_bytes(bytes);
    value.map_err(|_| PostError::Password("the password is no line of text".to_owned()))
}

fn gzip(lines: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(lines.len() / 8), Compression::fast());
    encoder.write_all(lines)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::consume::export::schema;

    /// Every column of the table is in a row, and nothing else is.
    #[test]
    fn a_row_has_the_columns_of_the_table() {
        let table = schema::clickhouse(None);
        let (_, columns) = table.split_once("\n(\n").unwrap();
        let (columns, _) = columns.split_once("\n)\n").unwrap();
        let columns: BTreeSet<&str> = columns
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        let text = || Some(String::new());
        let row = Ended {
            process: text(),
            pid: Some(1),
            exe: text(),
            user: text(),
            unit: text(),
            container: text(),
            local_port: Some(1),
            port: Some(1),
            service: text(),
            verdict: Some("allowed"),
            rule: text(),
            duration: Some(0.5),
            bytes_sent: Some(1),
            bytes_received: Some(1),
            bytes: Some(2),
            handshake_us: Some(1),
            rtt_us: Some(1),
            retransmits: Some(0),
            errno: Some(1),
            ..Ended::default()
        };
        let row = serde_json::to_value(&row).unwrap();
        let row: BTreeSet<&str> = row.as_object().unwrap().keys().map(|key| &**key).collect();
        assert_eq!(row, columns);
    }
}
