//! The service of the layer.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower::{BoxError, Service};

use super::ResponseFuture;
use super::pass_through::PassThrough;
use crate::callback::JobService;
use crate::pipeline::Settings;
use crate::pipeline::accept::Path;

/// A service with a [`JobWebhookLayer`](super::JobWebhookLayer) around it.
///
/// It is always ready. In its future, a delivery waits only for the service of events, and a
/// request that passes through waits only for the service within. If the service within is not
/// ready, the request keeps that instance and leaves a clone in its place, so clones have to be
/// equivalent, as those of tower's services are.
///
/// `axum::serve` takes a router, and not a service around one. Serve that with axum's
/// `into_make_service`, whose request type has to be named.
///
/// # Example
///
/// ```
/// use axum::extract::Request;
/// use axum::{Router, ServiceExt, routing::get};
/// use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
/// use tower::Layer;
///
/// async fn serve(listener: tokio::net::TcpListener) -> std::io::Result<()> {
///     let webhooks = JobWebhook::new(Credentials::unauthenticated(), JobRouter::new());
///     let router = Router::new().route("/accounts", get(|| async { "accounts" }));
///     let app = webhooks.at("/admin/webhooks").layer(router);
///     axum::serve(listener, ServiceExt::<Request>::into_make_service(app)).await
/// }
/// ```
pub struct JobWebhookService<S, J> {
    inner: S,
    path: Path,
    settings: Arc<Settings<J>>,
}

impl<S, J> JobWebhookService<S, J> {
    pub(super) fn new(inner: S, path: Path, settings: Arc<Settings<J>>) -> Self {
        Self {
            inner,
            path,
            settings,
        }
    }
}

impl<S, J, B, ResBody> Service<Request<B>> for JobWebhookService<S, J>
where
    S: Service<Request<B>, Response = Response<ResBody>> + Clone,
    B: Body,
    B::Error: Into<BoxError>,
    ResBody: Default,
    J: JobService,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = ResponseFuture<PassThrough<S, B>, B, J>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if self.path.accepts(&request) {
            ResponseFuture::delivery(&self.settings, request)
        } else {
            ResponseFuture::inner(PassThrough::start(&mut self.inner, request))
        }
    }
}

// By hand, because `derive` would require `J: Clone`, although the settings are in an `Arc`.
impl<S: Clone, J> Clone for JobWebhookService<S, J> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.path.clone(), self.settings.clone())
    }
}

impl<S, J> fmt::Debug for JobWebhookService<S, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobWebhookService")
            .field("path", &self.path)
            .field("credentials", &self.settings.credentials)
            .finish_non_exhaustive()
    }
}
