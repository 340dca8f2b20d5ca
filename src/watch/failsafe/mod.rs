//! The failsafe, which reads jobs of which nothing was heard.

mod given_up;
mod read_job;
mod reading;
mod run;

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tower::{BoxError, Service};

use super::job_watch::JobWatch;
use crate::background::Background;
use crate::callback::{BoxedCallback, Callback, CallbackFuture, JobService, box_callback};
use crate::error::Receipt;
use crate::job::JobGuid;
use crate::util::catch_panic::CatchDrop;
pub use given_up::GivenUp;
pub use read_job::{ReadFn, ReadJob};

/// How many jobs are read at once by default.
const CONCURRENCY: usize = 8;

/// How long a job is expected at most by default.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// The pauses between the reads of a job, by default.
const FIRST_PAUSE: Duration = Duration::from_secs(15);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// How many jobs are told to the hook at once.
const HOOKS: usize = 128;

/// How long a claimed job belongs to one replica, unless that extends the lease.
const LEASE: Duration = Duration::from_secs(60);

/// How long one read may take by default.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads jobs of which nothing was heard in time, and runs the same callbacks for them.
///
/// MX recommends it for every application that waits for webhooks (*best practices* of MX's page
/// on webhooks). When a job that is [expected](JobWatch::expect) is overdue, one replica reads it
/// with the application's closure. If its status is one that MX would deliver, the event runs
/// through the same service as a delivery, and is heard like one. Otherwise the job is read again
/// later, with growing pauses. A job of which nothing is heard for an hour is given up, and
/// [`on_given_up`](Self::on_given_up) is told.
///
/// Run it on each replica. If one dies, another goes on after a minute.
///
/// # Example
///
/// ```
/// use mx_job_webhook::watch::{Failsafe, JobWatch, MemoryWatchStore};
/// use mx_job_webhook::{BoxJobService, JobRouter, job::JobGuid};
/// use tower::ServiceBuilder;
///
/// async fn read_job(guid: JobGuid) -> Result<Vec<u8>, std::io::Error> {
///     // GET the job from MX's API, and return the body of the answer.
///     Ok(format!(r#"{{"job": {{"guid": "{guid}", "status_name": "COMPLETED"}}}}"#).into())
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let watch = JobWatch::new(MemoryWatchStore::new());
/// let jobs = ServiceBuilder::new()
///     .layer(watch.layer())
///     .service(JobRouter::new().on_completed(|_| async {}));
/// let failsafe = Failsafe::new(&watch, jobs, read_job);
/// tokio::spawn(failsafe.run_until(std::future::pending::<()>())); // until the application stops
///
/// let expected = watch.expect(&"JOB-1".parse()?).await?;
/// // No webhook arrives, so the failsafe reads the job after 30 s.
/// let heard = expected.within(std::time::Duration::from_secs(60)).await?;
/// assert!(heard.is_some());
/// # Ok(()) }
/// ```
pub struct Failsafe<J, R> {
    reader: R,
    settings: Settings<J>,
}

struct Settings<J> {
    watch: JobWatch,
    jobs: J,
    background: Background,
    concurrency: usize,
    limit: Duration,
    first_pause: Duration,
    longest_pause: Duration,
    read_timeout: Duration,
    lease: Duration,
    on_error: Option<CatchDrop<Arc<ErrorHook>>>,
    on_given_up: Option<BoxedCallback<GivenUp>>,
    hooks: Semaphore,
}

