//! The services: deliveries to the callbacks, and everything else to whoever stands within.

use std::convert::Infallible;
use std::fmt;
use std::future::Ready;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Empty;
use tower::{BoxError, Service};

use crate::options::{Options, optional_settings};
use crate::pass_through::PassThrough;
use crate::pipeline::accept::{Path, accepts_method};
use crate::{Credentials, Error, ErrorKind, JobEvent, Receipt, ResponseFuture};

/// A service with a [`JobWebhookLayer`](crate::JobWebhookLayer) around it.
///
/// It is always ready. A request that is not a delivery waits for the service within when
/// it is called, and a delivery does not need that one. The callbacks are made ready delivery
/// by delivery, so that requests which are not deliveries never wait for them. Where the
/// service within is not ready, the request takes it along and leaves a clone: clones have to
/// be one service, as tower's are.
///
/// # Example
///
/// Around a whole application, for `axum::serve` or for hyper:
///
/// ```
/// use axum::{Router, body::Body};
/// use mx_job_webhook::{Credentials, JobRouter, JobWebhook, JobWebhookLayer};
/// # use http::Request; use tower::{Layer, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let credentials = Credentials::basic("mx", "secret")?;
/// let layer = JobWebhookLayer::new("/admin/webhooks", credentials, JobRouter::new());
/// let app: JobWebhook<Router, JobRouter> = layer.layer(Router::new());
///
/// let response = app.oneshot(Request::get("/elsewhere").body(Body::empty())?).await?;
/// assert_eq!(response.status(), 404); // the router's
/// # Ok(()) }
/// ```
pub struct JobWebhook<S, J> {
    inner: S,
    path: Path,
    options: Arc<Options<J>>,
}

impl<S, J> JobWebhook<S, J> {
    pub(crate) fn new(inner: S, path: Path, options: Arc<Options<J>>) -> Self {
        Self {
            inner,
            path,
            options,
        }
    }
}

impl<S, J, B, ResBody> Service<Request<B>> for JobWebhook<S, J>
where
    S: Service<Request<B>, Response = Response<ResBody>> + Clone,
    B: Body,
    B::Error: Into<BoxError>,
    ResBody: Default,
    J: Service<JobEvent> + Clone,
    J::Response: Into<Receipt>,
    J::Error: Into<BoxError>,
    J::Future: Send + 'static,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = ResponseFuture<PassThrough<S, B>, B, J>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if self.path.accepts(&request) {
            ResponseFuture::delivery(&self.options, request)
        } else {
            ResponseFuture::inner(PassThrough::start(&mut self.inner, request))
        }
    }
}

// By hand, because `derive` would ask `J: Clone` for the `Arc`.
impl<S: Clone, J> Clone for JobWebhook<S, J> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.path.clone(), self.options.clone())
    }
}

impl<S, J> fmt::Debug for JobWebhook<S, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobWebhook")
            .field("path", &self.path)
            .field("credentials", &self.options.credentials)
            .finish_non_exhaustive()
    }
}

/// The terminal service: every `POST` is a delivery, whatever its path.
///
/// For axum's `route_service` and for whoever routes by other means. Another method is
/// answered 405. Otherwise it is as [`JobWebhookLayer`](crate::JobWebhookLayer).
///
/// # Example
///
/// ```
/// use axum::Router;
/// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
/// # use axum::body::Body; use http::{Request, StatusCode}; use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let endpoint = JobWebhookEndpoint::new(Credentials::basic("mx", "secret")?, JobRouter::new());
/// let app: Router = Router::new().route_service("/admin/webhooks", endpoint);
///
/// let response = app.oneshot(Request::get("/admin/webhooks").body(Body::empty())?).await?;
/// assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
/// # Ok(()) }
/// ```
pub struct JobWebhookEndpoint<J> {
    options: Arc<Options<J>>,
}

impl<J> JobWebhookEndpoint<J> {
    /// A service that takes deliveries from senders with these credentials.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
    /// # use axum::body::Body; use http::Request; use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let endpoint = JobWebhookEndpoint::new(Credentials::basic("mx", "secret")?, JobRouter::new());
    /// let response = endpoint.oneshot(Request::post("/").body(Body::empty())?).await?;
    /// assert_eq!(response.headers()["www-authenticate"], r#"Basic realm="webhooks", charset="UTF-8""#);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn new(credentials: Credentials, jobs: J) -> Self {
        Self {
            options: Arc::new(Options::new(credentials, jobs)),
        }
    }
}

/// Optional settings.
impl<J: Clone> JobWebhookEndpoint<J> {
    optional_settings!(
        "JobWebhookEndpoint",
        "",
        "route_service(\"/admin/webhooks\", webhooks)"
    );
}

impl<J, B> Service<Request<B>> for JobWebhookEndpoint<J>
where
    B: Body,
    B::Error: Into<BoxError>,
    J: Service<JobEvent> + Clone,
    J::Response: Into<Receipt>,
    J::Error: Into<BoxError>,
    J::Future: Send + 'static,
{
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = ResponseFuture<Ready<Result<Self::Response, Infallible>>, B, J>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if accepts_method(&request) {
            ResponseFuture::delivery(&self.options, request)
        } else {
            let error = Error::new(ErrorKind::MethodNotAllowed);
            ResponseFuture::refusal(&self.options, error, request)
        }
    }
}

impl<J> Clone for JobWebhookEndpoint<J> {
    fn clone(&self) -> Self {
        Self {
            options: self.options.clone(),
        }
    }
}

impl<J> fmt::Debug for JobWebhookEndpoint<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobWebhookEndpoint")
            .field("credentials", &self.options.credentials)
            .finish_non_exhaustive()
    }
}
