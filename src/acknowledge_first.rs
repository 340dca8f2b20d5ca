//! A layer that answers 204 at once, and runs the callback in the background.
//!
//! Use it for callbacks that take longer than a sender waits, and only if the events may be lost. This room
//! uses `background`, `callback`, `event`, `observe`, `error` and `util`.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use tower::{BoxError, Layer, Service};

use crate::background::{Background, Tracked};
use crate::callback::{Failure, FailureHook, JobFuture, ReportEnd, call, poll_ready};
use crate::error::{Error, ErrorKind, Receipt};
use crate::event::JobEvent;
use crate::observe::{Observation, Observed};
use crate::util::catch_panic::{CatchDrop, Panicked, catch};

/// A layer that acknowledges each event before its callback runs.
///
/// It answers 204 at once, and runs the callback in the background.
///
/// Use it for callbacks that take longer than a sender waits, and only for events that may be lost.
/// **With this layer, a 204 is not a receipt**: MX does not deliver an acknowledged event again.
/// The event is lost if its callback fails, panics, or is cut short by a crash or a restart. If
/// that is not acceptable, use `with_answer_deadline` or a durable queue.
///
/// Failures go to the hook `on_error`, which is a required argument. The [`Background`] of the
/// mount, or of `background.run`, bounds and drains the callbacks. If all its permits are taken, if
/// it is drained, or if no runtime takes the callback, the event is answered 503. If the service is
/// called on a task of its own, the layer uses a `Background` of its own, which cannot be drained.
///
/// With `DedupeLayer` inside, a duplicate that comes while the callback runs goes to the hook too, with
/// [`ErrorKind::InFlight`]. Nothing is lost then.
///
/// Put [`DedupeLayer`](crate::DedupeLayer) and the layer of a `JobWatch` inside this layer, so that an
/// event is settled and heard when its callback has succeeded.
///
/// For a moment, an accepted delivery takes two permits: its own and its callback's. The
/// `Background` therefore needs a capacity of at least two.
///
/// # Example
///
/// ```
/// use mx_job_webhook::acknowledge_first::AcknowledgeFirstLayer;
/// use mx_job_webhook::{Background, JobEvent, JobRouter, Receipt};
/// use tower::ServiceBuilder;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let jobs = ServiceBuilder::new()
///     .layer(AcknowledgeFirstLayer::new(|failure| eprintln!("lost: {failure:?}")))
///     .service(JobRouter::new().on_halted(|_| async { Err("the user has left") }));
///
/// let background = Background::new();
/// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "HALTED"}}"#)?;
/// # if cfg!(feature = "tokio") {
/// assert_eq!(background.run(jobs, event).await?, Receipt::Accepted); // The callback fails later.
/// # }
/// assert_eq!(background.drain(std::future::pending::<()>()).await, 0);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct AcknowledgeFirstLayer {
    on_error: FailureHook,
    /// Used outside of a mount and of `background.run`.
    background: Background,
}

impl AcknowledgeFirstLayer {
    /// Returns a layer that reports failures to this hook.
    ///
    /// The hook has the contract of [`on_error`](crate::JobWebhook::on_error).
    #[must_use]
    pub fn new<F>(on_error: F) -> Self
    where
        F: Fn(Failure<'_>) + Send + Sync + 'static,
    {
        Self {
            on_error: FailureHook::new(on_error),
            background: Background::new(),
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
            .finish_non_exhaustive()
    }
}

/// A service of events with an [`AcknowledgeFirstLayer`] around it.
///
/// It is always ready. The background task waits until the service within is ready.
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
    type Future = JobFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, event: JobEvent) -> JobFuture {
        let jobs = catch(|| CatchDrop::new(self.inner.clone()));
        let layer = self.layer.clone();
        // Within the future, because middleware such as `buffer` calls on a task of its own, where
        // the delivery's `Background` is not known.
        JobFuture::new(async move {
            let jobs = jobs.map_err(|Panicked| Error::new(ErrorKind::CallbackPanicked))?;
            layer.accept(jobs, event)
        })
    }
}

impl AcknowledgeFirstLayer {
    fn accept<S>(&self, jobs: CatchDrop<S>, event: JobEvent) -> Result<Receipt, Error>
    where
        S: Service<JobEvent> + Send + 'static,
        S::Response: Into<Receipt>,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        let overloaded = || Error::new(ErrorKind::Overloaded);
        let background = Background::of_current_callback();
        let background = background.as_ref().unwrap_or(&self.background);
        let permit = background.acquire_another()?;
        if !permit.can_spawn() {
            return Err(overloaded());
        }
        let offer = Arc::new(Offer::default());
        let report = ReportEnd::new(Some(&self.on_error), Some(event.job()));
        let loss = ReportLoss {
            offer: offer.clone(),
            started: false,
            report: Some(report),
        };
        let callback = JobFuture::new(run(jobs, event, loss));
        let observed = Observed::new(callback, Observation::after_the_answer());
        Tracked::new(observed, permit).detach();
        if offer.accept() {
            Ok(Receipt::Accepted)
        } else {
            Err(overloaded())
        }
    }
}

/// Waits until the service is ready, then calls it.
async fn run<S>(
    mut jobs: CatchDrop<S>,
    event: JobEvent,
    mut loss: ReportLoss,
) -> Result<Receipt, Error>
where
    S: Service<JobEvent>,
    S::Response: Into<Receipt>,
    S::Error: Into<BoxError>,
{
    let outcome = match poll_fn(|context| poll_ready(&mut *jobs, context)).await {
        Ok(()) => {
            loss.started = true;
            let calling = call(&mut *jobs, event);
            // The service may hold what the callback waits for.
            drop(jobs);
            calling.await
        }
        Err(error) => Err(error),
    };
    loss.ended(&outcome);
    outcome
}

/// A callback that is offered to the runtime, which may drop it before the answer.
#[derive(Default)]
struct Offer(AtomicU8);

const OFFERED: u8 = 0;
const ACCEPTED: u8 = 1;
const REFUSED: u8 = 2;

impl Offer {
    /// Marks the callback as accepted. Returns `false` if the runtime has dropped it.
    fn accept(&self) -> bool {
        self.replace_offered(ACCEPTED)
    }

    /// Marks the callback as refused. Returns `false` if it was accepted or refused before.
    fn refuse(&self) -> bool {
        self.replace_offered(REFUSED)
    }

    fn replace_offered(&self, state: u8) -> bool {
        self.0
            .compare_exchange(OFFERED, state, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// Reports the callback's failure, unless the runtime dropped the callback before it was accepted.
struct ReportLoss {
    offer: Arc<Offer>,
    /// Whether the callback was called. If it was, it is reported even if it was not accepted.
    started: bool,
    report: Option<ReportEnd>,
}

impl ReportLoss {
    fn ended(mut self, outcome: &Result<Receipt, Error>) {
        if let Some(report) = self.report.take() {
            report.ended(outcome);
        }
    }
}

impl Drop for ReportLoss {
    fn drop(&mut self) {
        let Some(report) = self.report.take() else {
            return;
        };
        if self.offer.refuse() && !self.started {
            report.cancel();
        }
    }
}
