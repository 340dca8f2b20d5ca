//! The ledger of several replicas that share a Postgres database.

mod borrowed;
mod commit_error;
mod prune;

use std::fmt;
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{PgPool, Postgres, Row as _, Transaction};

use super::key::Key;
use super::lease::micros;
use super::{Claim, Commit, EventName, FencingToken, Ledger};
use crate::JobEvent;
use borrowed::Borrowed;
pub use commit_error::CommitInError;

/// A [`Ledger`] on Postgres, through the pool that the application has.
///
/// A claim, a commit and a release are one statement each, outside of any transaction.
/// Leases end by the server's clock, so the replicas' clocks do not matter; a lease that is
/// over is taken over by the next delivery. Everything is in the table
/// `mx_job_webhook_events`, which [`create_table`](Self::create_table) makes.
///
/// What no other ledger can do: a callback can commit [in its own
/// transaction](Self::commit_in). Then its effect and the ledger's entry become durable
/// together, and an effect in that database stands exactly once, whatever dies.
///
/// Rows stay until [`prune`](Self::prune) is called, once an hour, say.
///
/// A pool that tests its connections before it hands them out (sqlx's default) takes one more
/// round trip for each; without, the first calls after the server was restarted fail and are
/// answered 503. Where the pool's transactions are serializable by default, Postgres can see a
/// race between claims where there is none, and more deliveries than need be are answered 503.
///
/// What it takes of the server's settings is on the page [`replicas`](crate::replicas). Needs
/// Postgres 9.6 or later; the tests run with 15.
///
/// A clone is the same ledger.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use mx_job_webhook::{DedupeLayer, JobEvent, JobRouter, PostgresLedger};
/// use sqlx::postgres::PgPoolOptions;
/// use tower::{Layer, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let url = "postgres://127.0.0.1:1/app"; // Nobody is there.
/// let pool = PgPoolOptions::new().acquire_timeout(Duration::from_millis(50)).connect_lazy(url)?;
/// let ledger = PostgresLedger::new(pool); // Then, once: `ledger.create_table().await?`
/// let jobs = JobRouter::new().on_completed(|_| async {});
/// let once = DedupeLayer::new(ledger).layer(jobs);
///
/// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
/// let outcome = once.oneshot(event).await; // 503 until the database can be reached
/// assert_eq!(outcome.unwrap_err().to_string(), "the ledger is unavailable");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PostgresLedger {
    pool: PgPool,
}

impl PostgresLedger {
    /// What [`create_table`](Self::create_table) applies, for migrations of one's own.
    ///
    /// Two statements. Applied twice they change nothing, but wait for open transactions, and
    /// everybody else for them: once is enough.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::PostgresLedger;
    ///
    /// assert!(PostgresLedger::TABLE.contains("CREATE TABLE IF NOT EXISTS mx_job_webhook_events"));
    /// ```
    pub const TABLE: &str = include_str!("table.sql");

