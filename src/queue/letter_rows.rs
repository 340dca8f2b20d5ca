//! Rows of dead letters: how statements choose them, and how they are read.

use std::time::UNIX_EPOCH;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use ulid::Ulid;

use super::statement::Value;
use crate::dead_letters::{Letter, LetterFilter, LetterKind, LetterParts, timestamp};
use crate::job::Timestamp;
use crate::ledger::read_status;

/// The values that name a row of the queue.
pub(super) struct KeyValues<'a> {
    pub(super) queue: &'a str,
    pub(super) key: String,
}

impl KeyValues<'_> {
    pub(super) fn values(&self) -> [Value<'_>; 2] {
        [Value::Text(self.queue), Value::Text(&self.key)]
    }
}

/// The conditions of a filter, as the statements need them.
pub(super) struct Choice<'a> {
    status: Option<String>,
    error: Option<&'a str>,
    since: Option<i64>,
    until: Option<i64>,
}

impl<'a> Choice<'a> {
    pub(super) fn of(filter: &'a LetterFilter) -> Self {
        let (since, until) = filter.micros();
        Self {
            status: filter.status_text(),
            error: filter.error(),
            since,
            until,
        }
    }

    /// Returns the first five values of a statement. `now` is a further bound.
    pub(super) fn values<'b>(&'b self, queue: &'b str, now: Option<i64>) -> [Value<'b>; 5] {
        let until = match (self.until, now) {
            (Some(until), Some(now)) => Some(until.min(now)),
            (until, now) => until.or(now),
        };
        let text = |text: Option<&'b str>| text.map_or(Value::Null, Value::Text);
        let time = |time: Option<i64>| time.map_or(Value::Null, Value::Time);
        [
            Value::Text(queue),
            text(self.status.as_deref()),
            text(self.error),
            time(self.since),
            time(until),
        ]
    }
}

/// Reads a row of a list.
pub(super) fn read(row: &PgRow) -> Result<Letter, sqlx::Error> {
    let name: String = row.try_get(1)?;
    let tries: i32 = row.try_get(2)?;
    let error: Option<String> = row.try_get(3)?;
    let failed_at = timestamp(row.try_get(4)?);
    // The name ends with the status and the version, which contain no spaces.
    let mut parts = name.rsplitn(3, ' ').skip(1);
    let is_no_digest = |text: &&str| !text.starts_with("digest:");
    let status = parts.next().filter(is_no_digest).and_then(read_status);
    let guid = parts.next().filter(is_no_digest);
    Ok(Letter::new(LetterParts {
        kind: LetterKind::Event,
        status,
        guid: guid.and_then(|guid| guid.parse().ok()),
        tries: tries.max(0).unsigned_abs(),
        error: error.unwrap_or_default(),
        failed_at,
        first_failed_at: stored_at(row.try_get(5)?).unwrap_or(failed_at),
        name,
    }))
}

/// Returns when the row with this id was stored.
fn stored_at(id: &str) -> Option<Timestamp> {
    let id = Ulid::from_string(id).ok()?;
    let since = id.datetime().duration_since(UNIX_EPOCH).ok()?;
    Some(timestamp(i64::try_from(since.as_micros()).ok()?))
}
