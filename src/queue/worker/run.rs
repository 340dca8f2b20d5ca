//! Running a worker from its start to its end.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Worker;
use super::ended::Ended;
use super::fetcher::Fetcher;
use super::heartbeat::{Heart, count_until_the_end};
use super::recorder::Recorder;
use super::running::Running;
use crate::background::Background;
use crate::callback::JobService;
use crate::observe;
use crate::util::random::{jittered, random};
use crate::util::until::until;

/// How soon to try again if the database fails.
pub(super) const INTERVAL_OF_FAILURES: Duration = Duration::from_millis(500);

/// What the tries of a worker share.
pub(super) struct Run<J> {
    pub(super) worker: Worker<J>,
    /// The name of the worker in the table. If a new worker had the name of a dead one, the dead worker's events
    /// would count as running, and would never run.
    pub(super) name: Arc<str>,
    pub(super) running: Arc<Running>,
    pub(super) background: Background,
    pub(super) ended: UnboundedSender<Ended>,
}

/// Ends a worker, also if its future is dropped, or one of its tasks panics.
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
    let capacity = worker.concurrency.saturating_mul(2).max(4096);
    let (sender, ended) = unbounded_channel();
    let run = Arc::new(Run {
        name: format!("{}-{:016x}{:016x}", worker.queue.name, random(), random()).into(),
        running: Arc::default(),
        background: Background::new().with_capacity(capacity),
        ended: sender,
        worker,
    });
    let open = CloseOnDrop(run.running.clone());
    let mut heart = Heart::new(&run);
    // The table has to know the worker before it can hold events.
    let mut has_failed = false;
    while let Err(error) = heart.beat().await {
        if is_of_tables(&error) {
            return Err(error);
        }
        if !has_failed {
            observe::queue_failed(&run.worker.queue.name, &error.into());
        }
        has_failed = true;
        let pause = sleep(jittered(INTERVAL_OF_FAILURES));
        if until(shutdown.as_mut(), pause).await.is_none() {
            return Ok(());
        }
    }
    // On tasks of their own: if the future of the worker is dropped, callbacks that are running end as they would
    // otherwise. Heartbeats do not wait for anything else.
    let tasks = [
        spawn(&run.running, heart.beat_until_the_end()),
        spawn(
            &run.running,
            Fetcher::new(run.clone()).fetch_until_the_end(),
        ),
        spawn(
            &run.running,
            Recorder::new(run.clone(), ended).record_until_the_end(),
        ),
    ];
    tokio::spawn(count_until_the_end(
        run.worker.queue.clone(),
        run.running.clone(),
    ));
    until(shutdown, run.running.closed()).await;
    drop(open);
    let mut has_crashed = false;
    for task in tasks {
        has_crashed |= task.await.is_err();
    }
    if has_crashed {
        return Err(sqlx::Error::WorkerCrashed);
    }
    // Callbacks that were acknowledged first.
    let _ = run.background.drain(pending::<()>()).await;
    Ok(())
}

/// Runs a part of the worker. If it panics, the worker ends, because it would hold events that run nowhere.
fn spawn(running: &Arc<Running>, part: impl Future + Send + 'static) -> JoinHandle<()> {
    let open = CloseOnDrop(running.clone());
    tokio::spawn(async move {
        let _open = open;
        part.await;
    })
}

/// Returns whether the tables are missing, or not usable by this role. That needs a person.
fn is_of_tables(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(
        code.as_deref(),
        Some("42P01" | "3F000" | "42501" | "42703" | "42883")
    )
}
