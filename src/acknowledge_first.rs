//! Acknowledge first: 204 at once, and the callback in the background.

use std::fmt;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use tower::{BoxError, Layer, Service};

use crate::failure::FailureHook;
use crate::observe::{Observation, Observed};
use crate::pipeline::deliver;
use crate::{Background, Error, ErrorKind, Failure, Job, JobEvent, Receipt};

/// Acknowledges each event at once, and runs the callback in the background.
///
/// For callbacks that take longer than a sender waits, and events that may be lost. **It
/// gives up the promise that a 204 is a receipt**: MX never delivers an acknowledged event
/// again, so one whose callback fails, panics, or is cut short by a crash or a restart is
/// gone. Where that will not do, prefer the layer's `with_answer_deadline`, or a durable
/// queue as the callback.
///
/// A failure goes to `on_error`, which is a required argument: nothing fails in silence.
/// What runs is bounded and drained by the [`Background`]: when its places are taken, or it
/// drains, or there is no runtime to spawn on, the event is not acknowledged but answered
/// 503.
///
/// With [`DedupeLayer`](crate::DedupeLayer), put that one inside: an event is settled when
/// its callback has succeeded, not when it was accepted.
///
/// A delivery that is accepted takes two places for a moment, where the mount has the same
/// `Background`: its own, and the callback's.
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
/// It is ready when the service within is.
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
    S: Service<JobEvent> + Clone,
    S::Response: Into<Receipt>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = Receipt;
    type Error = Error;
    type Future = Ready<Result<Receipt, Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        deliver::poll_ready(&mut self.inner, context)
    }

    fn call(&mut self, event: JobEvent) -> Self::Future {
        let place = match self.layer.background.reserve() {
            Ok(place) if place.can_spawn() => place,
            Ok(_) => return ready(Err(Error::new(ErrorKind::Overloaded))),
            Err(error) => return ready(Err(error)),
        };
        // The clone stays, for the next event to make ready; the one that is ready is called.
        let clone = self.inner.clone();
        let readied = std::mem::replace(&mut self.inner, clone);
        let cut_short = CutShort(Some((self.layer.on_error.clone(), event.job().clone())));
        let running = deliver::call(readied, event, Some(&self.layer.on_error));
        let delivery = Box::pin(async move {
            let outcome = running.await;
            cut_short.disarm();
            outcome
        });
        place.spawn(Observed::new(delivery, Observation::after_the_answer()));
        ready(Ok(Receipt::Accepted))
    }
}

/// Reports a callback that is dropped before its end.
struct CutShort(Option<(FailureHook, Job)>);

impl CutShort {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CutShort {
    fn drop(&mut self) {
        if let Some((on_error, job)) = &self.0 {
            on_error.report(&Error::new(ErrorKind::CallbackCancelled), Some(job));
        }
    }
}
