//! Credentials that are replaced while the application runs.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Credentials;
use super::accepted::Accepted;

/// Where credentials are read from.
#[derive(Clone)]
pub(super) enum Source {
    Fixed(Arc<Accepted>),
    Replaceable(Arc<ArcSwap<Accepted>>),
}

impl Source {
    /// No lock is taken, and whoever replaces them waits for nobody.
    pub(super) fn with<T>(&self, read: impl FnOnce(&Accepted) -> T) -> T {
        match self {
            Self::Fixed(accepted) => read(accepted),
            Self::Replaceable(current) => read(&current.load()),
        }
    }
}

impl Credentials {
    /// Makes them replaceable while the application runs, through the handle.
    ///
    /// # Panics
    ///
    /// If they are replaceable already.
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

/// Replaces [`Credentials`] while the application runs.
///
/// Made by [`Credentials::replaceable`]. It replaces them wherever they were given to, in
/// every clone. A clone of the handle is the same handle.
#[derive(Clone)]
pub struct CredentialsHandle(Arc<ArcSwap<Accepted>>);

impl CredentialsHandle {
    /// Accepts these from now on, and no others.
    ///
    /// Atomically: a request is checked against the old ones or the new ones, never a
    /// mixture. Requests that were accepted before go on.
    ///
    /// # Panics
    ///
    /// If these are replaceable themselves.
    #[track_caller]
    pub fn replace(&self, credentials: Credentials) {
        self.0.store(credentials.into_fixed());
    }
}

/// Shows how many there are, and no secret.
impl fmt::Debug for CredentialsHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.load().fmt(f)
    }
}
