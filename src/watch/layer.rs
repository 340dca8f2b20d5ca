//! The layer that hears of events.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::sleep;
use tower::{BoxError, Layer, Service};

use super::heard::SettledEvent;
use super::job_watch::{JobWatch, unavailable};
use crate::callback::{JobFuture, poll_ready};
use crate::error::{Error, Receipt};
use crate::event::{JobEvent, Source};

/// How often a worker of a queue records an event again that its store could not record, and after what pause, which doubles. The
/// callback would run again otherwise, and no sender waits for it.
const REPEATS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(1);

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
{
    type Response = Receipt;
    type Error = Error;
    type Future = WatchFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        poll_ready(&mut self.inner, context)
    }

    fn call(&mut self, event: JobEvent) -> Self::Future {
        let settled = SettledEvent::of(&event).map(|settled| (self.watch.clone(), settled));
        let repeats = match event.source() {
            Source::Queue => REPEATS,
            _ => 0,
        };
        WatchFuture {
            step: Step::Calling {
                calling: self.inner.call(event),
                settled,
                repeats,
            },
        }
    }
}

pin_project! {
    /// The response future of [`Watch`].
    ///
    /// It is ready when the service within has answered, and the event is recorded if that has settled
    /// it.
    #[must_use = "futures do nothing unless polled"]
    pub struct WatchFuture<F> {
        #[pin]
        step: Step<F>,
    }
}

pin_project! {
    #[project = StepProjection]
    enum Step<F> {
        Calling {
            #[pin]
            calling: F,
            // `None` if an application cannot wait for this status.
            settled: Option<(JobWatch, SettledEvent)>,
            repeats: u32,
        },
        // Boxed, because most events are of jobs that are not expected.
        Hearing { hearing: JobFuture },
    }
}

impl<F, R, E> Future for WatchFuture<F>
where
    F: Future<Output = Result<R, E>>,
    R: Into<Receipt>,
    E: Into<BoxError>,
{
    type Output = Result<Receipt, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut step = self.project().step;
        let hearing = match step.as_mut().project() {
            StepProjection::Hearing { hearing } => return Pin::new(hearing).poll(context),
            StepProjection::Calling {
                calling,
                settled,
                repeats,
            } => {
                let outcome = ready!(calling.poll(context));
                let receipt = outcome.map_err(|error| Error::from(error.into()))?.into();
                let settled = settled.take().filter(|_| is_settled(receipt));
                let Some((watch, settled)) = settled else {
                    return Poll::Ready(Ok(receipt));
                };
                let Some(settled) = watch.record_unexpected(settled)? else {
                    return Poll::Ready(Ok(receipt));
                };
                JobFuture::new(hear(watch, settled, *repeats, receipt))
            }
        };
        step.set(Step::Hearing { hearing });
        match step.project() {
            StepProjection::Hearing { hearing } => Pin::new(hearing).poll(context),
            StepProjection::Calling { .. } => unreachable!("it was just set"),
        }
    }
}

async fn hear(
    watch: JobWatch,
    settled: SettledEvent,
    repeats: u32,
    receipt: Receipt,
) -> Result<Receipt, Error> {
    let heard = settled.heard();
    let heard = heard.ok_or_else(|| unavailable("the body cannot be decoded again"))?;
    let mut pause = FIRST_PAUSE;
    for _ in 0..repeats {
        if watch.hear(&heard).await.is_ok() {
            return Ok(receipt);
        }
        sleep(pause).await;
        pause *= 2;
    }
    watch.hear(&heard).await?;
    Ok(receipt)
}

impl<F> fmt::Debug for WatchFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchFuture").finish_non_exhaustive()
    }
}

/// Returns whether the event of a delivery with this receipt is settled.
///
/// A stale event is not news: a later event of its job is settled. The callback of an event that
/// was acknowledged first, or that is in a queue, can still fail.
pub(super) fn is_settled(receipt: Receipt) -> bool {
    match receipt {
        Receipt::Handled | Receipt::Unhandled | Receipt::DeadLettered | Receipt::Duplicate => true,
        Receipt::Undecodable
        | Receipt::OtherWebhook
        | Receipt::Stale
        | Receipt::Accepted
        | Receipt::Queued => false,
    }
}

impl<S: fmt::Debug> fmt::Debug for Watch<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
