//! The layer: what is set, once for all the services that it makes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower::Layer;

use super::bounded::Bounded;
use super::{Dedupe, Ledger};
use crate::callback::{Callback, CallbackFuture, Erased, erase};
#[cfg(feature = "tokio")]
use crate::deadline::Timeout;
use crate::{Background, JobEvent, Receipt};

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
/// the same event, [`EventName`](crate::EventName) says. An event that no callback was
/// registered for is not remembered, so `on_unhandled` can see it more than once.
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

/// All that the deliveries of a layer share.
pub(super) struct Options<L> {
    pub(super) ledger: Bounded<L>,
    pub(super) lease: Duration,
    pub(super) on_stale: Option<Erased<JobEvent>>,
    pub(super) background: Background,
}

impl<L: Ledger> DedupeLayer<L> {
    /// Remembers events in this ledger.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{DedupeLayer, JobEvent, JobRouter, MemoryLedger};
    /// use tower::{Layer, ServiceExt};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let ledger = MemoryLedger::new(); // A clone is the same ledger.
    /// let jobs = JobRouter::new().on_completed(|_| async {});
    /// let once = DedupeLayer::new(ledger.clone()).layer(jobs);
    ///
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
    /// once.oneshot(event).await?;
    /// assert_eq!(ledger.settled(), 1);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn new(ledger: L) -> Self {
        Self {
            options: Arc::new(Options {
                ledger: Bounded::new(ledger),
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
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use mx_job_webhook::{DedupeLayer, MemoryLedger};
    ///
    /// let layer = DedupeLayer::new(MemoryLedger::new()).with_lease(Duration::from_secs(60 * 60));
    /// assert_eq!(format!("{layer:?}"), "DedupeLayer { lease: 3600s, .. }");
    /// ```
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
    /// this time, with pauses of up to 200 ms, and then in the [`Background`] until the lease expires.
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
    ///
    /// # Example
    ///
    /// ```
    /// use std::{convert::Infallible, future::pending, time::Duration};
    /// use mx_job_webhook::{
    ///     Claim, Commit, DedupeLayer, ErrorKind, EventName, FencingToken, JobEvent, JobRouter, Ledger,
    /// };
    /// use tower::{ServiceBuilder, ServiceExt};
    ///
    /// struct Hangs;
    ///
    /// impl Ledger for Hangs {
    ///     type Error = Infallible;
    ///
    ///     async fn claim(&self, _: &EventName, _: Duration) -> Result<Claim, Infallible> {
    ///         pending().await
    ///     }
    ///     async fn commit(&self, _: &EventName, _: FencingToken) -> Result<Commit, Infallible> {
    ///         pending().await
    ///     }
    ///     async fn release(&self, _: &EventName, _: FencingToken) -> Result<(), Infallible> {
    ///         pending().await
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let jobs = ServiceBuilder::new()
    ///     .layer(DedupeLayer::new(Hangs).with_ledger_timeout(Duration::from_millis(10)))
    ///     .service(JobRouter::new().on_halted(|_| async {}));
    ///
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "HALTED"}}"#)?;
    /// let error = jobs.oneshot(event).await.unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::LedgerUnavailable);
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn with_ledger_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        Arc::make_mut(&mut self.options).ledger.timeout = Timeout(timeout.into());
        self
    }

    /// Sets the `Background` that releases the claims of deliveries that were dropped.
    ///
    /// Give it the `Background` that is drained at shutdown. It matters for ledgers across a
    /// network, and where middleware around this one drops deliveries, as tower's `timeout`
    /// does. Without a runtime to spawn on, the claim expires with its lease. A drain waits for
    /// a release as long as one call to the ledger may take, and for a commit until the ledger has it or
    /// the lease has expired: the callback has succeeded, and would run again.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Background, DedupeLayer, MemoryLedger};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let background = Background::new();
    /// let layer = DedupeLayer::new(MemoryLedger::new()).with_background(background.clone());
    ///
    /// // Serve, and at the end wait for claims on their way back, as for callbacks.
    /// assert_eq!(background.drain(std::future::pending::<()>()).await, 0);
    /// # drop(layer); Ok(()) }
    /// ```
    #[must_use]
    pub fn with_background(mut self, background: Background) -> Self {
        Arc::make_mut(&mut self.options).background = background;
        self
    }

    /// Sets who is told of stale events, which reach no callback.
    ///
    /// If it fails, the delivery is answered 500, and comes again.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{DedupeLayer, JobEvent, JobRouter, MemoryLedger, Receipt};
    /// use tower::{Layer, ServiceExt};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let jobs = JobRouter::new().on_completed(|_| async {}).on_challenged(|_| async {});
    /// let once = DedupeLayer::new(MemoryLedger::new())
    ///     .on_stale(|event| async move { println!("too late: {event:?}") })
    ///     .layer(jobs);
    ///
    /// let completed = r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED", "updated_at": 20}}"#;
    /// let challenged = r#"{"job": {"guid": "JOB-1", "status_name": "CHALLENGED", "updated_at": 10}}"#;
    /// assert_eq!(once.clone().oneshot(JobEvent::decode(completed)?).await?, Receipt::Handled);
    /// assert_eq!(once.oneshot(JobEvent::decode(challenged)?).await?, Receipt::Stale);
    /// # Ok(()) }
    /// ```
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

impl<L> fmt::Debug for DedupeLayer<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DedupeLayer")
            .field("lease", &self.options.lease)
            .finish_non_exhaustive()
    }
}
