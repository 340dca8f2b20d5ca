//! The scripts, and how one is called.

use ::redis::aio::ConnectionLike;
use ::redis::{FromRedisValue, RedisResult, Script, ScriptInvocation};

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

/// Calls a script; once more if no answer came, since a connection that has been idle may be found
/// broken only now. Every script may be called twice.
pub(super) async fn call<C, T>(connection: &C, script: &ScriptInvocation<'_>) -> RedisResult<T>
where
    C: ConnectionLike + Clone,
    T: FromRedisValue,
{
    let mut connection = connection.clone();
    match script.invoke_async(&mut connection).await {
        Err(error) if error.is_unrecoverable_error() || error.is_timeout() => {
            script.invoke_async(&mut connection).await
        }
        outcome => outcome,
    }
}
