//! The future: the callback's, or nothing to wait for.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::background::Delivery;
use crate::{Error, Receipt};

/// The response future of a [`JobRouter`](crate::JobRouter).
///
/// # Cancellation
///
/// Dropping it cancels the callback; see [`JobRouter::call`](crate::JobRouter::call) for one that runs on.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{JobEvent, JobRouter, Receipt};
/// use tower::Service;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut jobs = JobRouter::new().on_completed(|_| async {});
/// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
/// let future = Service::call(&mut jobs, event); // a `JobRouterFuture`
/// assert_eq!(future.await?, Receipt::Handled);
/// # Ok(()) }
/// ```
#[must_use = "futures do nothing unless polled"]
pub struct JobRouterFuture(pub(super) Result<Delivery, Receipt>);

impl Future for JobRouterFuture {
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Ok(delivery) => delivery.as_mut().poll(context),
            Err(receipt) => Poll::Ready(Ok(*receipt)),
        }
    }
}

impl fmt::Debug for JobRouterFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobRouterFuture").finish_non_exhaustive()
    }
}
