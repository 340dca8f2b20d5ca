//! From status to callback.

mod future;
mod registration;
mod unhandled;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower::Service;

use crate::background::{Delivery, RunOn};
use crate::callback::Erased;
use crate::observe::{Observation, Timer};
use crate::panic::{Panicked, catch};
use crate::{Background, DeadLetter, Error, ErrorKind, JobEvent, Receipt, Status};
pub use future::JobRouterFuture;
pub use unhandled::Unhandled;

/// Routes each job to the async callback registered for its status.
///
/// Register closures or `async fn`s, which return `()` or `Result<(), E>`. `Ok` (or `()`)
/// means that the application has taken charge of the event, and the delivery is
/// acknowledged; after an `Err` or a panic MX delivers the event again, so a callback may
/// see an event more than once and must not mind.
///
/// Callbacks that share something are easiest written with
/// [`with_state`](JobRouter::with_state).
///
/// A status without a callback is acknowledged, after `on_unhandled` took it if that is
/// registered: MX has no use for an error about a status that nobody wants.
///
/// A `JobRouter` is a `tower::Service<JobEvent>`: tower's middleware goes around it
/// (`concurrency_limit`, `timeout`), and a queue worker can drive it with no HTTP in
/// sight. Cloning it is cheap, and a clone shares the callbacks.
///
/// # Panics
///
/// Registering a second callback for a status panics, as overlapping routes do in axum.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{Job, JobEvent, JobRouter, Receipt, Status};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let jobs = JobRouter::new()
///     .on_completed(|event| async move { println!("read accounts of {}", event.guid) })
///     .on_challenged(|_event| async move { Err("nobody to ask") });
///
/// let completed = JobEvent::from(Job::new("JOB-1".parse()?, Status::Completed));
/// assert_eq!(jobs.call(completed).await?, Receipt::Handled);
///
/// let challenged = JobEvent::from(Job::new("JOB-1".parse()?, Status::Challenged));
/// assert!(jobs.call(challenged).await.is_err());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct JobRouter<S = NoState> {
    routes: Arc<Routes>,
    state: S,
}

/// The state of a [`JobRouter`] whose callbacks take the event alone.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{JobRouter, NoState};
///
/// struct App { jobs: JobRouter } // which is `JobRouter<NoState>`
///
/// let jobs: JobRouter<NoState> = App { jobs: JobRouter::new() }.jobs;
/// assert_eq!(format!("{jobs:?}"), "JobRouter { statuses: [], unhandled: false }");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct NoState(());

/// The state of a [`JobRouter`] whose callbacks take `(App, JobEvent)`.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{JobRouter, Status, WithState};
///
/// fn jobs(url: &'static str) -> JobRouter<WithState<&'static str>> {
///     JobRouter::with_state(url).on_denied(|url, event| async move { println!("{url}: {event:?}") })
/// }
/// assert!(jobs("https://bank.example").handles(&Status::Denied));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct WithState<App>(App);

#[derive(Clone, Default)]
struct Routes {
    /// At the index that is the status's integer.
    known: [Option<Erased<JobEvent>>; Status::KNOWN],
    /// Few, if any: searched in order.
    other: Vec<(Status, Erased<JobEvent>)>,
    unhandled: Option<Erased<Unhandled>>,
    dead_letter: Option<Erased<DeadLetter>>,
    background: Background,
}

impl Routes {
    fn find(&self, status: &Status) -> Option<&Erased<JobEvent>> {
        match status.index() {
            Some(index) => self.known[index].as_ref(),
            None => self
                .other
                .iter()
                .find(|(other, _)| other == status)
                .map(|(_, route)| route),
        }
    }
}

impl JobRouter {
    /// A router without callbacks.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{JobEvent, JobRouter, Receipt};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
    /// assert_eq!(JobRouter::new().call(event).await?, Receipt::Unhandled); // and so, 204
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self {
            routes: Arc::default(),
            state: NoState(()),
        }
    }

    /// A router whose callbacks take `(App, JobEvent)`: a clone of `app`, then the event.
    ///
    /// # Example
    ///
    /// ```
    /// use std::sync::{Arc, atomic::{AtomicU32, Ordering}};
    /// use mx_job_webhook::{Job, JobEvent, JobRouter, Status};
    ///
    /// #[derive(Clone, Default)]
    /// struct App { completed: Arc<AtomicU32> }
    ///
    /// async fn completed(app: App, _event: JobEvent) {
    ///     app.completed.fetch_add(1, Ordering::Relaxed);
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let app = App::default();
    /// let jobs = JobRouter::with_state(app.clone()).on_completed(completed);
    /// jobs.call(JobEvent::from(Job::new("JOB-1".parse()?, Status::Completed))).await?;
    /// assert_eq!(app.completed.load(Ordering::Relaxed), 1);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_state<App>(app: App) -> JobRouter<WithState<App>>
    where
        App: Clone + Send + Sync + 'static,
    {
        JobRouter {
            routes: Arc::default(),
            state: WithState(app),
        }
    }
}

