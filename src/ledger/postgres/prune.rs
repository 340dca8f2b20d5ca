//! Forgetting: rows stay until the application has them deleted.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Row as _};

use super::PostgresLedger;
use super::call::NotItsAnswer;
use crate::ledger::lease::micros;

impl PostgresLedger {
    /// Drops what was settled, or given up, longer ago than this; gives how many events.
    ///
    /// Schedule it, on one replica or on all: 48 hours are twice the time for which MX
    /// retries. Shorter than those 24 hours, an event can be handled again.
    ///
    /// It deletes 10,000 at a time, and skips rows that are locked.
    ///
    /// # Errors
    ///
    /// The database's error. Batches that were deleted before stay deleted.
    ///
    /// # Cancellation
    ///
    /// Dropped, it stops after the batch that is under way.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use mx_job_webhook::ledger::PostgresLedger;
    /// use sqlx::postgres::PgPoolOptions;
    /// use tokio::time::{interval, timeout};
    ///
    /// /// A task of the application, which continues after errors.
    /// async fn prune_hourly(ledger: PostgresLedger) {
    ///     let mut hourly = interval(Duration::from_secs(60 * 60));
    ///     loop {
    ///         hourly.tick().await;
    ///         match ledger.prune(Duration::from_secs(48 * 60 * 60)).await {
    ///             Ok(gone) => println!("{gone} events are forgotten"),
    ///             Err(error) => eprintln!("no events could be forgotten: {error}"),
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
        // So that no transaction is a long one.
        const AT_A_TIME: u32 = 10_000;
        // Not prepared, but planned anew each time: a plan from when the table was small would read all of it.
        let statement = include_str!("sql/prune.sql")
            .replace("$1", "'prune'")
            .replace("$2", &micros(older_than).to_string())
            .replace("$3", &AT_A_TIME.to_string());
        let mut gone = 0;
        loop {
            // Isolated more strictly, it would fail where others write.
            let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
            let mut transaction = self.pool.begin_with(begin).await?;
            let answer = sqlx::raw_sql(AssertSqlSafe(statement.clone()))
                .fetch_optional(&mut *transaction)
                .await?;
            transaction.commit().await?;
            let some: Option<u64> = match &answer {
                Some(row) => row
                    .try_get::<&str, _>(0)?
                    .strip_prefix("prune ")
                    .and_then(|some| some.parse().ok()),
                None => None,
            };
            let some = some.ok_or(NotItsAnswer("prune"))?;
            gone += some;
            if some < u64::from(AT_A_TIME) {
                return Ok(gone);
            }
        }
    }
}
