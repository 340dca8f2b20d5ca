//! A boxed service of events.

use std::fmt;
use std::task::{Context, Poll};

use tower::{BoxError, Service};

use super::service::{call, poll_ready};
use super::{JobFuture, JobService};
use crate::error::{Error, Receipt};
use crate::event::JobEvent;
use crate::util::catch_panic::CatchDrop;

/// A boxed service of events, to store jobs without naming their layers.
///
/// # Example
///
/// ```
/// use mx_job_webhook::ledger::MemoryLedger;
/// use mx_job_webhook::{Background, BoxJobService, DedupeLayer, JobEvent, JobRouter, Receipt};
/// use tower::ServiceBuilder;
///
/// #[derive(Clone)]
/// struct App {
///     jobs: BoxJobService,
///     background: Background,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let jobs = ServiceBuilder::new()
///     .layer(DedupeLayer::new(MemoryLedger::new()))
///     .service(JobRouter::new().on_completed(|_| async {}));
/// let app = App { jobs: BoxJobService::new(jobs), background: Background::new() };
///
/// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
/// assert_eq!(app.background.run(app.jobs, event).await?, Receipt::Handled);
/// # Ok(()) }
/// ```
pub struct BoxJobService(CatchDrop<Box<dyn BoxableJobService>>);

impl BoxJobService {
    /// Returns a boxed service of events.
    #[must_use]
    pub fn new(jobs: impl JobService) -> Self {
        Self(CatchDrop::new(Box::new(jobs)))
    }
}

impl Service<JobEvent> for BoxJobService {
    type Response = Receipt;
    type Error = Error;
    type Future = JobFuture;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, event: JobEvent) -> JobFuture {
        self.0.call(event)
    }
}

impl Clone for BoxJobService {
    fn clone(&self) -> Self {
        Self(CatchDrop::new(self.0.clone_boxed()))
    }
}

impl fmt::Debug for BoxJobService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxJobService").finish_non_exhaustive()
    }
}

/// [`JobService`] in a form that can be boxed.
trait BoxableJobService: Send + Sync {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>>;
    fn call(&mut self, event: JobEvent) -> JobFuture;
    fn clone_boxed(&self) -> Box<dyn BoxableJobService>;
}

impl<J> BoxableJobService for J
where
    J: JobService,
    J::Response: Into<Receipt>,
    J::Error: Into<BoxError>,
{
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        poll_ready(self, context)
    }

    fn call(&mut self, event: JobEvent) -> JobFuture {
        JobFuture::new(call(self, event))
    }

    fn clone_boxed(&self) -> Box<dyn BoxableJobService> {
        Box::new(self.clone())
    }
}
