//! One read of a job, from the claim to what follows from it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};
use tower::BoxError;

use super::{GivenUp, LIMIT, LONGEST_PAUSE, ReadJob, Settings};
use crate::callback::JobService;
use crate::error::{Error, ErrorKind};
use crate::event::{JobEvent, Source};
use crate::job::{JobGuid, Status};
use crate::observe;
use crate::util::catch_panic::{CatchPanic, catch};
use crate::util::random::jittered;
use crate::util::until::while_repeating;
use crate::watch::entry::Entry;
use crate::watch::heard::Heard;
use crate::watch::layer::is_settled;
use crate::watch::store::Stored;

/// A job that is claimed.
pub(super) struct Reading<J> {
    pub(super) settings: Arc<Settings<J>>,
    pub(super) job: JobGuid,
    pub(super) expectation: u64,
}

/// How long a callback holds the permit of its read. One that hangs must not delay the reads of other
/// jobs.
const LONGEST_HOLD: Duration = Duration::from_secs(60);

/// The pause before the last read.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// What a read has found.
#[derive(Default)]
struct Found {
    status: Option<Status>,
    error: Option<BoxError>,
}

impl Found {
    fn failed(error: impl Into<BoxError>) -> Self {
        Self {
            error: Some(error.into()),
            ..Self::default()
        }
    }

    fn status(status: &Status) -> Self {
        Self {
            status: Some(status.clone()),
            ..Self::default()
        }
    }

    /// Returns the name of the outcome in metrics, if the job is still expected.
    fn name(&self) -> &'static str {
        if self.error.is_some() {
            "failed"
        } else {
            "not_yet"
        }
    }
}

impl<J: JobService> Reading<J> {
    /// `read` is `None` if the reader panicked before it returned a future.
    pub(super) async fn run<T, E>(
        self,
        read: Option<impl Future<Output = Result<T, E>>>,
        permit: OwnedSemaphorePermit,
    ) where
        T: Into<ReadJob>,
        E: Into<BoxError>,
    {
        let find = async {
            match self.read(read).await {
                Ok(event) if event.status.is_actionable() => self.handle(event, permit).await,
                Ok(event) => Found::status(&event.status),
                Err(error) => Found::failed(error),
            }
        };
        let found = self.while_extending_the_lease(find).await;
        if let Some(error) = &found.error {
            observe::read_failed(&self.job, error);
            if let Some(on_error) = &self.settings.on_error {
                let _ = catch(|| on_error(&self.job, &**error));
            }
        }
        // If the store fails here, the lease expires and the job is read again.
        let _ = self.postpone_or_give_up(found).await;
    }

    async fn read<T, E>(
        &self,
        read: Option<impl Future<Output = Result<T, E>>>,
    ) -> Result<JobEvent, BoxError>
    where
        T: Into<ReadJob>,
        E: Into<BoxError>,
    {
        let panicked = "the reader panicked";
        let read = read.ok_or(panicked)?;
        let convert = |answer: Result<T, E>| match answer {
            Ok(job) => job.into().0.map_err(BoxError::from),
            Err(error) => Err(error.into()),
        };
        let read = CatchPanic::start(|| read, convert);
        let read = timeout(self.settings.read_timeout, read).await;
        let read = read.map_err(|_| "the read took too long")?;
        let event = read.map_err(|_| panicked)??;
        if event.guid != self.job {
            return Err("the reader returned another job".into());
        }
        Ok(event)
    }

    /// Runs the event through the same service as a delivery.
    async fn handle(&self, mut event: JobEvent, permit: OwnedSemaphorePermit) -> Found {
        let heard = Heard::of(&event);
        let mut found = Found::status(&event.status);
        event.set_source(Source::Failsafe);
        let settings = &*self.settings;
        let run = settings.background.run(settings.jobs.clone(), event);
        // A callback that takes longer goes on in the background.
        let mut run = pin!(timeout(settings.limit.max(LIMIT), run));
        let outcome = match timeout(LONGEST_HOLD, run.as_mut()).await {
            Ok(outcome) => outcome,
            Err(_) => {
                drop(permit);
                run.await
            }
        };
        let outcome = outcome.unwrap_or_else(|_| Err(Error::new(ErrorKind::InFlight)));
        let heard = match outcome {
            Ok(receipt) => heard.filter(|_| is_settled(receipt)),
            Err(error) => {
                found.error = Some(error.into());
                None
            }
        };
        if let Some(heard) = heard {
            // The layer has heard it, if `jobs` has one. To hear it again changes nothing.
            if let Err(error) = settings.watch.hear(&heard).await {
                found.error = Some(error.into());
            }
        }
        found
    }

