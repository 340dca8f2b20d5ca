//! The layer, and the settings that its services share.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower::Layer;

use super::Dedupe;
use super::bounded_ledger::BoundedLedger;
use crate::callback::{BoxedCallback, Callback, CallbackFuture, box_callback};
use crate::error::Receipt;
use crate::event::JobEvent;
use crate::ledger::Ledger;
#[cfg(feature = "tokio")]
use crate::util::deadline::Timeout;

/// Longer than a callback should take, and short compared with a day of retries.
const LEASE: Duration = Duration::from_secs(10 * 60);

/// A layer that runs the callback once for each event.
///
/// If the event is already settled, the delivery is acknowledged without a callback. The same holds
/// for a stale event, which is older than the last settled event of its job. While the first
/// delivery of an event is under way, it may still fail, so others are *not* acknowledged: they are
/// answered 503 with `Retry-After`.
///
/// The layer claims an event in the [`Ledger`] before it calls the service within. If the service
/// succeeds, the event is committed. If it fails, panics or is cancelled, the claim is released.
/// [`EventName`](crate::ledger::EventName) defines which events are the same. Events without a
/// callback are not remembered, so `on_unhandled` can see them more than once.
///
/// If the process dies after the callback's effect and before the commit, MX delivers the event
/// again, and the callback runs again. See [`guarantees`](crate::guide::guarantees).
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

/// The settings that all deliveries of a layer share.
pub(super) struct Options<L> {
    pub(super) ledger: BoundedLedger<L>,
    pub(super) lease: Duration,
    pub(super) on_stale: Option<BoxedCallback<JobEvent>>,
}

impl<L: Ledger> DedupeLayer<L> {
    /// Returns a layer that remembers events in this ledger.
    #[must_use]
    pub fn new(ledger: L) -> Self {
        Self {
            options: Arc::new(Options {
                ledger: BoundedLedger::new(ledger),
                lease: LEASE,
                on_stale: None,
            }),
        }
    }

    /// Sets how long a claim holds if its holder dies. Defaults to 10 minutes.
    ///
    /// Set it longer than the slowest callback takes. After the lease has expired, the next
    /// delivery runs the callback again, even if the first one is still under way. Set it short
    /// enough that one of MX's later retries runs an event whose holder died.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        Arc::make_mut(&mut self.options).lease = lease;
        self
    }

    /// Sets how long each call to the ledger may take. Defaults to 5 s.
    ///
    /// If a claim or a commit takes longer or fails, the delivery is answered 503, with
    /// [`LedgerUnavailable`](crate::ErrorKind::LedgerUnavailable). Only an event that is known to
    /// be settled is acknowledged. Before that, a failed commit is retried within this time, with
    /// pauses of up to 200 ms; after that, it is retried in the background until the lease expires.
    /// A failed release is retried once in the background. A delivery therefore waits for the
    /// ledger at most twice this time.
    ///
    /// The ledger may grant a claim after its timeout. Such a claim expires with its lease, and
    /// until then deliveries of its event are answered 503.
    ///
    /// `None` disables the timeout. The time counts from when a call first has to wait, by tokio's
    /// clock. A ledger that answers at once needs no timer, and one that blocks its thread cannot
    /// be interrupted. Outside of a tokio runtime, and in one whose timers are disabled, there is
    /// no timeout.
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn with_ledger_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        Arc::make_mut(&mut self.options).ledger.timeout = Timeout(timeout.into());
        self
    }

    /// Registers the hook for stale events, which run no callback.
    ///
    /// If the hook fails, the delivery is answered 500, and MX retries it.
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

// By hand, because `derive` would require `L: Clone`, although the ledger is in an `Arc`.
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
