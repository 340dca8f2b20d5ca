//! The service, which takes a delivery from the claim to the commit or the release.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower::{BoxError, Service};

use super::claim_guard::ClaimGuard;
use super::layer::Options;
use crate::callback::{JobFuture, call, poll_ready};
use crate::error::{Error, ErrorKind, Receipt};
use crate::event::JobEvent;
use crate::ledger::{Claim, Ledger};

/// A service of events with a [`DedupeLayer`](crate::DedupeLayer) around it.
///
/// It is ready when the service within is.
///
/// # Cancellation
///
/// Dropping its future cancels the callback and releases the claim. A mount and
/// [`Background::run`](crate::Background::run) let the callback finish.
pub struct Dedupe<S, L> {
    inner: S,
    options: Arc<Options<L>>,
}

impl<S, L> Dedupe<S, L> {
    pub(super) fn new(inner: S, options: Arc<Options<L>>) -> Self {
        Self { inner, options }
    }
}

impl<S, L> Service<JobEvent> for Dedupe<S, L>
where
    S: Service<JobEvent> + Clone + Send + 'static,
    S::Response: Into<Receipt>,
    S::Error: Into<BoxError>,
    S::Future: Send,
    L: Ledger,
{
    type Response = Receipt;
    type Error = Error;
    type Future = JobFuture;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        poll_ready(&mut self.inner, context)
    }

    fn call(&mut self, event: JobEvent) -> JobFuture {
        // The clone may not be ready, so it stays here, and the service that is ready is called.
        let clone = self.inner.clone();
        let readied = std::mem::replace(&mut self.inner, clone);
        JobFuture::new(handle_once(readied, self.options.clone(), event))
    }
}

#[allow(
    clippy::manual_async_fn,
    reason = "an `async fn` would store the event twice: as its argument, and as a local"
)]
fn handle_once<S, L>(
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
        let mut guard = ClaimGuard::new(options, &event);
        match guard.claim().await? {
            Claim::Granted(token) => event.set_fencing_token(token),
            Claim::Settled => return Ok(Receipt::Duplicate),
            Claim::InFlight => return Err(Error::new(ErrorKind::InFlight)),
            Claim::Stale => {
                let Some(on_stale) = &guard.options.on_stale else {
                    return Ok(Receipt::Stale);
                };
                return on_stale(event).await;
            }
        }
        // `call` turns a panic into an error, so that the release below is awaited.
        let outcome = call(&mut inner, event).await;
        match outcome {
            // An event without a callback is not settled. It would make an older event stale, which
            // may have a callback.
            Ok(Receipt::Unhandled) | Err(_) => guard.release().await,
            Ok(_) => guard.commit().await?,
        }
        outcome
    }
}

impl<S: Clone, L> Clone for Dedupe<S, L> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            options: self.options.clone(),
        }
    }
}

impl<S: fmt::Debug, L> fmt::Debug for Dedupe<S, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dedupe")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
