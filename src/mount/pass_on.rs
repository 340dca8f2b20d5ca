//! The layer for a path that MX's other webhooks share: the service within answers those.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, Request, Response, Uri, Version};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::{BoxError, Layer, Service};

use super::pass_through::PassThrough;
use crate::callback::JobService;
use crate::event::OtherWebhook;
use crate::pipeline::accept::Path;
use crate::pipeline::{Answer, Deliver, Settings, respond};

/// A layer that receives MX's job webhooks, and passes its other webhooks on.
///
/// [`JobWebhookLayer::pass_on_other_webhooks`](super::JobWebhookLayer::pass_on_other_webhooks)
/// returns it.
pub struct PassOnLayer<J> {
    path: Path,
    settings: Arc<Settings<J>>,
}

impl<J> PassOnLayer<J> {
    pub(super) fn new(path: Path, settings: Arc<Settings<J>>) -> Self {
        Self { path, settings }
    }
}

impl<S, J> Layer<S> for PassOnLayer<J> {
    type Service = PassOnService<S, J>;

    fn layer(&self, inner: S) -> Self::Service {
        PassOnService {
            inner,
            path: self.path.clone(),
            settings: self.settings.clone(),
        }
    }
}

/// A mark in the extensions of a webhook that was passed on.
///
/// Its sender was authenticated by the layer. A handler that demands it, such as by axum's
/// `Extension<PassedOn>`, cannot be reached otherwise, for example by a path with a trailing slash
/// that a router within normalises.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PassedOn;

/// A service with a [`PassOnLayer`] around it.
///
/// It is ready as a [`JobWebhookService`](super::JobWebhookService) is: always. A delivery keeps a
/// clone of the service within, and makes it ready before it passes a webhook on.
pub struct PassOnService<S, J> {
    inner: S,
    path: Path,
    settings: Arc<Settings<J>>,
}

impl<S, J, B, ResBody> Service<Request<B>> for PassOnService<S, J>
where
    S: Service<Request<B>, Response = Response<ResBody>> + Clone,
    B: Body + From<Bytes>,
    B::Error: Into<BoxError>,
    ResBody: Default,
    J: JobService,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = PassOnFuture<S, B, J>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let step = if self.path.accepts(&request) {
            let inner = Some(Box::new(Inner {
                service: self.inner.clone(),
                method: request.method().clone(),
                uri: request.uri().clone(),
                version: request.version(),
            }));
            let deliver = Deliver::start(&self.settings, request).passing_on();
            Step::Delivering { deliver, inner }
        } else {
            Step::Passing {
                pass_through: PassThrough::start(&mut self.inner, request),
            }
        };
        PassOnFuture { step }
    }
}

pin_project! {
    /// The response future of [`PassOnService`].
    ///
    /// # Cancellation
    ///
    /// See [`JobWebhook`](crate::JobWebhook#cancellation).
    #[must_use = "futures do nothing unless polled"]
    pub struct PassOnFuture<S, B, J>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        step: Step<S, B, J>,
    }
}

pin_project! {
    #[project = StepProjection]
    enum Step<S, B, J>
    where
        S: Service<Request<B>>,
    {
        Delivering {
            #[pin]
            deliver: Deliver<B, J>,
            // `None` once the delivery was passed on.
            inner: Option<Box<Inner<S>>>,
        },
        Passing { #[pin] pass_through: PassThrough<S, B> },
    }
}

/// The service within, and what is left of the head of a request once its body was decoded.
struct Inner<S> {
    service: S,
    method: Method,
    uri: Uri,
    version: Version,
}

impl<S> Inner<S> {
    fn pass_on<B>(mut self, webhook: OtherWebhook) -> PassThrough<S, B>
    where
        S: Service<Request<B>> + Clone,
        B: From<Bytes>,
    {
        let (body, headers, extensions) = webhook.into_parts();
        let mut request = Request::new(B::from(body));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.headers_mut() = headers;
        *request.extensions_mut() = extensions;
        request.extensions_mut().insert(PassedOn);
        PassThrough::start(&mut self.service, request)
    }
}

impl<S, B, J, ResBody> Future for PassOnFuture<S, B, J>
where
    S: Service<Request<B>, Response = Response<ResBody>> + Clone,
    B: Body + From<Bytes>,
    B::Error: Into<BoxError>,
    ResBody: Default,
    J: JobService,
{
    type Output = Result<Response<ResBody>, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut step = self.project().step;
        let pass_through = match step.as_mut().project() {
            StepProjection::Passing { pass_through } => return pass_through.poll(context),
            StepProjection::Delivering { deliver, inner } => {
                match (ready!(deliver.poll(context)), inner.take()) {
                    (Answer::Respond(outcome), _) => return Poll::Ready(Ok(respond(outcome))),
                    (Answer::PassOn(webhook), Some(inner)) => inner.pass_on(*webhook),
                    (Answer::PassOn(_), None) => {
                        unreachable!("`Deliver` panics if it is polled after it was ready")
                    }
                }
            }
        };
        step.set(Step::Passing { pass_through });
        match step.project() {
            StepProjection::Passing { pass_through } => pass_through.poll(context),
            StepProjection::Delivering { .. } => unreachable!("it was just set"),
        }
    }
}

// By hand, because `derive` would require `J: Clone`, although the settings are in an `Arc`.
impl<J> Clone for PassOnLayer<J> {
    fn clone(&self) -> Self {
        Self::new(self.path.clone(), self.settings.clone())
    }
}

impl<S: Clone, J> Clone for PassOnService<S, J> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            path: self.path.clone(),
            settings: self.settings.clone(),
        }
    }
}

impl<J> fmt::Debug for PassOnLayer<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassOnLayer")
            .field("path", &self.path)
            .field("credentials", &self.settings.credentials)
            .finish_non_exhaustive()
    }
}

impl<S, J> fmt::Debug for PassOnService<S, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassOnService")
            .field("path", &self.path)
            .field("credentials", &self.settings.credentials)
            .finish_non_exhaustive()
    }
}

impl<S: Service<Request<B>>, B, J> fmt::Debug for PassOnFuture<S, B, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassOnFuture").finish_non_exhaustive()
    }
}
