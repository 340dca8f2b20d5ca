//! Reading the bearer token off the head of a request.

use http::request::Parts;

use super::accepted::{single_authorization, split};

/// Returns the one bearer token of a request, for closures of
/// [`Credentials::verify`](crate::Credentials::verify).
///
/// Returns `None` unless the request has exactly one `Authorization` header, and the header is the
/// scheme `Bearer`, in any case, with one token in the grammar of RFC 6750, section 2.1: letters,
/// digits and `-._~+/`, and `=` at the end only. Tokens in the query and in forms are not read.
///
/// # Example
///
/// [`InvalidToken`](super::InvalidToken) has an example.
#[must_use]
pub fn bearer_token(head: &Parts) -> Option<&str> {
    let authorization = single_authorization(&head.headers).ok()??;
    let (scheme, token) = split(authorization)?;
    let token = std::str::from_utf8(token).ok()?;
    (scheme.eq_ignore_ascii_case(b"bearer") && is_token68(token)).then_some(token)
}

/// Returns whether a text is a `b64token` of RFC 6750, which is the `token68` of RFC 9110.
fn is_token68(text: &str) -> bool {
    let characters = text.trim_end_matches('=').as_bytes();
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(byte);
    !characters.is_empty() && characters.iter().all(is_part)
}
