//! The layer: takes deliveries out of the traffic of the service that it wraps.

use std::fmt;
use std::sync::Arc;

use tower::Layer;

use crate::options::{Options, optional_settings};
use crate::pipeline::accept::Path;
use crate::{Credentials, JobWebhook};

/// Takes MX's job webhooks out of the traffic and runs the callbacks for them.
///
/// For `axum::Router::layer`, for a whole router from outside, and for any other
/// `Service<Request<B>>`. A `POST` to the path is a delivery and never reaches the service
/// within; everything else passes through untouched, other methods on the path included.
///
/// `jobs` is a [`JobRouter`](crate::JobRouter), or one with tower's middleware around it:
/// any `Service<JobEvent>` whose response is a [`Receipt`](crate::Receipt) or `()`, which
/// for axum has to be `Clone + Send + Sync`. It is cloned for each delivery, and the clone
/// is made ready before it is called.
///
/// Refusals and receipts have an empty body (`ResBody: Default`); the reason of a refusal
/// is in the response's extensions, as an [`Error`](crate::Error).
///
/// # Cancellation
///
/// When the sender hangs up, what has started of `jobs` runs on, as
/// [`Background`](crate::Background) says. Before that, the delivery is given up: MX was told
/// nothing, and will retry. Middleware within `jobs` can still cut a callback short, as
/// tower's `timeout` does; `with_answer_deadline` does not.
///
/// # Example
///
/// ```
/// use axum::{Router, routing::get};
/// use mx_job_webhook::{Credentials, JobRouter, JobWebhookLayer};
/// # use axum::body::Body; use http::{Request, StatusCode}; use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let jobs = JobRouter::new()
///     .on_completed(|event| async move { println!("read accounts of {:?}", event.member_guid) });
///
/// let app: Router = Router::new()
///     .route("/accounts", get(|| async { "accounts" }))
///     .layer(JobWebhookLayer::new("/admin/webhooks", Credentials::basic("mx", "secret")?, jobs));
///
/// let delivery = Request::post("/admin/webhooks")
///     .header("authorization", "Basic bXg6c2VjcmV0")
///     .header("content-type", "application/json")
///     .body(Body::from(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#))?;
/// assert_eq!(app.oneshot(delivery).await?.status(), StatusCode::NO_CONTENT);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct JobWebhookLayer<J> {
    path: Path,
    options: Arc<Options<J>>,
}

impl<J> JobWebhookLayer<J> {
    /// A layer that receives on this path.
    ///
    /// The path is compared byte for byte with the request's.
    ///
    /// Add it to the outermost router, **and last**: axum's layers see only what was added
    /// before them. A wildcard route or a fallback that comes after the layer takes the
    /// deliveries, and may answer them 200. The layers of a *nested* router are asked only
    /// for that router's own routes, with the prefix taken off; in there,
    /// [`JobWebhookEndpoint`](crate::JobWebhookEndpoint) on a route is what works.
    ///
    /// # Panics
    ///
    /// If the path does not start with a slash, or has a capture, a wildcard or a query:
    /// it could never match.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookLayer};
    ///
    /// let layer = JobWebhookLayer::new("/admin/webhooks", Credentials::bearer("a-token")?, JobRouter::new());
    /// assert!(format!("{layer:?}").contains("/admin/webhooks"));
    /// # Ok::<(), mx_job_webhook::CredentialsError>(())
    /// ```
    #[must_use]
    #[track_caller]
    pub fn new(path: &str, credentials: Credentials, jobs: J) -> Self {
        Self {
            path: Path::new(path),
            options: Arc::new(Options::new(credentials, jobs)),
        }
    }
}

/// Optional settings.
impl<J: Clone> JobWebhookLayer<J> {
    optional_settings!(
        "JobWebhookLayer",
        "\"/admin/webhooks\", ",
        "layer(webhooks)"
    );
}

impl<S, J> Layer<S> for JobWebhookLayer<J> {
    type Service = JobWebhook<S, J>;

    fn layer(&self, inner: S) -> Self::Service {
        JobWebhook::new(inner, self.path.clone(), self.options.clone())
    }
}

impl<J> fmt::Debug for JobWebhookLayer<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobWebhookLayer")
            .field("path", &self.path)
            .field("credentials", &self.options.credentials)
            .finish_non_exhaustive()
    }
}
