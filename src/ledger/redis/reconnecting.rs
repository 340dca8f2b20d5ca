//! A connection that is opened on first use, and replaced after failures.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult,
    Value,
};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::errors::needs_reconnection;
use super::sentinels::{Master, Sentinels};
use super::subscriber::Subscriber;

/// How long connecting may take, and how long a server may take to answer.
///
/// A call whose connection stalls can retry on another one, and still ends within the 5 s that a
/// ledger has by default.
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);

/// The minimum time from one attempt to connect to the next. While a server is down, this allows
/// five attempts a second, for any number of calls.
const DIAL_INTERVAL: Duration = Duration::from_millis(200);

/// How often the Sentinels are asked for the current master.
pub(super) const MASTER_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The connection of [`RedisLedger::new`](crate::ledger::RedisLedger::new) and
/// [`RedisLedger::from_sentinels`](crate::ledger::RedisLedger::from_sentinels), and of a
/// [`RedisWatchStore`](crate::watch::RedisWatchStore) made in the same ways.
///
/// Clones share one connection. It is replaced
///
/// - if it breaks,
/// - if an answer takes longer than a second,
/// - if something other than Redis answers, or
/// - if the server answers that it is a replica or has lost its master, because the address may
///   lead to another server by now.
///
/// After other errors of the server, such as `BUSY`, `NOAUTH`, `NOREPLICAS` and `OOM`, the
/// connection is kept. It is replaced at most every 200 ms, and calls wait for the new one.
///
/// With Sentinels, it also moves to a new master, within about a second after one of them names
/// it.
#[derive(Clone)]
pub struct Reconnecting(Arc<Inner>);

struct Inner {
    target: Target,
    timeout: Duration,
    current: Mutex<Current>,
}

/// The server to connect to.
#[derive(Clone)]
enum Target {
    Fixed(Client),
    Master(Sentinels),
}

#[derive(Default)]
struct Current {
    attempt: Option<Attempt>,
    /// The number of the attempt, so that a late failure does not discard its successor.
    number: u64,
    last_dial: Option<Instant>,
    /// The epoch of the last master that was left for a later one.
    left: Option<u64>,
}

/// An attempt to connect. The value is `None` until the attempt has ended.
type Attempt = watch::Receiver<Option<RedisResult<MultiplexedConnection>>>;

impl Reconnecting {
    pub(crate) fn new(client: Client) -> Self {
        Self::to(Target::Fixed(client), TIMEOUT)
    }

    pub(super) fn with_timeout(client: Client, timeout: Duration) -> Self {
        Self::to(Target::Fixed(client), timeout)
    }

    pub(crate) fn to_master(sentinels: Sentinels) -> Self {
        Self::to(Target::Master(sentinels), TIMEOUT)
    }

    /// Returns a separate connection to the same server, whose commands may take this much longer.
    pub(super) fn separate(&self, longer: Duration) -> Self {
        Self::to(self.0.target.clone(), TIMEOUT.saturating_add(longer))
    }

    fn to(target: Target, timeout: Duration) -> Self {
        Self(Arc::new(Inner {
            target,
            timeout,
            current: Mutex::default(),
        }))
    }

    /// Opens a connection for subscriptions to the same server.
    pub(crate) async fn subscriber(&self) -> RedisResult<Subscriber> {
        match &self.0.target {
            Target::Fixed(client) => Subscriber::connect(client).await,
            Target::Master(sentinels) => Subscriber::connect_to_master(sentinels).await,
        }
    }

    /// Discards the connection, so that the next call opens another one.
    pub(crate) fn discard(&self) {
        self.0.current().attempt = None;
    }

    /// Returns the connection and the number of its attempt.
    async fn connection(&self) -> RedisResult<(MultiplexedConnection, u64)> {
        let (mut attempt, number) = self.attempt();
        // The task that connects ends with its runtime, or hangs if that runtime stands still.
        let limit = self.0.timeout.saturating_add(TIMEOUT);
        let outcome = timeout(limit, attempt.wait_for(Option::is_some)).await;
        let outcome = outcome.ok().and_then(Result::ok);
        let outcome = outcome.and_then(|ended| ended.clone());
        let outcome = outcome.unwrap_or_else(|| Err(not_opened()));
        if outcome.is_err() {
            self.0.discard(number);
        }
        Ok((outcome?, number))
    }