    /// Keeps the job claimed while it is read, and while its callback or the hook runs.
    async fn while_extending_the_lease<T>(&self, run: impl Future<Output = T>) -> T {
        while_repeating(run, || self.extend()).await
    }

    async fn extend(&self) {
        let Settings { watch, lease, .. } = &*self.settings;
        sleep(*lease / 3).await;
        let extend = |entry: &Entry| entry.extend(self.expectation, *lease);
        // If this fails, it is tried again. At worst another replica reads the job too.
        let _ = watch.change_existing(&self.job, extend).await;
    }

    /// Gives the job up if its time has passed and the grace too, and otherwise leaves it to other
    /// replicas.
    pub(super) async fn leave(self, error: &'static str, grace: Duration) {
        // If the store fails here, the lease expires.
        let _ = self.leave_or_give_up(error, grace).await;
    }

    async fn leave_or_give_up(&self, error: &'static str, grace: Duration) -> Result<(), Error> {
        let Some((stored, entry)) = self.load().await? else {
            return Ok(()); // It was heard.
        };
        let given_up = || GivenUp::new(self.job.clone(), &entry, None, Some(error.into()));
        let is_too_late = entry.expected_for() >= self.settings.limit.saturating_add(grace);
        if is_too_late && self.give_up(given_up()).await {
            return Ok(());
        }
        let leave = |entry: &Entry| entry.extend(self.expectation, Duration::ZERO);
        self.settings
            .watch
            .change(&self.job, Some(stored), leave)
            .await?;
        Ok(())
    }

    async fn postpone_or_give_up(&self, found: Found) -> Result<(), Error> {
        let Some((stored, entry)) = self.load().await? else {
            observe::failsafe_read("heard");
            return Ok(());
        };
        observe::failsafe_read(found.name());
        let Found { status, error } = found;
        let status = status.as_ref();
        let mut pause = self.pause(entry.reads());
        if self.is_too_late(&entry) {
            let given_up = GivenUp::new(self.job.clone(), &entry, status, error);
            if self.give_up(given_up.with_another_read()).await {
                return Ok(());
            }
            // The hook has failed, and is called again.
            pause = pause.min(LONGEST_PAUSE);
        } else {
            // The last read is when the time is up.
            let left = self.settings.limit.saturating_sub(entry.expected_for());
            pause = pause.min(left.max(SHORTEST_PAUSE));
        }
        let postpone = |entry: &Entry| entry.postpone(self.expectation, status, pause);
        self.settings
            .watch
            .change(&self.job, Some(stored), postpone)
            .await?;
        Ok(())
    }

    /// Returns the entry as it was stored and as it is now, if the job is still expected.
    async fn load(&self) -> Result<Option<(Stored, Entry)>, Error> {
        let Some(stored) = self.settings.watch.load(&self.job).await? else {
            return Ok(None);
        };
        let entry = stored.entry.clone().aged(stored.age);
        let is_expected = entry.expectation() == Some(self.expectation);
        Ok(is_expected.then_some((stored, entry)))
    }

    fn is_too_late(&self, entry: &Entry) -> bool {
        entry.expected_for() >= self.settings.limit
    }

    /// Tells the hook, and ends the expectation. Returns false if the hook has not succeeded.
    async fn give_up(&self, given_up: GivenUp) -> bool {
        let Some(hook) = &self.settings.on_given_up else {
            self.end().await;
            return true;
        };
        let Ok(_permit) = self.settings.hooks.try_acquire() else {
            return false; // It is told later.
        };
        let told = timeout(self.settings.limit.max(LIMIT), hook(given_up));
        let told = self.while_extending_the_lease(told).await;
        let is_told = matches!(told, Ok(Ok(_)));
        if is_told {
            self.end().await;
        }
        is_told
    }

    /// Ends the expectation. While the store fails, it tries again, because the hook is told again
    /// otherwise.
    async fn end(&self) {
        let Settings { watch, lease, .. } = &*self.settings;
        let end = async {
            loop {
                let end = |entry: &Entry| entry.give_up(self.expectation);
                match watch.change_existing(&self.job, end).await {
                    Ok((_, Some(_))) => return observe::given_up(&self.job),
                    Ok((_, None)) => return, // It was heard meanwhile.
                    Err(_) => sleep(jittered(SHORTEST_PAUSE)).await,
                }
            }
        };
        // After that, another replica may have claimed the job.
        let _ = timeout(*lease, end).await;
    }

    /// Returns the pause after this many earlier reads.
    fn pause(&self, reads: u32) -> Duration {
        let factor = 2_u32.checked_pow(reads).unwrap_or(u32::MAX);
        let pause = self.settings.first_pause.saturating_mul(factor);
        jittered(pause.min(self.settings.longest_pause))
    }
}
