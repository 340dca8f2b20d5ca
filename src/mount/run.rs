//! `Background::run`, for events that are extracted, queued or polled.

use std::future::poll_fn;

use tower::{BoxError, Service};

use crate::background::{Background, Tracked};
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
    /// when `run` is called, and not when the future is polled.
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
        let mut observation = Observation::of(&mut event);
        event.set_background(self);
        let mut jobs = CatchDrop::new(jobs);
        // Acquired here and not in the future, because a callback may hand the future to another
        // task.
        let permit = self.acquire();
        async move {
            let ready = async {
                let permit = permit?;
                poll_fn(|context| {
                    let _entered = observation.enter();
                    poll_ready(&mut *jobs, context)
                })
                .await?;
                Ok(permit)
            };
            let mut permit = ready.await.inspect_err(|error| observation.refuse(error))?;
            let callback = {
                let _entered = (observation.enter(), permit.enter());
                call_reporting(jobs, event, None)
            };
            Tracked::new(Observed::new(callback, observation), permit).await
        }
    }
}
