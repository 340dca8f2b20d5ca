//! The store and its settings.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;

use super::own_connections::OwnConnections;
use crate::background::Background;

/// How long a kept body that is no event may be by default.
const MAX_BODY: usize = 1024 * 1024;

/// For how long a replay keeps others from replaying the letter by default, if its process dies.
const LEASE: Duration = Duration::from_secs(10 * 60);

/// Dead letters in Postgres, in the database of the application's pool.
///
/// See the [module's page](super). Make one store for an application, and clone it. The table
/// `mx_job_webhook_dead_letters` has a row for each letter: [`create_table`](Self::create_table)
/// makes it. Keeping the same event or body again updates its row. Rows stay until they are
/// replayed with success, discarded or [pruned](Self::prune). The bodies that a `JobQueue` keeps are
/// in the table too, under the queue's name, and this store neither lists nor deletes them.
///
/// All times go by the server's clock. Bodies are kept as they came, and headers are not kept. A
/// body can name a user, and so can an error of a callback.
///
/// The store works with Postgres 10 to 18. The encoding of the database must be UTF-8 or
/// `SQL_ASCII`, as for the ledger.
///
/// # Connections
///
/// Each call is one short transaction on a connection of the pool, and waits for a connection as
/// long as the pool's `acquire_timeout` says. Set the role's `statement_timeout`, so that a locked
/// table delays a call for a bounded time. If a call is cancelled, its transaction is rolled back
/// or has been committed.
///
/// The statements keep no prepared statement on the connection, and so work behind `PgBouncer` in
/// transaction mode, whatever its version. Each statement passes its name as a parameter, and each
/// answer begins with it. If a pooler still mixes up statements, the call fails and changes nothing.
///
/// # Durability
///
/// A letter is kept when it is on the server's disk and on its synchronous standbys, even if the
/// application has set `synchronous_commit` to `off` or `local`.
#[derive(Clone)]
pub struct PostgresDeadLetters {
    pub(super) pool: PgPool,
    pub(super) own: Option<Arc<OwnConnections>>,
    /// The name of the `JobQueue` that has these letters, or an empty text.
    pub(super) queue: Arc<str>,
    pub(super) max_body: usize,
    pub(super) lease: Duration,
    pub(super) background: Background,
}

impl PostgresDeadLetters {
    /// Returns a store in the database of this pool.
    ///
    /// The `search_path` of the pool's connections determines the schema of the table.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self {
            pool,
            own: None,
            queue: "".into(),
            max_body: MAX_BODY,
            lease: LEASE,
            background: Background::new(),
        }
    }

    /// Returns the store of the `JobQueue` with this name.
    ///
    /// Its letters are apart from those of other queues. It has connections of its own, because callbacks may hold
    /// all of the pool. Only `create_table` uses the pool.
    #[cfg(feature = "queue")]
    pub(crate) fn of_queue(pool: PgPool, name: &str) -> Self {
        Self {
            own: Some(Arc::new(OwnConnections::like(&pool))),
            queue: name.into(),
            ..Self::new(pool)
        }
    }

    /// Sets how long a kept body that is no event may be, in bytes. Defaults to 1 MiB.
    ///
    /// To keep a longer one is an error, so the delivery is answered 500. No body is cut. Events are
    /// bounded by [`with_body_limit`](crate::JobWebhook::with_body_limit) of the mount alone.
    #[must_use]
    pub fn with_max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// Sets how long a letter cannot be replayed after a process died that replayed it.
    ///
    /// Defaults to 10 minutes. While the callback runs, its process extends the lease.
    #[must_use]
    pub fn with_replay_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets the `Background` that tracks replays, to wait for them at shutdown.
    #[must_use]
    pub fn with_background(mut self, background: Background) -> Self {
        self.background = background;
        self
    }
}

// By hand, because the `Debug` of a pool shows the server's address.
impl fmt::Debug for PostgresDeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresDeadLetters")
            .field("max_body", &self.max_body)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}
