//! Expectations in Postgres, which several processes share.

mod call;
mod listen;
mod prune;
mod run;
mod table;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use super::store::{Counts, Replaced, Stored, Update, WatchStore};
use super::waiters::Wake;
use crate::job::JobGuid;
use call::{Replace, Written};

/// A [`WatchStore`] in Postgres, in the database of the application's pool.
///
/// Make one store for an application, and clone it. The table `mx_job_webhook_watch` has a row for
/// each job that is expected, or of which something was heard lately.
/// [`create_table`](Self::create_table) makes it. The store and a
/// [`PostgresLedger`](crate::ledger::PostgresLedger) can share a pool and a database.
///
/// All times go by the server's clock, so the clocks of the replicas do not matter. A replica that
/// dies loses nothing: another one claims its jobs once their lease expires.
///
/// The store works with Postgres 10 to 18; versions 10, 15 and 18 are tested. The encoding of the
/// database must be UTF-8 or `SQL_ASCII`, as for the ledger.
///
/// # Connections
///
/// The statements run on **connections of the pool**, for one round trip each. sqlx adds one when it
/// tests a connection of the pool. If callbacks hold all connections of the pool, the store waits
/// for one, and a delivery is answered 503 when the
/// [store's timeout](super::JobWatch::with_store_timeout) expires. Give the store a pool of its own
/// if that can happen.
///
/// A process that waits for jobs has **one more connection**, which listens to what other processes
/// have heard. It is opened outside of the pool, with the pool's options and `after_connect`, when a
/// job is first waited for; for a moment there is a second one, by which the store finds out
/// whether a pooler is in between. If the connection breaks, it is opened again. Every 15 s the store checks that the
/// server answers on it. Until it is open again, waiters hear within about five seconds, because
/// their jobs are also read regularly.
///
/// If a call is cancelled or takes too long, its connection returns to the pool when the server has
/// answered. Set the role's `statement_timeout`, so that this takes a bounded time.
///
/// # Poolers
///
/// In transaction mode, `PgBouncer` must track prepared statements, as it does from version 1.21 with
/// `max_prepared_statements`. Each statement passes its name as a parameter, and each answer begins
/// with it. If an older `PgBouncer` mixes up statements, the call fails and changes nothing.
///
/// `LISTEN` needs a connection that **bypasses** `PgBouncer`: [`with_listener`](Self::with_listener)
/// says how to open it. In transaction mode, `LISTEN` through `PgBouncer` would disturb other clients
/// on the same server connection. If the store finds a pooler between it and the server, it
/// therefore does not listen, and waiters hear within about five seconds. In session mode `LISTEN` works:
/// pass the pool's own options to `with_listener`.
///
/// # Durability
///
/// The server confirms a change when it is on its disk and on its synchronous standbys, even if the
/// application has set `synchronous_commit` to `off` or `local`. Claims need not be durable: if a
/// crash of the server loses one, the job is claimed again. If the database's default isolation is
/// stricter than `READ COMMITTED`, changes take two more round trips after the first conflict.
///
/// # Load
///
/// An `expect` takes one statement. An event takes two if its job is expected, and otherwise one. The
/// server commits transactions with a notification one after the other, and each event of an
/// expected job is one: with a flush of a millisecond, about a thousand a second.
///
/// Rows that have expired are deleted whenever a [`Failsafe`](super::Failsafe) claims jobs, up to
/// 1,000 at a time. If no process runs one, call [`prune`](Self::prune).
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use mx_job_webhook::watch::{JobWatch, PostgresWatchStore};
/// use mx_job_webhook::{ErrorKind, JobRouter};
/// use sqlx::postgres::PgPoolOptions;
/// use tower::ServiceBuilder;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let url = "postgres://127.0.0.1:1/app"; // No server listens there.
/// let pool = PgPoolOptions::new().acquire_timeout(Duration::from_millis(50)).connect_lazy(url)?;
/// let store = PostgresWatchStore::new(pool); // Then, once: `store.create_table().await?`
/// let watch = JobWatch::new(store);
/// let jobs = ServiceBuilder::new()
///     .layer(watch.layer())
///     .service(JobRouter::new().on_completed(|_| async {}));
///
/// // An error until the database can be reached. Then the job is never forgotten.
/// let expected = watch.expect(&"JOB-1".parse()?).await;
/// assert_eq!(expected.unwrap_err().kind(), ErrorKind::WatchUnavailable);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PostgresWatchStore {
    pool: PgPool,
    listener: Option<PgConnectOptions>,
    /// Whether calls run in `READ COMMITTED` transactions. This is needed if the database's default
    /// isolation is stricter, which reports races that do no harm.
    sets_isolation: Arc<AtomicBool>,
}

impl PostgresWatchStore {
    /// Returns a store in the database of this pool.
    ///
    /// The `search_path` of the pool's connections determines the schema of the table.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self {
            pool,
            listener: None,
            sets_isolation: Arc::default(),
        }
    }

    /// Sets how to open the connection that listens.
    ///
    /// Use it if the pool leads to a pooler such as `PgBouncer`. Name the server itself, and the same
    /// database. The connection must not be shared by a pooler in transaction mode, which is not
    /// checked here. The role needs no permission besides `CONNECT`. Defaults to the options of
    /// the pool. Clones that were made before keep their own options.
    #[must_use]
    pub fn with_listener(mut self, options: PgConnectOptions) -> Self {
        self.listener = Some(options);
        self
    }
}

impl WatchStore for PostgresWatchStore {
    type Error = sqlx::Error;

    async fn load(&self, jobs: &[JobGuid]) -> Result<Vec<(JobGuid, Stored)>, sqlx::Error> {
        self.load_entries(jobs).await
    }

    async fn replace(
        &self,
        job: &JobGuid,
        expected: Option<u64>,
        update: Update<'_>,
    ) -> Result<Replaced, sqlx::Error> {
        let replace = Replace::new(job, expected, update);
        loop {
            match self.replace_entry(&replace).await? {
                Written::Done => return Ok(Replaced::Done),
                Written::Conflict(current) => return Ok(Replaced::Conflict(current)),
                // Others have changed the revision since, so the next answer is another one.
                Written::Busy => {}
            }
        }
    }

    async fn claim_due(
        &self,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<(JobGuid, Stored)>, sqlx::Error> {
        self.claim_entries(limit, lease).await
    }

    async fn count(&self) -> Result<Counts, sqlx::Error> {
        self.count_entries().await
    }

    async fn listen(&self, wake: Wake) -> Result<(), sqlx::Error> {
        self.listen_until_broken(&wake).await
    }
}

// By hand, because the `Debug` of a pool shows the server's address.
impl fmt::Debug for PostgresWatchStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresWatchStore")
            .field("has_listener", &self.listener.is_some())
            .finish_non_exhaustive()
    }
}
