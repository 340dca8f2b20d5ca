//! The loop that takes events and starts their callbacks.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::Worker;
use super::attempt::Attempt;
use super::heartbeat::Heart;
use super::running::Running;
use super::settle::{Answer, Ended};
use crate::background::Background;
use crate::callback::JobService;
use crate::queue::batches::{BATCH, Batches};
use crate::queue::statement::{Statement, Value};
use crate::util::random::{jittered, random};

/// How soon to look for events again if the database fails.
const INTERVAL_OF_FAILURES: Duration = Duration::from_millis(500);

/// What the tries of a worker share.
pub(super) struct Run<J> {
    pub(super) worker: Worker<J>,
    /// The name of the worker in the table. If a new worker had the name of a dead one, the dead worker's events
    /// would count as running, and would never run.
    pub(super) name: Arc<str>,
    pub(super) running: Arc<Running>,
    pub(super) background: Background,
    /// Tries that end at the same time share statements.
    pub(super) settling: Batches<Ended, Answer>,
    /// Permits of callbacks that have ended, whose ends are not recorded yet.
    pub(super) unsettled: Arc<Semaphore>,
}

/// Ends a worker, also if its future is dropped.
struct CloseOnDrop(Arc<Running>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

pub(super) async fn run<J: JobService>(
    worker: Worker<J>,
    shutdown: impl Future,
) -> Result<(), sqlx::Error> {
    let mut shutdown = pin!(shutdown);
    let queue = worker.queue.clone();
    let permits = Arc::new(Semaphore::new(
        worker.concurrency.min(Semaphore::MAX_PERMITS),
    ));
    let capacity = worker.concurrency.saturating_mul(2).max(4096);
    let run = Arc::new(Run {
        name: format!("{}-{:016x}{:016x}", queue.name, random(), random()).into(),
        running: Arc::default(),
        background: Background::new().with_capacity(capacity),
        settling: Batches::new(1),
        unsettled: Arc::new(Semaphore::new(BATCH)),
        worker,
    });
    let end = CloseOnDrop(run.running.clone());
    let mut heart = Heart::new(&run);
    // The table has to know the worker before it can hold events.
    while let Err(error) = heart.beat().await {
        if is_of_tables(&error) {
            return Err(error);
        }
        if until(shutdown.as_mut(), sleep(jittered(INTERVAL_OF_FAILURES)))
            .await
            .is_none()
        {
            return Ok(());
        }
    }
    // Beside the loop, so that heartbeats do not wait for anything else. If the future of the worker is dropped,
    // they are sent until the last callback has ended.
    tokio::spawn(heart.beat_until_the_end());
    loop {
        let Some(free) = until(shutdown.as_mut(), free(&permits)).await else {
            break;
        };
        let stored = queue.stored.notified();
        // A fetch is not cancelled, because its events would wait until the next heartbeat notices them.
        let wanted = free.len();
        let pause = match fetch(&run, wanted).await {
            Ok(attempts) => {
                let is_empty = attempts.len() < wanted;
                for (attempt, permit) in attempts.into_iter().zip(free) {
                    // Until the end of the try is recorded, heartbeats name the event.
                    let running = run.running.add(&attempt.id);
                    tokio::spawn(attempt.run(run.clone(), running, permit));
                }
                is_empty.then_some(run.worker.interval)
            }
            Err(error) if is_of_tables(&error) => return Err(error),
            Err(_) => {
                drop(free);
                let pause = sleep(jittered(INTERVAL_OF_FAILURES));
                if until(shutdown.as_mut(), pause).await.is_none() {
                    break;
                }
                None
            }
        };
        if let Some(pause) = pause {
            let next = timeout(jittered(pause), stored);
            if until(shutdown.as_mut(), next).await.is_none() {
                break;
            }
        }
    }
    drop(end);
    run.running.ended().await;
    // Callbacks that were acknowledged first.
    let _ = run.background.drain(std::future::pending::<()>()).await;
    Ok(())
}

/// Waits for a permit, and takes further ones that are free.
async fn free(permits: &Arc<Semaphore>) -> Vec<OwnedSemaphorePermit> {
    let mut free = Vec::new();
    if let Ok(permit) = permits.clone().acquire_owned().await {
        free.push(permit);
    }
    // Callbacks that end at the same time release further ones.
    yield_now().await;
    while free.len() < BATCH
        && let Ok(permit) = permits.clone().try_acquire_owned()
    {
        free.push(permit);
    }
    free
}

async fn fetch<J>(run: &Run<J>, wanted: usize) -> Result<Vec<Attempt>, sqlx::Error> {
    let Worker { queue, tries, .. } = &run.worker;
    let values = [
        Value::Text(&queue.name),
        Value::Text(&run.name),
        Value::Number(i64::try_from(wanted).unwrap_or(i64::MAX)),
        Value::Number((*tries).min(i32::MAX.unsigned_abs() / 2).into()),
    ];
    let fetch = include_str!("../sql/fetch.sql");
    let rows = queue
        .connections
        .run(&Statement::new("fetch", fetch, &values))
        .await?;
    rows.iter().map(Attempt::read).collect()
}

/// Returns whether the tables are missing, or not usable by this role. That needs a person.
fn is_of_tables(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(
        code.as_deref(),
        Some("42P01" | "3F000" | "42501" | "42703" | "42883")
    )
}

/// Polls a future until the first one is ready.
pub(super) async fn until<T>(
    mut end: Pin<&mut impl Future>,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| {
        if end.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        future.as_mut().poll(context).map(Some)
    })
    .await
}
