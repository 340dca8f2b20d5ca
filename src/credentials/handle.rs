//! Credentials that can be replaced while the application runs.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Credentials;
use super::accepted::Accepted;

/// The current credentials: fixed, or replaceable.
#[derive(Clone)]
pub(super) enum Source {
    Fixed(Arc<Accepted>),
    Replaceable(Arc<ArcSwap<Accepted>>),
}

impl Source {
    /// Reads the current credentials. Neither reading nor replacing them takes a lock.
    pub(super) fn with<T>(&self, read: impl FnOnce(&Accepted) -> T) -> T {
        match self {
            Self::Fixed(accepted) => read(accepted),
            Self::Replaceable(current) => read(&current.load()),
        }
    }
}

impl Credentials {
    /// Returns the credentials, and a handle that replaces them while the application runs.
    ///
    /// # Panics
    ///
    /// If the credentials are already replaceable.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
    /// # use axum::body::Body; use http::Request; use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (credentials, handle) = Credentials::bearer("old")?.replaceable();
    /// let endpoint = JobWebhook::new(credentials, JobRouter::new());
    ///
    /// handle.replace(Credentials::bearer("new")?.or(Credentials::bearer("old")?));
    ///
    /// let body = r#"{"job": {"guid": "JOB-1", "status": 6}}"#;
    /// let delivery = Request::post("/")
    ///     .header("authorization", "Bearer new")
    ///     .header("content-type", "application/json")
    ///     .body(Body::from(body))?;
    /// assert_eq!(endpoint.oneshot(delivery).await?.status(), 204);
    /// # Ok(()) }
    /// ```
    #[must_use]
    #[track_caller]
    pub fn replaceable(self) -> (Self, CredentialsHandle) {
        let current = Arc::new(ArcSwap::new(self.into_fixed()));
        let handle = CredentialsHandle(current.clone());
        (Self(Source::Replaceable(current)), handle)
    }
}

/// A handle that replaces [`Credentials`] while the application runs.
///
/// [`Credentials::replaceable`] makes it. It replaces the credentials in all of their clones.
/// Clones of the handle are equivalent.
#[derive(Clone)]
pub struct CredentialsHandle(Arc<ArcSwap<Accepted>>);

impl CredentialsHandle {
    /// Replaces the credentials with these.
    ///
    /// The change is atomic: each request is checked against either the old or the new credentials.
    /// Requests that have already been accepted continue.
    ///
    /// # Panics
    ///
    /// If the new credentials are themselves replaceable.
    #[track_caller]
    pub fn replace(&self, credentials: Credentials) {
        self.0.store(credentials.into_fixed());
    }
}

/// Shows how many secrets and closures there are, but no secret.
impl fmt::Debug for CredentialsHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.load().fmt(f)
    }
}
