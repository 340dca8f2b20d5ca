//! The service: a future for each event.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower::{BoxError, Service};

use super::layer::Options;
use super::{DedupeFuture, Ledger};
use crate::pipeline::deliver;
use crate::{Error, JobEvent, Receipt};

/// A service of events with a [`DedupeLayer`](crate::DedupeLayer) around it.
///
/// It is ready when the service within is. Dropping its future in mid-callback cancels the
/// callback and releases the claim; the layer and [`Background::run`](crate::Background::run)
/// do not drop it.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{Dedupe, DedupeLayer, JobRouter, MemoryLedger};
/// use tower::Layer;
///
/// /// What the application hands to the layer, and to a worker.
/// type Jobs = Dedupe<JobRouter, MemoryLedger>;
///
/// let jobs: Jobs = DedupeLayer::new(MemoryLedger::new()).layer(JobRouter::new());
/// assert!(format!("{jobs:?}").contains("JobRouter"));
/// ```
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
    type Future = DedupeFuture;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        deliver::poll_ready(&mut self.inner, context)
    }

    fn call(&mut self, event: JobEvent) -> DedupeFuture {
        // The clone stays, for the next event to make ready; the one that is ready is called.
        let clone = self.inner.clone();
        let readied = std::mem::replace(&mut self.inner, clone);
        DedupeFuture::start(readied, self.options.clone(), event)
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
