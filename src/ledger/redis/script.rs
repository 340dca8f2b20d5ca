//! The scripts of the ledger, and calling them.

use std::time::Duration;

use ::redis::aio::ConnectionLike;
use ::redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, cmd};

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

pub(super) struct Script {
    name: &'static str,
    source: &'static str,
    hash: String,
}

/// The answer of a script, with its token, or 0 if it has none.
pub(super) type Answer = (String, u64);

/// A script's reply: its name, the id of the call, and the answer.
type Reply = (String, String, String, u64);

impl Script {
    fn new(name: &'static str, source: &'static str) -> Self {
        Self {
            name,
            source,
            hash: ::redis::Script::new(source).get_hash().to_owned(),
        }
    }

    /// Calls the script, and retries if that can help. Every script is idempotent.
    ///
    /// The reply repeats the script's name and the id of this call. A reply to another call is an
    /// error: something between this process and the server has mixed up the replies.
    pub(super) async fn call<C>(
        &self,
        connection: &C,
        key: &str,
        arguments: &[&str],
    ) -> RedisResult<Answer>
    where
        C: ConnectionLike + Clone,
    {
        let id = random_id();
        let arguments = [arguments, &[&id]].concat();
        let (script, call, answer, token) = self
            .run_and_retry(connection.clone(), key, &arguments)
            .await?;
        if script != self.name || call != id {
            return Err(unexpected_reply());
        }
        if answer == "unknown version" {
            return Err(unknown_version());
        }
        Ok((answer, token))
    }

    async fn run_and_retry<C>(
        &self,
        mut connection: C,
        key: &str,
        arguments: &[&str],
    ) -> RedisResult<Reply>
    where
        C: ConnectionLike,
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
    /// changes nothing.
    async fn retry_on_master<C>(
        &self,
        connection: &mut C,
        key: &str,
        arguments: &[&str],
        mut error: RedisError,
    ) -> RedisResult<Reply>
    where
        C: ConnectionLike,
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
    async fn run<C>(&self, connection: &mut C, key: &str, arguments: &[&str]) -> RedisResult<Reply>
    where
        C: ConnectionLike,
    {
        let known = command("EVALSHA", &self.hash, key, arguments);
        match known.query_async(connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let unknown = command("EVAL", self.source, key, arguments);
                unknown.query_async(connection).await
            }
            outcome => outcome,
        }
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

pub(super) fn unexpected_reply() -> RedisError {
    RedisError::from((
        ErrorKind::UnexpectedReturnType,
        "unexpected reply to a script of the ledger",
    ))
}

pub(super) fn is_unexpected_reply(error: &RedisError) -> bool {
    error.kind() == ErrorKind::UnexpectedReturnType
}

fn unknown_version() -> RedisError {
    RedisError::from((
        ErrorKind::Client,
        "a later release wrote this job's entry, in a format that this release does not know",
    ))
}
