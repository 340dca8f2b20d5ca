//! A connection to one server, made when it is first needed and anew whenever it is of no use.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult,
    ServerErrorKind, Value,
};
use tokio::sync::watch;

/// How long a connection may take to be made, and a server to answer: a call that finds its
/// connection stalled has another made, and is done within the 5 s for which a ledger is waited.
const PATIENCE: Duration = Duration::from_secs(1);

/// The connection of [`RedisLedger::new`](crate::RedisLedger::new).
///
/// A clone is the same connection; calls share it. What made it useless is forgotten, whatever it
/// was: it broke, it stalled for a second, what came over it was not Redis, or the server is no
/// longer the one that may write. The next call makes another. (The `ConnectionManager` of
/// redis 1.2 does not connect again after an error that is not one of input and output, and
/// waits for the kernel where a connection stalls.)
///
/// # Example
///
/// ```
/// use mx_job_webhook::RedisLedger;
///
/// // Nobody has to be there yet.
/// let ledger = RedisLedger::new(redis::Client::open("redis://127.0.0.1/")?);
/// assert!(format!("{ledger:?}").contains("mx-job-webhook:"));
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

    /// The connection and its number.
    async fn connection(&self) -> RedisResult<(MultiplexedConnection, u64)> {
        let (mut attempt, number) = self.attempt();
        let outcome = attempt.wait_for(Option::is_some).await;
        let outcome = outcome.ok().and_then(|made| made.clone());
        // A runtime that shuts down ends the task that makes it.
        let outcome = outcome.unwrap_or_else(|| Err(given_up()));
        if outcome.is_err() {
            self.forget(number);
        }
        Ok((outcome?, number))
    }

    /// The attempt of now. It belongs to no call: one that is given up does not end it, and all
    /// that wait for it hear what it came to.
    fn attempt(&self) -> (Attempt, u64) {
        let mut current = self.current();
        if let Some(attempt) = &current.attempt {
            return (attempt.clone(), current.number);
        }
        let (made, attempt) = watch::channel(None);
        let client = self.0.client.clone();
        tokio::spawn(async move {
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(PATIENCE))
                .set_response_timeout(Some(PATIENCE));
            let connection = client.get_multiplexed_async_connection_with_config(&config);
            made.send_replace(Some(connection.await));
        });
        current.attempt = Some(attempt.clone());
        current.number += 1;
        (attempt, current.number)
    }

    fn forget(&self, number: u64) {
        let mut current = self.current();
        if current.number == number {
            current.attempt = None;
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        // Nothing panics while it is held, unless there is no tokio to spawn on: nothing changed.
        let current = self.0.current.lock();
        current.unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_if_useless<T>(&self, number: u64, outcome: &RedisResult<T>) {
        if outcome.as_ref().is_err_and(is_useless_after) {
            self.forget(number);
        }
    }
}

fn given_up() -> RedisError {
    RedisError::from((ErrorKind::Io, "the connection was not made"))
}

/// A server that answers, and may write, has a connection that is good.
fn is_useless_after(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) => true,
        // Before Redis 7, what stopped a script is told within another error.
        ErrorKind::Server(_) => error
            .detail()
            .is_some_and(|detail| detail.contains("-READONLY") || detail.contains("-MASTERDOWN")),
        _ => true,
    }
}

impl ConnectionLike for Reconnecting {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let (mut connection, number) = self.connection().await?;
            let outcome = connection.req_packed_command(command).await;
            self.forget_if_useless(number, &outcome);
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
            self.forget_if_useless(number, &outcome);
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
