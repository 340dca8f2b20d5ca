//! Settling an event within a transaction of the application's own.

use std::time::Duration;

use sqlx::{Postgres, Row as _, Transaction};

use super::call::{NotItsAnswer, number, time};
use super::{CommitInError, PostgresLedger};
use crate::event::JobEvent;
use crate::ledger::EventName;
use crate::ledger::key::Key;

impl PostgresLedger {
    /// Settles the event within a transaction of the application's own.
    ///
    /// For callbacks whose effect is in the same database. The claim is that of the delivery,
    /// which a [`DedupeLayer`](crate::DedupeLayer) with this ledger, or a clone of it, has made. Call it last: the
    /// event is locked from here to the end of the transaction. The effect and the entry are
    /// there once the transaction is committed, or neither is. If the callback then fails all
    /// the same, or its answer is lost, the next delivery is a duplicate.
    ///
    /// It is stricter than [`Ledger::commit`](crate::ledger::Ledger::commit), which records a success whatever became of the
    /// claim. Here the effect does not stand yet: a claim that was overtaken is refused, its
    /// transaction rolls back, and the effect of the delivery that overtook it stands once.
    ///
    /// # Errors
    ///
    /// [`is_overtaken`](CommitInError::is_overtaken), if the claim is no longer this delivery's:
    /// its lease expired and another delivery claimed the event, or the event is settled. Let the
    /// transaction roll back, which `?` does. Otherwise the database's error.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the transaction has to be rolled back, which dropping it does.
    ///
    /// # Settings
    ///
    /// For this transaction only: `synchronous_commit` is raised to `on` if it is `off` or `local`, and
    /// `idle_in_transaction_session_timeout` is set to 60 s if there is none; see
    /// [`with_idle_in_transaction`](Self::with_idle_in_transaction).
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
        let Some(token) = number(token) else {
            return Err(CommitInError::overtaken());
        };
        let name = EventName::of(event);
        let key = Key::of(&name);
        let answer = sqlx::query(include_str!("sql/commit_in.sql"))
            .bind("commit_in")
            .bind(key.job)
            .bind(key.event)
            .bind(time(&name))
            .bind(token)
            .bind(self.idle_in_transaction.map(as_the_server_counts))
            .fetch_optional(&mut **transaction)
            .await?;
        let answer: Option<&str> = match &answer {
            Some(row) => row.try_get(0)?,
            None => None,
        };
        match answer {
            Some("commit_in settled") => Ok(()),
            Some("commit_in overtaken") => Err(CommitInError::overtaken()),
            _ => Err(sqlx::Error::from(NotItsAnswer("commit_in")).into()),
        }
    }
}

/// Milliseconds, of which the server takes 24 days at most, and none as no limit.
fn as_the_server_counts(limit: Duration) -> i64 {
    i32::try_from(limit.as_millis())
        .unwrap_or(i32::MAX)
        .max(1)
        .into()
}
