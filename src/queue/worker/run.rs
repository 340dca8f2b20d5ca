//! Running a worker from its start to its end.

use std::future::pending;
use std::mem::replace;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::Worker;
use super::ended::Ended;
use super::fetcher::Fetcher;
use super::heartbeat::{Contact, beat, beat_until_the_end};
use super::metrics::count_until_the_end;
use super::recorder::Recorder;
use super::running::Running;
use super::take_over::TakeOver;
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
    contact: Mutex<Contact>,
    pub(super) background: Background,
    pub(super) ended: UnboundedSender<Ended>,
}

impl<J> Run<J> {
    /// Returns it with the receiver of tries that have ended.
    pub(super) fn new(worker: Worker<J>) -> (Arc<Self>, UnboundedReceiver<Ended>) {
        let capacity = worker.concurrency.saturating_mul(2).max(4096);
        let (sender, ended) = unbounded_channel();
        let run = Self {
            name: format!("{}-{:016x}{:016x}", worker.queue.name, random(), random()).into(),
            running: Arc::default(),
            contact: Mutex::default(),
            background: Background::new().with_capacity(capacity),
            ended: sender,
            worker,
        };
        (Arc::new(run), ended)
    }

    pub(super) fn contact(&self) -> Contact {
        *self.contact.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_contact(&self, contact: Contact) {
        *self.contact.lock().unwrap_or_else(PoisonError::into_inner) = contact;
    }

    /// Logs that a part of the worker fails, once, unless heartbeats fail too: that is logged already.
    pub(super) fn fails(&self, part: &mut Option<Failing>, error: sqlx::Error) {
        let now = Instant::now();
        let failing = part.get_or_insert(Failing::since(now));
        if failing.again(now, self.contact().answered()) {
            observe::queue_failed(&self.worker.queue.name, &error.into());
        }
    }
}

/// A part of a worker that fails.
pub(super) struct Failing {
    since: Instant,
    /// When a heartbeat was answered since.
    answered: Option<Instant>,
    last: Instant,
    /// When a statement has failed that began after this heartbeat.
    failed_again: Option<Instant>,
    is_logged: bool,
}

impl Failing {
    fn since(now: Instant) -> Self {
        Self {
            since: now,
            answered: None,
            last: now,
            failed_again: None,
            is_logged: false,
        }
    }

    /// Notes that it fails, and when the last heartbeat was answered. Returns whether to log that.
    ///
    /// It is no outage if a heartbeat was answered since, a statement that began after that has failed, and a further heartbeat was
    /// answered.
    fn again(&mut self, now: Instant, answered: Option<Instant>) -> bool {
        let is_alone = self.failed_again.is_some_and(|at| answered > Some(at));
        if self.answered.is_some_and(|at| at < self.last) {
            self.failed_again.get_or_insert(now);
        }
        let answered = answered.filter(|at| self.since < *at);
        self.answered = self.answered.or(answered);
        self.last = now;
        is_alone && !replace(&mut self.is_logged, true)
    }
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
    let (run, ended) = Run::new(worker);
    let open = CloseOnDrop(run.running.clone());
    let mut take_over = TakeOver::new(run.clone());
    // The table has to know the worker before it can hold events.
    let mut has_failed = false;
    while let Err(error) = async {
        beat(&run).await?;
        take_over.look().await
    }
    .await
    {
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
        spawn(&run.running, beat_until_the_end(run.clone())),
        spawn(&run.running, take_over.look_until_the_end()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::postgres::tests::Refused;

    /// Returns when a failure is logged, for failures at these times and heartbeats that are answered at these.
    fn logged(failures: &[u64], heartbeats: &[u64]) -> Vec<u64> {
        let start = Instant::now();
        let at = |time: u64| start + Duration::from_secs(time);
        let mut failing = Failing::since(at(failures[0]));
        let mut logged = Vec::new();
        for time in failures {
            let answered = heartbeats.iter().rfind(|it| *it <= time);
            if failing.again(at(*time), answered.map(|it| at(*it))) {
                logged.push(*time);
            }
        }
        logged
    }

    #[test]
    fn a_part_that_fails_is_logged_once_if_heartbeats_are_answered() {
        let often: Vec<u64> = (0..40).collect();
        // A lock of the table, for workers that report more often, as often, and less often.
        assert_eq!(
            logged(&[4, 8, 12, 16, 20, 24], &[3, 5, 7, 9, 11, 13, 15]),
            [16]
        );
        assert_eq!(logged(&[4, 8, 12, 16, 20, 24], &[3, 7, 11, 15, 19]), [16]);
        assert_eq!(logged(&often, &[0, 8, 16, 24]), [16]);
        // An outage.
        assert!(logged(&often, &[0]).is_empty());
        // Two of them, and a recovery that the part has missed.
        assert!(logged(&[4, 8, 12, 16, 20, 24], &[3, 10]).is_empty());
        // The statement that failed last began before the database answered.
        assert!(logged(&[4, 12], &[3, 10, 11]).is_empty());
    }

    /// A worker that starts waits for a database that is down, but not for one that a person has to prepare.
    #[test]
    fn a_worker_ends_if_its_tables_are_missing_or_not_usable() {
        let refused = |code| sqlx::Error::Database(Box::new(Refused(code)));
        for code in ["42P01", "3F000", "42501", "42703", "42883"] {
            assert!(is_of_tables(&refused(code)), "{code}");
        }
        for error in [
            refused("57P03"),
            refused("53300"),
            sqlx::Error::PoolTimedOut,
        ] {
            assert!(!is_of_tables(&error), "{error}");
        }
    }
}
