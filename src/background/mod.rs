//! What runs on when nobody waits for it any more: counted, bounded, and waited for at shutdown.

mod place;
mod places;
mod run_on;
mod task;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tower::{BoxError, Service};

use crate::observe::Observation;
use crate::panic::{CatchDrop, catch};
use crate::pipeline::deliver;
use crate::{Error, ErrorKind, JobEvent, Receipt};
pub(crate) use place::Place;
use places::{NoPlace, Places};
pub use run_on::RunOn;
pub(crate) use run_on::Running;
pub use task::BackgroundTask;
use task::spawn_on_tokio;

/// How many callbacks may be under way at once, waited for or not.
const CAPACITY: usize = 4096;

/// Where callbacks run on: counted, bounded, and waited for at shutdown.
///
/// When a sender hangs up, the web server drops the future that answers it. A callback
/// that had started goes on all the same: the rest of it is handed to the runtime. Every
/// callback holds a place from its start to its end, whether somebody waits for it or
/// not; when all places are taken, deliveries are answered 503 and MX comes again.
///
/// Every layer, terminal service and [`JobRouter`](crate::JobRouter) has one of its own.
/// Give them one with `with_background` to wait for it at shutdown. A clone is the same
/// `Background`.
///
/// With the feature `tokio`, the runtime is the one that the future is dropped in; without
/// it, or with another, say how to spawn by [`with_spawn`](Self::with_spawn). Where there
/// is no runtime, or it shuts down, callbacks that nobody waits for are cancelled.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use mx_job_webhook::{Background, Credentials, JobRouter, JobWebhookLayer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let background = Background::new();
/// let jobs = JobRouter::new().on_completed(|_| async {});
/// let layer = JobWebhookLayer::new("/admin/webhooks", Credentials::basic("mx", "secret")?, jobs)
///     .with_background(background.clone());
///
/// // Serve until the signal comes, and then:
/// let left = background.drain(tokio::time::sleep(Duration::from_secs(30))).await;
/// assert_eq!(left, 0);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Background(Arc<Inner>);

struct Inner {
    places: Places,
    spawn: Option<CatchDrop<Spawn>>,
}

type Spawn = Arc<dyn Fn(BackgroundTask) + Send + Sync>;

/// A callback on its way to a receipt.
pub(crate) type Delivery = Pin<Box<dyn Future<Output = Result<Receipt, Error>> + Send>>;

