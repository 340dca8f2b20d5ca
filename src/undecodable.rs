//! A body that is no job.

use std::fmt;

use bytes::Bytes;
use http::{Extensions, HeaderMap};

use crate::Error;
use crate::panic::CatchDrop;

/// A body that could not be decoded, with the reason and all that came with it.
///
/// What the hook `on_undecodable` is given, and the extractor's rejection holds. It is
/// authenticated: the sender's credentials were right.
///
/// `Debug` shows the reason and the size of the body, not the body.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{Credentials, ErrorKind, JobRouter, JobWebhookEndpoint};
/// # use axum::body::Body; use http::Request; use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let endpoint = JobWebhookEndpoint::new(Credentials::unauthenticated(), JobRouter::new())
///     .on_undecodable(|undecodable| async move {
///         assert_eq!(undecodable.error().kind(), ErrorKind::OtherWebhook);
///         assert_eq!(undecodable.body(), r#"{"type": "BALANCE"}"#);
///     });
///
/// let request = Request::post("/").header("content-type", "application/json");
/// let request = request.body(Body::from(r#"{"type": "BALANCE"}"#))?;
/// assert_eq!(endpoint.oneshot(request).await?.status(), 204);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Undecodable {
    error: Error,
    // These are the application's, and can panic when they are dropped, wherever that is.
    body: CatchDrop<Bytes>,
    headers: CatchDrop<HeaderMap>,
    extensions: CatchDrop<Extensions>,
}

impl Undecodable {
    pub(crate) fn new(
        error: Error,
        body: Bytes,
        headers: HeaderMap,
        extensions: Extensions,
    ) -> Self {
        Self {
            error,
            body: CatchDrop::new(body),
            headers: CatchDrop::new(headers),
            extensions: CatchDrop::new(extensions),
        }
    }

    /// Why it could not be decoded; names the field and repeats none of the payload.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
    /// # use axum::body::Body; use http::Request; use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let endpoint = JobWebhookEndpoint::new(Credentials::unauthenticated(), JobRouter::new())
    ///     .on_undecodable(|undecodable| async move {
    ///         println!("{}", undecodable.error()); // invalid job: `status_name` …
    ///         undecodable.error().field().filter(|field| field.starts_with("status")).map(drop).ok_or("?")
    ///     });
    ///
    /// let request = Request::post("/").header("content-type", "application/json");
    /// let request = request.body(Body::from(r#"{"job": {"guid": "JOB-1"}}"#))?;
    /// assert_eq!(endpoint.oneshot(request).await?.status(), 204);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// The body as it was received.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
    /// # use axum::body::Body; use http::Request; use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let endpoint = JobWebhookEndpoint::new(Credentials::unauthenticated(), JobRouter::new())
    ///     .on_undecodable(|undecodable| async move {
    ///         // The URL is shared with MX's other webhooks: hand them on.
    ///         let other: serde_json::Value = serde_json::from_slice(undecodable.body())?;
    ///         assert_eq!(other["balance"], 12);
    ///         Ok::<(), serde_json::Error>(())
    ///     });
    ///
    /// let request = Request::post("/").header("content-type", "application/json");
    /// let request = request.body(Body::from(r#"{"type": "BALANCE", "balance": 12}"#))?;
    /// assert_eq!(endpoint.oneshot(request).await?.status(), 204);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The headers of the request, without `Authorization`.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
    /// # use axum::body::Body; use http::Request; use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let endpoint = JobWebhookEndpoint::new(Credentials::unauthenticated(), JobRouter::new())
    ///     .on_undecodable(|undecodable| async move {
    ///         // Keep it with what says where it came from.
    ///         undecodable.headers().get("user-agent").map(drop).ok_or("no user agent")
    ///     });
    ///
    /// let request = Request::post("/").header("content-type", "application/json").header("user-agent", "MX");
    /// let request = request.body(Body::from(r#"not JSON"#))?;
    /// assert_eq!(endpoint.oneshot(request).await?.status(), 204);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The extensions of the request.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
    /// # use axum::body::Body; use http::Request; use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let endpoint = JobWebhookEndpoint::new(Credentials::unauthenticated(), JobRouter::new())
    ///     .on_undecodable(|undecodable| async move {
    ///         // Nobody left anything: a failure is answered 500.
    ///         undecodable.extensions().get::<String>().map(drop).ok_or("no request id")
    ///     });
    ///
    /// let request = Request::post("/").header("content-type", "application/json");
    /// let request = request.body(Body::from(r#"not JSON"#))?;
    /// assert_eq!(endpoint.oneshot(request).await?.status(), 500);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl fmt::Debug for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Undecodable")
            .field("error", &self.error)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish_non_exhaustive()
    }
}
