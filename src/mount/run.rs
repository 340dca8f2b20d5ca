//! `Background::run`, for events that are extracted, queued or polled.

use std::pin::Pin;
use std::task::{Context, Poll};

use crate::background::{Background, NoPermit, Permit, Tracked};
use crate::callback::{EventService, call_reporting, poll_ready};
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
    /// # Within a callback
    ///
    /// A callback that this `Background` tracks can run further events. It lends its permit to one
    /// of them at a time, so an event that it runs and awaits is part of the callback: it counts no
    /// second time, and it starts even if a drain has begun. Events that run at the same time need
    /// permits of their own.
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
    pub fn run<J: EventService>(
        &self,
        jobs: J,
        event: JobEvent,
    ) -> impl Future<Output = Result<Receipt, Error>> + use<J> {
        Run::Waiting(Some(Waiting {
            jobs: CatchDrop::new(jobs),
            event,
            permit: self.acquire(),
            observation: None,
        }))
    }
}

/// The future of [`Background::run`].
#[allow(
    clippy::large_enum_variant,
    reason = "each run starts with the large one, and a box would cost an allocation"
)]
enum Run<J> {
    Waiting(Option<Waiting<J>>),
    Running(Tracked<Observed>),
}

/// An event that was not polled yet, or whose service is not ready.
struct Waiting<J> {
    jobs: CatchDrop<J>,
    event: JobEvent,
    permit: Result<Permit, NoPermit>,
    /// `None` until the first poll.
    observation: Option<Observation>,
}

impl<J: EventService> Waiting<J> {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Self { event, .. } = self;
        let observation = self
            .observation
            .get_or_insert_with(|| Observation::of(event));
        if let Err(reason) = self.permit {
            return Poll::Ready(Err(reason.into()));
        }
        let _entered = observation.enter();
        poll_ready(&mut *self.jobs, context)
    }

    /// Calls the service, which is ready.
    fn call(self) -> Result<Tracked<Observed>, Error> {
        let observation = self.observation.unwrap_or_default();
        let mut permit = self.permit?;
        let entered = (observation.enter(), permit.enter());
        let callback = call_reporting(self.jobs, self.event, None);
        drop(entered);
        Ok(Tracked::new(Observed::new(callback, observation), permit))
    }

    fn refuse(self, error: &Error) {
        self.observation.unwrap_or_default().refuse(error);
    }
}

impl<J> Unpin for Run<J> {}

impl<J: EventService> Future for Run<J> {
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut *self {
                Self::Waiting(slot) => {
                    let Some(mut waiting) = slot.take() else {
                        panic!("`Background::run` was polled after it was ready");
                    };
                    match waiting.poll_ready(context) {
                        Poll::Pending => {
                            *slot = Some(waiting);
                            return Poll::Pending;
                        }
                        Poll::Ready(Ok(())) => *self = Self::Running(waiting.call()?),
                        Poll::Ready(Err(error)) => {
                            waiting.refuse(&error);
                            return Poll::Ready(Err(error));
                        }
                    }
                }
                Self::Running(callback) => return Pin::new(callback).poll(context),
            }
        }
    }
}
