//! A store with faults, events, and the ways to deliver them.
#![cfg_attr(
    not(all(feature = "axum", feature = "metrics", feature = "tracing")),
    allow(dead_code, reason = "the attacks use the rest")
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mx_job_webhook::job::JobGuid;
use mx_job_webhook::testing::Sample;
use mx_job_webhook::watch::{
    Counts, Entry, Expected, JobWatch, MemoryWatchStore, Replaced, SettledEvent, Stored, Update,
    Wake, WatchStore,
};
use mx_job_webhook::{Background, Error, JobEvent, Receipt, Status};
use tokio::time::sleep;
use tower::{BoxError, Service};

use crate::support::panic_quietly;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// What a store does instead of its work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    None,
    Fails,
    Hangs,
    Panics,
    /// It has its effect, and then fails.
    LosesTheAnswer,
    /// It has its effect, and answers after this time.
    AnswersAfter(Duration),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Listening {
    #[default]
    Works,
    /// It never hears anything.
    Hangs,
    Fails,
    Ends,
    Panics,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub load: Fault,
    pub replace: Fault,
    pub claim: Fault,
    pub count: Fault,
    pub listening: Listening,
}

/// A store in memory with faults. Clones share everything, like the clients of one server.
#[derive(Clone, Default)]
pub(crate) struct FaultyStore {
    memory: MemoryWatchStore,
    faults: Arc<Mutex<Faults>>,
    listens: Arc<AtomicUsize>,
    loads: Arc<AtomicUsize>,
}

impl FaultyStore {
    pub(crate) fn of(memory: MemoryWatchStore) -> Self {
        Self {
            memory,
            ..Self::default()
        }
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap()
    }

    /// All calls have this fault, and listening ends.
    pub(crate) fn all(&self, fault: Fault) {
        *self.faults() = Faults {
            load: fault,
            replace: fault,
            claim: fault,
            count: fault,
            listening: match fault {
                Fault::None => Listening::Works,
                _ => Listening::Fails,
            },
        };
    }

    /// Returns how often `listen` was called.
    pub(crate) fn listens(&self) -> usize {
        self.listens.load(Ordering::SeqCst)
    }

    /// Returns how often `load` was called.
    pub(crate) fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }

    /// Returns the entry of a job.
    pub(crate) async fn entry(&self, job: &JobGuid) -> Option<Entry> {
        let loaded = self.memory.load(std::slice::from_ref(job)).await.unwrap();
        loaded.into_iter().next().map(|(_, stored)| stored.entry)
    }

    pub(crate) async fn counts(&self) -> (u64, u64) {
        let counts = self.memory.count().await.unwrap();
        (counts.outstanding, counts.overdue)
    }
}

async fn before(fault: Fault) -> Result<(), BoxError> {
    match fault {
        Fault::None | Fault::LosesTheAnswer | Fault::AnswersAfter(_) => Ok(()),
        Fault::Fails => Err("the store is down".into()),
        Fault::Hangs => std::future::pending().await,
        Fault::Panics => {
            panic_quietly();
            Ok(())
        }
    }
}

async fn after<T>(fault: Fault, answer: T) -> Result<T, BoxError> {
    match fault {
        Fault::AnswersAfter(time) => {
            sleep(time).await;
            Ok(answer)
        }
        Fault::LosesTheAnswer => Err("the answer was lost".into()),
        _ => Ok(answer),
    }
}

impl WatchStore for FaultyStore {
    type Error = BoxError;

    async fn load(&self, jobs: &[JobGuid]) -> Result<Vec<(JobGuid, Stored)>, BoxError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        let fault = self.faults().load;
        before(fault).await?;
        after(fault, self.memory.load(jobs).await?).await
    }

    async fn replace(
        &self,
        job: &JobGuid,
        expected: Option<u64>,
        update: Update<'_>,
    ) -> Result<Replaced, BoxError> {
        let fault = self.faults().replace;
        before(fault).await?;
        after(fault, self.memory.replace(job, expected, update).await?).await
    }

    async fn claim_due(
        &self,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<(JobGuid, Stored)>, BoxError> {
        let fault = self.faults().claim;
        before(fault).await?;
        after(fault, self.memory.claim_due(limit, lease).await?).await
    }

    async fn count(&self) -> Result<Counts, BoxError> {
        let fault = self.faults().count;
        before(fault).await?;
        after(fault, self.memory.count().await?).await
    }

    async fn listen(&self, wake: Wake) -> Result<(), BoxError> {
        self.listens.fetch_add(1, Ordering::SeqCst);
        let listening = self.faults().listening;
        match listening {
            Listening::Works => Ok(self.memory.listen(wake).await?),
            Listening::Hangs => std::future::pending().await,
            Listening::Fails => Err("no connection".into()),
            Listening::Ends => Ok(()),
            Listening::Panics => {
                panic_quietly();
                Ok(())
            }
        }
    }

    fn record_unexpected(&self, event: SettledEvent, keep: Duration) -> Option<SettledEvent> {
        match self.faults().replace {
            Fault::None => self.memory.record_unexpected(event, keep),
            _ => Some(event),
        }
    }
}

pub(crate) fn guid(name: &str) -> JobGuid {
    name.parse().unwrap()
}

/// Returns an event of `JOB-1` with this `updated_at`, in JSON.
pub(crate) fn event(status: Status, updated_at: &str) -> JobEvent {
    event_of("JOB-1", status, updated_at)
}

pub(crate) fn event_of(job: &str, status: Status, updated_at: &str) -> JobEvent {
    let updated_at: serde_json::Value = serde_json::from_str(updated_at).unwrap();
    let sample = Sample::new(status).with_guid(job);
    sample.with_field("updated_at", updated_at).event().unwrap()
}

/// Runs an event through the services as a delivery does.
pub(crate) async fn deliver<S>(jobs: &S, event: JobEvent) -> Result<Receipt, Error>
where
    S: Service<JobEvent, Response = Receipt, Error = Error> + Clone + Send + 'static,
    S::Future: Send,
{
    Background::new().run(jobs.clone(), event).await
}

/// Returns what was heard already.
pub(crate) async fn heard(expected: &Expected) -> Option<Status> {
    let heard = expected.within(Duration::ZERO).await.unwrap();
    heard.map(|heard| heard.status.clone())
}

/// Returns how many wait.
pub(crate) fn waiting(watch: &JobWatch) -> usize {
    let text = format!("{watch:?}");
    let number = text.split("waiting: ").nth(1).unwrap();
    let end = number.find(|it: char| !it.is_ascii_digit()).unwrap();
    number[..end].parse().unwrap()
}
