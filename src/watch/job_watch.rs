//! The watch: expecting jobs, and hearing of them.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use tower::BoxError;

use super::boxed::{Answer, DynStore};
use super::entry::{Change, Entry, SHORTEST, Seen, Times};
use super::expected::Expected;
use super::heard::{Heard, SettledEvent};
use super::layer::WatchLayer;
use super::listening::Listening;
use super::store::{Replaced, Stored, Update, WatchStore};
use super::waiters::Waiters;
use crate::error::{Error, ErrorKind};
use crate::job::JobGuid;
use crate::ledger::EventName;
use crate::util::catch_panic::{CatchPanic, Panicked, catch};
use crate::util::deadline::{Deadline, Instant, Timeout};

/// How long to wait for a webhook by default, before the failsafe reads the job.
const PATIENCE: Duration = Duration::from_secs(30);

/// For how long what was heard counts by default.
const LOOK_BACK: Duration = Duration::from_secs(10 * 60);

/// How often a change is tried again that others have overtaken.
const ATTEMPTS: usize = 32;

/// Remembers which jobs an application expects, and tells it what was heard of them.
///
/// An application that starts a job calls [`expect`](Self::expect), and waits with
/// [`Expected::within`]. It hears of the job wherever the webhook was delivered, if all replicas
/// share the store. A job that is expected is never forgotten: with a
/// [`Failsafe`](super::Failsafe), it ends in a webhook, in a read of the job through the same
/// callbacks, or in a hook that says that it was given up.
///
/// **Heard** is an event that is settled: its callback has succeeded, or an earlier delivery's had,
/// or the dead-letter hook took it, or nothing is registered for its status. The event of a
/// callback that failed is not heard. COMPLETED, DENIED, PREVENTED and HALTED end what was expected.
/// CHALLENGED wakes the waiters; the job then rests until the application expects it again.
///
/// Clones share everything.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use mx_job_webhook::watch::{JobWatch, MemoryWatchStore};
/// use mx_job_webhook::{Background, Job, JobRouter, Status};
/// use tower::ServiceBuilder;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let watch = JobWatch::new(MemoryWatchStore::new());
/// let jobs = ServiceBuilder::new()
///     .layer(watch.layer())
///     .service(JobRouter::new().on_completed(|_| async {}));
///
/// let job = Job::new("JOB-1".parse()?, Status::Completed);
/// let expected = watch.expect(&job.guid).await?;
/// Background::new().run(jobs, job.into()).await?; // as a webhook does
/// let heard = expected.within(Duration::from_secs(20)).await?;
/// assert_eq!(heard.map(|job| job.status.clone()), Some(Status::Completed));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct JobWatch {
    pub(super) shared: Arc<Shared>,
    patience: Duration,
    look_back: Duration,
    timeout: Timeout,
}

pub(super) struct Shared {
    pub(super) store: Arc<dyn DynStore>,
    pub(super) waiters: Arc<Waiters>,
    listening: Listening,
}

impl JobWatch {
    /// Returns a watch that keeps what is expected in this store.
    #[must_use]
    pub fn new(store: impl WatchStore) -> Self {
        Self {
            shared: Arc::new(Shared {
                store: Arc::new(store),
                waiters: Arc::default(),
                listening: Listening::default(),
            }),
            patience: PATIENCE,
            look_back: LOOK_BACK,
            timeout: Timeout::LEDGER,
        }
    }

    /// Sets how long to wait for a webhook before the failsafe reads the job. Defaults to 30 s.
    ///
    /// Clones that were made before keep their own patience.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sets for how long what was heard of a job counts for a later `expect`. Defaults to 10
    /// minutes.
    ///
    /// MX may deliver a webhook before the application knows the job's guid. Set it longer than the
    /// application needs from the answer of MX to `expect`. Clones that were made before keep their
    /// own time.
    #[must_use]
    pub fn with_look_back(mut self, look_back: Duration) -> Self {
        self.look_back = look_back;
        self
    }

