//! When somebody watched, and what is missing all the same.

use std::time::Duration;

use rusqlite::OptionalExtension as _;

use super::{ReadError, Reader};
use crate::consume::history::{WATCH_TIME, rows::wall_ns};

/// A run that has not told of itself for so long does not run any more.
const SILENCE: Duration = WATCH_TIME.saturating_mul(3);

/// A time in which nobody watched. Times are in ns since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Since when; `None` for ever before.
    pub began_ns: Option<i128>,
    /// Until when; `None` where nobody watches yet.
    pub ended_ns: Option<i128>,
    /// Why.
    pub cause: String,
}

/// What is missing from a span of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// When nobody watched, the oldest first.
    pub gaps: Vec<Gap>,
    /// Events that were lost, by cause.
    pub lost: Vec<(String, u64)>,
}

impl Watched {
    /// Somebody watched all the time, and nothing was lost.
    pub const fn is_whole(&self) -> bool {
        self.gaps.is_empty() && self.lost.is_empty()
    }
}

impl Reader {
    /// What is missing from `since_ns` to `until_ns`, or from all time to `now_ns`. Times are
    /// in ns since the Unix epoch.
    pub fn watched(
        &self,
        since_ns: Option<i128>,
        until_ns: Option<i128>,
        now_ns: i128,
    ) -> Result<Watched, ReadError> {
        let until = wall_ns(until_ns.unwrap_or(now_ns).min(now_ns));
        let since = since_ns.map_or(i64::MIN, wall_ns);
        let mut gaps = Vec::new();
        if since_ns.is_some() {
            gaps.extend(self.before_all(since)?);
        }
        gaps.extend(self.noted(since, until)?);
        gaps.extend(self.after_all(until, wall_ns(now_ns))?);
        Ok(Watched {
            gaps,
            lost: self.lost(since, until)?,
        })
    }

    /// When the oldest began that is in the history, ns since the Unix epoch: what was before,
    /// nobody saw, or it is forgotten.
    pub fn begins_ns(&self) -> Result<Option<i128>, ReadError> {
        // Names are kept for as long as what they are of.
        let select =
            "SELECT max((SELECT min(began_ns) FROM runs), (SELECT min(began_ns) FROM epochs))";
        let begins: Option<i64> = self.ask(|db| db.query_row(select, [], |row| row.get(0)))?;
        Ok(begins.map(i128::from))
    }

    fn before_all(&self, since: i64) -> Result<Option<Gap>, ReadError> {
        let begins_ns = self.begins_ns()?;
        let unseen_ns = begins_ns.filter(|begins_ns| *begins_ns > i128::from(since));
        Ok(unseen_ns.map(|ended_ns| Gap {
            began_ns: None,
            ended_ns: Some(ended_ns),
            cause: "before all that is in the history".to_owned(),
        }))
    }

    fn noted(&self, since: i64, until: i64) -> Result<Vec<Gap>, ReadError> {
        let select = "SELECT began_ns, ended_ns, cause FROM gap_rows
            WHERE ended_ns > ?1 AND began_ns < ?2 ORDER BY began_ns";
        self.ask(|db| {
            let mut statement = db.prepare_cached(select)?;
            let gaps = statement.query_map([since, until], |row| {
                Ok(Gap {
                    began_ns: Some(row.get::<_, i64>(0)?.into()),
                    ended_ns: Some(row.get::<_, i64>(1)?.into()),
                    cause: row.get(2)?,
                })
            })?;
            gaps.collect()
        })
    }

    /// Since the last run nobody has watched.
    fn after_all(&self, until: i64, now: i64) -> Result<Option<Gap>, ReadError> {
        let select = "SELECT coalesce(ended_ns, seen_ns), state FROM runs ORDER BY id DESC LIMIT 1";
        let last: Option<(i64, i64)> = self.ask(|db| {
            let last = db.query_row(select, [], |row| Ok((row.get(0)?, row.get(1)?)));
            last.optional()
        })?;
        let Some((seen, state)) = last else {
            return Ok(None);
        };
        let silence = Duration::from_nanos(now.saturating_sub(seen).max(0).cast_unsigned());
        let is_running = state == 0 && silence < SILENCE;
        let gap = Gap {
            began_ns: Some(seen.into()),
            ended_ns: None,
            cause: if state == 1 { "not running" } else { "cut off" }.to_owned(),
        };
        Ok((!is_running && seen < until).then_some(gap))
    }

    fn lost(&self, since: i64, until: i64) -> Result<Vec<(String, u64)>, ReadError> {
        let select = "SELECT cause, sum(lost) FROM loss_rows WHERE time_ns >= ?1 AND time_ns < ?2
            GROUP BY cause ORDER BY cause";
        self.ask(|db| {
            let mut statement = db.prepare_cached(select)?;
            let lost = statement.query_map([since, until], |row| {
                Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()))
            })?;
            lost.collect()
        })
    }
}
