//! The ledger on Redis or Valkey, which several processes share.

mod calls;
mod errors;
mod reconnecting;
pub(crate) mod replicated;
pub(crate) mod script;
mod sentinels;
pub(crate) mod subscriber;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::Client;

pub use reconnecting::Reconnecting;
use replicated::ReplicatedConnection;
use script::Scripts;
pub use sentinels::Sentinels;

/// How long a job is remembered by default: twice as long as MX retries (12 times in about 24
/// hours; MX's page on webhooks).
const WINDOW: Duration = Duration::from_secs(48 * 60 * 60);

/// The default prefix of all keys.
const PREFIX: &str = "mx-job-webhook:";

/// A [`Ledger`](crate::ledger::Ledger) on Redis or Valkey, for replicas that share a server.
///
/// A claim, a commit and a release each take one round trip, in which the server runs a script
/// atomically. Leases expire by the server's clock, so the clocks of the replicas do not matter.
/// Each job is one key, a hash of its events, so a cluster keeps a job in one slot.
///
/// The ledger connects on first use, and reconnects after failures. If a call gets no answer, it is
/// repeated once; every call is idempotent. Each answer names its call, and an answer to another
/// call is an error. With Sentinels, use [`from_sentinels`](Self::from_sentinels). With a cluster
/// or a connection of your own, use [`from_connection`](Self::from_connection).
///
/// By default, a job's key expires 48 hours after its last event: see
/// [`with_window`](Self::with_window). The server must keep it until then, so set `maxmemory-policy
/// noeviction`. Otherwise events are handled again after memory ran short. Each key contains the
/// version of its format. If a later release has changed the format, this release answers 503 and
/// leaves the key as it is.
///
/// A commit that Redis acknowledges is on disk at once only with `appendfsync always`, and reaches
/// Redis' replicas after a delay. If a crash or a failover loses a commit, its event is handled
/// again when MX delivers it again. No event is acknowledged without being handled. If you cannot
/// accept repeated events, use `PostgresLedger`.
///
/// Tested with Redis 6, 7 and 8, and Valkey 8. A user for the ledger needs access to the keys with
/// the prefix, and to the commands `EVAL`, `EVALSHA`, `HDEL`, `HMGET`, `HSET`, `PEXPIRE`, `PTTL`
/// and `TIME`. With Sentinels it also needs `ROLE`, and for replicated commits `WAIT`.
///
/// # Example
///
/// ```
/// use mx_job_webhook::ledger::RedisLedger;
/// use mx_job_webhook::{DedupeLayer, JobEvent, JobRouter};
/// use tower::{Layer, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let url = "redis://127.0.0.1:1/"; // No server listens there.
/// let ledger = RedisLedger::new(redis::Client::open(url)?);
/// let jobs = JobRouter::new().on_completed(|_| async {});
/// let once = DedupeLayer::new(ledger).layer(jobs);
///
/// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
/// let outcome = once.oneshot(event).await; // Answered 503 until the server can be reached.
/// assert_eq!(outcome.unwrap_err().kind(), mx_job_webhook::ErrorKind::LedgerUnavailable);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RedisLedger<C> {
    connection: C,
    prefix: Arc<str>,
    window: Duration,
    scripts: Arc<Scripts>,
    /// The connection, if the ledger opened it and can therefore replace it.
    own: Option<Reconnecting>,
    /// The connection for commits, if they wait for replicas.
    replicated: Option<ReplicatedConnection>,
}

