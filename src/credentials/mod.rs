//! Who may deliver: Basic, bearer, several at once, or a closure.

mod accepted;
mod handle;
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
pub use handle::CredentialsHandle;
use handle::Source;
pub use verdict::Verdict;

/// What a sender has to show before a byte of its body is read.
///
/// MX offers HTTP Basic, bearer tokens of OAuth 2's client-credentials flow, and mutual
/// TLS (MX's page on webhooks, *security*). There is no signature to check. `basic` and
/// `bearer` compare in constant time: how long a refusal takes tells nothing about the
/// secret but its length. [`verify`](Credentials::verify) takes a closure for the rest.
///
/// Two `Authorization` headers are refused, whatever else is accepted. One that is
/// malformed (not ASCII, or Basic that is not Base64 or has no colon) is refused unless the
/// credentials are [`unauthenticated`](Credentials::unauthenticated).
///
/// Cloning is cheap. `Debug` shows how many there are, and no secret.
///
/// # Example
///
/// Rotation: both passwords are good until MX's side has been changed.
///
/// ```
/// use mx_job_webhook::Credentials;
///
/// let credentials = Credentials::basic("mx", "new secret")?
///     .or(Credentials::basic("mx", "old secret")?)
///     .or(Credentials::bearer("a-token")?);
/// assert_eq!(format!("{credentials:?}"), "Credentials { basic: 2, bearer: 1, closures: 0 }");
/// # Ok::<(), mx_job_webhook::credentials::CredentialsError>(())
/// ```
#[derive(Clone)]
pub struct Credentials(Source);

impl Credentials {
    /// Accepts HTTP Basic with this user and password, both in UTF-8.
    ///
    /// # Errors
    ///
    /// If either is empty or has a control character, or the user has a colon: such
    /// credentials cannot be sent (RFC 7617), or protect nothing.
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
                "user and password must not contain control characters",
            ));
        }
        let token = STANDARD.encode(format!("{user}:{password}"));
        Ok(Self::secret(Scheme::Basic, token))
    }

    /// Accepts this bearer token.
    ///
    /// # Errors
    ///
    /// If it is empty, or has anything but visible ASCII characters: such a token cannot
    /// be sent.
    pub fn bearer(token: &str) -> Result<Self, CredentialsError> {
        if token.is_empty() {
            return Err(CredentialsError("the token must not be empty"));
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(CredentialsError(
                "the token must be visible ASCII characters",
            ));
        }
        Ok(Self::secret(Scheme::Bearer, token.to_owned()))
    }

    /// Accepts what an async closure over the request's head accepts.
    ///
    /// For mutual TLS that a proxy reports in a header, or a token that has to be
    /// checked by its signature. The closure takes what it needs out of the head and
    /// returns a future, which ends in `bool` or in `Result<bool, E>`:
    ///
    /// - `true` accepts, `false` refuses with 401;
    /// - `Err`, a panic, and a future that outlasts the read timeout are answered 503: it
    ///   could not be told, and the sender should come again.
    ///
    /// It runs after the secrets, and only if none of them matched.
    ///
    /// # Example
    ///
    /// Only the proxy may say what the client's certificate was, so the application must
    /// be reachable through the proxy alone.
    ///
    /// ```
    /// use mx_job_webhook::Credentials;
    ///
    /// let credentials = Credentials::verify(|head| {
    ///     let subject = head.headers.get("x-client-cert-dn").cloned();
    ///     async move { subject.is_some_and(|subject| subject == "CN=webhooks.mx.com") }
    /// });
    /// assert_eq!(format!("{credentials:?}"), "Credentials { basic: 0, bearer: 0, closures: 1 }");
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
                    .map_err(|error| {
                        Error::with_source(ErrorKind::AuthenticationUnavailable, error)
                    })
            })
        });
        Self::fixed(Accepted::AnyOf {
            secrets: Vec::new(),
            closures: vec![verify],
        })
    }

    /// Accepts everybody: anyone who finds the URL can post job events.
    ///
    /// For tests, and where something in front has authenticated already and nothing
    /// else can reach the application.
    #[must_use]
    pub fn unauthenticated() -> Self {
        Self::fixed(Accepted::Anyone)
    }

    /// Accepts what either accepts.
    ///
    /// # Panics
    ///
    /// If either is [`unauthenticated`](Self::unauthenticated): the other would be
    /// without meaning, and whoever wrote it meant something. If either is
    /// [`replaceable`](Self::replaceable): combine them first.
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
            Source::Replaceable(_) => panic!("replaceable credentials cannot be combined"),
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

    /// What the head alone decides.
    pub(crate) fn check(&self, head: &Parts) -> Check {
        self.0.with(|accepted| accepted.check(head))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.with(|accepted| accepted.fmt(f))
    }
}

/// Credentials that cannot be sent, or protect nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialsError(&'static str);

impl fmt::Display for CredentialsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for CredentialsError {}
