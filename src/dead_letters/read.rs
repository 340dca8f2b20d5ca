//! Listing, counting and deleting letters.

use std::time::Duration;

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgRow;

use super::filter::timestamp;
use super::letter::LetterParts;
use super::run::Statement;
use super::{Letter, LetterCursor, LetterFilter, LetterKind, LetterPage, PostgresDeadLetters, key};
use crate::ledger::lease::micros;
use crate::ledger::read_status;

impl PostgresDeadLetters {
    /// Returns a page of letters, the newest failure first.
    ///
    /// To read on, pass [`LetterPage::next`] to [`LetterFilter::after`]. While letters come and go,
    /// no letter is listed twice, and none that stays is left out. A letter that fails again
    /// meanwhile moves to the first page.
    ///
    /// All conditions use an index, except the one on the error: it is checked letter by letter until
    /// the page is full.
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn list(&self, filter: &LetterFilter) -> Result<LetterPage, sqlx::Error> {
        if filter.is_impossible() {
            return Ok(LetterPage::new(Vec::new(), None));
        }
        let limit = filter.limit();
        let statement = self.statement("letter_list", include_str!("sql/letter_list.sql"));
        let statement = bind_filter(statement, filter)
            .bind(filter.cursor().map(LetterCursor::micros))
            .bind(filter.cursor().map(LetterCursor::name))
            .bind(i64::try_from(limit + 1).unwrap_or(i64::MAX));
        let mut letters = Vec::new();
        let mut next = None;
        for row in self.run(statement).await? {
            let Some((letter, micros)) = read(&row)? else {
                break;
            };
            if letters.len() == limit {
                return Ok(LetterPage::new(letters, next));
            }
            next = Some(LetterCursor::new(micros, letter.name()));
            letters.push(letter);
        }
        Ok(LetterPage::new(letters, None))
    }

    /// Returns the body of a letter as it came, or `None` if there is no such letter.
    ///
    /// It can name a user.
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn body(&self, name: &str) -> Result<Option<Bytes>, sqlx::Error> {
        let Some(key) = key::find(name) else {
            return Ok(None);
        };
        let statement = self
            .statement("letter_body", include_str!("sql/letter_body.sql"))
            .bind(key);
        let row = self.run_for_one(statement).await?;
        let body: Option<Vec<u8>> = row.try_get(1)?;
        Ok(body.map(Bytes::from))
    }

    /// Deletes a letter, and returns whether there was one.
    ///
    /// A replay of it that is running continues.
    ///
    /// # Errors
    ///
    /// The database's error.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the letter is deleted or it is not.
    pub async fn discard(&self, name: &str) -> Result<bool, sqlx::Error> {
        let Some(key) = key::find(name) else {
            return Ok(false);
        };
        let statement = self
            .statement("letter_discard", include_str!("sql/letter_discard.sql"))
            .bind(key);
        Ok(number(&self.run_for_one(statement).await?)? > 0)
    }

    /// Returns how many letters there are.
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn count(&self) -> Result<u64, sqlx::Error> {
        let statement = self.statement("letter_count", include_str!("sql/letter_count.sql"));
        number(&self.run_for_one(statement).await?)
    }

    /// Deletes letters whose latest failure is older than this, and returns how many it deleted.
    ///
    /// It deletes up to 10,000 rows at a time. Letters that are being replayed or that another
    /// transaction has locked are skipped.
    ///
    /// # Errors
    ///
    /// The database's error. Letters that were deleted before stay deleted.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, it stops after the current batch.
    pub async fn prune(&self, older_than: Duration) -> Result<u64, sqlx::Error> {
        // Batches keep the transactions short.
        const BATCH: u32 = 10_000;
        let mut total = 0;
        loop {
            let statement = self
                .statement("letter_prune", include_str!("sql/letter_prune.sql"))
                .bind(micros(older_than))
                .bind(i64::from(BATCH));
            let deleted = number(&self.run_for_one(statement).await?)?;
            total += deleted;
            if deleted < u64::from(BATCH) {
                return Ok(total);
            }
        }
    }

    /// Returns letters that match, the oldest failure first: their times in µs and their names.
    ///
    /// `until` is the time after which letters are left out, and defaults to now. It is returned.
    pub(super) async fn oldest(
        &self,
        filter: &LetterFilter,
        after: Option<&LetterCursor>,
        until: Option<i64>,
    ) -> Result<(i64, Vec<LetterCursor>), sqlx::Error> {
        const BATCH: i64 = 200;
        if filter.is_impossible() {
            return Ok((0, Vec::new()));
        }
        let statement = self.statement("letter_oldest", include_str!("sql/letter_oldest.sql"));
        let statement = bind_filter(statement, filter)
            .bind(after.map(LetterCursor::micros))
            .bind(after.map(LetterCursor::name))
            .bind(BATCH)
            .bind(until);
        let (mut until, mut letters) = (0, Vec::new());
        for row in self.run(statement).await? {
            until = row.try_get(1)?;
            if let (Some(name), Some(micros)) = (row.try_get(2)?, row.try_get(3)?) {
                letters.push(LetterCursor::new(micros, name));
            }
        }
        Ok((until, letters))
    }
}

fn bind_filter<'a>(statement: Statement<'a>, filter: &'a LetterFilter) -> Statement<'a> {
    let (since, until) = filter.micros();
    statement
        .bind(filter.kind().map(LetterKind::name))
        .bind(filter.status_text())
        .bind(filter.error())
        .bind(since)
        .bind(until)
}

/// Returns a number of rows.
pub(super) fn number(row: &PgRow) -> Result<u64, sqlx::Error> {
    let number: i64 = row.try_get(1)?;
    Ok(number.unsigned_abs())
}

/// Reads a row of `letter_list.sql`: the letter and its time in µs, or `None` if it is empty.
fn read(row: &PgRow) -> Result<Option<(Letter, i64)>, sqlx::Error> {
    let Some(name) = row.try_get::<Option<String>, _>(1)? else {
        return Ok(None);
    };
    let kind = LetterKind::of_name(row.try_get(2)?);
    let guid: Option<&[u8]> = row.try_get(3)?;
    let guid = guid.and_then(|guid| std::str::from_utf8(guid).ok());
    let status: Option<&str> = row.try_get(4)?;
    let tries: i64 = row.try_get(5)?;
    let (failed_at, first_failed_at) = (row.try_get(7)?, row.try_get(8)?);
    let letter = Letter::new(LetterParts {
        name,
        kind: kind.ok_or_else(|| {
            sqlx::Error::Decode(BoxDynError::from("the kind of the dead letter is unknown"))
        })?,
        // The name of a status has no colon, so this is the digest of a long one.
        status: status
            .filter(|status| !status.starts_with("digest:"))
            .and_then(read_status),
        guid: guid.and_then(|guid| guid.parse().ok()),
        tries: u32::try_from(tries).unwrap_or(u32::MAX),
        error: row.try_get(6)?,
        failed_at: timestamp(failed_at),
        first_failed_at: timestamp(first_failed_at),
    });
    Ok(Some((letter, failed_at)))
}
