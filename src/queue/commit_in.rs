//! Ending an event within a transaction of the application.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::{AssertSqlSafe, Postgres, Row as _, Transaction};

use super::statement::{Statement, Value};
use super::{JobQueue, Shared};
use crate::event::JobEvent;
use crate::ledger::CommitInError;
use crate::util::postgres::{UnexpectedAnswer, redacted};

/// How long the transaction may be idle, in ms, if there is no other limit.
const IDLE_IN_TRANSACTION: i64 = 60_000;

/// The right of a worker to end an event. It is in the event's extensions.
#[derive(Clone)]
pub(super) struct Hold {
    pub(super) queue: Arc<Shared>,
    pub(super) id: String,
    pub(super) worker: Arc<str>,
    pub(super) number: u32,
    /// Whether a transaction has ended the event, if it was committed.
    pub(super) has_ended: Arc<AtomicBool>,
}

impl JobQueue {
    /// Ends the event within a transaction of the application.
    ///
    /// Use it in callbacks of a [`Worker`](super::Worker) whose effect is in the queue's database. Call it last,
    /// because it locks the event until the transaction ends. When the transaction is committed, the effect and the end
    /// of the event become durable together, so the effect stands exactly once. If the callback fails after that, the
    /// event is nevertheless done. If it succeeds, and the transaction was not committed or a failover has undone it, the
    /// event runs again when a silent worker would count as dead.
    ///
    /// # Errors
    ///
    /// - An error that [is overtaken](CommitInError::is_overtaken), if another worker has taken the event over because
    ///   this one counted as dead, or if the event is done. Let the transaction roll back, as `?` does.
    /// - An error without a source, if the event did not come from a worker of this queue.
    /// - Otherwise the database's error.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, roll the transaction back, which dropping it does.
    ///
    /// # Settings
    ///
    /// The method changes three settings for this transaction. It raises `synchronous_commit` to `on` if it is `off` or
    /// `local`. It sets `idle_in_transaction_session_timeout` to 60 s if there is no timeout, so that the server releases
    /// the event if this process disappears. It sets `client_min_messages` to `error`, because sqlx logs the notices of your
    /// triggers, which could name a user.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::queue::JobQueue;
    /// use mx_job_webhook::JobEvent;
    /// use sqlx::PgPool;
    ///
    /// #[derive(Clone)]
    /// struct App { pool: PgPool, queue: JobQueue }
    ///
    /// async fn completed(app: App, event: JobEvent) -> Result<(), tower::BoxError> {
    ///     let mut transaction = app.pool.begin().await?;
    ///     sqlx::query("UPDATE members SET aggregated = true WHERE guid = $1")
    ///         .bind(event.member_guid.as_ref().map(|guid| guid.as_str()))
    ///         .execute(&mut *transaction)
    ///         .await?;
    ///     app.queue.commit_in(&mut transaction, &event).await?;
    ///     transaction.commit().await?;
    ///     Ok(())
    /// }
    /// # let _ = completed;
    /// ```
    pub async fn commit_in(
        &self,
        transaction: &mut Transaction<'_, Postgres>,
        event: &JobEvent,
    ) -> Result<(), CommitInError> {
        let hold = event.extensions().get::<Hold>();
        let hold = hold.filter(|hold| hold.queue.name == self.shared.name);
        let Some(hold) = hold else {
            return Err(CommitInError::not_claimed());
        };
        let values = [
            Value::Text(&hold.id),
            Value::Text(&hold.worker),
            Value::Number(hold.number.into()),
            Value::Number(IDLE_IN_TRANSACTION),
        ];
        let commit_in = Statement::new("commit_in", include_str!("sql/commit_in.sql"), &values);
        let row = sqlx::raw_sql(AssertSqlSafe(commit_in.sql))
            .fetch_one(&mut **transaction)
            .await
            .map_err(redacted)?;
        if row.try_get::<&str, _>(0)? != commit_in.name {
            return Err(sqlx::Error::from(UnexpectedAnswer(commit_in.name)).into());
        }
        if row.try_get(1)? {
            hold.has_ended.store(true, Ordering::Relaxed);
            Ok(())
        } else {
            Err(CommitInError::overtaken())
        }
    }
}
