//! The scripts of the ledger, and calling scripts.

use std::borrow::Cow;
use std::time::Duration;

use ::redis::aio::ConnectionLike;
use ::redis::{
    Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ServerErrorKind, Value, cmd,
    from_redis_value,
};

use super::errors::is_from_replica;
use crate::util::random::random;

/// The pauses between attempts while a cluster's client learns which node is the master.
const PAUSES: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(300),
];

pub(super) struct Scripts {
    pub(super) claim: Script,
    pub(super) commit: Script,
    pub(super) release: Script,
}

impl Default for Scripts {
    fn default() -> Self {
        Self {
            claim: Script::new("claim", include_str!("claim.lua")),
            commit: Script::new("commit", include_str!("commit.lua")),
            release: Script::new("release", include_str!("release.lua")),
        }
    }
}

pub(crate) struct Script {
    name: &'static str,
    source: Cow<'static, str>,
    hash: String,
}

/// The answer of a script, with its token, or 0 if it has none.
pub(super) type Answer = (String, u64);

/// A script's reply: its name, the id of the call, the answer, and what belongs to the answer.
type Reply<T> = (String, String, String, T);

impl Script {
    pub(crate) fn new(name: &'static str, source: impl Into<Cow<'static, str>>) -> Self {
        let source = source.into();
        Self {
            name,
            hash: ::redis::Script::new(&source).get_hash().to_owned(),
            source,
        }
    }

    /// Calls the script, and retries if that can help. A script may run twice.
    ///
    /// The reply repeats the script's name and the id of this call. A reply to another call is an
    /// error: something between this process and the server has mixed up the replies.
    pub(crate) async fn call<C, T>(
        &self,
        connection: &C,
        key: &str,
        arguments: &[&str],
    ) -> RedisResult<(String, T)>
    where
        C: ConnectionLike + Clone,
        T: FromRedisValue,
    {
        let id = random_id();
        let arguments = [arguments, &[&id]].concat();
        let (script, call, answer, details) = self
            .run_and_retry(connection.clone(), key, &arguments)
            .await?;
        if script != self.name || call != id {
            return Err(unexpected_reply());
        }
        if answer == "unknown version" {
            return Err(unknown_version());
        }
        Ok((answer, details))
    }

    async fn run_and_retry<C, T>(
        &self,
        mut connection: C,
        key: &str,
        arguments: &[&str],
    ) -> RedisResult<Reply<T>>
    where
        C: ConnectionLike,
        T: FromRedisValue,
    {
        match self.run(&mut connection, key, arguments).await {
            // A connection that broke while it was idle is noticed only now.
            Err(error) if error.is_unrecoverable_error() || error.is_timeout() => {
                self.run(&mut connection, key, arguments).await
            }
            Err(error) if is_from_replica(&error) => {
                self.retry_on_master(&mut connection, key, arguments, error)
                    .await
            }
            outcome => outcome,
        }
    }

    /// Runs the script again after a replica has answered.
    ///
    /// If a connection to a cluster may read from replicas, a node that is no longer the master
    /// answers a script with READONLY. It answers a write with MOVED, from which the client learns
    /// the new master after a moment. The write here deletes a field that does not exist, so it
    /// changes nothing. On a master it is an error if the key is no hash, which changes nothing too.
    async fn retry_on_master<C, T>(
        &self,
        connection: &mut C,
        key: &str,
        arguments: &[&str],
        mut error: RedisError,
    ) -> RedisResult<Reply<T>>
    where
        C: ConnectionLike,
        T: FromRedisValue,
    {
        for pause in PAUSES {
            let mut probe = cmd("HDEL");
            probe.arg(key).arg("probe");
            let probed: RedisResult<i64> = probe.query_async(connection).await;
            // This is not a cluster: the server of this connection is a replica.
            if probed.is_err_and(|error| is_from_replica(&error)) {
                break;
            }
            tokio::time::sleep(pause).await;
            match self.run(connection, key, arguments).await {
                Err(again) if is_from_replica(&again) => error = again,
                outcome => return outcome,
            }
        }
        Err(error)
    }

    /// Runs the script by its hash, or by its source if the server does not know the hash yet.
    ///
    /// A cluster runs both on the node that has the key.
    async fn run<C, T>(
        &self,
        connection: &mut C,
        key: &str,
        arguments: &[&str],
    ) -> RedisResult<Reply<T>>
    where
        C: ConnectionLike,
        T: FromRedisValue,
    {
        let known = command("EVALSHA", &self.hash, key, arguments);
        let reply: Value = match known.query_async(connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let unknown = command("EVAL", &self.source, key, arguments);
                unknown.query_async(connection).await?
            }
            outcome => outcome?,
        };
        from_redis_value(reply).map_err(|_| unexpected_reply())
    }
}

fn command(name: &str, script: &str, key: &str, arguments: &[&str]) -> Cmd {
    let mut command = cmd(name);
    command.arg(script).arg(1).arg(key).arg(arguments);
    command
}

/// Returns an id that no other call has: each `RandomState` has other keys, which start at random.
fn random_id() -> String {
    format!("{:016x}", random())
}

pub(crate) fn unexpected_reply() -> RedisError {
    RedisError::from((
        ErrorKind::UnexpectedReturnType,
        "unexpected reply to a script",
    ))
}

/// Returns whether the reply was to another call, or of another form. What is no reply at all is another error, after
/// which the client connects again by itself.
pub(crate) fn is_unexpected_reply(error: &RedisError) -> bool {
    error.kind() == ErrorKind::UnexpectedReturnType
}

fn unknown_version() -> RedisError {
    RedisError::from((
        ErrorKind::Client,
        "a later release wrote this job's entry, in a format that this release does not know",
    ))
}
