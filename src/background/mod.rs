//! Callbacks that continue after their sender hangs up.
//!
//! A [`Background`] counts and bounds the callbacks that run, hands those whose sender hung up to
//! the runtime, and lets shutdown wait for all of them. It knows futures, not events, and uses only
//! `util`.

mod permit;
mod permits;
mod task;
mod tracked;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use crate::util::catch_panic::{CatchDrop, catch};
pub(crate) use permit::Permit;
pub(crate) use permits::NoPermit;
use permits::Permits;
pub use task::BackgroundTask;
use task::spawn_on_tokio;
pub(crate) use tracked::Tracked;

/// How many callbacks may run at once by default.
const CAPACITY: usize = 4096;

/// A tracker that bounds running callbacks and lets shutdown wait for them.
///
/// When a sender hangs up, the web server drops the future that answers it. A callback that has
/// started continues: its `Background` hands the rest of it to the runtime. Each callback holds a
/// permit from its start to its end. When all permits are taken, deliveries are answered 503, and
/// MX retries them.
///
/// Each [`JobWebhook`](crate::JobWebhook) has a `Background` of its own by default. To wait for
/// callbacks at shutdown, set one with
/// [`with_background`](crate::JobWebhook::with_background) and [`drain`](Self::drain) it. Clones
/// share their permits.
///
/// With the feature `tokio`, the runtime is the one in which the future is dropped. Without it, or
/// for another runtime, set [`with_spawn`](Self::with_spawn). If there is no runtime, or if it
/// shuts down, callbacks whose sender hung up are cancelled.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use mx_job_webhook::{Background, Credentials, JobRouter, JobWebhook};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let background = Background::new();
/// let jobs = JobRouter::new().on_completed(|_| async {});
/// let webhooks = JobWebhook::new(Credentials::basic("mx", "secret")?, jobs)
///     .with_background(background.clone());
/// # drop(webhooks);
///
/// // Serve until the signal arrives. Then:
/// let unfinished = background.drain(tokio::time::sleep(Duration::from_secs(30))).await;
/// assert_eq!(unfinished, 0);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Background(Arc<Inner>);

struct Inner {
    permits: Permits,
    spawn: Option<CatchDrop<Spawn>>,
}

type Spawn = Arc<dyn Fn(BackgroundTask) + Send + Sync>;

impl Background {
    /// Returns a `Background` with 4,096 permits, on tokio with the feature `tokio`.
    #[must_use]
    pub fn new() -> Self {
        Self::build(CAPACITY, None)
    }

    /// Sets how many callbacks may run at once. Defaults to 4,096.
    ///
    /// Clones that were made before keep their own permits.
    #[must_use]
    pub fn with_capacity(self, callbacks: usize) -> Self {
        Self::build(callbacks, self.0.spawn.clone())
    }

    /// Sets the function that hands a future to the runtime.
    ///
    /// Use it for runtimes other than tokio, and to restore context that only the connection's
    /// task had, such as `task_local!` values: see
    /// [`guarantees`](crate::guide::guarantees#values-of-the-connections-task).
    ///
    /// The closure runs in a destructor: it must neither block nor panic. If it drops the task, the
    /// callback is cancelled. Clones that were made before do not change.
    #[must_use]
    pub fn with_spawn<F>(self, spawn: F) -> Self
    where
        F: Fn(BackgroundTask) + Send + Sync + 'static,
    {
        let spawn = CatchDrop::new(Arc::new(spawn) as Spawn);
        Self::build(self.0.permits.capacity(), Some(spawn))
    }

    fn build(capacity: usize, spawn: Option<CatchDrop<Spawn>>) -> Self {
        Self(Arc::new(Inner {
            permits: Permits::new(capacity),
            spawn,
        }))
    }

    /// Returns how many callbacks are running, including those whose sender hung up.
    #[must_use]
    pub fn running(&self) -> usize {
        self.0.permits.taken()
    }

    /// Refuses new callbacks, and waits for the running ones until a deadline.
    ///
    /// Deliveries that arrive after this call are answered 503. The deadline is any future, such
    /// as `tokio::time::sleep(…)`, or `std::future::pending()` for none. Returns how many callbacks
    /// were still running at the deadline: 0 if all of them ended.
    ///
    /// Call it once the server has stopped, which for axum is when `serve` with
    /// `with_graceful_shutdown` returns. Callbacks that are left are not cancelled: they end with
    /// the runtime.
    ///
    /// # Cancellation
    ///
    /// Dropping the future stops waiting. The `Background` stays closed.
    ///
    /// # Example
    ///
    /// ```
    /// use std::future::{pending, ready};
    /// use mx_job_webhook::{Background, ErrorKind, JobEvent, JobRouter};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let background = Background::new();
    /// let jobs = JobRouter::new().on_completed(|_| pending::<()>());
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
    /// let endless = background.run(jobs.clone(), event.clone());
    ///
    /// assert_eq!(background.drain(ready(())).await, 1);
    /// let late = background.run(jobs, event).await;
    /// assert_eq!(late.unwrap_err().kind(), ErrorKind::ShuttingDown);
    /// # drop(endless); Ok(()) }
    /// ```
    #[must_use = "the number of unfinished callbacks says whether shutdown is clean"]
    pub async fn drain(&self, deadline: impl Future) -> usize {
        self.0.permits.close();
        let mut deadline = std::pin::pin!(deadline);
        poll_fn(|context| {
            if self.0.permits.poll_all_returned(context).is_ready() {
                return Poll::Ready(0);
            }
            deadline
                .as_mut()
                .poll(context)
                .map(|_| self.0.permits.taken())
        })
        .await
    }

    /// Spawns work that must be done even if all permits are taken or the `Background` is closed.
    /// A drain waits for it.
    pub(crate) fn spawn(&self, task: BackgroundTask) {
        self.0.permits.acquire_beyond_capacity();
        let permit = Permit::acquired(self);
        self.spawn_task(BackgroundTask::new(Box::pin(async move {
            task.await;
            drop(permit);
        })));
    }

    fn spawn_task(&self, task: BackgroundTask) {
        // This runs in destructors, perhaps while a panic unwinds.
        let _ = catch(|| match &self.0.spawn {
            Some(spawn) => spawn(task),
            None => spawn_on_tokio(task),
        });
    }

    /// Returns the `Background` that tracks the callback which this thread is polling.
    ///
    /// What a layer leaves to be done after a delivery belongs to that `Background`. It is not taken
    /// from the event, because middleware can rebuild events, and applications can store them for
    /// longer than a mount lasts.
    pub(crate) fn of_current_callback() -> Option<Self> {
        permit::of_current_callback()
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns a permit. Within a callback that this `Background` tracks, it borrows that
    /// callback's, if that is not lent yet.
    pub(crate) fn acquire(&self) -> Result<Permit, NoPermit> {
        Permit::borrow_from_current_callback(self).map_or_else(|| self.acquire_another(), Ok)
    }

    /// Returns a separate permit, even within a callback: for deliveries, and for callbacks that
    /// are acknowledged first.
    pub(crate) fn acquire_another(&self) -> Result<Permit, NoPermit> {
        self.0.permits.acquire().map(|()| Permit::acquired(self))
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
            .field("capacity", &self.0.permits.capacity())
            .finish_non_exhaustive()
    }
}
