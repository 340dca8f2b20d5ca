//! What is not ours: the service within answers, once it is ready.

use std::fmt;
use std::mem::replace;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use http::Request;
use pin_project_lite::pin_project;
use tower::Service;

pin_project! {
    /// A request on its way through the service within.
    ///
    /// Whether a request is ours is known only when it is there. So readiness is asked for
    /// here, and only by a request that needs it: a delivery waits for nobody else's permit,
    /// and takes none that it would not use.
    #[project = PassThroughProjection]
    pub enum PassThrough<S, B>
    where
        S: Service<Request<B>>,
    {
        Called { #[pin] future: S::Future },
        // Boxed because it is rare, and would make every future of the layer larger.
        Waiting { waiting: Box<Waiting<S, B>> },
        Failed { error: Option<S::Error> },
    }
}

/// A service that is not ready yet, and the request for it.
pub struct Waiting<S, B> {
    service: S,
    request: Option<Request<B>>,
}

/// Nothing of a request, which has credentials in it.
impl<S, B> fmt::Debug for Waiting<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}

impl<S, B> PassThrough<S, B>
where
    S: Service<Request<B>> + Clone,
{
    /// Calls the service if it is ready. If it is not, the instance that has begun to wait goes
    /// along with the request, and a clone takes its place.
    #[inline]
    pub(crate) fn start(service: &mut S, request: Request<B>) -> Self {
        // There is no task here to wake; the first poll asks again, and is.
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
        Self::Waiting {
            waiting: Box::new(Waiting {
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
    fn poll_waiting(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<S::Response, S::Error>> {
        let future = match self.as_mut().project() {
            PassThroughProjection::Called { future } => return future.poll(context),
            PassThroughProjection::Waiting { waiting } => {
                ready!(waiting.service.poll_ready(context))?;
                let Some(request) = waiting.request.take() else {
                    panic!("`PassThrough` was polled after it was ready");
                };
                waiting.service.call(request)
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
        self.poll_waiting(context)
    }
}