impl Default for JobRouter {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> JobRouter<S> {
    /// Whether a callback is registered for the status.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{JobRouter, Status};
    ///
    /// let jobs = JobRouter::new().on_status(Status::from("AUTHENTICATED"), |_| async {});
    /// assert!(jobs.handles(&Status::from("AUTHENTICATED")));
    /// assert!(!jobs.handles(&Status::Completed));
    /// ```
    #[must_use]
    pub fn handles(&self, status: &Status) -> bool {
        self.routes.find(status).is_some()
    }

    /// Runs the callback for the event's status, once.
    ///
    /// What the service does, without the readiness that a router does not need: for
    /// handlers that take the event by the extractor. With the feature `axum`, what it
    /// resolves to is `IntoResponse`, by the same table as everywhere.
    ///
    /// # Errors
    ///
    /// [`CallbackFailed`](crate::ErrorKind::CallbackFailed), with the callback's error as
    /// its source, and [`CallbackPanicked`](crate::ErrorKind::CallbackPanicked);
    /// [`Overloaded`](crate::ErrorKind::Overloaded) and
    /// [`ShuttingDown`](crate::ErrorKind::ShuttingDown) of its [`Background`].
    ///
    /// # Cancellation
    ///
    /// A callback that started runs on if this future is dropped, as [`RunOn`] says. The
    /// future of the `Service` does not: whoever drops that one (a timeout around the
    /// router, say) cancels the callback.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{ErrorKind, JobEvent, JobRouter};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let jobs = JobRouter::new().on_completed(|_| async { Err("the database is down") });
    ///
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
    /// let error = jobs.call(event).await.unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::CallbackFailed);
    /// assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the database is down");
    /// # Ok(()) }
    /// ```
    pub fn call(&self, mut event: JobEvent) -> RunOn {
        let mut observation = Observation::of(&mut event);
        let settled = match self.routes.background.reserve() {
            Err(error) => Err(error),
            Ok(mut place) => {
                let started = {
                    let _entered = (observation.enter(), place.enter());
                    // What came with the event can panic when it is cloned.
                    catch(|| self.start(event))
                };
                match started {
                    Ok(Ok(delivery)) => return RunOn::running(delivery, place, observation),
                    Ok(Err(receipt)) => Ok(receipt),
                    Err(Panicked) => Err(Error::new(ErrorKind::CallbackPanicked)),
                }
            }
        };
        observation.end(&settled);
        RunOn::settled(settled)
    }

    /// Sets where callbacks run on, which [`call`](Self::call) started.
    ///
    /// For handlers that call the router by themselves; the layer and the terminal service
    /// have a setting of their own.
    ///
    /// # Example
    ///
    /// ```
    /// use std::future::pending;
    /// use mx_job_webhook::{Background, ErrorKind, JobEvent, JobRouter};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let background = Background::new();
    /// let jobs = JobRouter::new().with_background(background.clone());
    /// assert_eq!(background.drain(pending::<()>()).await, 0);
    ///
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
    /// assert_eq!(jobs.call(event).await.unwrap_err().kind(), ErrorKind::ShuttingDown);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_background(mut self, background: Background) -> Self {
        Arc::make_mut(&mut self.routes).background = background;
        self
    }

    /// The callback's future, or the receipt if there is nothing to run.
    fn start(&self, event: JobEvent) -> Result<Delivery, Receipt> {
        let Some(dead_letter) = &self.routes.dead_letter else {
            return self.start_callback(event);
        };
        let (dead_letter, copy) = (dead_letter.clone(), event.clone());
        let delivery = self.start_callback(event)?;
        Ok(Box::pin(async move {
            match delivery.await {
                Err(error) if error.is_permanent() => {
                    dead_letter(DeadLetter::new(copy, error)).await
                }
                outcome => outcome,
            }
        }))
    }

    fn start_callback(&self, event: JobEvent) -> Result<Delivery, Receipt> {
        if let Some(callback) = self.routes.find(&event.status) {
            let timer = Timer::start(&event.status);
            return Ok(timer.time(callback(event)));
        }
        let Some(callback) = &self.routes.unhandled else {
            return Err(Receipt::Unhandled);
        };
        let timer = Timer::start(&event.status);
        Ok(timer.time(callback(match event.status {
            Status::Other(_) => Unhandled::UnknownStatus(event),
            _ => Unhandled::NoCallback(event),
        })))
    }
}

impl<S> Service<JobEvent> for JobRouter<S> {
    type Response = Receipt;
    type Error = Error;
    type Future = JobRouterFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, event: JobEvent) -> JobRouterFuture {
        JobRouterFuture(self.start(event))
    }
}

/// Prints the statuses that have a callback.
impl<S> fmt::Debug for JobRouter<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = (0..Status::KNOWN)
            .filter_map(Status::at)
            .filter(|status| self.handles(status));
        let other = self.routes.other.iter().map(|(status, _)| status.clone());
        f.debug_struct("JobRouter")
            .field("statuses", &known.chain(other).collect::<Vec<_>>())
            .field("unhandled", &self.routes.unhandled.is_some())
            .finish()
    }
}
