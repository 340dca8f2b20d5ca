//! `Background::run`, for events that are extracted, queued or polled.

use std::pin::Pin;
use std::task::{Context, Poll};

use tower::{BoxError, Service};

use crate::background::{Background, Permit, Tracked};
use crate::callback::{call_reporting, poll_ready};
use crate::error::{Error, Receipt};
use crate::event::JobEvent;
use crate::observe::{Observation, Observed};
use crate::util::catch_panic::CatchDrop;

impl Background {
    /// Runs an event through a service of events, outside of a mount.
    ///
    /// Use it in handlers that take the event by the extractor, and for events from a queue or a
    /// poll. `jobs` is a [`JobRouter`](crate::JobRouter), or tower middleware around one. With the
    /// feature `axum`, the output is `IntoResponse`.
    ///
    /// # Errors
    ///
    /// Returns the service's error, converted to [`Error`]. If all permits are taken, the kind is
    /// [`Overloaded`](crate::ErrorKind::Overloaded); after a drain has begun, it is
    /// [`ShuttingDown`](crate::ErrorKind::ShuttingDown).
    ///
    /// # Cancellation
    ///
    /// If the future is dropped after the callback has started, the callback continues. If it is
    /// dropped before the service is ready, the event is dropped with it. The permit is acquired
    /// when `run` is called; all else happens when the future is polled.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Background, Job, JobEvent, JobRouter, Receipt, Status};
    /// use tower::ServiceBuilder;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let jobs = ServiceBuilder::new()
    ///     .concurrency_limit(8)
    ///     .service(JobRouter::new().on_completed(|_| async {}));
    /// let event = JobEvent::from(Job::new("JOB-1".parse()?, Status::Completed));
    /// assert_eq!(Background::new().run(jobs, event).await?, Receipt::Handled);
    /// # Ok(()) }
    /// ```
    pub fn run<J>(
        &self,
        jobs: J,
        mut event: JobEvent,
    ) -> impl Future<Output = Result<Receipt, Error>> + use<J>
    where
        J: Service<JobEvent>,
        J::Response: Into<Receipt>,
        J::Error: Into<BoxError>,
        J::Future: Send + 'static,
    {
        let observation = Observation::of(&mut event);
        event.set_background(self);
        let jobs = CatchDrop::new(jobs);
        match self.acquire() {
            Ok(permit) => Run::AwaitingReadiness(Some(PendingCall {
                jobs,
                event,
                permit,
                observation,
            })),
            Err(reason) => Run::refuse(observation, reason.into()),
        }
    }
}

/// The future of [`Background::run`].
#[allow(
    clippy::large_enum_variant,
    reason = "each run starts with the large one, and a box would cost an allocation"
)]
enum Run<J> {
    AwaitingReadiness(Option<PendingCall<J>>),
    Running(Tracked<Observed>),
    Refused(Option<Error>),
}

/// An event whose service is not ready.
struct PendingCall<J> {
    jobs: CatchDrop<J>,
    event: JobEvent,
    permit: Permit,
    observation: Observation,
}

impl<J> Run<J>
where
    J: Service<JobEvent>,
    J::Response: Into<Receipt>,
    J::Error: Into<BoxError>,
    J::Future: Send + 'static,
{
    fn refuse(mut observation: Observation, error: Error) -> Self {
        observation.refuse(&error);
        Self::Refused(Some(error))
    }
}

impl<J> PendingCall<J>
where
    J: Service<JobEvent>,
    J::Response: Into<Receipt>,
    J::Error: Into<BoxError>,
    J::Future: Send + 'static,
{
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let _entered = self.observation.enter();
        poll_ready(&mut *self.jobs, context)
    }

    fn call(self) -> Run<J> {
        let Self {
            jobs,
            event,
            mut permit,
            observation,
        } = self;
        let entered = (observation.enter(), permit.enter());
        let callback = call_reporting(jobs, event, None);
        drop(entered);
        Run::Running(Tracked::new(Observed::new(callback, observation), permit))
    }
}

impl<J> Unpin for Run<J> {}

impl<J> Future for Run<J>
where
    J: Service<JobEvent>,
    J::Response: Into<Receipt>,
    J::Error: Into<BoxError>,
    J::Future: Send + 'static,
{
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut *self {
                Self::AwaitingReadiness(slot) => {
                    let Some(mut pending) = slot.take() else {
                        panic!("`Background::run` was polled after it was ready");
                    };
                    let Poll::Ready(ready) = pending.poll_ready(context) else {
                        *slot = Some(pending);
                        return Poll::Pending;
                    };
                    *self = match ready {
                        Ok(()) => pending.call(),
                        Err(error) => Self::refuse(pending.observation, error),
                    };
                }
                Self::Running(callback) => return Pin::new(callback).poll(context),
                Self::Refused(error) => match error.take() {
                    Some(error) => return Poll::Ready(Err(error)),
                    None => panic!("`Background::run` was polled after it was ready"),
                },
            }
        }
    }
}