    /// A ledger in the database of this pool.
    ///
    /// The table is looked for in the `search_path` of the pool's connections.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::PostgresLedger;
    /// use sqlx::PgPool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = PgPool::connect_lazy("postgres://app:secret@postgres.internal/app")?;
    /// let ledger = PostgresLedger::new(pool.clone()); // the application's own
    /// assert_eq!(format!("{ledger:?}"), "PostgresLedger { .. }");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Creates the table, if it is not there.
    ///
    /// Several replicas may call it at once, and at every start: where the table is there, it
    /// locks nothing.
    ///
    /// # Errors
    ///
    /// If the database cannot be reached, or its user may not create a table.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use mx_job_webhook::PostgresLedger;
    /// use sqlx::postgres::PgPoolOptions;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url = "postgres://127.0.0.1:1/app"; // Nobody is there.
    /// let pool = PgPoolOptions::new().acquire_timeout(Duration::from_millis(50)).connect_lazy(url)?;
    /// let ledger = PostgresLedger::new(pool);
    /// // At every start. Where the database is down: end, and be started again.
    /// assert!(ledger.create_table().await.is_err());
    /// # Ok(()) }
    /// ```
    pub async fn create_table(&self) -> Result<(), sqlx::Error> {
        // `IF NOT EXISTS` fails where two do it at once. The number is nobody else's.
        const LOCK: i64 = 0x6d78_6a6f_6277_6562;
        let mut transaction = self.pool.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(LOCK)
            .execute(&mut *transaction)
            .await?;
        // Not even asked for where it is there: an index waits for every transaction that has
        // written to the table, and everybody else then waits for the index.
        let is_there = sqlx::query("SELECT to_regclass('mx_job_webhook_events') IS NOT NULL")
            .fetch_one(&mut *transaction)
            .await?;
        if !is_there.try_get(0)? {
            sqlx::raw_sql(Self::TABLE)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await
    }

    /// Settles the event within a transaction of the application's own.
    ///
    /// For callbacks whose effect is in the same database. The claim is that of the delivery,
    /// which a [`DedupeLayer`](crate::DedupeLayer) with this ledger has made. Call it last: the
    /// event is locked from here to the end of the transaction. The effect and the entry are
    /// there once the transaction is committed, or neither is. If the callback then fails all
    /// the same, or its answer is lost, the next delivery is a duplicate.
    ///
    /// It is stricter than [`Ledger::commit`], which records a success whatever became of the
    /// claim. Here the effect does not stand yet: a claim that was overtaken is refused, its
    /// transaction rolls back, and the effect of the delivery that overtook it stands once.
    ///
    /// # Errors
    ///
    /// [`is_overtaken`](CommitInError::is_overtaken), if the claim is no longer this delivery's:
    /// its lease was over and somebody else has claimed the event, or it is settled. Let the
    /// transaction roll back, which `?` does. Else what the database says.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the transaction has to be rolled back, which dropping it does.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{JobEvent, JobRouter, PostgresLedger};
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
    /// let jobs = JobRouter::with_state(app).on_completed(completed);
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
        let settled = bound(include_str!("commit_in.sql"), &name)
            .bind(time(&name))
            .bind(token)
            .execute(&mut **transaction)
            .await?;
        match settled.rows_affected() {
            0 => Err(CommitInError::overtaken()),
            _ => Ok(()),
        }
    }
}

impl Ledger for PostgresLedger {
    type Error = sqlx::Error;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, sqlx::Error> {
        let claim = bound(include_str!("claim.sql"), event)
            .bind(time(event))
            .bind(micros(lease));
        let row = match self.one_row(claim).await {
            Err(error) if lost_a_race(&error) => return Ok(Claim::InFlight),
            row => row?,
        };
        let token: Option<i64> = row.try_get("token")?;
        if let Some(token) = token {
            let token = u64::try_from(token).map_err(|error| sqlx::Error::Decode(error.into()))?;
            return Ok(Claim::Granted(FencingToken::new(token)));
        }
        Ok(if row.try_get("settled")? {
            Claim::Settled
        } else if !row.try_get::<bool, _>("leased")? && row.try_get("stale")? {
            Claim::Stale
        } else {
            Claim::InFlight
        })
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, sqlx::Error> {
        // One that the table cannot have was never given; its holder has succeeded all the same.
        let token = number(token).unwrap_or(i64::MAX);
        let commit = || {
            bound(include_str!("commit.sql"), event)
                .bind(time(event))
                .bind(token)
        };
        let row = match self.one_row(commit()).await {
            // To another commit: of the same claim, say, whose answer was not waited for.
            Err(error) if lost_a_race(&error) => self.one_row(commit()).await?,
            row => row?,
        };
        Ok(if row.try_get("settled")? {
            Commit::Settled
        } else {
            Commit::Overtaken
        })
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), sqlx::Error> {
        let Some(token) = number(token) else {
            return Ok(());
        };
        let release = bound(include_str!("release.sql"), event).bind(token);
        Borrowed::from(&self.pool).await?.run(release).await?;
        Ok(())
    }
}

impl PostgresLedger {
    async fn one_row(&self, statement: Query) -> Result<PgRow, sqlx::Error> {
        let row = Borrowed::from(&self.pool).await?.run(statement).await?;
        row.ok_or(sqlx::Error::RowNotFound)
    }
}

/// How a race is lost where transactions are isolated more strictly than by default.
fn lost_a_race(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some("40001")
}

type Query = sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// A statement whose first two parameters name the event.
fn bound(statement: &'static str, event: &EventName) -> Query {
    let key = Key::of(event);
    sqlx::query(statement).bind(key.job).bind(key.event)
}

/// The time that orders the event, as text: a type that the table's is cast from.
fn time(event: &EventName) -> Option<String> {
    Some(event.ordering_time()?.decimal().to_string())
}

/// A token as the table has it; one that it cannot have is none of this ledger's.
fn number(token: FencingToken) -> Option<i64> {
    i64::try_from(token.get()).ok()
}

// By hand, because a pool's shows where it leads.
impl fmt::Debug for PostgresLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresLedger").finish_non_exhaustive()
    }
}
