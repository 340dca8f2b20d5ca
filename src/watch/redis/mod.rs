//! The store on Redis or Valkey, which several processes share.

mod calls;
mod subscriptions;

use std::fmt;
use std::sync::Arc;

use ::redis::Client;

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
/// `PostgresWatchStore`.
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
/// With Sentinels it also needs `ROLE`.
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
    /// seconds, and what it acknowledges then is lost.** The settings that bound this are those of
    /// [`RedisLedger::from_sentinels`](crate::ledger::RedisLedger::from_sentinels).
    #[must_use]
    pub fn from_sentinels(sentinels: Sentinels) -> Self {
        Self::reconnecting(Reconnecting::to_master(sentinels))
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
            .finish_non_exhaustive()
    }
}
