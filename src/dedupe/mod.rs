//! Each event once: duplicates and stale events end here.

mod event_name;
mod held;
#[cfg(any(feature = "redis", feature = "postgres"))]
mod key;
#[cfg(any(feature = "redis", feature = "postgres"))]
mod lease;
mod ledger;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tower::{BoxError, Layer, Service};

use crate::callback::{Callback, CallbackFuture, Erased, erase};
use crate::panic::{CatchPanic, Panicked};
use crate::pipeline::deliver;
use crate::{Background, Error, ErrorKind, JobEvent, Receipt};
pub use event_name::EventName;
use held::Held;
pub use ledger::{Claim, Commit, FencingToken, Ledger};
pub use memory::MemoryLedger;
#[cfg(feature = "postgres")]
pub use postgres::{CommitInError, PostgresLedger};
#[cfg(feature = "redis")]
pub use redis::RedisLedger;

/// Longer than a callback should take, and short against a day of retries.
const LEASE: Duration = Duration::from_secs(10 * 60);

/// Runs the callback for each event once, however often it is delivered.
///
/// A delivery whose event is already settled is acknowledged without a callback; so is a
/// stale one, which is older than the last settled event of its job. While the first
/// delivery of an event is under way, others are *not* acknowledged, since the first may
/// yet fail: they are answered 503 with `Retry-After`.
///
/// An event is claimed in the [`Ledger`] before the service within is called, committed
/// when that has succeeded, and released when it failed, panicked or was cancelled. What is
/// the same event, [`EventName`] says. An event that no callback was registered for is not
/// remembered, so `on_unhandled` can see it more than once.
///
/// What it cannot promise: a process that dies after the callback's effect and before the
/// commit leaves an event that is delivered again. See [`guarantees`](crate::guarantees).
///
/// # Example
///
/// ```
/// use mx_job_webhook::{DedupeLayer, Job, JobEvent, JobRouter, MemoryLedger, Receipt, Status};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let jobs = ServiceBuilder::new()
///     .layer(DedupeLayer::new(MemoryLedger::new()))
///     .service(JobRouter::new().on_completed(|_| async {}));
///
/// let event = JobEvent::from(Job::new("JOB-1".parse()?, Status::Completed));
/// assert_eq!(jobs.clone().oneshot(event.clone()).await?, Receipt::Handled);
/// assert_eq!(jobs.oneshot(event).await?, Receipt::Duplicate);
/// # Ok(()) }
/// ```
pub struct DedupeLayer<L> {
    options: Arc<Options<L>>,
}

struct Options<L> {
    ledger: Arc<L>,
    lease: Duration,
    on_stale: Option<Erased<JobEvent>>,
    background: Background,
}

impl<L: Ledger> DedupeLayer<L> {
    /// Remembers events in this ledger.
    #[must_use]
    pub fn new(ledger: L) -> Self {
        Self {
            options: Arc::new(Options {
                ledger: Arc::new(ledger),
                lease: LEASE,
                on_stale: None,
                background: Background::new(),
            }),
        }
    }

    /// Sets how long a claim holds if its holder dies; ten minutes unless set.
    ///
    /// Longer than the slowest callback takes: past the lease the next delivery runs the
    /// callback again, whether or not the first is still under way. Short enough that an
    /// event whose holder died is taken up by one of MX's later retries.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        Arc::make_mut(&mut self.options).lease = lease;
        self
    }

    /// Sets where a claim is given back by, when its delivery is dropped and the ledger waits.
    ///
    /// Give it the `Background` that is drained at shutdown. It matters for ledgers across a
    /// network, and where middleware around this one drops deliveries, as tower's `timeout`
    /// does. Without a runtime to spawn on, the lease gives the claim back.
    #[must_use]
    pub fn with_background(mut self, background: Background) -> Self {
        Arc::make_mut(&mut self.options).background = background;
        self
    }

    /// Sets who is told of stale events, which reach no callback.
    ///
    /// If it fails, the delivery is answered 500, and comes again.
    #[must_use]
    pub fn on_stale<F, Fut>(mut self, hook: F) -> Self
    where
        F: Callback<JobEvent, Fut>,
        Fut: CallbackFuture,
    {
        Arc::make_mut(&mut self.options).on_stale = Some(erase(hook, Receipt::Stale));
        self
    }
}

impl<S, L> Layer<S> for DedupeLayer<L> {
    type Service = Dedupe<S, L>;

    fn layer(&self, inner: S) -> Dedupe<S, L> {
        Dedupe {
            inner,
            options: self.options.clone(),
        }
    }
}

/// A service of events with a [`DedupeLayer`] around it.
///
/// It is ready when the service within is. Dropping its future in mid-callback cancels the
/// callback and releases the claim; the layer and [`Background::run`](crate::Background::run)
/// do not drop it.
pub struct Dedupe<S, L> {
    inner: S,
    options: Arc<Options<L>>,
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
        DedupeFuture(Box::pin(once(readied, self.options.clone(), event)))
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
        let name = EventName::of(&event);
        let claim = options.ledger.claim(&name, options.lease).await;
        let token = match claim.map_err(unavailable)? {
            Claim::Granted(token) => token,
            Claim::Settled => return Ok(Receipt::Duplicate),
            Claim::InFlight => return Err(Error::new(ErrorKind::InFlight)),
            Claim::Stale => {
                return match &options.on_stale {
                    Some(on_stale) => on_stale(event).await,
                    None => Ok(Receipt::Stale),
                };
            }
        };
        // From here to the commit, whatever ends this future releases the claim.
        let background = options.background.clone();
        let held = Held::new(options.ledger.clone(), name, token, background);
        event.set_fencing_token(token);
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
            Ok(Receipt::Unhandled) => {
                held.release().await;
                Ok(Receipt::Unhandled)
            }
            Ok(receipt) => {
                // Overtaken or not, the callback has succeeded, which is what a 2xx says.
                held.commit().await.map_err(unavailable)?;
                Ok(receipt)
            }
            Err(error) => {
                held.release().await;
                Err(error)
            }
        }
    }
}

fn unavailable(error: impl Into<BoxError>) -> Error {
    Error::with_source(ErrorKind::LedgerUnavailable, error.into())
}

/// The response future of [`Dedupe`].
#[must_use = "futures do nothing unless polled"]
pub struct DedupeFuture(Pin<Box<dyn Future<Output = Result<Receipt, Error>> + Send>>);

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

// By hand, because `derive` would ask `L: Clone` for the `Arc`s.
impl<L> Clone for Options<L> {
    fn clone(&self) -> Self {
        Self {
            ledger: self.ledger.clone(),
            lease: self.lease,
            on_stale: self.on_stale.clone(),
            background: self.background.clone(),
        }
    }
}

impl<L> Clone for DedupeLayer<L> {
    fn clone(&self) -> Self {
        Self {
            options: self.options.clone(),
        }
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

impl<L> fmt::Debug for DedupeLayer<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DedupeLayer")
            .field("lease", &self.options.lease)
            .finish_non_exhaustive()
    }
}

impl<S: fmt::Debug, L> fmt::Debug for Dedupe<S, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dedupe")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