impl Background {
    /// Places for 4,096 callbacks, on tokio with the feature `tokio`.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::Background;
    ///
    /// let background = Background::new();
    /// assert_eq!(format!("{background:?}"), "Background { running: 0, capacity: 4096, .. }");
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::build(CAPACITY, None)
    }

    /// Sets how many callbacks may be under way at once.
    ///
    /// Clones that were made before do not change.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Background, ErrorKind, Job, JobEvent, JobRouter, Status};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let jobs = JobRouter::new()
    ///     .with_background(Background::new().with_capacity(0))
    ///     .on_completed(|_| async {});
    /// let event = JobEvent::from(Job::new("JOB-1".parse()?, Status::Completed));
    /// assert_eq!(jobs.call(event).await.unwrap_err().kind(), ErrorKind::Overloaded);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_capacity(self, callbacks: usize) -> Self {
        Self::build(callbacks, self.0.spawn.clone())
    }

    /// Sets how to hand a future to the runtime.
    ///
    /// For runtimes other than tokio, and to set again what only the connection's task had, such
    /// as `task_local!` values: see
    /// [`guarantees`](crate::guarantees#what-only-the-connections-task-had).
    ///
    /// The closure is called in a destructor: it must neither block nor panic. If it drops the
    /// task, the callback is cancelled. Clones that were made before do not change.
    ///
    /// # Example
    ///
    /// ```
    /// use std::{pin::pin, sync::mpsc::channel, task::{Context, Waker}};
    /// use mx_job_webhook::{Background, Job, JobEvent, JobRouter, Status};
    ///
    /// let (executor, tasks) = channel();
    /// let background = Background::new().with_spawn(move |task| { let _ = executor.send(task); });
    /// let jobs = JobRouter::new()
    ///     .with_background(background.clone())
    ///     .on_completed(|_| std::future::pending::<()>());
    ///
    /// let event = JobEvent::from(Job::new("JOB-1".parse()?, Status::Completed));
    /// let mut call = Box::pin(jobs.call(event));
    /// assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    /// drop(call); // The sender hangs up.
    /// assert_eq!((tasks.try_iter().count(), background.running()), (1, 0));
    /// # Ok::<(), mx_job_webhook::BlankIdError>(())
    /// ```
    #[must_use]
    pub fn with_spawn<F>(self, spawn: F) -> Self
    where
        F: Fn(BackgroundTask) + Send + Sync + 'static,
    {
        Self::build(
            self.0.places.capacity(),
            Some(CatchDrop::new(Arc::new(spawn))),
        )
    }

    fn build(capacity: usize, spawn: Option<CatchDrop<Spawn>>) -> Self {
        Self(Arc::new(Inner {
            places: Places::new(capacity),
            spawn,
        }))
    }

    /// How many callbacks are under way, waited for or not.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Background, JobEvent, JobRouter};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let background = Background::new();
    /// let seen = background.clone();
    /// let jobs = JobRouter::new()
    ///     .with_background(background.clone())
    ///     .on_completed(move |_| {
    ///         let running = seen.running(); // this one
    ///         async move { assert_eq!(running, 1) }
    ///     });
    ///
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
    /// jobs.call(event).await?;
    /// assert_eq!(background.running(), 0);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn running(&self) -> usize {
        self.0.places.taken()
    }

    /// Runs a service of events, and what it started runs on if this is dropped.
    ///
    /// For handlers that take the event by the extractor, where `jobs` is more than a
    /// [`JobRouter`](crate::JobRouter): [`JobRouter::call`](crate::JobRouter::call) does the
    /// same for a router alone. With the feature `axum`, what it resolves to is
    /// `IntoResponse`.
    ///
    /// # Errors
    ///
    /// The service's, as [`Error`] reads them; [`Overloaded`](ErrorKind::Overloaded) if no
    /// place is free, and [`ShuttingDown`](ErrorKind::ShuttingDown) after a drain began.
    ///
    /// # Cancellation
    ///
    /// Dropped before the service was ready, nothing has started, and the event is dropped. The
    /// place is taken when this is called.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Background, Job, JobEvent, JobRouter, Receipt, Status};
    /// use tower::ServiceBuilder;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let jobs = ServiceBuilder::new()
    ///     .concurrency_limit(8)
    ///     .service(JobRouter::new().on_completed(|_| async {}));
    /// let event = JobEvent::from(Job::new("JOB-1".parse()?, Status::Completed));
    /// assert_eq!(Background::new().run(jobs, event).await?, Receipt::Handled);
    /// # Ok(()) }
    /// ```
    pub fn run<J>(
        &self,
        jobs: J,
        mut event: JobEvent,
    ) -> impl Future<Output = Result<Receipt, Error>> + use<J>
    where
        J: Service<JobEvent>,
        J::Response: Into<Receipt>,
        J::Error: Into<BoxError>,
        J::Future: Send + 'static,
    {
        let mut observation = Observation::of(&mut event);
        let mut jobs = CatchDrop::new(jobs);
        // Here and not when it is polled: a callback may have another task poll it.
        let place = self.reserve();
        async move {
            let ready = async {
                let place = place?;
                poll_fn(|context| {
                    let _entered = observation.enter();
                    deliver::poll_ready(&mut *jobs, context)
                })
                .await?;
                Ok(place)
            };
            let mut place = ready.await.inspect_err(|error| observation.refuse(error))?;
            let delivery = {
                let _entered = (observation.enter(), place.enter());
                deliver::call(jobs, event, None)
            };
            RunOn::running(delivery, place, observation).await
        }
    }

    /// Takes no more callbacks, and waits for those under way until the deadline.
    ///
    /// What comes after this began is answered 503. The deadline is any future, such as
    /// `tokio::time::sleep(…)`, or `std::future::pending()` for none. Gives how many callbacks
    /// were left when it was over; 0 if all finished.
    ///
    /// Call it once the server has stopped, which for axum is when `serve` with
    /// `with_graceful_shutdown` returns. What is left is not cancelled: it ends with the
    /// runtime.
    ///
    /// # Cancellation
    ///
    /// Dropping it stops the waiting. It stays closed.
    ///
    /// # Example
    ///
    /// ```
    /// use std::{future::{pending, ready}, time::Duration};
    /// use mx_job_webhook::{Background, ErrorKind, JobEvent, JobRouter};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let background = Background::new();
    /// let jobs = JobRouter::new()
    ///     .with_background(background.clone())
    ///     .on_completed(|_| pending::<()>());
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
    /// let call = jobs.call(event.clone()); // It never ends.
    ///
    /// assert_eq!(background.drain(ready(())).await, 1);
    /// assert_eq!(jobs.call(event).await.unwrap_err().kind(), ErrorKind::ShuttingDown);
    /// # drop(call); Ok(()) }
    /// ```
    #[must_use = "what was left is not finished"]
    pub async fn drain(&self, deadline: impl Future) -> usize {
        self.0.places.close();
        let mut deadline = std::pin::pin!(deadline);
        poll_fn(|context| {
            if self.0.places.poll_empty(context).is_ready() {
                return Poll::Ready(0);
            }
            deadline
                .as_mut()
                .poll(context)
                .map(|_| self.0.places.taken())
        })
        .await
    }

    /// Hands over what has to be done although every place may be taken, or the door closed: it
    /// takes one all the same, and a drain waits for it.
    pub(crate) fn spawn(&self, task: BackgroundTask) {
        self.0.places.take_anyway();
        let place = Place::taken(self);
        self.spawn_task(BackgroundTask::new(Box::pin(async move {
            task.await;
            drop(place);
        })));
    }

    fn spawn_task(&self, task: BackgroundTask) {
        // This is a destructor, perhaps in the unwinding of a panic.
        let _ = catch(|| match &self.0.spawn {
            Some(spawn) => spawn(task),
            None => spawn_on_tokio(task),
        });
    }

    /// A place for a callback, if there is one. Within a callback of this `Background` it is that
    /// callback's.
    pub(crate) fn reserve(&self) -> Result<Place, Error> {
        Place::of_current_callback(self).map_or_else(|| self.reserve_another(), Ok)
    }

    /// A place, if there is one, for what is no part of a callback, whatever this thread runs: a
    /// delivery, and what is acknowledged first.
    pub(crate) fn reserve_another(&self) -> Result<Place, Error> {
        match self.0.places.take() {
            Ok(()) => Ok(Place::taken(self)),
            Err(NoPlace::Full) => Err(Error::new(ErrorKind::Overloaded)),
            Err(NoPlace::Closed) => Err(Error::new(ErrorKind::ShuttingDown)),
        }
    }
}

impl Default for Background {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background")
            .field("running", &self.running())
            .field("capacity", &self.0.places.capacity())
            .finish_non_exhaustive()
    }
}
