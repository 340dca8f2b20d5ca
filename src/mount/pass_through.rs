//! The future of requests that pass through to the service within.

use std::fmt;
use std::mem::replace;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use http::Request;
use pin_project_lite::pin_project;
use tower::Service;

pin_project! {
    /// A request that passes through to the service within.
    ///
    /// The layer knows whether a request is a delivery only when the request has arrived. The
    /// readiness of the service within is therefore polled here, and only for requests that need
    /// it. A delivery neither waits for a permit of that service nor takes one.
    #[project = PassThroughProjection]
    pub enum PassThrough<S, B>
    where
        S: Service<Request<B>>,
    {
        Called { #[pin] future: S::Future },
        // Boxed because it is rare, and would make every future of the layer larger.
        AwaitingReadiness { pending: Box<PendingCall<S, B>> },
        Failed { error: Option<S::Error> },
    }
}

/// A call of a service that is not ready yet.
pub struct PendingCall<S, B> {
    service: S,
    request: Option<Request<B>>,
}

/// Prints nothing of the request, because it contains credentials.
impl<S, B> fmt::Debug for PendingCall<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingCall").finish_non_exhaustive()
    }
}

impl<S, B> PassThrough<S, B>
where
    S: Service<Request<B>> + Clone,
{
    /// Calls the service if it is ready. If it is not, the request keeps that instance, which has
    /// begun to wait, and a clone replaces it.
    #[inline]
    pub(crate) fn start(service: &mut S, request: Request<B>) -> Self {
        // There is no task to wake yet. The first poll of the future polls readiness again.
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Self::Called {
                future: service.call(request),
            },
            Poll::Ready(Err(error)) => Self::Failed { error: Some(error) },
            Poll::Pending => Self::wait(service, request),
        }
    }

    #[cold]
    fn wait(service: &mut S, request: Request<B>) -> Self {
        let clone = service.clone();
        Self::AwaitingReadiness {
            pending: Box::new(PendingCall {
                service: replace(service, clone),
                request: Some(request),
            }),
        }
    }
}

impl<S, B> PassThrough<S, B>
where
    S: Service<Request<B>>,
{
    /// Calls the service once it is ready.
    #[cold]
    fn poll_pending(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<S::Response, S::Error>> {
        let future = match self.as_mut().project() {
            PassThroughProjection::Called { future } => return future.poll(context),
            PassThroughProjection::AwaitingReadiness { pending } => {
                ready!(pending.service.poll_ready(context))?;
                let Some(request) = pending.request.take() else {
                    panic!("`PassThrough` was polled after it was ready");
                };
                pending.service.call(request)
            }
            PassThroughProjection::Failed { error } => match error.take() {
                Some(error) => return Poll::Ready(Err(error)),
                None => panic!("`PassThrough` was polled after it was ready"),
            },
        };
        self.set(Self::Called { future });
        self.poll(context)
    }
}

impl<S, B> Future for PassThrough<S, B>
where
    S: Service<Request<B>>,
{
    type Output = Result<S::Response, S::Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let PassThroughProjection::Called { future } = self.as_mut().project() {
            return future.poll(context);
        }
        self.poll_pending(context)
    }
}