impl RedisLedger<Reconnecting> {
    /// Returns a ledger on this client's server, with keys that begin with `mx-job-webhook:`.
    ///
    /// It does not connect yet. While the server is down, each delivery is answered 503.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self::reconnecting(Reconnecting::new(client))
    }

    /// Returns a ledger on the master that these Sentinels name.
    ///
    /// It does not connect yet. The ledger asks the Sentinels when it connects, and once a second
    /// while it is connected. It follows a planned or unplanned failover within about a second
    /// after the Sentinels decide it.
    ///
    /// **After a planned failover, the old master stays writable for about ten seconds.**
    /// Everything that it acknowledges in that time is lost, and a lost event is handled again if
    /// MX delivers it again. The ledger leaves the old master after one or two seconds.
    ///
    /// To lose at most the last milliseconds, set `min-replicas-to-write` on every server to the
    /// number of replicas (1 if there is one), and `min-replicas-max-lag` to 2 or 3. A master that
    /// lacks a replica then refuses claims and commits, and each delivery is answered 503. In a
    /// planned failover, that takes about 11 s, until the old master is a replica, and then until
    /// it has synchronised. The latter is often a full synchronisation, which takes longer the more
    /// data there is, and starts after `repl-diskless-sync-delay` (5 s by default; set it to 0).
    ///
    /// Redis 6 does not apply `min-replicas-to-write` to scripts, and so not to this ledger: use Redis
    /// 7 or Valkey.
    ///
    /// A smaller `min-replicas-to-write` shortens the refusals and loses more commits, because
    /// replicas that are not promoted still follow the old master for a moment. To lose no commit,
    /// see [`with_replicated_commits`](Self::with_replicated_commits).
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::ledger::{RedisLedger, Sentinels};
    ///
    /// let sentinels = Sentinels::new(
    ///     ["redis://:one@sentinel-1:26379", "redis://:one@sentinel-2:26379"],
    ///     "mymaster",
    /// )?
    /// .with_master_login("redis://webhooks:another@mymaster/")?;
    /// let ledger = RedisLedger::from_sentinels(sentinels);
    /// # drop(ledger);
    /// # Ok::<(), redis::RedisError>(())
    /// ```
    #[must_use]
    pub fn from_sentinels(sentinels: Sentinels) -> Self {
        Self::reconnecting(Reconnecting::to_master(sentinels))
    }

    /// Sets how many Redis replicas must have a commit before it succeeds. Defaults to 0.
    ///
    /// The ledger sends Redis' `WAIT` after each commit. If fewer replicas have the commit within
    /// the timeout, it fails although the master has it. The delivery is answered 503, and the
    /// commit may be repeated. A delivery of a settled event waits in the same way before it is
    /// acknowledged; a stale event does not wait. With 0, commits do not wait.
    ///
    /// With the number of all replicas, a failover loses no acknowledged event. With a smaller
    /// number, a failover loses the events that the new master did not have. `WAIT` does not
    /// replace `min-replicas-to-write`: without that setting, an old master still grants claims.
    ///
    /// **The commits of a process wait for each other.** Redis answers nothing else on a connection
    /// that waits. Commits therefore use a second connection, one after the other. Each takes as
    /// long as the replicas do, which is a round trip between the servers. While a replica is
    /// missing, each commit takes the whole timeout, and commits queued behind it fail after the
    /// timeout and 1 s. Within a data centre, a timeout of 100 to 500 ms is enough.
    ///
    /// Ledgers on clusters and on connections of the application do not have this setting, because
    /// `WAIT` could reach another node there, or delay other commands on the connection.
    #[must_use]
    pub fn with_replicated_commits(mut self, replicas: usize, timeout: Duration) -> Self {
        let connection = ReplicatedConnection::new(&self.connection, replicas, timeout);
        self.replicated = (replicas > 0).then_some(connection);
        self
    }

    fn reconnecting(connection: Reconnecting) -> Self {
        Self {
            own: Some(connection.clone()),
            ..Self::from_connection(connection)
        }
    }
}

impl<C> RedisLedger<C> {
    /// Returns a ledger on the server or the cluster of this connection.
    ///
    /// An example is redis' `ClusterConnection`, which follows failovers of the cluster's masters.
    /// The connection must reconnect by itself, and must give up commands that get no answer
    /// (`ClusterClientBuilder::response_timeout`).
    #[must_use]
    pub fn from_connection(connection: C) -> Self {
        Self {
            connection,
            prefix: PREFIX.into(),
            window: WINDOW,
            scripts: Arc::default(),
            own: None,
            replicated: None,
        }
    }

    /// Sets the prefix of all keys. Defaults to `mx-job-webhook:`.
    ///
    /// Applications that share a server need different prefixes. In a cluster, a prefix with `{…}`
    /// would put all jobs into one slot.
    #[must_use]
    pub fn with_key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into().into();
        self
    }

    /// Sets how long a job is remembered after its last event. Defaults to 48 hours.
    ///
    /// It is the time-to-live of the job's key. If it is shorter than the 24 hours for which MX
    /// retries, an event can be handled again.
    #[must_use]
    pub fn with_window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }
}

// By hand, because the `Debug` of a connection can show its address and credentials.
impl<C> fmt::Debug for RedisLedger<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLedger")
            .field("prefix", &self.prefix)
            .field("window", &self.window)
            .field(
                "replicas",
                &self
                    .replicated
                    .as_ref()
                    .map_or(0, ReplicatedConnection::replicas),
            )
            .finish_non_exhaustive()
    }
}
