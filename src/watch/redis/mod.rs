//! The store on Redis or Valkey, which several processes share.

mod calls;
mod subscriptions;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::Client;

use crate::ledger::redis::replicated::ReplicatedConnection;
use crate::ledger::{Reconnecting, Sentinels};
use calls::Scripts;
use subscriptions::Subscriptions;

/// The default prefix of all keys. It is not the ledger's, whose keys end with any guid.
const PREFIX: &str = "mx-job-webhook-watch:";

/// A [`WatchStore`](super::WatchStore) on Redis or Valkey, for replicas that share a server.
///
/// Each call takes one round trip, in which the server runs a script atomically. All times are the
/// server's, so the clocks of the replicas do not matter. The store connects on first use, and
/// reconnects after failures. A call that gets no answer is repeated once. With Sentinels, use
/// [`from_sentinels`](Self::from_sentinels). With a cluster or a connection of your own, use
/// [`from_connection`](Self::from_connection).
///
/// **A change wakes the other replicas by Redis' publish and subscribe.** A process that waits has
/// one further connection for it, which reconnects, and asks every 10 s whether its server is still
/// there. While it is broken, the entries of jobs that are waited for are read every few seconds, so
/// a lost notification only delays.
///
/// # What survives
///
/// An expected job has a key without expiry, until something is heard of it or it is given up. Other
/// keys expire: what was heard of a job after the watch's look-back, and a job that rests after a
/// challenge after an hour, or as long as the watch looks back. The server must keep them until then, so set `maxmemory-policy
/// noeviction`. While memory is short, `expect` then is an error and the failsafe pauses. With another
/// policy, expectations are lost.
///
/// An expectation is on disk at once only with `appendfsync always`, and reaches Redis' replicas
/// after a delay. If a crash or a failover loses it, the failsafe does not read the job, but a
/// webhook of the job is still handled. If you cannot accept that, use
/// [`with_replicated_changes`](Self::with_replicated_changes) or `PostgresWatchStore`.
///
/// # Keys
///
/// Each job is one key, and one sorted set has the times at which jobs are due. All keys have the
/// hash tag `{watch}`, so a cluster keeps them in one slot, on one master: see
/// [`with_key_prefix`](Self::with_key_prefix). Each job's key contains the version of its format. If
/// a later release has changed the format, this release cannot read the job, which is an error, and
/// leaves the key as it is.
///
/// Tested with Redis 6, 7 and 8, and Valkey 8. A user for the store needs access to the keys and the
/// channel with the prefix (`~mx-job-webhook-watch:*` and `&mx-job-webhook-watch:*`), and to the
/// commands `EVAL`, `EVALSHA`, `EXISTS`, `HDEL`, `HMGET`, `HSET`, `PERSIST`, `PEXPIRE`, `PING`,
/// `PUBLISH`, `SUBSCRIBE`, `TIME`, `ZADD`, `ZCARD`, `ZCOUNT`, `ZRANGEBYSCORE`, `ZREM` and `ZSCORE`.
/// With Sentinels it also needs `ROLE`, and for replicated changes `WAIT`.
///
/// # Example
///
/// ```
/// use mx_job_webhook::watch::{JobWatch, RedisWatchStore};
/// use mx_job_webhook::{ErrorKind, JobRouter};
/// use tower::ServiceBuilder;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let url = "redis://127.0.0.1:1/"; // No server listens there.
/// let watch = JobWatch::new(RedisWatchStore::new(redis::Client::open(url)?));
/// let jobs = ServiceBuilder::new()
///     .layer(watch.layer())
///     .service(JobRouter::new().on_completed(|_| async {}));
/// # drop(jobs);
///
/// // While the server cannot be reached, expecting a job is an error.
/// let refused = watch.expect(&"JOB-1".parse()?).await.unwrap_err();
/// assert_eq!(refused.kind(), ErrorKind::WatchUnavailable);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RedisWatchStore<C> {
    connection: C,
    keys: Arc<Keys>,
    scripts: Arc<Scripts>,
    subscriptions: Subscriptions,
    /// The connection for changes, if they wait for replicas.
    replicated: Option<ReplicatedConnection>,
}

struct Keys {
    prefix: String,
    /// The sorted set of the jobs that are due, from which the scripts derive the other keys.
    due: String,
    channel: String,
}

impl Keys {
    fn new(prefix: String) -> Self {
        Self {
            due: format!("{prefix}{{watch}}:due"),
            channel: format!("{prefix}{{watch}}:changed"),
            prefix,
        }
    }
}

