//! Settling an event within a transaction of the application.

use std::time::Duration;

use sqlx::{Postgres, Row as _, Transaction};

use super::call::{ordering_time, to_bigint};
use super::{CommitInError, PostgresLedger};
use crate::event::JobEvent;
use crate::ledger::EventName;
use crate::ledger::key::Key;
use crate::util::postgres::UnexpectedAnswer;

impl PostgresLedger {
    /// Settles the event within a transaction of the application.
    ///
    /// Use it in callbacks whose effect is in the ledger's database. The event must have a claim
    /// from a [`DedupeLayer`](crate::DedupeLayer) with this ledger or a clone of it. Call this
    /// method last, because it locks the event until the transaction ends.
    ///
    /// When the transaction is committed, the effect and the ledger's entry become durable
    /// together. If the callback fails after that, or if its answer is lost, the next delivery is a
    /// duplicate.
    ///
    /// It is stricter than [`Ledger::commit`](crate::ledger::Ledger::commit), which records a
    /// success whatever has happened to the claim. Here the effect can still be undone. If another
    /// delivery has overtaken the claim, this method fails, the transaction rolls back, and only
    /// the effect of the other delivery stands.
    ///
    /// # Errors
    ///
    /// - An error that [is overtaken](CommitInError::is_overtaken), if the lease has expired and
    ///   another delivery has claimed the event, or if the event is settled. Let the transaction
    ///   roll back, as `?` does.
    /// - An error without a source, if the event has no claim.
    /// - Otherwise the database's error.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, roll the transaction back, which dropping it does.
    ///
    /// # Settings
    ///
    /// The method changes two settings for this transaction. It raises `synchronous_commit` to `on`
    /// if it is `off` or `local`. It sets `idle_in_transaction_session_timeout` to 60 s if there is
    /// no timeout: see [`with_idle_in_transaction`](Self::with_idle_in_transaction).
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::ledger::PostgresLedger;
    /// use mx_job_webhook::{JobEvent, JobRouter};
    /// use sqlx::PgPool;
    ///
    /// #[derive(Clone)]
    /// struct App { pool: PgPool, ledger: PostgresLedger }
    ///
    /// async fn completed(app: App, event: JobEvent) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    ///     let mut transaction = app.pool.begin().await?;
    ///     sqlx::query("UPDATE members SET aggregated = true WHERE guid = $1")
    ///         .bind(event.member_guid.as_ref().map(|guid| guid.as_str()))
    ///         .execute(&mut *transaction)
    ///         .await?;
    ///     app.ledger.commit_in(&mut transaction, &event).await?;
    ///     transaction.commit().await?;
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), sqlx::Error> {
    /// let pool = PgPool::connect_lazy("postgres://localhost/app")?;
    /// let app = App { ledger: PostgresLedger::new(pool.clone()), pool };
    /// let jobs = JobRouter::with_state(app).on_completed(completed).build();
    /// assert!(jobs.handles(&mx_job_webhook::Status::Completed));
    /// # Ok(()) }
    /// ```
    pub async fn commit_in(
        &self,
        transaction: &mut Transaction<'_, Postgres>,
        event: &JobEvent,
    ) -> Result<(), CommitInError> {
        let Some(token) = event.fencing_token() else {
            return Err(CommitInError::not_claimed());
        };
        let Some(token) = to_bigint(token) else {
            return Err(CommitInError::overtaken());
        };
        let name = EventName::of(event);
        let key = Key::of(&name);
        let answer = sqlx::query(include_str!("sql/commit_in.sql"))
            .bind("commit_in")
            .bind(key.job)
            .bind(key.event)
            .bind(ordering_time(&name))
            .bind(token)
            .bind(self.idle_in_transaction.map(timeout_millis))
            .fetch_optional(&mut **transaction)
            .await?;
        let answer: Option<&str> = match &answer {
            Some(row) => row.try_get(0)?,
            None => None,
        };
        match answer {
            Some("commit_in settled") => Ok(()),
            Some("commit_in overtaken") => Err(CommitInError::overtaken()),
            _ => Err(sqlx::Error::from(UnexpectedAnswer("commit_in")).into()),
        }
    }
}

/// Returns a timeout in milliseconds.
///
/// The server accepts at most 24 days. It takes 0 as no timeout, so the result is at least 1.
fn timeout_millis(limit: Duration) -> i64 {
    i32::try_from(limit.as_millis())
        .unwrap_or(i32::MAX)
        .max(1)
        .into()
}
