//! Deleting rows that have expired.

use sqlx::Row as _;

use super::PostgresWatchStore;
use super::call::count;
use super::run::simple;
use crate::util::postgres::UnexpectedAnswer;

/// How many rows are deleted at a time.
const BATCH: usize = 10_000;

impl PostgresWatchStore {
    /// Deletes all rows that have expired, and returns how many it deleted.
    ///
    /// A [`Failsafe`](crate::watch::Failsafe) deletes them too, as it claims jobs. Call this method only if no
    /// process runs one, for example once an hour. Rows that another transaction has locked are
    /// skipped.
    ///
    /// # Errors
    ///
    /// The database's error. Rows that were deleted before stay deleted.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, it stops after the current batch of 10,000 rows.
    pub async fn prune(&self) -> Result<u64, sqlx::Error> {
        let mut total = 0;
        loop {
            let sql = include_str!("sql/watch_prune.sql");
            let prune = simple(sql, "watch_prune", &[count(BATCH)]);
            let rows = self.run_simple(&[prune]).await?;
            let row = rows.first().ok_or(UnexpectedAnswer("watch_prune"))?;
            let deleted = row.try_get::<i64, _>(1)?;
            total += deleted.unsigned_abs();
            if deleted < count(BATCH) {
                return Ok(total);
            }
        }
    }
}
