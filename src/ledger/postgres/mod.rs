//! The ledger of several replicas that share a Postgres database.

mod call;
mod commit_error;
mod commit_in;
mod connection;
mod connections;
mod prune;
mod table;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;

use super::{Claim, Commit, EventName, Ledger};
use crate::event::FencingToken;
use call::{Answer, Call, NotItsAnswer, number};
pub use commit_error::CommitInError;
use connections::Connections;

/// How many connections a ledger has at most. Each statement takes the calls of many deliveries, so a few are
/// enough, and more only compete.
const CONNECTIONS: u32 = 3;

/// How long a transaction in which an event was settled may be idle.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(60);

/// A [`Ledger`] on Postgres, in the database of the application's pool.
///
/// The ledger has **connections of its own**, at most three by default, which are opened as the pool
/// opens its connections (options and `after_connect` included) and count in addition to the pool's. So callbacks that
/// hold all of the pool's connections do not keep the ledger from its work. Make one ledger for an application: its
/// clones share the connections. Deliveries at the same time share statements: a claim, a commit and a release are a
/// round trip each, or a part of one.
///
/// A statement that is given up is left to the server, which may work on it; the ledger opens another connection. Limit
/// statements by the role's `statement_timeout`, so that a table that is locked does not fill the server with them.
///
/// Needs tokio. A connection belongs to the runtime on which it was opened. Where each thread has a runtime of its own,
/// make a ledger for each thread: a thread that is blocked would hold up the calls of the others.
///
/// Leases end by the server's clock, so the replicas' clocks do not matter; the next delivery takes over a lease
/// that has expired. Everything is in the table `mx_job_webhook_events`, which
/// [`create_table`](Self::create_table) makes.
///
/// Only this ledger lets a callback commit [in its own transaction](Self::commit_in). Then its effect and the
/// ledger's entry become durable together, and an effect in that database stands exactly once, whatever dies.
///
/// Rows stay until [`prune`](Self::prune) is called, once an hour, say.
///
/// The server confirms a commit when it is on its disk and on its synchronous standbys, even if the application
/// has set `synchronous_commit` to `off` or `local`. The ledger works at every isolation level that the database
/// may have as its default; at levels above `READ COMMITTED` it takes two round trips more a statement.
///
/// Each statement names itself in a parameter, and the database names the statement in each answer. So a pooler
/// that mixes prepared statements up (`PgBouncer` before 1.21 in transaction mode) costs errors, answered 503, and no
/// event.
///
/// The settings of the server that it needs, and the versions that are tested, are on the page
/// [`replicas`](crate::guide::replicas).
///
/// A clone is the same ledger.
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
/// let outcome = once.oneshot(event).await; // 503 until the database can be reached
/// assert_eq!(outcome.unwrap_err().to_string(), "the ledger is unavailable");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PostgresLedger {
    pool: PgPool,
    connections: Arc<Connections>,
    idle_in_transaction: Option<Duration>,
}

impl PostgresLedger {
    /// A ledger in the database of this pool.
    ///
    /// The table is looked for in the `search_path` of the pool's connections.
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
    /// It opens one when a call comes and all others are busy, and closes one that had no call for ten seconds.
    /// Commits never use the last one: it is left for claims, which wait for neither the disk nor a standby. With one
    /// connection in all, claims and commits wait for each other.
    ///
    /// # Panics
    ///
    /// If it is 0.
    #[must_use]
    #[track_caller]
    pub fn with_max_connections(mut self, connections: u32) -> Self {
        assert!(connections > 0, "a ledger needs a connection");
        self.connections = Arc::new(Connections::new(&self.pool, connections));
        self
    }

    /// Sets how long a transaction may be idle after [`commit_in`](Self::commit_in). Defaults to 60 s.
    ///
    /// If a replica dies without a word, its transaction holds the locks of its effect until then: the server
    /// ends a transaction whose client has sent nothing for so long
    /// (`idle_in_transaction_session_timeout`, for this transaction only). A limit that the session, the role or
    /// the database has set stays as it is. `None` sets no limit.
    #[must_use]
    pub fn with_idle_in_transaction(mut self, limit: Option<Duration>) -> Self {
        self.idle_in_transaction = limit;
        self
    }
}

impl Ledger for PostgresLedger {
    /// Shared by the calls of the statement that failed.
    type Error = Arc<sqlx::Error>;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, Self::Error> {
        match self.connections.call(Call::claim(event, lease)).await? {
            Answer::Granted(token) => Ok(Claim::Granted(token)),
            Answer::InFlight => Ok(Claim::InFlight),
            Answer::Settled => Ok(Claim::Settled),
            Answer::Stale => Ok(Claim::Stale),
            _ => Err(Arc::new(NotItsAnswer("claim").into())),
        }
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, Self::Error> {
        // A token that no table can have was never granted. Its holder has succeeded all the same.
        let commit = Call::commit(event, number(token).unwrap_or(i64::MAX));
        match self.connections.call_until_it_is_free(commit).await? {
            Answer::Settled => Ok(Commit::Settled),
            Answer::Overtaken => Ok(Commit::Overtaken),
            _ => Err(Arc::new(NotItsAnswer("commit").into())),
        }
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), Self::Error> {
        let Some(token) = number(token) else {
            return Ok(());
        };
        let release = Call::release(event, token);
        match self.connections.call_until_it_is_free(release).await? {
            Answer::Released => Ok(()),
            _ => Err(Arc::new(NotItsAnswer("release").into())),
        }
    }
}

// By hand, because a pool's shows where it leads.
impl fmt::Debug for PostgresLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresLedger").finish_non_exhaustive()
    }
}
