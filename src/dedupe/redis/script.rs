//! The scripts, and how one is called.

use ::redis::aio::ConnectionLike;
use ::redis::{
    Cmd, ErrorKind, FromRedisValue, RedisResult, Script as Hashed, ServerErrorKind, cmd,
};

pub(super) struct Scripts {
    pub(super) claim: Script,
    pub(super) commit: Script,
    pub(super) release: Script,
}

impl Default for Scripts {
    fn default() -> Self {
        Self {
            claim: Script::new(include_str!("claim.lua")),
            commit: Script::new(include_str!("commit.lua")),
            release: Script::new(include_str!("release.lua")),
        }
    }
}

pub(super) struct Script {
    source: &'static str,
    hash: String,
}

impl Script {
    fn new(source: &'static str) -> Self {
        Self {
            source,
            hash: Hashed::new(source).get_hash().to_owned(),
        }
    }

    /// Calls it; once more if no answer came, since a connection that has been idle may be found
    /// broken only now. Every script may be called twice.
    pub(super) async fn call<C, T>(
        &self,
        connection: &C,
        key: &str,
        arguments: &[&str],
    ) -> RedisResult<T>
    where
        C: ConnectionLike + Clone,
        T: FromRedisValue,
    {
        let mut connection = connection.clone();
        match self.run(&mut connection, key, arguments).await {
            Err(error) if error.is_unrecoverable_error() || error.is_timeout() => {
                self.run(&mut connection, key, arguments).await
            }
            outcome => outcome,
        }
    }

    /// By its hash, or to a server that does not know it yet, by its source: of a cluster, that
    /// asks the one node that has the key.
    async fn run<C, T>(&self, connection: &mut C, key: &str, arguments: &[&str]) -> RedisResult<T>
    where
        C: ConnectionLike,
        T: FromRedisValue,
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
