//! The scripts, and how one is called.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use ::redis::aio::ConnectionLike;
use ::redis::{Cmd, ErrorKind, RedisError, RedisResult, Script as Hashed, ServerErrorKind, cmd};

use super::mending;

/// How long a cluster's client may take to learn who the master is.
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

/// The answer, and the token that belongs to it, or 0.
pub(super) type Answer = (String, u64);

impl Script {
    fn new(name: &'static str, source: &'static str) -> Self {
        Self {
            name,
            source,
            hash: Hashed::new(source).get_hash().to_owned(),
        }
    }

    /// Calls it, and once more if that can help. Every script may be called twice.
    ///
    /// The answer repeats the script's name and a number that only this call has. An answer to
    /// anything else is an error: something between here and the server has mixed them up.
    pub(super) async fn call<C>(
        &self,
        connection: &C,
        key: &str,
        arguments: &[&str],
    ) -> RedisResult<Answer>
    where
        C: ConnectionLike + Clone,
    {
        let this_call = one_of_a_kind();
        let arguments = [arguments, &[&this_call]].concat();
        let (script, call, answer, number) =
            self.called(connection.clone(), key, &arguments).await?;
        if script != self.name || call != this_call {
            return Err(nonsense());
        }
        if answer == "unknown version" {
            return Err(unknown_version());
        }
        Ok((answer, number))
    }

    async fn called<C>(
        &self,
        mut connection: C,
        key: &str,
        arguments: &[&str],
    ) -> RedisResult<(String, String, String, u64)>
    where
        C: ConnectionLike,
    {
        match self.run(&mut connection, key, arguments).await {
            // A connection that has been idle may be found broken only now.
            Err(error) if error.is_unrecoverable_error() || error.is_timeout() => {
                self.run(&mut connection, key, arguments).await
            }
            Err(error) if mending::is_of_a_replica(&error) => {
                self.run_elsewhere(&mut connection, key, arguments, error)
                    .await
            }
            outcome => outcome,
        }
    }

    /// Calls it again after a replica has answered.
    ///
    /// In a cluster, a node that is no longer the master answers a script with READONLY, over
    /// connections that may read from replicas. It answers a write with MOVED, from which the client
    /// learns who the master is, after a moment. This write changes nothing, wherever it arrives.
    async fn run_elsewhere<C>(
        &self,
        connection: &mut C,
        key: &str,
        arguments: &[&str],
        mut error: RedisError,
    ) -> RedisResult<(String, String, String, u64)>
    where
        C: ConnectionLike,
    {
        for pause in PAUSES {
            let mut probe = cmd("HDEL");
            probe.arg(key).arg("probe");
            let probed: RedisResult<i64> = probe.query_async(connection).await;
            // Not a cluster: the server of this connection is a replica.
            if probed.is_err_and(|error| mending::is_of_a_replica(&error)) {
                break;
            }
            tokio::time::sleep(pause).await;
            match self.run(connection, key, arguments).await {
                Err(again) if mending::is_of_a_replica(&again) => error = again,
                outcome => return outcome,
            }
        }
        Err(error)
    }

    /// By its hash, or to a server that does not know it yet, by its source: of a cluster, that
    /// asks the one node that has the key.
    async fn run<C>(
        &self,
        connection: &mut C,
        key: &str,
        arguments: &[&str],
    ) -> RedisResult<(String, String, String, u64)>
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

/// No other call has it: `RandomState` has random keys, and others for each that is made.
fn one_of_a_kind() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

pub(super) fn nonsense() -> RedisError {
    RedisError::from((
        ErrorKind::UnexpectedReturnType,
        "a ledger's script answered what it cannot answer",
    ))
}

fn unknown_version() -> RedisError {
    RedisError::from((
        ErrorKind::Client,
        "a later release wrote this job's entry, in a shape that this one does not know",
    ))
}
