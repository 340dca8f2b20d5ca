//! Which errors mean that another connection, or another server, would answer better.

use ::redis::{ErrorKind, RedisError, RedisResult, ServerError, ServerErrorKind, Value};

/// The first error within what came back. The client returns a server's errors as values.
fn error_in<'a>(values: impl IntoIterator<Item = &'a Value>) -> Option<RedisError> {
    values.into_iter().find_map(server_error).map(Into::into)
}

fn server_error(value: &Value) -> Option<ServerError> {
    match value {
        Value::ServerError(error) => Some(error.clone()),
        Value::Array(values) | Value::Set(values) | Value::Push { data: values, .. } => {
            values.iter().find_map(server_error)
        }
        Value::Map(entries) => entries
            .iter()
            .find_map(|(key, value)| server_error(key).or_else(|| server_error(value))),
        Value::Attribute { data, .. } => server_error(data),
        _ => None,
    }
}

/// Returns whether a new connection can mend this.
///
/// That is so if the connection broke or stalled, if what came over it was not Redis, and if the
/// server may no longer write: its address may lead to another by now. Any other error of the
/// server (`BUSY`, `LOADING`, `NOAUTH`, `NOREPLICAS`, `OOM`) would be the same on a new one.
fn needs_a_new_connection(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(_) => is_of_a_replica(error),
        // An error that the client does not know. Redis' codes are capital letters.
        ErrorKind::Extension => !error.code().is_some_and(is_a_code),
        _ => true,
    }
}

fn is_a_code(code: &str) -> bool {
    let letter = |letter: u8| letter.is_ascii_uppercase() || letter.is_ascii_digit();
    !code.is_empty() && code.bytes().all(letter)
}

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

/// Returns whether an error came back that a new connection can mend.
pub(super) fn mendable<'a, T: 'a>(
    outcome: &'a RedisResult<T>,
    values: impl FnOnce(&'a T) -> &'a [Value],
) -> bool {
    match outcome {
        Ok(answer) => error_in(values(answer)).is_some_and(|error| needs_a_new_connection(&error)),
        Err(error) => needs_a_new_connection(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(answer: &str) -> Value {
        ::redis::parse_redis_value(answer.as_bytes()).expect("it is Redis")
    }

    #[test]
    fn only_what_a_new_connection_can_mend_costs_one() {
        let old =
            "-ERR Error running script (call to f_0): @user_script:8: -READONLY You can't\r\n";
        let cases = [
            ("-READONLY You can't write\r\n", true),
            (old, true),
            ("-MASTERDOWN Link with MASTER is down\r\n", true),
            ("-nonsense\r\n", true),
            ("-\x00 nonsense\r\n", true),
            ("-BUSY Redis is busy\r\n", false),
            ("-NOAUTH Authentication required.\r\n", false),
            ("-OOM command not allowed\r\n", false),
            ("-NOREPLICAS Not enough good replicas\r\n", false),
            ("-LOADING Redis is loading\r\n", false),
            ("-MISCONF Redis is configured\r\n", false),
            ("-NOSCRIPT No matching script\r\n", false),
            ("-NOPERM this user has no permissions\r\n", false),
            ("-WRONGTYPE Operation\r\n", false),
            ("-ERR unknown command\r\n", false),
            ("+OK\r\n", false),
        ];
        for (answer, expected) in cases {
            let outcome = Ok(parsed(answer));
            assert_eq!(
                mendable(&outcome, std::slice::from_ref),
                expected,
                "{answer}"
            );
            let outcome = Ok(vec![Value::Okay, Value::Array(vec![parsed(answer)])]);
            assert_eq!(
                mendable(&outcome, Vec::as_slice),
                expected,
                "nested {answer}"
            );
        }
    }
}
