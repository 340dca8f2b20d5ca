//! The ledger on Postgres, which several processes share.

mod call;
mod commit_error;
mod commit_in;
mod connections;
mod prune;
mod queue;
mod session;
mod table;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;

use super::{Claim, Commit, EventName, Ledger};
use crate::event::FencingToken;
use crate::util::postgres::UnexpectedAnswer;
use call::{Answer, Call, to_bigint};
pub use commit_error::CommitInError;
use connections::Connections;

/// How many connections a ledger has at most by default.
///
/// Each statement takes the calls of many deliveries, so a few connections are enough. More of them
/// would only compete.
const CONNECTIONS: u32 = 3;

/// How long a transaction may be idle by default, after an event was settled in it.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(60);

/// A [`Ledger`] on Postgres, in the database of the application's pool.
///
/// Make one ledger for an application, and clone it. Clones share their connections. The table
/// `mx_job_webhook_events` holds all events: [`create_table`](Self::create_table) makes it. Rows
/// stay until you call [`prune`](Self::prune), for example once an hour.
///
/// A callback can commit the event [in its own transaction](Self::commit_in), which only this
/// ledger offers. Its effect and the ledger's entry then become durable together. An effect in that
/// database stands exactly once, whichever process or server fails.
///
/// Leases expire by the server's clock, so the clocks of the replicas do not matter. The next
/// delivery takes over an expired lease. The server confirms a commit when it is on its disk and on
/// its synchronous standbys, even if the application has set `synchronous_commit` to `off` or
/// `local`.
///
/// [`replicas`](crate::guide::replicas) lists the tested versions, and the settings that the server
/// needs.
///
/// # Connections
///
/// The ledger has **connections of its own**, at most three by default, in addition to those of the
/// pool. It therefore works even if callbacks hold all connections of the pool. It opens them as
/// the pool does, with the same options and `after_connect`. Concurrent deliveries share
/// statements: a claim, a commit and a release each take at most one round trip. If the database's
/// default isolation is stricter than `READ COMMITTED`, each statement takes two more.
///
/// If the callers of a statement give up, the ledger opens another connection, and the server may
/// continue the statement. Set the role's `statement_timeout`, so that such statements do not
/// accumulate while the table is locked.
///
/// The ledger needs tokio. A connection belongs to the runtime on which it was opened. If each
/// thread has a runtime of its own, make a ledger for each thread. Otherwise a blocked thread would
/// delay the calls of the others.
///
/// Each statement passes its name as a parameter, and each answer begins with it. If a pooler mixes
/// up prepared statements (`PgBouncer` before 1.21 in transaction mode), deliveries are answered
/// 503 and no event is lost.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use mx_job_webhook::ledger::PostgresLedger;
/// use mx_job_webhook::{DedupeLayer, JobEvent, JobRouter};
/// use sqlx::postgres::PgPoolOptions;
/// use tower::{Layer, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let url = "postgres://127.0.0.1:1/app"; // No server listens there.
/// let pool = PgPoolOptions::new().acquire_timeout(Duration::from_millis(50)).connect_lazy(url)?;
/// let ledger = PostgresLedger::new(pool); // Then, once: `ledger.create_table().await?`
/// let jobs = JobRouter::new().on_completed(|_| async {});
/// let once = DedupeLayer::new(ledger).layer(jobs);
///
/// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
/// let outcome = once.oneshot(event).await; // Answered 503 until the database can be reached.
/// assert_eq!(outcome.unwrap_err().kind(), mx_job_webhook::ErrorKind::LedgerUnavailable);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PostgresLedger {
    pool: PgPool,
    connections: Arc<Connections>,
    idle_in_transaction: Option<Duration>,
}

impl PostgresLedger {
    /// Returns a ledger in the database of this pool.
    ///
    /// The `search_path` of the pool's connections determines the schema of the table.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self {
            connections: Arc::new(Connections::new(&pool, CONNECTIONS)),
            idle_in_transaction: Some(IDLE_IN_TRANSACTION),
            pool,
        }
    }

    /// Sets how many connections the ledger opens at most. Defaults to 3.
    ///
    /// The ledger opens a connection if a call arrives while all others are busy, and closes a
    /// connection after ten seconds without a call. Commits leave one connection free for claims,
    /// which wait for neither the disk nor a standby. With a single connection, claims and commits
    /// wait for each other.
    ///
    /// Clones that were made before keep their own connections.
    ///
    /// # Panics
    ///
    /// If the number is 0.
    #[must_use]
    #[track_caller]
    pub fn with_max_connections(mut self, connections: u32) -> Self {
        assert!(connections > 0, "a ledger needs at least one connection");
        self.connections = Arc::new(Connections::new(&self.pool, connections));
        self
    }

    /// Sets how long a transaction may be idle after [`commit_in`](Self::commit_in).
    ///
    /// Defaults to 60 s. The server ends a transaction whose client has sent nothing for this time,
    /// and releases its locks. Without the limit, the locks of a replica that lost its network or
    /// power would remain. The method sets `idle_in_transaction_session_timeout` for its
    /// transaction only. A timeout that the session, the role or the database has set takes
    /// precedence. `None` sets no timeout.
    #[must_use]
    pub fn with_idle_in_transaction(mut self, limit: Option<Duration>) -> Self {
        self.idle_in_transaction = limit;
        self
    }
}

impl Ledger for PostgresLedger {
    /// The error is shared by all calls of a failed statement.
    type Error = Arc<sqlx::Error>;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, Self::Error> {
        match self.connections.call(Call::claim(event, lease)).await? {
            Answer::Granted(token) => Ok(Claim::Granted(token)),
            Answer::InFlight => Ok(Claim::InFlight),
            Answer::Settled => Ok(Claim::Settled),
            Answer::Stale => Ok(Claim::Stale),
            _ => Err(Arc::new(UnexpectedAnswer("claim").into())),
        }
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, Self::Error> {
        // This ledger never granted a token that is too large, but its holder has succeeded.
        let commit = Call::commit(event, to_bigint(token).unwrap_or(i64::MAX));
        match self.connections.call_until_unlocked(commit).await? {
            Answer::Settled => Ok(Commit::Settled),
            Answer::Overtaken => Ok(Commit::Overtaken),
            _ => Err(Arc::new(UnexpectedAnswer("commit").into())),
        }
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), Self::Error> {
        let Some(token) = to_bigint(token) else {
            return Ok(());
        };
        let release = Call::release(event, token);
        match self.connections.call_until_unlocked(release).await? {
            Answer::Released => Ok(()),
            _ => Err(Arc::new(UnexpectedAnswer("release").into())),
        }
    }
}

// By hand, because the `Debug` of a pool shows the server's address.
impl fmt::Debug for PostgresLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresLedger").finish_non_exhaustive()
    }
}
