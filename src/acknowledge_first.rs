//! Acknowledge first: 204 at once, and the callback in the background.

use std::fmt;
use std::future::{Ready, poll_fn, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use tower::{BoxError, Layer, Service};

use crate::background::Running;
use crate::failure::{FailureHook, ReportEnd};
use crate::observe::{Observation, Observed};
use crate::panic::{CatchDrop, Panicked, catch};
use crate::pipeline::deliver;
use crate::{Background, Error, ErrorKind, Failure, JobEvent, Receipt};

/// Acknowledges each event at once, and runs the callback in the background.
///
/// For callbacks that take longer than a sender waits, and events that may be lost. **It
/// gives up the promise that a 204 is a receipt**: MX never delivers an acknowledged event
/// again, so one whose callback fails, panics, or is cut short by a crash or a restart is
/// gone. Where that will not do, prefer the layer's `with_answer_deadline`, or a durable
/// queue as the callback.
///
/// A failure goes to `on_error`, which is a required argument: nothing fails in silence.
/// What runs, or waits for the service within to be ready, is bounded and drained by the
/// [`Background`]. When its places are taken, or it drains, or no runtime takes the callback,
/// the event is not acknowledged but answered 503.
///
/// With [`DedupeLayer`](crate::DedupeLayer), put that one inside: an event is settled when
/// its callback has succeeded, not when it was accepted.
///
/// A delivery that is accepted takes two places for a moment, where the mount has the same
/// `Background`: its own, and the callback's. So that one needs a capacity of two or more.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{AcknowledgeFirstLayer, Background, JobEvent, JobRouter, Receipt, Status};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let background = Background::new();
/// let jobs = ServiceBuilder::new()
///     .layer(AcknowledgeFirstLayer::new(background.clone(), |failure| {
///         eprintln!("lost: {failure:?}");
///     }))
///     .service(JobRouter::new().on_halted(|_| async { Err("nobody to tell") }));
///
/// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "HALTED"}}"#)?;
/// # if cfg!(feature = "tokio") {
/// assert_eq!(jobs.oneshot(event).await?, Receipt::Accepted);
/// # }
/// assert_eq!(background.drain(std::future::pending::<()>()).await, 0);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct AcknowledgeFirstLayer {
    background: Background,
    on_error: FailureHook,
}

impl AcknowledgeFirstLayer {
    /// Runs callbacks there, and tells this hook what failed.
    ///
    /// The hook is as [`on_error`](crate::JobWebhookLayer::on_error) of the layer.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{AcknowledgeFirstLayer, Background, ErrorKind, JobEvent, JobRouter};
    /// use tower::{Layer, ServiceExt};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // No place is free: what cannot be run is not acknowledged.
    /// let full = Background::new().with_capacity(0);
    /// let layer = AcknowledgeFirstLayer::new(full, |failure| eprintln!("lost: {failure:?}"));
    /// let jobs = layer.layer(JobRouter::new().on_completed(|_| async {}));
    ///
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
    /// assert_eq!(jobs.oneshot(event).await.unwrap_err().kind(), ErrorKind::Overloaded);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn new<F>(background: Background, on_error: F) -> Self
    where
        F: Fn(Failure<'_>) + Send + Sync + 'static,
    {
        Self {
            background,
            on_error: FailureHook::new(on_error),
        }
    }
}

impl<S> Layer<S> for AcknowledgeFirstLayer {
    type Service = AcknowledgeFirst<S>;

    fn layer(&self, inner: S) -> AcknowledgeFirst<S> {
        AcknowledgeFirst {
            inner,
            layer: self.clone(),
        }
    }
}

impl fmt::Debug for AcknowledgeFirstLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcknowledgeFirstLayer")
            .field("background", &self.background)
            .finish_non_exhaustive()
    }
}

/// A service of events with an [`AcknowledgeFirstLayer`] around it.
///
/// It is always ready: the service within is waited for in the background.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{AcknowledgeFirst, AcknowledgeFirstLayer, Background, JobRouter};
/// use tower::Layer;
///
/// let layer = AcknowledgeFirstLayer::new(Background::new(), |failure| eprintln!("{failure:?}"));
/// let jobs: AcknowledgeFirst<JobRouter> = layer.layer(JobRouter::new());
/// assert!(format!("{jobs:?}").contains("JobRouter"));
/// ```
#[derive(Clone, Debug)]
pub struct AcknowledgeFirst<S> {
    inner: S,
    layer: AcknowledgeFirstLayer,
}

impl<S> Service<JobEvent> for AcknowledgeFirst<S>
where
    S: Service<JobEvent> + Clone + Send + 'static,
    S::Response: Into<Receipt>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = Receipt;
    type Error = Error;
    type Future = Ready<Result<Receipt, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, event: JobEvent) -> Self::Future {
        ready(self.accept(event))
    }
}

impl<S> AcknowledgeFirst<S>
where
    S: Service<JobEvent> + Clone + Send + 'static,
    S::Response: Into<Receipt>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    fn accept(&self, event: JobEvent) -> Result<Receipt, Error> {
        let overloaded = || Error::new(ErrorKind::Overloaded);
        let place = self.layer.background.reserve_another()?;
        if !place.can_spawn() {
            return Err(overloaded());
        }
        let mut jobs = catch(|| CatchDrop::new(self.inner.clone()))
            .map_err(|Panicked| Error::new(ErrorKind::CallbackPanicked))?;
        let offer = Arc::new(Offer::default());
        let mut lost = Lost {
            offer: offer.clone(),
            started: false,
            report: Some(ReportEnd::new(
                Some(&self.layer.on_error),
                Some(event.job()),
            )),
        };
        let delivery = Box::pin(async move {
            let ready = poll_fn(|context| deliver::poll_ready(&mut *jobs, context)).await;
            let outcome = match ready {
                Ok(()) => {
                    lost.started = true;
                    deliver::call(jobs, event, None).await
                }
                Err(error) => Err(error),
            };
            lost.ended(&outcome);
            outcome
        });
        let delivery = Observed::new(delivery, Observation::after_the_answer());
        Running::new(delivery, place).hand_over();
        if offer.accept() {
            Ok(Receipt::Accepted)
        } else {
            Err(overloaded())
        }
    }
}

/// What became of a callback that was offered to the runtime.
#[derive(Default)]
struct Offer(AtomicU8);

const OFFERED: u8 = 0;
const ACCEPTED: u8 = 1;
const REFUSED: u8 = 2;

impl Offer {
    /// Whether the runtime has kept it until now, so that it may be acknowledged.
    fn accept(&self) -> bool {
        self.leave_offered_for(ACCEPTED)
    }

    /// Whether it was dropped before it was acknowledged, so that nothing is lost.
    fn refuse(&self) -> bool {
        self.leave_offered_for(REFUSED)
    }

    fn leave_offered_for(&self, state: u8) -> bool {
        self.0
            .compare_exchange(OFFERED, state, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// Reports the callback's end, unless the runtime refused it before anyone was told of it.
struct Lost {
    offer: Arc<Offer>,
    /// Whether the callback was called: then that it was cut short is told in any case.
    started: bool,
    report: Option<ReportEnd>,
}

impl Lost {
    fn ended(mut self, outcome: &Result<Receipt, Error>) {
        if let Some(report) = self.report.take() {
            report.ended(outcome);
        }
    }
}

impl Drop for Lost {
    fn drop(&mut self) {
        let Some(report) = self.report.take() else {
            return;
        };
        if self.offer.refuse() && !self.started {
            report.say_nothing();
        }
    }
}
