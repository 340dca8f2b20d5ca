//! The layer: what is set, once for all the services that it makes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower::Layer;

use super::Dedupe;
use super::bounded::Bounded;
use crate::callback::{BoxedCallback, Callback, CallbackFuture, box_callback};
use crate::error::Receipt;
use crate::event::JobEvent;
use crate::ledger::Ledger;
#[cfg(feature = "tokio")]
use crate::util::deadline::Timeout;

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
/// the same event, [`EventName`](crate::ledger::EventName) says. An event that no callback was
/// registered for is not remembered, so `on_unhandled` can see it more than once.
///
/// What it cannot promise: a process that dies after the callback's effect and before the
/// commit leaves an event that is delivered again. See [`guarantees`](crate::guide::guarantees).
///
/// # Example
///
/// ```
/// use mx_job_webhook::ledger::MemoryLedger;
/// use mx_job_webhook::{DedupeLayer, Job, JobEvent, JobRouter, Receipt, Status};
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

/// All that the deliveries of a layer share.
pub(super) struct Options<L> {
    pub(super) ledger: Bounded<L>,
    pub(super) lease: Duration,
    pub(super) on_stale: Option<BoxedCallback<JobEvent>>,
}

impl<L: Ledger> DedupeLayer<L> {
    /// Remembers events in this ledger.
    #[must_use]
    pub fn new(ledger: L) -> Self {
        Self {
            options: Arc::new(Options {
                ledger: Bounded::new(ledger),
                lease: LEASE,
                on_stale: None,
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

    /// Sets how long each call to the ledger may take. Defaults to 5 s.
    ///
    /// A claim or a commit that takes longer is given up, and the delivery is answered 503, as for
    /// one that fails, with [`LedgerUnavailable`](crate::ErrorKind::LedgerUnavailable): nothing
    /// is acknowledged that is not known to be settled. A commit that fails is tried again within
    /// this time, with pauses of up to 200 ms, and then in the background until the lease expires.
    /// A release that fails is tried once more there. So a delivery waits for the ledger twice as
    /// long as this at most.
    ///
    /// A claim that was given up may have been granted all the same. It ends with its lease, and
    /// until then its event is answered 503.
    ///
    /// `None` disables the timeout. The time counts from when a call first has to be waited for,
    /// by tokio's clock; a ledger that answers at once has no timer, and one that blocks its
    /// thread cannot be given up. Outside of a tokio runtime, and within one whose timers are
    /// disabled, there is no timeout.
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn with_ledger_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        Arc::make_mut(&mut self.options).ledger.timeout = Timeout(timeout.into());
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
        Arc::make_mut(&mut self.options).on_stale = Some(box_callback(hook, Receipt::Stale));
        self
    }
}

impl<S, L> Layer<S> for DedupeLayer<L> {
    type Service = Dedupe<S, L>;

    fn layer(&self, inner: S) -> Dedupe<S, L> {
        Dedupe::new(inner, self.options.clone())
    }
}

// By hand, because `derive` would ask `L: Clone` for what is in an `Arc`.
impl<L> Clone for Options<L> {
    fn clone(&self) -> Self {
        Self {
            ledger: self.ledger.clone(),
            lease: self.lease,
            on_stale: self.on_stale.clone(),
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

impl<L> fmt::Debug for DedupeLayer<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DedupeLayer")
            .field("lease", &self.options.lease)
            .finish_non_exhaustive()
    }
}
