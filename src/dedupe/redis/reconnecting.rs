//! A connection to one server, made when it is first needed and replaced when a new one can help.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult,
    Value,
};
use tokio::sync::watch;
use tokio::time::Instant;

use super::mending::mendable;

/// How long a connection may take to be made, and a server to answer: a call that finds its
/// connection stalled has another made, and is done within the 5 s for which a ledger is waited.
const PATIENCE: Duration = Duration::from_secs(1);

/// From one dial to the next. A server that stays of no use costs five connections a second,
/// however many calls there are.
const BETWEEN_DIALS: Duration = Duration::from_millis(200);

/// The connection of [`RedisLedger::new`](crate::RedisLedger::new).
///
/// Clones share one connection. It is replaced if it breaks, if an answer takes longer than a
/// second, if something other than Redis answers, and if the server answers that it is a replica
/// or has lost its master: its address may lead to another server by now. Other errors of the
/// server, such as `BUSY`, `NOAUTH`, `NOREPLICAS` and `OOM`, keep the connection. It is
/// replaced at most every 200 ms; calls wait for the new one.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{Reconnecting, RedisLedger};
///
/// // The server need not be reachable yet.
/// let client = redis::Client::open("redis://:secret@127.0.0.1/")?;
/// let ledger: RedisLedger<Reconnecting> = RedisLedger::new(client);
/// assert!(!format!("{ledger:?}").contains("secret"));
/// # Ok::<(), redis::RedisError>(())
/// ```
#[derive(Clone)]
pub struct Reconnecting(Arc<Inner>);

struct Inner {
    client: Client,
    current: Mutex<Current>,
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
        Self(Arc::new(Inner {
            client,
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
        let outcome = attempt.wait_for(Option::is_some).await;
        let outcome = outcome.ok().and_then(|made| made.clone());
        // A runtime that shuts down ends the task that makes it.
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
        let client = self.0.client.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(dial_at).await;
            made.send_replace(Some(dial(&client).await));
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

    fn current(&self) -> MutexGuard<'_, Current> {
        // Nothing panics while it is held, unless there is no tokio to spawn on: the next call
        // then hears that the attempt was given up.
        let current = self.current.lock();
        current.unwrap_or_else(PoisonError::into_inner)
    }
}

async fn dial(client: &Client) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
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
        self.0.client.get_connection_info().redis_settings().db()
    }
}

// By hand, because a client's shows where it leads, credentials and all.
impl fmt::Debug for Reconnecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconnecting").finish_non_exhaustive()
    }
}
