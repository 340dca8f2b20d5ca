//! Commits that Redis' replicas have.

use std::time::Duration;

use ::redis::aio::ConnectionLike;
use ::redis::{Cmd, Pipeline, RedisFuture, Value, from_redis_value, make_extension_error, pipe};

use super::Reconnecting;
use crate::ledger::lease::millis;

/// A connection on which each command waits until the replicas have what it wrote.
///
/// The server answers nothing else on a connection that waits, so it is one of its own. `WAIT`
/// is for what its own connection has written; both go in one round trip.
#[derive(Clone)]
pub(super) struct Confirmed {
    connection: Reconnecting,
    replicas: usize,
    timeout: Duration,
}

impl Confirmed {
    pub(super) fn on(shared: &Reconnecting, replicas: usize, timeout: Duration) -> Self {
        Self {
            connection: shared.another(timeout),
            replicas,
            timeout,
        }
    }

    pub(super) fn replicas(&self) -> usize {
        self.replicas
    }

    pub(super) fn distrust(&self) {
        self.connection.distrust();
    }
}

impl ConnectionLike for Confirmed {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let mut both = pipe();
            both.add_command(command.clone());
            both.cmd("WAIT")
                .arg(self.replicas)
                .arg(millis(self.timeout));
            let answers = self.connection.req_packed_commands(&both, 0, 2).await?;
            let [answer, waited] =
                <[Value; 2]>::try_from(answers).map_err(|_| super::nonsense())?;
            let answer = answer.extract_error()?;
            let reached: usize = from_redis_value(waited.extract_error()?)?;
            if reached < self.replicas {
                let detail = format!("a commit reached {reached} of {} replicas", self.replicas);
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
        // No script is called so.
        self.connection.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}
