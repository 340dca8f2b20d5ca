//! The future: one delivery, from the claim to the commit or the release.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower::{BoxError, Service};

use super::held::Held;
use super::layer::Options;
use super::{Claim, EventName, Ledger};
use crate::panic::{CatchPanic, Panicked};
use crate::{Error, ErrorKind, JobEvent, Receipt};

/// The response future of [`Dedupe`](crate::Dedupe).
///
/// # Example
///
/// ```
/// use mx_job_webhook::{DedupeFuture, DedupeLayer, JobEvent, JobRouter, MemoryLedger};
/// use tower::{Layer, Service};
///
/// let ledger = MemoryLedger::new();
/// let mut jobs = DedupeLayer::new(ledger.clone()).layer(JobRouter::new());
/// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
/// let future: DedupeFuture = jobs.call(event);
/// drop(future); // Never polled, it has claimed nothing.
/// assert_eq!(ledger.in_flight(), 0);
/// # Ok::<(), mx_job_webhook::Error>(())
/// ```
#[must_use = "futures do nothing unless polled"]
pub struct DedupeFuture(Pin<Box<dyn Future<Output = Result<Receipt, Error>> + Send>>);

impl DedupeFuture {
    pub(super) fn start<S, L>(inner: S, options: Arc<Options<L>>, event: JobEvent) -> Self
    where
        S: Service<JobEvent> + Send + 'static,
        S::Response: Into<Receipt>,
        S::Error: Into<BoxError>,
        S::Future: Send,
        L: Ledger,
    {
        Self(Box::pin(once(inner, options, event)))
    }
}

impl Future for DedupeFuture {
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

impl fmt::Debug for DedupeFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DedupeFuture").finish_non_exhaustive()
    }
}

#[allow(
    clippy::manual_async_fn,
    reason = "an `async fn` would keep the event twice, as an argument and as what it is moved to"
)]
fn once<S, L>(
    mut inner: S,
    options: Arc<Options<L>>,
    mut event: JobEvent,
) -> impl Future<Output = Result<Receipt, Error>>
where
    S: Service<JobEvent>,
    S::Response: Into<Receipt>,
    S::Error: Into<BoxError>,
    L: Ledger,
{
    async move {
        // From the claim to the commit, whatever ends this future releases the claim.
        let mut held = Held::new(options, EventName::of(&event));
        match held.claim().await? {
            Claim::Granted(token) => event.set_fencing_token(token),
            Claim::Settled => return Ok(Receipt::Duplicate),
            Claim::InFlight => return Err(Error::new(ErrorKind::InFlight)),
            Claim::Stale => {
                return match &held.options.on_stale {
                    Some(on_stale) => on_stale(event).await,
                    None => Ok(Receipt::Stale),
                };
            }
        }
        // A panic is caught, so that the release is waited for.
        let outcome = CatchPanic::start(
            || inner.call(event),
            |outcome| outcome.map(Into::into).map_err(Into::into),
        );
        let outcome = match outcome.await {
            Ok(outcome) => outcome.map_err(Error::from),
            Err(Panicked) => Err(Error::new(ErrorKind::CallbackPanicked)),
        };
        match outcome {
            // Nobody wanted it, so nothing was done that must not be done again; settled, it would
            // make an older event stale that somebody does want.
            Ok(Receipt::Unhandled) | Err(_) => held.release().await,
            Ok(_) => held.commit().await?,
        }
        outcome
    }
}
