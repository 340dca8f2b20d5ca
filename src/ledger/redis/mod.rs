//! The ledger of several replicas that share a Redis or Valkey server.

mod confirmed;
mod mending;
mod reconnecting;
mod script;
mod sentinels;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::ConnectionLike;
use ::redis::{Client, ErrorKind, RedisError};

use super::key::Key;
use super::lease::{micros, millis};
use super::{Claim, Commit, EventName, Ledger};
use crate::event::FencingToken;
use crate::job::Timestamp;
use confirmed::Confirmed;
pub use reconnecting::Reconnecting;
use script::{Answer, Script, Scripts, nonsense};
pub use sentinels::Sentinels;

/// Twice as long as MX retries (12 times in about 24 hours; MX's page on webhooks).
const WINDOW: Duration = Duration::from_secs(48 * 60 * 60);

const PREFIX: &str = "mx-job-webhook:";

/// A [`Ledger`] on Redis or Valkey, for replicas that share one.
///
/// A claim, a commit and a release are one round trip each: a script that the server runs
/// as a whole. Leases end by the server's clock, so the replicas' clocks do not matter. Every
/// job is one key, a hash of its events, and so a cluster has all of a job in one slot.
///
/// Connects on first use; reconnects after failures. A call that gets no answer is made once more;
/// it does no harm to make it twice. Each answer names the call that it belongs to; an answer to
/// another call is an error. Behind Sentinels, use [`from_sentinels`](Self::from_sentinels). For a
/// cluster, or a connection that the application has, there is
/// [`from_connection`](Self::from_connection).
///
/// A job's key is forgotten 48 hours after its last event, unless
/// [`with_window`](Self::with_window) says otherwise. The server has to keep it until then:
/// `maxmemory-policy noeviction`, or events are handled again when memory is short. Each key says
/// by which version of this crate's format it is written. If a later release has changed the
/// format, this one answers 503 and leaves the key as it is.
///
/// A commit that Redis acknowledges is on disk only with `appendfsync always`, and on its replicas
/// only after a while. What a crash or a failover loses of it is an event that is handled
/// again when it is delivered again; nothing is acknowledged that was not handled. If you cannot
/// accept this, use `PostgresLedger`.
///
/// Tested with Redis 6, 7 and 8, and Valkey 8. A user of its own needs the keys of the prefix, and the
/// commands `EVAL`, `EVALSHA`, `HDEL`, `HMGET`, `HSET`, `PEXPIRE`, `PTTL` and `TIME`; behind
/// Sentinels also `ROLE`, and for replicated commits `WAIT`.
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
/// let outcome = once.oneshot(event).await; // 503 until the server can be reached
/// assert_eq!(outcome.unwrap_err().to_string(), "the ledger is unavailable");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RedisLedger<C> {
    connection: C,
    prefix: Arc<str>,
    window: Duration,
    scripts: Arc<Scripts>,
    /// The connection, if it is one that the ledger has made: it can be replaced.
    own: Option<Reconnecting>,
    confirmed: Option<Confirmed>,
}

impl RedisLedger<Reconnecting> {
    /// A ledger on the server of this client, under the keys `mx-job-webhook:…`.
    ///
    /// Nothing is connected yet. While the server is down, each delivery is answered 503.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self::reconnecting(Reconnecting::new(client))
    }

    /// Creates a ledger on the master that these Sentinels name.
    ///
    /// Nothing is connected yet. The ledger asks the Sentinels when it connects, and once a second
    /// while it is connected. It follows a failover, planned or not, within about a second of the
    /// Sentinels' deciding it.
    ///
    /// **After a planned failover the old master stays writable for about ten seconds.** Redis
    /// forgets everything that it acknowledges in that time, and a forgotten event is handled again
    /// if it is delivered again. The ledger leaves the old master after one or two seconds.
    ///
    /// To lose no more than the last milliseconds, set on every server `min-replicas-to-write` to
    /// the number of replicas (1 if there is one), and `min-replicas-max-lag` to 2 or 3. A master
    /// that lacks a replica then refuses claims and commits, and each delivery is answered 503: for
    /// about 11 s in a planned failover, until the old master has become a replica, and until it has
    /// synchronised. That is often a full synchronisation, which grows with the data and starts
    /// `repl-diskless-sync-delay` later (5 s by default; set it to 0). A smaller
    /// number shortens this and loses more: the replicas that are not promoted follow the old
    /// master for a moment. To lose nothing, see
    /// [`with_replicated_commits`](Self::with_replicated_commits).
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
    /// assert!(!format!("{ledger:?}").contains("another"));
    /// # Ok::<(), redis::RedisError>(())
    /// ```
    #[must_use]
    pub fn from_sentinels(sentinels: Sentinels) -> Self {
        Self::reconnecting(Reconnecting::to_master(sentinels))
    }

    /// Sets how many Redis replicas must have a commit before it succeeds.
    ///
    /// The ledger sends Redis' `WAIT` after each commit. If fewer replicas have the commit within
    /// the timeout, it fails, although the master has it: the delivery is answered 503, and the
    /// commit may be made again. A delivery of an event that is settled already waits in the same
    /// way before it is acknowledged; a stale event does not. Defaults to 0, which does not wait.
    ///
    /// If the number is that of all replicas, a failover forgets no acknowledged event. If it is
    /// smaller, a failover forgets those that the new master did not have. `WAIT` does not replace
    /// `min-replicas-to-write`: without that, an old master still grants claims.
    ///
    /// **The commits of a process wait for each other.** Redis answers nothing else on a
    /// connection that waits. Commits therefore have a second connection, and pass it one by one,
    /// each for the time that the replicas take: a round trip between the servers. While a replica
    /// is missing, each takes the whole timeout, and those queued behind it fail after the timeout
    /// and 1 s. Within a data centre, 100 to 500 ms are enough.
    ///
    /// Clusters and connections of the application do not have this setting: there, `WAIT` can
    /// reach another node, or delay other commands on the connection.
    #[must_use]
    pub fn with_replicated_commits(mut self, replicas: usize, timeout: Duration) -> Self {
        let confirmed = Confirmed::on(&self.connection, replicas, timeout);
        self.confirmed = (replicas > 0).then_some(confirmed);
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
    /// A ledger on the server or the cluster of this connection.
    ///
    /// Such as redis' `ClusterConnection`, which follows failovers of the cluster's masters. The
    /// connection has to reconnect by itself, and to give up on commands that are not answered
    /// (`ClusterClientBuilder::response_timeout`).
    #[must_use]
    pub fn from_connection(connection: C) -> Self {
        Self {
            connection,
            prefix: PREFIX.into(),
            window: WINDOW,
            scripts: Arc::default(),
            own: None,
            confirmed: None,
        }
    }

    /// Sets what every key begins with; `mx-job-webhook:` unless set.
    ///
    /// Two applications on one server need a prefix each. In a cluster, a prefix with `{…}`
    /// would put every job into one slot.
    #[must_use]
    pub fn with_key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into().into();
        self
    }

    /// Sets how long a job is remembered after its last event; 48 hours unless set.
    ///
    /// It is the time-to-live of the job's key. Shorter than the 24 hours of MX's retries, an
    /// event can be handled again.
    #[must_use]
    pub fn with_window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }
}

