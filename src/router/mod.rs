//! [`JobRouter`], which routes each event to the callback of its status.
//!
//! This module uses `callback`, `event`, `job`, `observe` and `error`.

mod builder;
mod dead_letter;
mod registration;
mod unhandled;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tower::Service;

use crate::callback::{BoxedCallback, JobFuture};
use crate::error::{Error, Receipt};
use crate::event::JobEvent;
use crate::job::Status;
use crate::observe::Timer;
pub use builder::JobRouterBuilder;
pub use dead_letter::DeadLetter;
pub use unhandled::Unhandled;

/// A router that runs the async callback registered for each job's status.
///
/// Register closures or `async fn`s that return `()` or `Result<(), E>`. If a callback returns `Ok`
/// or `()`, the delivery is acknowledged. After an `Err` or a panic, MX delivers the event again. A
/// callback may see an event more than once, so callbacks have to be idempotent.
///
/// For callbacks that need shared state, start with [`with_state`](Self::with_state).
///
/// An event whose status has no callback goes to `on_unhandled`. If that is not registered either,
/// the event is acknowledged, because MX could do nothing about an error.
///
/// A `JobRouter` is a `tower::Service<JobEvent>`, so tower's middleware can wrap it. Outside of
/// HTTP, [`Background::run`](crate::Background::run) runs an event through it. Clones are cheap and
/// share the callbacks.
///
/// To see every event first, put tower's `map_request` around the router.
///
/// # Panics
///
/// Registering a second callback for a status panics, as overlapping routes do in axum.
///
/// # Cancellation
///
/// Dropping the future of `Service::call` cancels the callback. A mount and
/// [`Background::run`](crate::Background::run) let it finish.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{Background, Job, JobEvent, JobRouter, Receipt, Status};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let jobs = JobRouter::new()
///     .on_completed(|event| async move { println!("read accounts of {:?}", event.member_guid) })
///     .on_challenged(|_event| async move { Err("the user is away") });
/// let background = Background::new();
///
/// let completed = JobEvent::from(Job::new("JOB-1".parse()?, Status::Completed));
/// assert_eq!(background.run(jobs.clone(), completed).await?, Receipt::Handled);
///
/// let seeing_all = tower::ServiceBuilder::new()
///     .map_request(|event: JobEvent| {
///         println!("{} is {}", event.guid, event.status);
///         event
///     })
///     .service(jobs);
/// let challenged = JobEvent::from(Job::new("JOB-1".parse()?, Status::Challenged));
/// assert!(background.run(seeing_all, challenged).await.is_err());
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct JobRouter {
    routes: Arc<Routes>,
}

#[derive(Clone, Default)]
struct Routes {
    /// The callbacks of the statuses in MX's table, indexed by the status's integer.
    known: [Option<BoxedCallback<JobEvent>>; Status::KNOWN],
    /// The callbacks of other statuses. There are few, so they are searched in order.
    other: Vec<(Status, BoxedCallback<JobEvent>)>,
    unhandled: Option<BoxedCallback<Unhandled>>,
    dead_letter: Option<BoxedCallback<DeadLetter>>,
    /// From which age of an event on each failure counts as permanent.
    dead_letters_after: Option<Duration>,
}

impl Routes {
    fn find(&self, status: &Status) -> Option<&BoxedCallback<JobEvent>> {
        match status.index() {
            Some(index) => self.known[index].as_ref(),
            None => self
                .other
                .iter()
                .find(|(other, _)| other == status)
                .map(|(_, callback)| callback),
        }
    }
}

impl JobRouter {
    /// Returns a router without callbacks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a builder for callbacks that take state: `(App, JobEvent)`.
    ///
    /// Each call gets a clone of `app`.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{JobEvent, JobRouter, Status};
    ///
    /// #[derive(Clone)]
    /// struct App { /* a connection pool, a client of MX's API */ }
    ///
    /// async fn completed(app: App, event: JobEvent) -> Result<(), std::io::Error> {
    ///     Ok(())
    /// }
    ///
    /// let jobs: JobRouter = JobRouter::with_state(App {}).on_completed(completed).build();
    /// assert!(jobs.handles(&Status::Completed));
    /// ```
    pub fn with_state<App>(app: App) -> JobRouterBuilder<App>
    where
        App: Clone + Send + Sync + 'static,
    {
        JobRouterBuilder::new(app)
    }

    /// Returns whether a callback is registered for the status.
    #[must_use]
    pub fn handles(&self, status: &Status) -> bool {
        self.routes.find(status).is_some()
    }

    /// Starts the callback of an event, followed by the dead-letter hook if it fails permanently.
    fn start(&self, event: JobEvent) -> JobFuture {
        let Some(dead_letter) = &self.routes.dead_letter else {
            return self.start_callback(event);
        };
        let (dead_letter, copy) = (dead_letter.clone(), event.clone());
        let after = self.routes.dead_letters_after;
        let callback = self.start_callback(event);
        JobFuture::new(async move {
            match callback.await {
                Err(error) if error.is_permanent() || is_older(&copy, after) => {
                    dead_letter(DeadLetter::new(copy, error)).await
                }
                outcome => outcome,
            }
        })
    }

    fn start_callback(&self, event: JobEvent) -> JobFuture {
        if let Some(callback) = self.routes.find(&event.status) {
            let timer = Timer::start(&event.status);
            return timer.time(callback(event));
        }
        let Some(callback) = &self.routes.unhandled else {
            return JobFuture::ready(Receipt::Unhandled);
        };
        let timer = Timer::start(&event.status);
        timer.time(callback(match event.status {
            Status::Other(_) => Unhandled::UnknownStatus(event),
            _ => Unhandled::NoCallback(event),
        }))
    }
}

/// Returns whether the event is older than this, by this machine's clock.
fn is_older(event: &JobEvent, age: Option<Duration>) -> bool {
    let updated_at = event.updated_at.and_then(|time| time.to_system_time());
    let (Some(age), Some(updated_at)) = (age, updated_at) else {
        return false;
    };
    // The date is in the future if this fails.
    SystemTime::now()
        .duration_since(updated_at)
        .is_ok_and(|elapsed| elapsed > age)
}

impl Service<JobEvent> for JobRouter {
    type Response = Receipt;
    type Error = Error;
    type Future = JobFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, event: JobEvent) -> JobFuture {
        self.start(event)
    }
}

/// Prints the statuses that have a callback.
impl fmt::Debug for JobRouter {
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
