//! Services of events: their trait, and how they are made ready and called.

use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tower::{BoxError, Service};

use super::{FailureHook, JobFuture, ReportEnd};
use crate::error::{Error, ErrorKind, Receipt};
use crate::event::JobEvent;
use crate::util::catch_panic::{CatchDrop, CatchPanic, Panicked, catch};

/// A service of events: a [`JobRouter`](crate::JobRouter), or middleware around one.
///
/// [`Background::run`](crate::Background::run) takes one. Implemented for every `Service<JobEvent>`
/// whose response is a [`Receipt`] or `()`, whose error converts into a boxed error, and whose
/// future is `Send + 'static`. There is nothing to implement by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot take job events",
    label = "expected a `JobRouter`, or tower middleware around one",
    note = "required: `Service<JobEvent>`, with a response of `Receipt` or `()`, an error that is \
            `Into<Box<dyn Error + Send + Sync>>`, and a future that is `Send + 'static`",
    note = "a layer is not a service, apply it to the router: `ServiceBuilder::new().layer(DedupeLayer::new(ledger)).service(jobs)`",
    note = "a `JobRouterBuilder` has to be finished: `JobRouter::with_state(app).on_completed(completed).build()`",
    note = "a `JobQueue` stores events with `queue.enqueue()`"
)]
pub trait EventService:
    Service<JobEvent, Response: Into<Receipt>, Error: Into<BoxError>, Future: Send + 'static>
{
}

#[diagnostic::do_not_recommend]
impl<S> EventService for S where
    S: Service<JobEvent, Response: Into<Receipt>, Error: Into<BoxError>, Future: Send + 'static>
{
}

/// An [`EventService`] that a mount can clone for each delivery.
///
/// [`JobWebhook`](crate::JobWebhook) and [`BoxJobService`](crate::BoxJobService) take one.
///
/// Implemented for every [`EventService`] that is `Clone + Send + Sync + 'static`. There is nothing
/// to implement by hand.
///
/// The service is cloned for each delivery, and the clone is made ready before it is called. If it
/// is not ready, only deliveries wait; requests that pass through do not. tower's `rate_limit` is
/// not `Clone`: add tower's `buffer` outside of it. `BoxCloneService` is not `Sync`: use
/// [`BoxJobService`](crate::BoxJobService) instead.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot take job events",
    label = "expected a `JobRouter`, or tower middleware around one",
    note = "required: `Service<JobEvent> + Clone + Send + Sync + 'static`, with a response of `Receipt` or `()`, an error \
            that is `Into<Box<dyn Error + Send + Sync>>`, and a future that is `Send + 'static`",
    note = "a layer is not a service, apply it to the router: `ServiceBuilder::new().layer(DedupeLayer::new(ledger)).service(jobs)`",
    note = "a `JobRouterBuilder` has to be finished: `JobRouter::with_state(app).on_completed(completed).build()`",
    note = "a `JobQueue` stores events with `queue.enqueue()`",
    note = "`RateLimit` is not `Clone`: write `ServiceBuilder::new().buffer(n).rate_limit(…).service(jobs)`",
    note = "`BoxCloneService` is not `Sync`: use `BoxJobService`"
)]
pub trait JobService: EventService + Clone + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<S> JobService for S where
    S: Service<JobEvent, Response: Into<Receipt>, Error: Into<BoxError>, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Polls the readiness of a service of events. Its panic becomes an error.
pub(crate) fn poll_ready<J>(jobs: &mut J, context: &mut Context<'_>) -> Poll<Result<(), Error>>
where
    J: Service<JobEvent>,
    J::Error: Into<BoxError>,
{
    match catch(|| jobs.poll_ready(context).map_err(Into::into)) {
        Ok(poll) => poll.map_err(Error::from_readiness),
        Err(Panicked) => Poll::Ready(Err(panicked())),
    }
}

/// Calls a service of events that is ready. Its panic becomes an error.
pub(crate) fn call<J>(jobs: &mut J, event: JobEvent) -> Calling<J::Future>
where
    J: Service<JobEvent>,
    J::Response: Into<Receipt>,
    J::Error: Into<BoxError>,
{
    Calling {
        running: CatchPanic::start(
            || jobs.call(event),
            |outcome| outcome.map(Into::into).map_err(Into::into),
        ),
    }
}

/// Calls a service of events that is ready, and reports a failure to the hook.
///
/// A future that is dropped before its end is reported too.
pub(crate) fn call_reporting<J>(
    mut jobs: CatchDrop<J>,
    event: JobEvent,
    on_error: Option<&FailureHook>,
) -> JobFuture
where
    J: Service<JobEvent>,
    J::Response: Into<Receipt>,
    J::Error: Into<BoxError>,
    J::Future: Send + 'static,
{
    let Some(on_error) = on_error else {
        return JobFuture::new(call(&mut *jobs, event));
    };
    let report = ReportEnd::new(Some(on_error), Some(event.job()));
    let calling = call(&mut *jobs, event);
    JobFuture::new(async move {
        let outcome = calling.await;
        report.ended(&outcome);
        outcome
    })
}

pin_project! {
    /// The future of a service of events.
    pub(crate) struct Calling<F>
    where
        F: Future,
    {
        #[pin]
        running: CatchPanic<F, Result<Receipt, BoxError>>,
    }
}

impl<F: Future> Future for Calling<F> {
    type Output = Result<Receipt, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.project()
            .running
            .poll(context)
            .map(|outcome| match outcome {
                Ok(outcome) => outcome.map_err(Error::from),
                Err(Panicked) => Err(panicked()),
            })
    }
}

fn panicked() -> Error {
    Error::new(ErrorKind::CallbackPanicked)
}