    /// Returns the current attempt, or starts one.
    ///
    /// The attempt runs in a task of its own. It continues if a call is dropped, and all calls that
    /// wait for it receive its outcome.
    fn attempt(&self) -> (Attempt, u64) {
        let mut current = self.0.current();
        if let Some(attempt) = &current.attempt {
            return (attempt.clone(), current.number);
        }
        let now = Instant::now();
        let dial_at = current
            .last_dial
            .map_or(now, |last| now.max(last + DIAL_INTERVAL));
        let (outcome, attempt) = watch::channel(None);
        current.attempt = Some(attempt.clone());
        current.number += 1;
        current.last_dial = Some(dial_at);
        let (target, timeout, left) = (self.0.target.clone(), self.0.timeout, current.left);
        let (inner, number) = (Arc::downgrade(&self.0), current.number);
        tokio::spawn(async move {
            tokio::time::sleep_until(dial_at).await;
            match target {
                Target::Fixed(client) => {
                    outcome.send_replace(Some(dial(&client, timeout).await));
                }
                Target::Master(sentinels) => match dial_master(&sentinels, left, timeout).await {
                    Ok((connection, master)) => {
                        outcome.send_replace(Some(Ok(connection)));
                        follow(sentinels, master, inner, number).await;
                    }
                    Err(error) => {
                        outcome.send_replace(Some(Err(error)));
                    }
                },
            }
        });
        (attempt, current.number)
    }

    fn discard_if_needed<'a, T: 'a>(
        &self,
        number: u64,
        outcome: &'a RedisResult<T>,
        values: impl FnOnce(&'a T) -> &'a [Value],
    ) {
        if needs_reconnection(outcome, values) {
            self.0.discard(number);
        }
    }
}

impl Inner {
    fn discard(&self, number: u64) {
        let mut current = self.current();
        if current.number == number {
            current.attempt = None;
        }
    }

    /// Discards the connection to a master of this epoch, which has a successor.
    fn leave(&self, number: u64, epoch: u64) {
        self.current().left = Some(epoch);
        self.discard(number);
    }

    fn is_current(&self, number: u64) -> bool {
        let current = self.current();
        current.number == number && current.attempt.is_some()
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        // Only `tokio::spawn` can panic while the lock is held, if there is no runtime. The attempt
        // is then reported as failed to the next call.
        let current = self.current.lock();
        current.unwrap_or_else(PoisonError::into_inner)
    }
}

async fn dial(client: &Client, timeout: Duration) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(TIMEOUT))
        .set_response_timeout(Some(timeout));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// Connects to the master that the Sentinels name, and that is later than the one that was left. Fails if the server has not become
/// a master yet.
async fn dial_master(
    sentinels: &Sentinels,
    left: Option<u64>,
    timeout: Duration,
) -> RedisResult<(MultiplexedConnection, Master)> {
    let mut master = sentinels.master().await?;
    if left.is_some_and(|left| master.epoch <= left) {
        // A majority does not know of the failover yet.
        master = sentinels.latest_master().await?;
    }
    let mut connection = dial(&master.client, timeout).await?;
    let role = ::redis::cmd("ROLE")
        .query_async::<Vec<Value>>(&mut connection)
        .await;
    match role {
        Ok(role) if role.first() != Some(&Value::BulkString(b"master".to_vec())) => {
            Err(RedisError::from((
                ErrorKind::Io,
                "the server that the Sentinels name is not a master yet",
            )))
        }
        // An error with a code is the server's, which may refuse `ROLE` to this user. If the server
        // is no master, the first write fails.
        Err(error) if error.code().is_none() => Err(error),
        _ => Ok((connection, master)),
    }
}

/// Discards this connection once the Sentinels name another master.
///
/// The old master may continue to answer for ten seconds, and everything that it acknowledges is
/// lost.
async fn follow(sentinels: Sentinels, connected: Master, inner: Weak<Inner>, number: u64) {
    loop {
        tokio::time::sleep(MASTER_CHECK_INTERVAL).await;
        if !inner
            .upgrade()
            .is_some_and(|inner| inner.is_current(number))
        {
            return;
        }
        let named = sentinels.latest_master().await;
        if named.is_ok_and(|named| named.succeeds(&connected)) {
            if let Some(inner) = inner.upgrade() {
                inner.leave(number, connected.epoch);
            }
            return;
        }
    }
}

fn not_opened() -> RedisError {
    RedisError::from((ErrorKind::Io, "the connection could not be opened"))
}

impl ConnectionLike for Reconnecting {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let (mut connection, number) = self.connection().await?;
            let outcome = connection.req_packed_command(command).await;
            self.discard_if_needed(number, &outcome, std::slice::from_ref);
            outcome
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let (mut connection, number) = self.connection().await?;
            let outcome = connection
                .req_packed_commands(pipeline, offset, count)
                .await;
            self.discard_if_needed(number, &outcome, Vec::as_slice);
            outcome
        })
    }

    fn get_db(&self) -> i64 {
        match &self.0.target {
            Target::Fixed(client) => client.get_connection_info().redis_settings().db(),
            Target::Master(sentinels) => sentinels.db(),
        }
    }
}

// By hand, because the `Debug` of a client shows its address and credentials.
impl fmt::Debug for Reconnecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconnecting").finish_non_exhaustive()
    }
}
