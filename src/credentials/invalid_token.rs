//! Refusals that tell the sender to fetch a new token.

use std::fmt;

use tower::BoxError;

use crate::error::chain;
use crate::util::catch_panic::catch;

/// The error of a closure of [`Credentials::verify`](crate::Credentials::verify) that finds the
/// bearer token expired, revoked or otherwise invalid.
///
/// Unlike other errors it is a refusal. The answer is 401, and its `WWW-Authenticate` says
/// `error="invalid_token"`, from which an OAuth client learns that it has to fetch a new token
/// (RFC 6750, section 3.1). If [`bearer_token`](super::bearer_token) finds no token in the request,
/// the answer is that of `false`, which names no error. Other closures decide as always: if one of
/// them accepts, the request is accepted; if one of them fails, the answer is 503.
///
/// The cause that it is made with reaches `on_error` in the chain of
/// [`source`](std::error::Error::source)s, and never the sender. The error may be anywhere in the
/// chain of sources of the closure's error.
///
/// # Example
///
/// ```
/// use mx_job_webhook::credentials::{InvalidToken, bearer_token};
/// use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
/// # use axum::body::Body; use http::Request; use tower::{BoxError, ServiceExt};
///
/// // Verifies a signature, or asks the issuer. Any other error means that it could not.
/// async fn check(token: &str) -> Result<(), BoxError> {
///     match token {
///         "valid" => Ok(()),
/// #       "down" => Err("the issuer is down".into()),
///         _ => Err(InvalidToken::new("expired").into()),
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let credentials = Credentials::verify(|head| {
///     let token = bearer_token(head).map(str::to_owned);
///     async move {
///         let Some(token) = token else { return Ok(false) };
///         check(&token).await.map(|()| true)
///     }
/// });
/// let webhooks = JobWebhook::new(credentials, JobRouter::new());
///
/// let delivery = Request::post("/").header("authorization", "Bearer old");
/// let answer = webhooks.clone().oneshot(delivery.body(Body::empty())?).await?;
/// assert_eq!(answer.status(), 401);
/// let challenge = r#"Bearer realm="webhooks", error="invalid_token""#;
/// assert_eq!(answer.headers()["www-authenticate"], challenge);
/// # let delivery = Request::post("/").header("authorization", "Bearer down");
/// # assert_eq!(webhooks.oneshot(delivery.body(Body::empty())?).await?.status(), 503);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct InvalidToken(Mark);

/// Marks a chain of sources as that of an invalid token.
///
/// It is a separate error because an `anyhow::Error` that is made from an `InvalidToken` shows only
/// the sources.
#[derive(Debug)]
struct Mark(BoxError);

impl InvalidToken {
    /// Returns the error, with its cause.
    pub fn new(cause: impl Into<BoxError>) -> Self {
        Self(Mark(cause.into()))
    }

    /// Returns whether this error, or one of its sources, is an `InvalidToken`.
    pub(super) fn is_in(error: &BoxError) -> bool {
        // `source()` is code of the application. If it panics, the closure has failed.
        catch(|| chain(&**error).any(|error| error.is::<Mark>())).unwrap_or(false)
    }
}

impl fmt::Display for InvalidToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bearer token is invalid or expired")
    }
}

impl std::error::Error for InvalidToken {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bearer token is invalid or expired")
    }
}

impl std::error::Error for Mark {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}
