//! Which errors mean that another server would answer better.

use ::redis::{ErrorKind, RedisError, ServerErrorKind};

/// Returns whether the server that answered is, or was made, another's replica.
pub(super) fn is_of_a_replica(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) => true,
        // Before Redis 7, what stopped a script is told within another error.
        ErrorKind::Server(ServerErrorKind::ResponseError) => error
            .detail()
            .is_some_and(|detail| detail.contains("-READONLY") || detail.contains("-MASTERDOWN")),
        _ => false,
    }
}
