//! Credentials: HTTP Basic, bearer tokens, closures, and combinations of them.
//!
//! This module decides which senders may deliver. It uses `util` and `error`.

mod accepted;
mod bearer;
mod handle;
mod invalid_token;
mod verdict;

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;

use crate::error::{Error, ErrorKind};
use crate::util::catch_panic::{CatchDrop, CatchPanic, Panicked};
use accepted::{Accepted, Scheme, Secret, Verify};
pub(crate) use accepted::{Check, Verification};
pub use bearer::bearer_token;
pub use handle::CredentialsHandle;
use handle::Source;
pub use invalid_token::InvalidToken;
pub use verdict::Verdict;

/// The credentials that a sender needs. They are checked before the body is read.
///
/// MX offers HTTP Basic, bearer tokens of OAuth 2's client-credentials flow, and mutual TLS (MX's
/// page on webhooks, *security*). It does not sign its requests. [`basic`](Credentials::basic) and
/// [`bearer`](Credentials::bearer) compare in constant time: the time of a refusal reveals at most
/// the length of the secret. For everything else, [`verify`](Credentials::verify) takes a closure.
///
/// A request with two `Authorization` headers is always refused. A request with a malformed one is
/// refused unless the credentials are [`unauthenticated`](Credentials::unauthenticated). A header
/// is malformed if it is not ASCII, or if it is Basic and its token is not Base64 or has no colon.
///
/// Clones are cheap. `Debug` shows how many secrets and closures there are, but no secret.
///
/// # Example
///
/// To rotate a password, accept both until MX uses the new one:
///
/// ```
/// use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
/// # use axum::body::Body; use http::Request; use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let credentials = Credentials::basic("mx", "new secret")?
///     .or(Credentials::basic("mx", "secret")?);
/// let webhooks = JobWebhook::new(credentials, JobRouter::new());
///
/// let delivery = Request::post("/")
///     .header("authorization", "Basic bXg6c2VjcmV0") // mx:secret
///     .header("content-type", "application/json")
///     .body(Body::from(r#"{"job": {"guid": "JOB-1", "status": 6}}"#))?;
/// assert_eq!(webhooks.oneshot(delivery).await?.status(), 204);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Credentials(Source);

impl Credentials {
    /// Returns credentials that accept HTTP Basic with this user and password, in UTF-8.
    ///
    /// # Errors
    ///
    /// If the user or the password is empty or has a control character, or if the user has a colon.
    /// A client cannot send such credentials (RFC 7617), or they protect nothing.
    pub fn basic(user: &str, password: &str) -> Result<Self, CredentialsError> {
        if user.is_empty() || password.is_empty() {
            return Err(CredentialsError(
                "the user and the password must not be empty",
            ));
        }
        if user.contains(':') {
            return Err(CredentialsError("the user must not contain a colon"));
        }
        if user.chars().chain(password.chars()).any(char::is_control) {
            return Err(CredentialsError(
                "the user and the password must not contain control characters",
            ));
        }
        let token = STANDARD.encode(format!("{user}:{password}"));
        Ok(Self::secret(Scheme::Basic, token))
    }

    /// Returns credentials that accept this bearer token.
    ///
    /// # Errors
    ///
    /// If the token is empty, or has characters other than visible ASCII. A client cannot send it.
    pub fn bearer(token: &str) -> Result<Self, CredentialsError> {
        if token.is_empty() {
            return Err(CredentialsError("the token must not be empty"));
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(CredentialsError(
                "the token must consist of visible ASCII characters",
            ));
        }
        Ok(Self::secret(Scheme::Bearer, token.to_owned()))
    }