impl RedisWatchStore<Reconnecting> {
    /// Returns a store on this client's server, with keys that begin with `mx-job-webhook-watch:`.
    ///
    /// It does not connect yet.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self::reconnecting(Reconnecting::new(client))
    }

    /// Returns a store on the master that these Sentinels name.
    ///
    /// It does not connect yet. The store and its subscription follow a failover within about a
    /// second after the Sentinels decide it. **An old master may stay writable for about ten
    /// seconds, and what it acknowledges then is lost**: the failsafe does not read a job that was
    /// expected there. The server settings that bound this are those of
    /// [`RedisLedger::from_sentinels`](crate::ledger::RedisLedger::from_sentinels). To lose
    /// nothing, see [`with_replicated_changes`](Self::with_replicated_changes).
    #[must_use]
    pub fn from_sentinels(sentinels: Sentinels) -> Self {
        Self::reconnecting(Reconnecting::to_master(sentinels))
    }

    /// Sets how many Redis replicas must have a change before it succeeds. Defaults to 0.
    ///
    /// The store sends Redis' `WAIT` after each change. If fewer replicas have it within the
    /// timeout, `expect` fails and a delivery is answered 503, although the master has the change.
    /// The application and MX repeat them, and a repeated call waits in the same way. With 0,
    /// changes do not wait. Claims of the failsafe never wait: if one is lost, the job is claimed
    /// again.
    ///
    /// With the number of all replicas, a failover forgets no job whose `expect` has returned, and
    /// no event that was acknowledged. With a smaller number, it forgets what the new master did not
    /// have. While a replica is missing, nothing can be expected and each delivery is answered 503.
    ///
    /// **The changes of a process wait for each other**, on a second connection, as the commits of
    /// [`RedisLedger::with_replicated_commits`](crate::ledger::RedisLedger::with_replicated_commits)
    /// do, which says more about the timeout. An event of an expected job waits twice.
    ///
    /// Stores on clusters and on connections of the application do not have this setting, because
    /// `WAIT` could reach another node there, or delay other commands on the connection.
    #[must_use]
    pub fn with_replicated_changes(mut self, replicas: usize, timeout: Duration) -> Self {
        let connection = ReplicatedConnection::new(&self.connection, replicas, timeout);
        self.replicated = (replicas > 0).then_some(connection);
        self
    }

    fn reconnecting(connection: Reconnecting) -> Self {
        let subscriptions = Subscriptions::OfServer(connection.clone());
        Self::with(connection, subscriptions)
    }
}

impl<C> RedisWatchStore<C> {
    /// Returns a store on the server or the cluster of this connection, which subscribes at one of
    /// these nodes.
    ///
    /// An example is redis' `ClusterConnection`, which follows failovers of the cluster's masters.
    /// The connection must reconnect by itself, and must give up commands that get no answer
    /// (`ClusterClientBuilder::response_timeout`).
    ///
    /// A planned failover of a cluster forgets nothing. If a master dies or hangs, what its replica
    /// lacked is forgotten, and no setting of the store prevents that.
    ///
    /// The store uses `PUBLISH`, not `SPUBLISH`, which reaches every node of a cluster, masters and
    /// replicas. Each process subscribes at one node, and at the next one after that has failed.
    /// Without nodes, waiters on other replicas hear of a job after a few seconds.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use mx_job_webhook::watch::RedisWatchStore;
    /// use redis::{Client, cluster::ClusterClient};
    ///
    /// # async fn connect() -> Result<(), redis::RedisError> {
    /// let nodes = ["redis://node-1/", "redis://node-2/", "redis://node-3/"];
    /// let cluster = ClusterClient::builder(nodes)
    ///     .response_timeout(Duration::from_secs(1))
    ///     .build()?;
    /// let nodes: Vec<_> = nodes.into_iter().map(Client::open).collect::<Result<_, _>>()?;
    /// let store = RedisWatchStore::from_connection(cluster.get_async_connection().await?, nodes);
    /// # drop(store);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn from_connection(connection: C, nodes: impl IntoIterator<Item = Client>) -> Self {
        Self::with(connection, Subscriptions::of_nodes(nodes))
    }

    fn with(connection: C, subscriptions: Subscriptions) -> Self {
        Self {
            connection,
            keys: Arc::new(Keys::new(PREFIX.to_owned())),
            scripts: Arc::default(),
            subscriptions,
            replicated: None,
        }
    }

    /// Sets the prefix of all keys and of the channel. Defaults to `mx-job-webhook-watch:`.
    ///
    /// Applications that share a server need different prefixes, also if they use different
    /// databases of it. The prefix must not be that of a ledger. In a cluster, a prefix with `{…}`
    /// chooses the slot.
    #[must_use]
    pub fn with_key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.keys = Arc::new(Keys::new(prefix.into()));
        self
    }
}

// By hand, because the `Debug` of a connection can show its address and credentials.
impl<C> fmt::Debug for RedisWatchStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisWatchStore")
            .field("prefix", &self.keys.prefix)
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