    /// Sets how long each call to the store may take. Defaults to 5 s. `None` disables the timeout.
    #[must_use]
    pub fn with_store_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = Timeout(timeout.into());
        self
    }

    /// Returns the layer that hears of every event that is settled within it.
    ///
    /// Put it outside of a [`DedupeLayer`](crate::DedupeLayer), so that duplicates are heard too, and inside of an
    /// `AcknowledgeFirstLayer`. If the store cannot record an event, the delivery is answered 503,
    /// and MX delivers it again.
    ///
    /// In a worker of a `JobQueue`, the store is asked again, with pauses of half a minute in all. Then the try has failed, although the
    /// callback has succeeded: the event runs again, unless the callback has ended it with `commit_in`.
    #[must_use]
    pub fn layer(&self) -> WatchLayer {
        WatchLayer::new(self.clone())
    }

    /// Expects a job, and returns once that is recorded.
    ///
    /// From then on the job is not forgotten, as far as the store keeps what it acknowledged.
    /// What was heard of the job in the last ten minutes counts: see
    /// [`with_look_back`](Self::with_look_back). Expecting a job again changes nothing, unless the job rests
    /// after a challenge: then the failsafe goes on. After a challenge use
    /// [`expect_after`](Self::expect_after).
    ///
    /// # Errors
    ///
    /// [`WatchUnavailable`](ErrorKind::WatchUnavailable) if the store fails, is full, or does not
    /// answer in time. The job may be expected nevertheless.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the job may be expected or not.
    pub async fn expect(&self, job: &JobGuid) -> Result<Expected, Error> {
        self.expect_event(job, None).await
    }

    /// Expects the next event of a job, of which the application has seen this one.
    ///
    /// Use it after a challenge, once the job was resumed. The event that is named, and earlier
    /// ones, do not count. An event that ends the job always counts, and so does a later challenge
    /// that came before this call.
    ///
    /// # Errors
    ///
    /// As for [`expect`](Self::expect).
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use mx_job_webhook::watch::{JobWatch, MemoryWatchStore};
    /// use mx_job_webhook::{Background, Job, JobRouter, Status};
    /// use tower::Layer;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let watch = JobWatch::new(MemoryWatchStore::new());
    /// let jobs = watch.layer().layer(JobRouter::new());
    /// let mut job = Job::new("JOB-1".parse()?, Status::Challenged);
    /// Background::new().run(jobs.clone(), job.clone().into()).await?;
    ///
    /// let expected = watch.expect(&job.guid).await?;
    /// let challenge = expected.within(Duration::ZERO).await?.expect("it was heard before");
    /// // Ask the user, resume the job, and expect what follows.
    /// let expected = watch.expect_after(challenge.name()).await?;
    /// assert_eq!(expected.within(Duration::ZERO).await?, None);
    ///
    /// job.status = Status::Completed;
    /// Background::new().run(jobs, job.into()).await?;
    /// let heard = expected.within(Duration::ZERO).await?;
    /// assert_eq!(heard.map(|job| job.status.clone()), Some(Status::Completed));
    /// # Ok(()) }
    /// ```
    pub async fn expect_after(&self, seen: &EventName) -> Result<Expected, Error> {
        self.expect_event(seen.guid(), Some(Seen::of(seen))).await
    }

    async fn expect_event(&self, job: &JobGuid, after: Option<Seen>) -> Result<Expected, Error> {
        let times = self.times();
        // What is heard while the store answers counts.
        let since = Instant::now();
        let expect = |entry: &Entry| entry.expect(after.as_ref(), times);
        let (entry, _) = self.change(job, None, expect).await?;
        let heard = entry.heard_lately(after.as_ref(), self.look_back).cloned();
        Ok(Expected::new(
            self.clone(),
            job.clone(),
            after,
            since,
            heard,
        ))
    }

    /// Records a settled event of a job that is not expected. Returns the event if the job may be expected.
    pub(super) fn record_unexpected(
        &self,
        event: SettledEvent,
    ) -> Result<Option<SettledEvent>, Error> {
        if self.shared.waiters.may_wait_for(&event) {
            return Ok(Some(event));
        }
        let keep = self.look_back.max(SHORTEST);
        catch(|| self.shared.store.record_unexpected(event, keep))
            .map_err(|Panicked| unavailable("the store panicked"))
    }

    /// Records a settled event.
    pub(super) async fn hear(&self, heard: &Heard) -> Result<(), Error> {
        let job = heard.name.guid().clone();
        let hear = |entry: &Entry| entry.hear(heard, self.times());
        let (_, change) = self.change(&job, None, hear).await?;
        if let Some(waited) = change.and_then(|change| change.waited) {
            crate::observe::heard_after(&heard.job.status, waited);
        }
        Ok(())
    }

    /// Changes an entry, and returns it as it is then. The rule returns `None` if it changes
    /// nothing.
    ///
    /// `known` is the entry as far as the caller knows it.
    pub(super) async fn change(
        &self,
        job: &JobGuid,
        known: Option<Stored>,
        rule: impl Fn(&Entry) -> Option<Change>,
    ) -> Result<(Entry, Option<Change>), Error> {
        let mut current = known;
        for _ in 0..ATTEMPTS {
            let (entry, revision) = match current.take() {
                Some(stored) => (stored.entry.aged(stored.age), Some(stored.revision)),
                None => (Entry::default(), None),
            };
            let Some(change) = rule(&entry) else {
                return Ok((entry, None));
            };
            let update = Update {
                entry: &change.entry,
                due: change.due,
                keep: change.keep,
                wakes: change.wakes,
            };
            match self
                .call(|store| store.replace(job, revision, update))
                .await?
            {
                Replaced::Done => {
                    if change.wakes {
                        self.shared.waiters.tell(job, &change.entry);
                    }
                    return Ok((change.entry.clone(), Some(change)));
                }
                Replaced::Conflict(stored) => current = stored,
            }
        }
        Err(unavailable("others kept changing the entry"))
    }

    /// Changes an entry of which the caller knows that it exists, but not what it is.
    pub(super) async fn change_existing(
        &self,
        job: &JobGuid,
        rule: impl Fn(&Entry) -> Option<Change>,
    ) -> Result<(Entry, Option<Change>), Error> {
        let stored = self.load(job).await?;
        self.change(job, stored, rule).await
    }

    pub(super) async fn load(&self, job: &JobGuid) -> Result<Option<Stored>, Error> {
        let jobs = std::slice::from_ref(job);
        let loaded = self.call(|store| store.load(jobs)).await?;
        Ok(loaded
            .into_iter()
            .find(|(found, _)| found == job)
            .map(|(_, stored)| stored))
    }

    /// Calls the store, within the timeout. A panic of the store is an error.
    pub(super) async fn call<'a, T>(
        &'a self,
        call: impl FnOnce(&'a dyn DynStore) -> Answer<'a, T>,
    ) -> Result<T, Error> {
        let mut call = pin!(CatchPanic::start(
            || call(&*self.shared.store),
            |answer| answer
        ));
        let mut deadline = Deadline::default();
        poll_fn(|context| match call.as_mut().poll(context) {
            Poll::Ready(Ok(answer)) => Poll::Ready(answer.map_err(unavailable)),
            Poll::Ready(Err(Panicked)) => Poll::Ready(Err(unavailable("the store panicked"))),
            Poll::Pending => {
                ready!(deadline.poll(self.timeout, context));
                Poll::Ready(Err(unavailable("the store did not answer in time")))
            }
        })
        .await
    }

    /// Makes sure that this process hears what others have changed.
    pub(super) fn listen(&self) {
        let Shared {
            store,
            waiters,
            listening,
        } = &*self.shared;
        listening.ensure(store, waiters);
    }

    fn times(&self) -> Times {
        Times {
            patience: self.patience,
            look_back: self.look_back,
        }
    }

    pub(super) fn look_back(&self) -> Duration {
        self.look_back
    }
}

pub(super) fn unavailable(error: impl Into<BoxError>) -> Error {
    Error::with_source(ErrorKind::WatchUnavailable, error.into())
}

impl fmt::Debug for JobWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobWatch")
            .field("patience", &self.patience)
            .field("look_back", &self.look_back)
            .field("waiting", &self.shared.waiters.len())
            .finish_non_exhaustive()
    }
}
