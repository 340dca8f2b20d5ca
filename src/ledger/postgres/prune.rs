//! Deleting old events.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Row as _};

use super::PostgresLedger;
use crate::ledger::lease::micros;
use crate::util::postgres::UnexpectedAnswer;

impl PostgresLedger {
    /// Deletes events that are older than this, and returns how many it deleted.
    ///
    /// The age counts from when the event was settled, or else from when its claim expired or was
    /// released. Call it regularly, on one replica or on all. 48 hours are twice the time for which
    /// MX retries. With less than these 24 hours, an event can be handled again.
    ///
    /// It deletes up to 10,000 rows at a time, and skips locked rows.
    ///
    /// # Errors
    ///
    /// The database's error. Rows that were deleted before stay deleted.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, it stops after the current batch.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use mx_job_webhook::ledger::PostgresLedger;
    /// use sqlx::postgres::PgPoolOptions;
    /// use tokio::time::{interval, timeout};
    ///
    /// /// A task of the application. It continues after errors.
    /// async fn prune_hourly(ledger: PostgresLedger) {
    ///     let mut hourly = interval(Duration::from_secs(60 * 60));
    ///     loop {
    ///         hourly.tick().await;
    ///         match ledger.prune(Duration::from_secs(48 * 60 * 60)).await {
    ///             Ok(deleted) => println!("deleted {deleted} events"),
    ///             Err(error) => eprintln!("cannot delete old events: {error}"),
    ///         }
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url = "postgres://127.0.0.1:1/app"; // No server listens there.
    /// let pool = PgPoolOptions::new().acquire_timeout(Duration::from_millis(50)).connect_lazy(url)?;
    /// let pruning = prune_hourly(PostgresLedger::new(pool));
    /// assert!(timeout(Duration::from_millis(100), pruning).await.is_err(), "it never ends");
    /// # Ok(()) }
    /// ```
    pub async fn prune(&self, older_than: Duration) -> Result<u64, sqlx::Error> {
        // Batches keep the transactions short.
        const BATCH: u32 = 10_000;
        // The statement is not prepared, so that the server plans it each time. A plan that was
        // made for a small table would read the whole table.
        let statement = include_str!("sql/prune.sql")
            .replace("$1", "'prune'")
            .replace("$2", &micros(older_than).to_string())
            .replace("$3", &BATCH.to_string());
        let mut total = 0;
        loop {
            // With a stricter isolation, concurrent writes would make it fail.
            let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
            let mut transaction = self.pool.begin_with(begin).await?;
            let answer = sqlx::raw_sql(AssertSqlSafe(statement.clone()))
                .fetch_optional(&mut *transaction)
                .await?;
            transaction.commit().await?;
            let deleted: Option<u64> = match &answer {
                Some(row) => row
                    .try_get::<&str, _>(0)?
                    .strip_prefix("prune ")
                    .and_then(|deleted| deleted.parse().ok()),
                None => None,
            };
            let deleted = deleted.ok_or(UnexpectedAnswer("prune"))?;
            total += deleted;
            if deleted < u64::from(BATCH) {
                return Ok(total);
            }
        }
    }
}
