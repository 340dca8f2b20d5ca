//! The layer that hears of events.

use std::fmt;
use std::task::{Context, Poll};

use tower::{BoxError, Layer, Service};

use super::heard::Heard;
use super::job_watch::JobWatch;
use crate::callback::{JobFuture, call, poll_ready};
use crate::error::{Error, Receipt};
use crate::event::JobEvent;

/// A layer that hears of every event that is settled: see [`JobWatch::layer`].
#[derive(Clone, Debug)]
pub struct WatchLayer {
    watch: JobWatch,
}

impl WatchLayer {
    pub(super) fn new(watch: JobWatch) -> Self {
        Self { watch }
    }
}

impl<S> Layer<S> for WatchLayer {
    type Service = Watch<S>;

    fn layer(&self, inner: S) -> Watch<S> {
        Watch {
            inner,
            watch: self.watch.clone(),
        }
    }
}

/// A service of events with a [`WatchLayer`] around it.
///
/// It is ready when the service within is.
#[derive(Clone)]
pub struct Watch<S> {
    inner: S,
    watch: JobWatch,
}

impl<S> Service<JobEvent> for Watch<S>
where
    S: Service<JobEvent>,
    S::Response: Into<Receipt>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = Receipt;
    type Error = Error;
    type Future = JobFuture;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        poll_ready(&mut self.inner, context)
    }

    fn call(&mut self, event: JobEvent) -> JobFuture {
        let heard = Heard::of(&event);
        let calling = call(&mut self.inner, event);
        let Some(heard) = heard else {
            return JobFuture::new(calling);
        };
        let watch = self.watch.clone();
        JobFuture::new(async move {
            let receipt = calling.await?;
            if is_settled(receipt) {
                watch.hear(heard).await?;
            }
            Ok(receipt)
        })
    }
}

/// Returns whether the event of a delivery with this receipt is settled.
///
/// A stale event is not news: a later event of its job is settled. The callback of an event that
/// was acknowledged first can still fail.
pub(super) fn is_settled(receipt: Receipt) -> bool {
    match receipt {
        Receipt::Handled | Receipt::Unhandled | Receipt::DeadLettered | Receipt::Duplicate => true,
        Receipt::Undecodable | Receipt::Stale | Receipt::Accepted => false,
    }
}

impl<S: fmt::Debug> fmt::Debug for Watch<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
