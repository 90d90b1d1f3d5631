//! A batch of rows as `ClickHouse` takes it: JSON lines, compressed, with one INSERT.

use hyper::header::{HeaderName, HeaderValue};

use super::{
    Settings,
    http::{self, Answer, PostError, Request},
    lines::Lines,
    receiver::Delivered,
    secret,
};
use crate::consume::history::outbox::Ended;

const USER: HeaderName = HeaderName::from_static("x-clickhouse-user");
const KEY: HeaderName = HeaderName::from_static("x-clickhouse-key");
/// Set where something went wrong after the status was sent.
const EXCEPTION: &str = "x-clickhouse-exception-code";

/// Where rows go if nothing says so.
const TABLE: &str = "fleet.connections";

/// Rows that are sent at once.
#[derive(Debug, Default)]
pub(super) struct Batch(Lines);

impl Batch {
    /// Adds a row, if there is room for it. There is for the first one.
    pub(super) fn add(&mut self, row: &Ended) -> bool {
        self.0.add(row)
    }

    /// Sends them.
    pub(super) async fn send(self, settings: &Settings) -> Result<Delivered, PostError> {
        let answer = http::post(settings, self.request(settings)?).await?;
        judge(settings, &answer)
    }

    /// The request that inserts them.
    fn request(self, settings: &Settings) -> Result<Request, PostError> {
        let mut headers = Vec::new();
        if let Some(user) = &settings.user {
            // It is of printable ASCII.
            headers.extend(HeaderValue::from_str(user).map(|user| (USER, user)));
        }
        if let Some(path) = &settings.password_file {
            let password = secret::value(path, &[&secret::read(path)?])?;
            headers.push((KEY, password));
        }
        let own = settings.url.first.query.as_deref();
        Ok(Request {
            target: format!(
                "{}?query=INSERT%20INTO%20{}%20FORMAT%20JSONEachRow{}{}",
                settings.url.first.path,
                settings.table.as_deref().unwrap_or(TABLE),
                own.map_or("", |_| "&"),
                own.unwrap_or_default()
            ),
            headers,
            body: http::gzip(self.0.as_bytes()).map_err(PostError::Io)?,
        })
    }
}

fn judge(settings: &Settings, answer: &Answer) -> Result<Delivered, PostError> {
    if answer.status.is_success() && !answer.headers.contains_key(EXCEPTION) {
        return Ok(Delivered::default());
    }
    Err(answer.refused(settings, answer.line()))
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