type ErrorHook = dyn Fn(&JobGuid, &(dyn StdError + Send + Sync + 'static)) + Send + Sync;

impl<J: JobService, F> Failsafe<J, ReadFn<F>> {
    /// Returns a failsafe that reads jobs with this closure, and runs them through `jobs`.
    ///
    /// A callback counts as a read while it runs, for at most a minute. It may take as long as the
    /// [limit](Self::with_limit), or an hour if that is longer. After that it goes on in the
    /// background, and the job is given up.
    ///
    /// The closure reads the job from MX's API. It returns a [`Job`](crate::Job), or the bytes of
    /// MX's answer to *Read job*. If MX does not know the job, it returns an error: the job is read again, and given up at
    /// the limit.
    ///
    /// `jobs` is the service that the mount has too. With a [queue](crate::guide::durable_work), that is `queue.enqueue()`:
    /// the callbacks themselves would run beside a worker that runs them too.
    #[must_use]
    pub fn new<Fut, T, E>(watch: &JobWatch, jobs: J, read: F) -> Self
    where
        F: FnMut(JobGuid) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Into<ReadJob>,
        E: Into<BoxError>,
    {
        Self::from_service(watch, jobs, ReadFn::new(read))
    }
}

impl<J: JobService, R> Failsafe<J, R> {
    /// Returns a failsafe that reads jobs with a service, such as a closure within tower's
    /// `rate_limit`.
    ///
    /// A job is claimed once the service is ready.
    #[must_use]
    pub fn from_service(watch: &JobWatch, jobs: J, reader: R) -> Self
    where
        R: Service<JobGuid, Response: Into<ReadJob>, Error: Into<BoxError>>,
        R: Send + 'static,
        R::Future: Send + 'static,
    {
        Self {
            reader,
            settings: Settings {
                watch: watch.clone(),
                jobs,
                background: Background::new(),
                concurrency: CONCURRENCY,
                limit: LIMIT,
                first_pause: FIRST_PAUSE,
                longest_pause: LONGEST_PAUSE,
                read_timeout: READ_TIMEOUT,
                lease: LEASE,
                on_error: None,
                on_given_up: None,
                hooks: Semaphore::new(HOOKS),
            },
        }
    }

    /// Sets the `Background` that tracks the callbacks. Defaults to one of its own.
    #[must_use]
    pub fn with_background(mut self, background: Background) -> Self {
        self.settings.background = background;
        self
    }

    /// Sets how many jobs are read at once. Defaults to 8.
    ///
    /// # Panics
    ///
    /// If the number is 0.
    #[must_use]
    #[track_caller]
    pub fn with_concurrency(mut self, reads: usize) -> Self {
        assert!(reads > 0, "a failsafe that reads nothing forgets every job");
        self.settings.concurrency = reads;
        self
    }

    /// Sets how long a read may take. Defaults to 30 s.
    #[must_use]
    pub fn with_read_timeout(mut self, timeout: Duration) -> Self {
        self.settings.read_timeout = timeout;
        self
    }

    /// Sets the pauses between the reads of a job. Defaults to 15 s and 5 minutes.
    ///
    /// Each pause is twice as long as the one before, up to the longest, and is shortened at random
    /// by up to a half.
    #[must_use]
    pub fn with_pauses(mut self, first: Duration, longest: Duration) -> Self {
        self.settings.first_pause = first;
        self.settings.longest_pause = longest;
        self
    }

    /// Sets how long a job is expected before it is given up. Defaults to one hour.
    ///
    /// It is read once more when the time is up, and given up if that ends nothing. While the reader is
    /// not ready, such as behind a rate limit, that can take five minutes more. A patience that is
    /// longer than the limit comes first. The time starts anew when the application expects what
    /// follows a challenge.
    ///
    /// If the failsafe stores events in a queue, the limit has to be longer than the queue's tries: a job whose event
    /// waits there is still expected. The tries of a `JobQueue` take about two and a half hours by default.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.settings.limit = limit;
        self
    }

    /// Sets for how long a job belongs to the replica that reads it, if that dies. Defaults to one
    /// minute.
    ///
    /// While the reader, the callback or the hook takes longer, the lease is extended.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// Registers the hook for reads that fail, and for callbacks that fail after a read.
    ///
    /// It receives the job and the error, which may be any error of the application. The job is read
    /// again later. The hook must not block; its panic is ignored.
    #[must_use]
    pub fn on_error<F>(mut self, hook: F) -> Self
    where
        F: Fn(&JobGuid, &(dyn StdError + Send + Sync + 'static)) + Send + Sync + 'static,
    {
        self.settings.on_error = Some(CatchDrop::new(Arc::new(hook)));
        self
    }

    /// Registers the hook for jobs that are given up.
    ///
    /// Without it, a job that is given up is a log line and a metric.
    ///
    /// The job is no longer expected once the hook has succeeded. If the hook fails, it is called
    /// again later. If the process dies in between, it can be called twice. It may take as long as
    /// the [limit](Self::with_limit), or an hour if that is longer. At most 128 jobs are told at
    /// once; further ones are read again, and told later.
    #[must_use]
    pub fn on_given_up<F, Fut>(mut self, hook: F) -> Self
    where
        F: Callback<GivenUp, Fut>,
        Fut: CallbackFuture,
    {
        self.settings.on_given_up = Some(box_callback(hook, Receipt::Handled));
        self
    }
}

impl<J, R> Failsafe<J, R>
where
    J: JobService,
    R: Service<JobGuid, Response: Into<ReadJob>, Error: Into<BoxError>> + Send + 'static,
    R::Future: Send + 'static,
{
    /// Reads overdue jobs until the application shuts down.
    ///
    /// Once `shutdown` is ready, it claims no further jobs, and waits for the reads that are under
    /// way and their callbacks.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, reads are cancelled; other replicas read the jobs when their lease
    /// has expired. Callbacks that have started finish.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with timers.
    pub async fn run_until(self, shutdown: impl Future) {
        run::run(self.reader, self.settings, shutdown).await;
    }
}

impl<J, R> fmt::Debug for Failsafe<J, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failsafe")
            .field("watch", &self.settings.watch)
            .field("concurrency", &self.settings.concurrency)
            .field("limit", &self.settings.limit)
            .finish_non_exhaustive()
    }
}
