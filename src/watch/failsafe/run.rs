//! The loop that claims jobs and has them read.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::{BoxError, Service};

use super::reading::Reading;
use super::{ReadJob, Settings};
use crate::callback::JobService;
use crate::error::Error;
use crate::job::JobGuid;
use crate::observe;
use crate::util::catch_panic::catch;
use crate::util::random::jittered;
use crate::util::until::until;
use crate::watch::job_watch::JobWatch;
use crate::watch::store::Stored;

/// How often to look for jobs that are overdue.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often to look if the store or the reader fails.
const INTERVAL_OF_FAILURES: Duration = Duration::from_secs(5);

/// Why a reader reads nothing at the moment.
const NOT_READY: &str = "the reader of jobs is not ready";

/// How long to wait for the reader before looking for jobs that have to be given up.
const READINESS_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a job waits for its last read after its time has passed, while the reader is pending.
const GRACE: Duration = Duration::from_secs(5 * 60);

/// How many jobs are claimed at once while the reader is not ready, to give up those that are too
/// late.
const BATCH: usize = 128;

/// How often the metrics of expected jobs are set.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// Reads overdue jobs until the shutdown, and waits for those that are under way.
pub(super) async fn run<J, R>(reader: R, settings: Settings<J>, shutdown: impl Future)
where
    J: JobService,
    R: Service<JobGuid, Response: Into<ReadJob>, Error: Into<BoxError>> + Send + 'static,
    R::Future: Send + 'static,
{
    let mut shutdown = pin!(shutdown);
    let mut run = Run {
        reader,
        permits: Arc::new(Semaphore::new(
            settings.concurrency.min(Semaphore::MAX_PERMITS),
        )),
        settings: Arc::new(settings),
        reads: JoinSet::new(),
    };
    let mut counting = pin!(count(run.settings.watch.clone()));
    let mut has_ended = false;
    let mut end = pin!(poll_fn(|context| {
        // It counts also while the reader is not ready. It never ends.
        let _ = counting.as_mut().poll(context);
        has_ended = has_ended || shutdown.as_mut().poll(context).is_ready();
        if has_ended {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }));
    while let Some(turn) = until(end.as_mut(), run.next_turn()).await {
        // A claim is not cancelled, because a job that is claimed for no reader waits for the lease to
        // expire.
        if let Some(pause) = run.take(turn).await {
            until(end.as_mut(), sleep(jittered(pause))).await;
        }
    }
    while run.reads.join_next().await.is_some() {}
}

struct Run<J, R> {
    reader: R,
    settings: Arc<Settings<J>>,
    /// One permit for each job that may be read at once.
    permits: Arc<Semaphore>,
    /// The reads under way, including those that have returned their permits.
    reads: JoinSet<()>,
}

impl<J, R> Run<J, R>
where
    J: JobService,
    R: Service<JobGuid, Response: Into<ReadJob>, Error: Into<BoxError>> + Send + 'static,
    R::Future: Send + 'static,
{
    /// Waits until a job can be read, or may be given up because the reader is not ready.
    async fn next_turn(&mut self) -> Turn {
        while self.reads.try_join_next().is_some() {}
        let Ok(permit) = self.permits.clone().acquire_owned().await else {
            unreachable!("the semaphore is never closed")
        };
        // The service is ready before a job is claimed, so that no lease expires while it is not.
        let ready = poll_fn(|context| {
            let polled = catch(|| self.reader.poll_ready(context).map_err(Into::into));
            polled.unwrap_or_else(|_| Poll::Ready(Err("the reader panicked".into())))
        });
        // One that stays not ready must not keep jobs from being given up.
        let ready: Result<Result<(), BoxError>, _> = timeout(READINESS_TIMEOUT, ready).await;
        let grace = match ready {
            Ok(Ok(())) => return Turn::Read(permit),
            Ok(Err(_)) => Duration::ZERO,
            // A rate limit can let the last read of a job through later.
            Err(_) => GRACE,
        };
        observe::failsafe_failed(NOT_READY);
        // Other replicas go first.
        sleep(jittered(INTERVAL_OF_FAILURES)).await;
        Turn::GiveUp { grace }
    }

    /// Claims what is overdue. Returns how long to wait before the next turn.
    async fn take(&mut self, turn: Turn) -> Option<Duration> {
        let limit = match turn {
            Turn::Read(_) => 1,
            Turn::GiveUp { .. } => BATCH,
        };
        let Ok(claimed) = claim(&self.settings, limit).await else {
            observe::failsafe_failed("the store of expected jobs is unavailable");
            return Some(INTERVAL_OF_FAILURES);
        };
        match turn {
            Turn::Read(permit) => {
                let Some(reading) = claimed.into_iter().next() else {
                    return Some(INTERVAL);
                };
                let job = reading.job.clone();
                let read = catch(|| self.reader.call(job)).ok();
                self.reads.spawn(reading.run(read, permit));
            }
            Turn::GiveUp { grace } => {
                for reading in claimed {
                    self.reads.spawn(reading.leave(NOT_READY, grace));
                }
            }
        }
        None
    }
}

/// What to do with a job that is overdue.
enum Turn {
    Read(OwnedSemaphorePermit),
    /// The reader is not ready. Jobs of which the time has passed are given up nevertheless, after a
    /// while.
    GiveUp {
        grace: Duration,
    },
}

/// Sets the metrics of expected jobs now and then.
async fn count(watch: JobWatch) {
    loop {
        if let Ok(counts) = watch.call(|store| store.count()).await {
            observe::expected_jobs(counts.outstanding, counts.overdue);
        }
        sleep(COUNT_INTERVAL).await;
    }
}

/// Claims jobs that are overdue.
async fn claim<J>(settings: &Arc<Settings<J>>, limit: usize) -> Result<Vec<Reading<J>>, Error> {
    let Settings { watch, lease, .. } = &**settings;
    let claimed = watch.call(|store| store.claim_due(limit, *lease)).await?;
    let reading = |(job, stored): (JobGuid, Stored)| {
        Some(Reading {
            settings: settings.clone(),
            job,
            expectation: stored.entry.expectation()?,
        })
    };
    Ok(claimed.into_iter().filter_map(reading).collect())
}
