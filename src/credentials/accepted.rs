//! Accepted credentials, and checking a request's head against them.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use constant_time_eq::constant_time_eq;
use http::header::{AUTHORIZATION, HeaderMap};
use http::request::Parts;

use super::bearer::bearer_token;
use crate::error::{Challenges, Error, ErrorKind};

#[derive(Clone)]
pub(super) enum Accepted {
    Anyone,
    AnyOf {
        secrets: Vec<Secret>,
        closures: Vec<Verify>,
    },
}

/// A scheme and token of an `Authorization` header.
#[derive(Clone)]
pub(super) struct Secret {
    pub(super) scheme: Scheme,
    pub(super) token: Box<[u8]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Basic,
    Bearer,
}

pub(super) type Verify = Arc<dyn Fn(&Parts) -> Verification + Send + Sync>;

/// The future of a closure that checks credentials.
///
/// Its error says that the closure failed or, with the kind `Unauthorized`, that the token is
/// invalid.
pub(crate) type Verification = std::pin::Pin<Box<dyn Future<Output = Result<bool, Error>> + Send>>;

impl Accepted {
    /// Checks the head of a request.
    pub(super) fn check(&self, head: &Parts) -> Check {
        let Ok(authorization) = single_authorization(&head.headers) else {
            return Check::Refused(self.challenges());
        };
        let Accepted::AnyOf { secrets, closures } = self else {
            return Check::Accepted;
        };
        if authorization.is_some_and(|header| matches_any(secrets, header)) {
            return Check::Accepted;
        }
        if closures.is_empty() || authorization.is_some_and(is_malformed) {
            return Check::Refused(self.challenges());
        }
        let verifications: Vec<_> = closures.iter().map(|verify| verify(head)).collect();
        let has_token = bearer_token(head).is_some();
        let verification = Box::pin(any_of(verifications, has_token));
        Check::Undecided(verification, self.challenges())
    }

    /// Returns the schemes that a refusal offers.
    fn challenges(&self) -> Challenges {
        let Accepted::AnyOf { secrets, closures } = self else {
            // No scheme is needed, but a 401 has to name one.
            return Challenges {
                basic: true,
                ..Challenges::default()
            };
        };
        let has = |scheme| secrets.iter().any(|secret| secret.scheme == scheme);
        Challenges {
            basic: has(Scheme::Basic),
            bearer: has(Scheme::Bearer) || !closures.is_empty(),
            invalid_token: false,
        }
    }
}

/// The result of a check, with the schemes that a refusal offers.
///
/// Both come from the same credentials, although these can be replaced at any time.
pub(crate) enum Check {
    Accepted,
    Refused(Challenges),
    Undecided(Verification, Challenges),
}

/// Returns the `Authorization` header, if there is one.
///
/// Two headers are an error: a proxy and this crate could each choose another one.
pub(super) fn single_authorization(headers: &HeaderMap) -> Result<Option<&[u8]>, ()> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(()),
        (value, None) => Ok(value.map(http::HeaderValue::as_bytes)),
    }
}

/// Compares a header with all secrets, even after a match, so that the time reveals nothing.
fn matches_any(secrets: &[Secret], authorization: &[u8]) -> bool {
    let Some((scheme, token)) = split_scheme(authorization) else {
        return false;
    };
    secrets.iter().fold(false, |matched, secret| {
        matched | ((secret.scheme == scheme) & constant_time_eq(&secret.token, token))
    })
}

fn split_scheme(authorization: &[u8]) -> Option<(Scheme, &[u8])> {
    let (scheme, token) = split(authorization)?;
    let scheme = if scheme.eq_ignore_ascii_case(b"basic") {
        Scheme::Basic
    } else if scheme.eq_ignore_ascii_case(b"bearer") {
        Scheme::Bearer
    } else {
        return None;
    };
    Some((scheme, token))
}

/// Returns the scheme, and what follows it.
///
/// Spaces are between them (RFC 9110, section 11.4). White space at the end is no part of the value (section 5.5).
pub(super) fn split(authorization: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = authorization.iter().position(|&byte| byte == b' ')?;
    let (scheme, token) = authorization.split_at(space);
    let spaces = token.iter().take_while(|&&byte| byte == b' ').count();
    Some((scheme, token[spaces..].trim_ascii_end()))
}

/// Returns whether a header is not ASCII, or is malformed for its scheme.
///
/// No secret matches such a header. The check keeps it from the closures.
fn is_malformed(authorization: &[u8]) -> bool {
    if !authorization.is_ascii() {
        return true;
    }
    match split_scheme(authorization) {
        Some((Scheme::Basic, token)) => !STANDARD
            .decode(token)
            .is_ok_and(|pair| pair.contains(&b':')),
        _ => false,
    }
}

/// Returns true as soon as one closure accepts. Otherwise waits for all of them, and returns an
/// error if one failed or, in second place, if one called the request's token invalid.
async fn any_of(mut pending: Vec<Verification>, has_token: bool) -> Result<bool, Error> {
    let is_refusal = |error: &Error| error.kind() == ErrorKind::Unauthorized;
    let mut outcome = Ok(false);
    poll_fn(|context| {
        let mut is_accepted = false;
        pending.retain_mut(|verification| match verification.as_mut().poll(context) {
            Poll::Pending => true,
            Poll::Ready(Ok(accepts)) => {
                is_accepted |= accepts;
                false
            }
            Poll::Ready(Err(error)) => {
                if outcome.is_ok() || !is_refusal(&error) {
                    outcome = Err(error);
                }
                false
            }
        });
        if is_accepted {
            outcome = Ok(true);
        } else if !pending.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
    match outcome {
        // A request without a token is not told that its token is invalid.
        Err(error) if is_refusal(&error) && !has_token => Ok(false),
        outcome => outcome,
    }
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::AnyOf { secrets, closures } = self else {
            return f.write_str("Credentials(unauthenticated)");
        };
        let count = |scheme| {
            secrets
                .iter()
                .filter(|secret| secret.scheme == scheme)
                .count()
        };
        f.debug_struct("Credentials")
            .field("basic", &count(Scheme::Basic))
            .field("bearer", &count(Scheme::Bearer))
            .field("closures", &closures.len())
            .finish()
    }
}