    /// Returns credentials that an async closure checks, by the request's head.
    ///
    /// Use it for mutual TLS that a proxy reports in a header, or for tokens with a signature. The
    /// closure copies what it needs from the head, and returns a future of `bool` or
    /// `Result<bool, E>`:
    ///
    /// - `true` accepts the request, and `false` refuses it with 401.
    /// - [`InvalidToken`] refuses it with 401 too, and tells the sender to fetch another token. To
    ///   read the token that the request has, call [`bearer_token`].
    /// - Any other `Err` and a panic are answered 503, because the credentials could not be checked. So is a
    ///   future that takes longer than the read timeout. MX then delivers the event again.
    ///
    /// The closure runs only if no secret of these credentials matches.
    ///
    /// # Example
    ///
    /// The application trusts the proxy's header, so it must be reachable only through the proxy.
    ///
    /// ```
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
    /// # use axum::body::Body; use http::Request; use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let credentials = Credentials::verify(|head| {
    ///     let subject = head.headers.get("x-client-cert-dn").cloned();
    ///     async move { subject.is_some_and(|subject| subject == "CN=webhooks.mx.com") }
    /// });
    /// let webhooks = JobWebhook::new(credentials, JobRouter::new());
    ///
    /// let delivery = Request::post("/").header("x-client-cert-dn", "CN=example.com");
    /// assert_eq!(webhooks.oneshot(delivery.body(Body::empty())?).await?.status(), 401);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn verify<F, Fut>(verify: F) -> Self
    where
        F: Fn(&Parts) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Verdict> + Send + 'static,
    {
        let verify = CatchDrop::new(verify);
        let verify: Verify = Arc::new(move |head| {
            let verdict = CatchPanic::start(|| verify(head), Verdict::into_result);
            Box::pin(async move {
                let verdict = verdict.await;
                verdict
                    .unwrap_or_else(|Panicked| Err("the closure panicked".into()))
                    .map_err(|error| match InvalidToken::is_in(&error) {
                        true => Error::invalid_token(error),
                        false => Error::with_source(ErrorKind::AuthenticationUnavailable, error),
                    })
            })
        });
        Self::fixed(Accepted::AnyOf {
            secrets: Vec::new(),
            closures: vec![verify],
        })
    }

    /// Returns credentials that accept every sender: anyone can post events.
    ///
    /// Use them for tests, or if a proxy authenticates all requests and the application cannot be
    /// reached in another way.
    #[must_use]
    pub fn unauthenticated() -> Self {
        Self::fixed(Accepted::Anyone)
    }

    /// Returns credentials that accept a request if either of the two does.
    ///
    /// # Panics
    ///
    /// If either is [`unauthenticated`](Self::unauthenticated), because the other would have no
    /// effect. If either is [`replaceable`](Self::replaceable): combine them before.
    #[must_use]
    #[track_caller]
    pub fn or(self, other: Self) -> Self {
        let [this, other] = [self, other].map(Credentials::into_fixed);
        match (&*this, &*other) {
            (
                Accepted::AnyOf { secrets, closures },
                Accepted::AnyOf {
                    secrets: more_secrets,
                    closures: more_closures,
                },
            ) => Self::fixed(Accepted::AnyOf {
                secrets: [&secrets[..], more_secrets].concat(),
                closures: [&closures[..], more_closures].concat(),
            }),
            _ => panic!("`Credentials::unauthenticated()` cannot be combined with others"),
        }
    }

    fn fixed(accepted: Accepted) -> Self {
        Self(Source::Fixed(Arc::new(accepted)))
    }

    #[track_caller]
    fn into_fixed(self) -> Arc<Accepted> {
        match self.0 {
            Source::Fixed(accepted) => accepted,
            Source::Replaceable(_) => {
                panic!("replaceable credentials cannot be combined or replaced by others")
            }
        }
    }

    fn secret(scheme: Scheme, token: String) -> Self {
        let secret = Secret {
            scheme,
            token: token.into_bytes().into(),
        };
        Self::fixed(Accepted::AnyOf {
            secrets: vec![secret],
            closures: Vec::new(),
        })
    }

    /// Checks the head of a request.
    pub(crate) fn check(&self, head: &Parts) -> Check {
        self.0.with(|accepted| accepted.check(head))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.with(|accepted| accepted.fmt(f))
    }
}

/// The error of credentials that a client cannot send, or that protect nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialsError(&'static str);

impl fmt::Display for CredentialsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for CredentialsError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_counts_but_no_secret() {
        let credentials = Credentials::basic("mx", "new secret")
            .and_then(|new| Ok(new.or(Credentials::basic("mx", "secret")?)))
            .and_then(|basic| Ok(basic.or(Credentials::bearer("a-token")?)))
            .unwrap()
            .or(Credentials::verify(|_| async { true }));
        let shown = "Credentials { basic: 2, bearer: 1, closures: 1 }";
        assert_eq!(format!("{credentials:?}"), shown);
        let (credentials, handle) = credentials.replaceable();
        assert_eq!(format!("{credentials:?}"), shown);
        assert_eq!(format!("{handle:?}"), shown);
        let shown = format!("{:?}", Credentials::unauthenticated());
        assert_eq!(shown, "Credentials(unauthenticated)");
    }
}
