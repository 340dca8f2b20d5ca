//! A connection to one server, made when it is first needed and anew whenever it is of no use.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult,
    ServerErrorKind, Value,
};
use tokio::sync::Mutex;

/// How long a connection may take to be made, and a server to answer. Two of each, which is what
/// one call takes at the most, are less than the 5 s for which a ledger is waited.
const PATIENCE: Duration = Duration::from_secs(1);

/// The connection of [`RedisLedger::new`](crate::RedisLedger::new).
///
/// A clone is the same connection; calls share it. What made it useless is forgotten, whatever it
/// was: it broke, it stalled for a second, what came over it was not Redis, or the server is no
/// longer the one that may write. The next call makes another. (The `ConnectionManager`
/// of redis 1.2 does not connect again after an error that is not one of input and output, and
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
    connection: Option<MultiplexedConnection>,
    /// How many there were, so that a failure of one does not end the next.
    number: u64,
}

impl Reconnecting {
    pub(super) fn new(client: Client) -> Self {
        Self(Arc::new(Inner {
            client,
            current: Mutex::default(),
        }))
    }

    /// The connection and its number. While one call makes it, the others wait for that.
    async fn current(&self) -> RedisResult<(MultiplexedConnection, u64)> {
        let mut current = self.0.current.lock().await;
        let connection = match &current.connection {
            Some(connection) => connection.clone(),
            None => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(PATIENCE))
                    .set_response_timeout(Some(PATIENCE));
                let client = &self.0.client;
                let made = client.get_multiplexed_async_connection_with_config(&config);
                let connection = made.await?;
                current.connection = Some(connection.clone());
                current.number += 1;
                connection
            }
        };
        Ok((connection, current.number))
    }

    async fn forget_if_useless<T>(&self, number: u64, outcome: &RedisResult<T>) {
        if outcome.as_ref().is_err_and(is_useless_after) {
            let mut current = self.0.current.lock().await;
            if current.number == number {
                current.connection = None;
            }
        }
    }
}

/// A server that answers, and may write, has a connection that is good.
fn is_useless_after(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(kind) => matches!(
            kind,
            ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown
        ),
        _ => true,
    }
}

impl ConnectionLike for Reconnecting {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let (mut connection, number) = self.current().await?;
            let outcome = connection.req_packed_command(command).await;
            self.forget_if_useless(number, &outcome).await;
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
            let (mut connection, number) = self.current().await?;
            let outcome = connection
                .req_packed_commands(pipeline, offset, count)
                .await;
            self.forget_if_useless(number, &outcome).await;
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
