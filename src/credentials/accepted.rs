//! What is accepted, and whether a request's head shows it.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use constant_time_eq::constant_time_eq;
use http::header::{AUTHORIZATION, HeaderMap};
use http::request::Parts;

use crate::error::{Challenges, Error};

#[derive(Clone)]
pub(super) enum Accepted {
    Anyone,
    AnyOf {
        secrets: Vec<Secret>,
        closures: Vec<Verify>,
    },
}

/// What follows the scheme in an `Authorization` header.
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

/// A closure's verdict on its way.
pub(crate) type Verification = std::pin::Pin<Box<dyn Future<Output = Result<bool, Error>> + Send>>;

impl Accepted {
    /// What the head alone decides.
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
        let verdicts: Vec<_> = closures.iter().map(|verify| verify(head)).collect();
        Check::Undecided(Box::pin(any_of(verdicts)), self.challenges())
    }

    /// What a refusal offers the sender to try.
    fn challenges(&self) -> Challenges {
        let Accepted::AnyOf { secrets, closures } = self else {
            // There is nothing to try, and a 401 has to name something.
            return Challenges {
                basic: true,
                bearer: false,
            };
        };
        let has = |scheme| secrets.iter().any(|secret| secret.scheme == scheme);
        Challenges {
            basic: has(Scheme::Basic),
            bearer: has(Scheme::Bearer) || !closures.is_empty(),
        }
    }
}

/// The verdict, and what a refusal offers the sender to try: both of the same credentials, which may
/// be replaced at any time.
pub(crate) enum Check {
    Accepted,
    Refused(Challenges),
    Undecided(Verification, Challenges),
}

/// The one `Authorization` header, if there is one. Which of two would count is a guess that two
/// programs on the way may make differently, so two are an error.
fn single_authorization(headers: &HeaderMap) -> Result<Option<&[u8]>, ()> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(()),
        (value, None) => Ok(value.map(http::HeaderValue::as_bytes)),
    }
}

/// Compares with every secret, whichever matched, so that the time tells nothing of the order.
fn matches_any(secrets: &[Secret], authorization: &[u8]) -> bool {
    let Some((scheme, token)) = split_scheme(authorization) else {
        return false;
    };
    secrets.iter().fold(false, |matched, secret| {
        matched | ((secret.scheme == scheme) & constant_time_eq(&secret.token, token))
    })
}

fn split_scheme(authorization: &[u8]) -> Option<(Scheme, &[u8])> {
    let space = authorization.iter().position(|&byte| byte == b' ')?;
    let (scheme, token) = authorization.split_at(space);
    let scheme = if scheme.eq_ignore_ascii_case(b"basic") {
        Scheme::Basic
    } else if scheme.eq_ignore_ascii_case(b"bearer") {
        Scheme::Bearer
    } else {
        return None;
    };
    Some((scheme, token.trim_ascii()))
}

/// Whether a header cannot be what any scheme that is known here sends; no secret is like that, so
/// it is asked only before the closures are.
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

/// True as soon as one is, whatever the others do; an error only if none is.
async fn any_of(mut verdicts: Vec<Verification>) -> Result<bool, Error> {
    let mut refused = Ok(false);
    poll_fn(|context| {
        let mut yes = false;
        verdicts.retain_mut(|verdict| match verdict.as_mut().poll(context) {
            Poll::Pending => true,
            Poll::Ready(said) => {
                match said {
                    Ok(said) => yes |= said,
                    Err(error) => refused = Err(error),
                }
                false
            }
        });
        if yes {
            refused = Ok(true);
        } else if !verdicts.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
    refused
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
