//! The connection for changes that wait for Redis' replicas.

use std::time::Duration;

use ::redis::aio::ConnectionLike;
use ::redis::{Cmd, Pipeline, RedisFuture, Value, from_redis_value, make_extension_error, pipe};

use super::Reconnecting;
use super::script::unexpected_reply;
use crate::ledger::lease::millis;

/// A connection on which each command waits until the replicas have its writes.
///
/// It is a separate connection, because the server answers nothing else on a connection that waits.
/// The command and its `WAIT`, which covers only the writes of its own connection, take one round
/// trip.
#[derive(Clone)]
pub(crate) struct ReplicatedConnection {
    connection: Reconnecting,
    replicas: usize,
    timeout: Duration,
}

impl ReplicatedConnection {
    pub(crate) fn new(shared: &Reconnecting, replicas: usize, timeout: Duration) -> Self {
        Self {
            connection: shared.separate(timeout),
            replicas,
            timeout,
        }
    }

    pub(crate) fn replicas(&self) -> usize {
        self.replicas
    }

    pub(crate) fn discard(&self) {
        self.connection.discard();
    }
}

impl ConnectionLike for ReplicatedConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let mut commands = pipe();
            commands.add_command(command.clone());
            commands
                .cmd("WAIT")
                .arg(self.replicas)
                .arg(millis(self.timeout));
            let answers = self.connection.req_packed_commands(&commands, 0, 2).await?;
            let [answer, reached] =
                <[Value; 2]>::try_from(answers).map_err(|_| unexpected_reply())?;
            let answer = answer.extract_error()?;
            let reached = from_redis_value(reached.extract_error()?);
            let reached: usize = reached.map_err(|_| unexpected_reply())?;
            if reached < self.replicas {
                let detail = format!("the change reached {reached} of {} replicas", self.replicas);
                return Err(make_extension_error("NOREPLICAS".to_owned(), Some(detail)));
            }
            Ok(answer)
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        // Scripts are not called in pipelines, so this need not wait for replicas.
        self.connection.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}
