//! The errors that a new connection, or another server, can fix.

use ::redis::{ErrorKind, RedisError, RedisResult, ServerError, ServerErrorKind, Value};

/// Returns whether the outcome contains an error that a new connection can fix.
///
/// The client returns a server's errors as values, which `values` selects.
pub(super) fn needs_reconnection<'a, T: 'a>(
    outcome: &'a RedisResult<T>,
    values: impl FnOnce(&'a T) -> &'a [Value],
) -> bool {
    match outcome {
        Ok(answer) => error_in(values(answer)).is_some_and(|error| is_of_connection(&error)),
        Err(error) => is_of_connection(error),
    }
}

/// Returns whether the server that answered is a replica, or has become one.
pub(super) fn is_from_replica(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) => true,
        // Before Redis 7, an error of a script contains the error that stopped it.
        ErrorKind::Server(ServerErrorKind::ResponseError) => error
            .detail()
            .is_some_and(|detail| detail.contains("-READONLY") || detail.contains("-MASTERDOWN")),
        _ => false,
    }
}

/// Returns whether a new connection can fix this error.
///
/// It can if the connection broke or stalled, or if something other than Redis answered. It also
/// can if the server is read-only, because the address may lead to another server by now. The other
/// errors of a server (`BUSY`, `LOADING`, `NOAUTH`, `NOREPLICAS`, `OOM`) would be the same on a new
/// connection.
fn is_of_connection(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(_) => is_from_replica(error),
        // The client does not know this error. The error codes of Redis are in capital letters.
        ErrorKind::Extension => !error.code().is_some_and(is_error_code),
        _ => true,
    }
}

fn is_error_code(code: &str) -> bool {
    let is_allowed = |letter: u8| letter.is_ascii_uppercase() || letter.is_ascii_digit();
    !code.is_empty() && code.bytes().all(is_allowed)
}

/// Returns the first error in an answer.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(answer: &str) -> Value {
        ::redis::parse_redis_value(answer.as_bytes()).expect("the answer is valid RESP")
    }

    #[test]
    fn only_errors_that_reconnecting_can_fix_need_it() {
        let old =
            "-ERR Error running script (call to f_0): @user_script:8: -READONLY You can't\r\n";
        let cases = [
            ("-READONLY You can't write\r\n", true),
            (old, true),
            ("-MASTERDOWN Link with MASTER is down\r\n", true),
            ("-garbage\r\n", true),
            ("-\x00 garbage\r\n", true),
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
                needs_reconnection(&outcome, std::slice::from_ref),
                expected,
                "{answer}"
            );
            let attribute = |data| Value::Attribute {
                data: Box::new(data),
                attributes: Vec::new(),
            };
            for nested in [
                Value::Array(vec![Value::Okay, parsed(answer)]),
                Value::Map(vec![(Value::Okay, parsed(answer))]),
                Value::Map(vec![(parsed(answer), Value::Okay)]),
                attribute(parsed(answer)),
            ] {
                let outcome = Ok(vec![Value::Okay, nested]);
                assert_eq!(
                    needs_reconnection(&outcome, Vec::as_slice),
                    expected,
                    "nested {answer}"
                );
            }
        }
    }
}