impl<C> Ledger for RedisLedger<C>
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    type Error = RedisError;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, RedisError> {
        // A claim outlives its job's time-to-live.
        let remembered = self.window.max(lease);
        let arguments = [
            &digits(event.ordering_time()),
            &micros(lease).to_string(),
            &millis(remembered).to_string(),
        ];
        let (answer, token) = self.call(&self.scripts.claim, event, &arguments).await?;
        match answer.as_str() {
            "granted" => Ok(Claim::Granted(FencingToken::new(token))),
            "in flight" => Ok(Claim::InFlight),
            "stale" => Ok(Claim::Stale),
            "settled" => {
                if self.confirmed.is_some() {
                    // The commit may have failed because no replica had it. It is acknowledged now.
                    self.commit(event, FencingToken::new(token)).await?;
                }
                Ok(Claim::Settled)
            }
            _ => Err(nonsense()),
        }
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, RedisError> {
        let arguments = [
            &digits(event.ordering_time()),
            &token.get().to_string(),
            &millis(self.window).to_string(),
        ];
        let script = &self.scripts.commit;
        let (answer, _) = match &self.confirmed {
            None => self.call(script, event, &arguments).await?,
            Some(confirmed) => {
                let outcome = self.call_over(confirmed, script, event, &arguments).await;
                if outcome.as_ref().is_err_and(is_nonsense) {
                    confirmed.distrust();
                }
                outcome?
            }
        };
        match answer.as_str() {
            "settled" => Ok(Commit::Settled),
            "overtaken" => Ok(Commit::Overtaken),
            _ => Err(nonsense()),
        }
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), RedisError> {
        let token = token.get().to_string();
        let (answer, _) = self.call(&self.scripts.release, event, &[&token]).await?;
        match answer.as_str() {
            "released" => Ok(()),
            _ => Err(nonsense()),
        }
    }
}

impl<C> RedisLedger<C>
where
    C: ConnectionLike + Clone,
{
    async fn call(
        &self,
        script: &Script,
        event: &EventName,
        arguments: &[&String],
    ) -> Result<Answer, RedisError> {
        let outcome = self
            .call_over(&self.connection, script, event, arguments)
            .await;
        if outcome.as_ref().is_err_and(is_nonsense) {
            if let Some(own) = &self.own {
                own.distrust();
            }
        }
        outcome
    }

    async fn call_over<T>(
        &self,
        connection: &T,
        script: &Script,
        event: &EventName,
        arguments: &[&String],
    ) -> Result<Answer, RedisError>
    where
        T: ConnectionLike + Clone,
    {
        let key = Key::of(event);
        let job = format!("{}{}", self.prefix, key.job);
        let arguments = arguments.iter().map(|argument| argument.as_str());
        let arguments: Vec<&str> = [key.event.as_str()].into_iter().chain(arguments).collect();
        script.call(connection, &job, &arguments).await
    }
}

fn is_nonsense(error: &RedisError) -> bool {
    error.kind() == ErrorKind::UnexpectedReturnType
}

/// A time as text of which the order is that of the times, under every collation: twenty digits of
/// seconds, and nine of a fraction.
fn digits(time: Option<Timestamp>) -> String {
    time.map_or_else(String::new, |time| {
        let since_first = i128::from(time.unix_seconds()) - i128::from(i64::MIN);
        format!("{since_first:020}{:09}", time.subsec_nanos())
    })
}

// By hand, because a connection's may show where it leads, credentials and all.
impl<C> fmt::Debug for RedisLedger<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLedger")
            .field("prefix", &self.prefix)
            .field("window", &self.window)
            .field(
                "replicas",
                &self.confirmed.as_ref().map_or(0, Confirmed::replicas),
            )
            .finish_non_exhaustive()
    }
}
