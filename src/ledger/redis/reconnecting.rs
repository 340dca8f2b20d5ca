//! A connection to one server, made when it is first needed and replaced when a new one can help.

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

use super::mending::mendable;
use super::sentinels::{Master, Sentinels};

/// How long a connection may take to be made, and a server to answer: a call that finds its
/// connection stalled has another made, and is done within the 5 s for which a ledger is waited.
const PATIENCE: Duration = Duration::from_secs(1);

/// From one dial to the next. A server that stays of no use costs five connections a second,
/// however many calls there are.
const BETWEEN_DIALS: Duration = Duration::from_millis(200);

/// How often the Sentinels are asked whether the master is still the one that is connected.
const BETWEEN_QUESTIONS: Duration = Duration::from_secs(1);

/// The connection of [`RedisLedger::new`](crate::ledger::RedisLedger::new) and
/// [`RedisLedger::from_sentinels`](crate::ledger::RedisLedger::from_sentinels).
///
/// Clones share one connection. It is replaced if it breaks, if an answer takes longer than a
/// second, if something other than Redis answers, and if the server answers that it is a replica
/// or has lost its master: its address may lead to another server by now. Other errors of the
/// server, such as `BUSY`, `NOAUTH`, `NOREPLICAS` and `OOM`, keep the connection. It is
/// replaced at most every 200 ms; calls wait for the new one.
///
/// With Sentinels, it also moves to another master within about a second of the Sentinels'
/// naming it.
#[derive(Clone)]
pub struct Reconnecting(Arc<Inner>);

struct Inner {
    target: Target,
    patience: Duration,
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
    /// How many there were, so that a failure of one does not end the next.
    number: u64,
    dialled: Option<Instant>,
}

/// A connection that is there, or being made: `None` as long as it is.
type Attempt = watch::Receiver<Option<RedisResult<MultiplexedConnection>>>;

impl Reconnecting {
    pub(super) fn new(client: Client) -> Self {
        Self::to(Target::Fixed(client), PATIENCE)
    }

    pub(super) fn with_patience(client: Client, patience: Duration) -> Self {
        Self::to(Target::Fixed(client), patience)
    }

    pub(super) fn to_master(sentinels: Sentinels) -> Self {
        Self::to(Target::Master(sentinels), PATIENCE)
    }

    /// Another connection to the same server, for commands that take this much longer.
    pub(super) fn another(&self, longer: Duration) -> Self {
        Self::to(self.0.target.clone(), PATIENCE.saturating_add(longer))
    }

    fn to(target: Target, patience: Duration) -> Self {
        Self(Arc::new(Inner {
            target,
            patience,
            current: Mutex::default(),
        }))
    }

    /// Replaces the connection at the next call: it mixed answers up.
    pub(super) fn distrust(&self) {
        self.0.current().attempt = None;
    }

    /// The connection and its number.
    async fn connection(&self) -> RedisResult<(MultiplexedConnection, u64)> {
        let (mut attempt, number) = self.attempt();
        // A runtime that shuts down ends the task that makes it, and one that stands still never does.
        let patience = self.0.patience.saturating_add(PATIENCE);
        let outcome = timeout(patience, attempt.wait_for(Option::is_some)).await;
        let outcome = outcome.ok().and_then(Result::ok);
        let outcome = outcome.and_then(|made| made.clone());
        let outcome = outcome.unwrap_or_else(|| Err(given_up()));
        if outcome.is_err() {
            self.0.forget(number);
        }
        Ok((outcome?, number))
    }

    /// The attempt of now. It belongs to no call: one that is given up does not end it, and all
    /// that wait for it hear what it came to.
    fn attempt(&self) -> (Attempt, u64) {
        let mut current = self.0.current();
        if let Some(attempt) = &current.attempt {
            return (attempt.clone(), current.number);
        }
        let now = Instant::now();
        let dial_at = current
            .dialled
            .map_or(now, |last| now.max(last + BETWEEN_DIALS));
        let (made, attempt) = watch::channel(None);
        current.attempt = Some(attempt.clone());
        current.number += 1;
        current.dialled = Some(dial_at);
        let (target, patience) = (self.0.target.clone(), self.0.patience);
        let (inner, number) = (Arc::downgrade(&self.0), current.number);
        tokio::spawn(async move {
            tokio::time::sleep_until(dial_at).await;
            match target {
                Target::Fixed(client) => {
                    made.send_replace(Some(dial(&client, patience).await));
                }
                Target::Master(sentinels) => match sentinels.master().await {
                    Ok(master) => {
                        let connection = dial_master(&master, patience).await;
                        let connected = connection.is_ok();
                        made.send_replace(Some(connection));
                        if connected {
                            follow(sentinels, master, inner, number).await;
                        }
                    }
                    Err(error) => {
                        made.send_replace(Some(Err(error)));
                    }
                },
            }
        });
        (attempt, current.number)
    }

    fn forget_if_mendable<'a, T: 'a>(
        &self,
        number: u64,
        outcome: &'a RedisResult<T>,
        values: impl FnOnce(&'a T) -> &'a [Value],
    ) {
        if mendable(outcome, values) {
            self.0.forget(number);
        }
    }
}

impl Inner {
    fn forget(&self, number: u64) {
        let mut current = self.current();
        if current.number == number {
            current.attempt = None;
        }
    }

    fn is_current(&self, number: u64) -> bool {
        let current = self.current();
        current.number == number && current.attempt.is_some()
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        // Nothing panics while it is held, unless there is no tokio to spawn on: the next call
        // then hears that the attempt was given up.
        let current = self.current.lock();
        current.unwrap_or_else(PoisonError::into_inner)
    }
}

async fn dial(client: &Client, patience: Duration) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(patience));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// Connects to the server that Sentinel names, if it is a master: it may not know of it yet.
async fn dial_master(master: &Master, patience: Duration) -> RedisResult<MultiplexedConnection> {
    let mut connection = dial(&master.client, patience).await?;
    let role = ::redis::cmd("ROLE")
        .query_async::<Vec<Value>>(&mut connection)
        .await;
    match role {
        Ok(role) if role.first() != Some(&Value::BulkString(b"master".to_vec())) => {
            Err(RedisError::from((
                ErrorKind::Io,
                "the server that Sentinel names is not a master yet",
            )))
        }
        // A user that may not ask: the first write tells.
        Err(error) if error.code().is_none() => Err(error),
        _ => Ok(connection),
    }
}

/// Gives this connection up once the Sentinels name another master. The old one may go on
/// answering for ten seconds, and all that it acknowledges is lost.
async fn follow(sentinels: Sentinels, connected: Master, inner: Weak<Inner>, number: u64) {
    loop {
        tokio::time::sleep(BETWEEN_QUESTIONS).await;
        if !inner
            .upgrade()
            .is_some_and(|inner| inner.is_current(number))
        {
            return;
        }
        let named = sentinels.latest_master().await;
        if named.is_ok_and(|named| named.succeeds(&connected)) {
            if let Some(inner) = inner.upgrade() {
                inner.forget(number);
            }
            return;
        }
    }
}

fn given_up() -> RedisError {
    RedisError::from((ErrorKind::Io, "the connection was not made"))
}

impl ConnectionLike for Reconnecting {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let (mut connection, number) = self.connection().await?;
            let outcome = connection.req_packed_command(command).await;
            self.forget_if_mendable(number, &outcome, std::slice::from_ref);
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
            self.forget_if_mendable(number, &outcome, Vec::as_slice);
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

// By hand, because a client's shows where it leads, credentials and all.
impl fmt::Debug for Reconnecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconnecting").finish_non_exhaustive()
    }
}
