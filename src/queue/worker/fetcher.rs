//! Taking events from the queue, and starting their callbacks.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};

use super::attempt::Attempt;
use super::batch::BatchSize;
use super::left_out::{Candidate, LeftOut, SUSPECTS, Trial};
use super::run::{Failing, INTERVAL_OF_FAILURES, Run};
use super::running::FetchingGuard;
use crate::callback::JobService;
use crate::queue::connections::is_of_a_row;
use crate::queue::statement::{Statement, Value};
use crate::util::later::later;
use crate::util::random::jittered;

/// How many events one statement takes at most.
const BATCH: usize = 64;

/// How large the bodies of these events are at most in bytes, without the last one. The answer has to arrive in time.
const BODIES: u32 = 1 << 20;

/// How many tries may have ended without being recorded before the worker takes no further events.
const UNRECORDED: usize = 64;

/// How long the places of callbacks that have ended wait for others, until half of all are free.
const GATHERING: Duration = Duration::from_millis(1);

/// What a statement has taken.
#[derive(Default)]
struct Taken {
    attempts: Vec<Attempt>,
    /// Whether it has found as much as it may take, so that more events may wait. It may have left some of them out.
    is_full: bool,
}

pub(super) struct Fetcher<J> {
    run: Arc<Run<J>>,
    /// When to look for events next, if none is stored by this process before.
    look_at: Instant,
    batch: BatchSize,
    left_out: LeftOut,
    failing: Option<Failing>,
    _fetching: FetchingGuard,
}

impl<J: JobService> Fetcher<J> {
    pub(super) fn new(run: Arc<Run<J>>) -> Self {
        Self {
            _fetching: run.running.start_fetching(),
            run,
            look_at: Instant::now(),
            batch: BatchSize::new(BATCH),
            left_out: LeftOut::default(),
            failing: None,
        }
    }

    /// Takes events until the worker is closed.
    pub(super) async fn fetch_until_the_end(mut self) {
        let run = self.run.clone();
        loop {
            // They are created before the state is read, so that no change in between is missed.
            let changed = run.running.changed();
            let stored = run.worker.queue.stored.notified();
            if run.running.is_closed() {
                return;
            }
            let free = self.free();
            if free > 0 && self.look_at <= Instant::now() {
                self.gather().await;
                if run.running.is_closed() {
                    return;
                }
                self.fetch().await;
            } else if self.wait(free > 0, changed, stored).await {
                self.look_at = Instant::now();
            }
        }
    }

    /// Returns how many events can be taken.
    fn free(&self) -> usize {
        let (callbacks, unrecorded) = self.run.running.callbacks();
        if unrecorded >= UNRECORDED {
            return 0;
        }
        self.run.worker.concurrency.saturating_sub(callbacks)
    }

    /// Waits a moment for more places: one statement takes several events in little more time than one.
    async fn gather(&self) {
        let running = &self.run.running;
        let many = self.run.worker.concurrency.div_ceil(2).min(BATCH);
        let gathered = async {
            loop {
                let changed = running.changed();
                if self.free() >= many || running.is_closed() {
                    // Callbacks that end at the same time share the statement.
                    return yield_now().await;
                }
                changed.await;
            }
        };
        let _ = timeout(GATHERING, gathered).await;
    }

    /// Waits until something changes. Returns whether an event was stored that can be taken.
    async fn wait(&self, takes: bool, changed: impl Future, stored: impl Future) -> bool {
        let (mut changed, mut stored) = (pin!(changed), pin!(stored));
        let mut timer = pin!(sleep_until(self.look_at));
        poll_fn(|context| {
            if takes && stored.as_mut().poll(context).is_ready() {
                return Poll::Ready(true);
            }
            let is_woken = changed.as_mut().poll(context).is_ready()
                || (takes && timer.as_mut().poll(context).is_ready());
            if is_woken {
                Poll::Ready(false)
            } else {
                Poll::Pending
            }
        })
        .await
    }

    async fn fetch(&mut self) {
        if let Err(error) = self.try_left_out().await {
            return self.pause(error);
        }
        let wanted = self.free().min(self.batch.most());
        if wanted == 0 {
            return;
        }
        let start = Instant::now();
        match self.take(wanted, None).await {
            Ok(taken) => {
                self.failing = None;
                if !taken.attempts.is_empty() {
                    self.batch.succeeded(start.elapsed());
                }
                if taken.is_full {
                    // More may wait than this worker can take.
                    self.run.worker.queue.stored.notify_one();
                } else {
                    let look_at = later(Instant::now(), jittered(self.run.worker.interval));
                    let next_at = self.left_out.next_at();
                    self.look_at = next_at.map_or(look_at, |next_at| next_at.min(look_at));
                }
                self.start(taken.attempts);
            }
            Err(error) if self.batch.failed(wanted, &error) => {}
            Err(error) if is_of_an_event(&error) && self.suspect_next().await => {}
            Err(error) => self.pause(error),
        }
    }

    /// Takes events that are left out, each by itself, until it is the turn of the others.
    async fn try_left_out(&mut self) -> Result<(), sqlx::Error> {
        let tried = self.take_left_out().await;
        self.left_out.end_turn(&self.run.worker.queue.name);
        tried
    }

    async fn take_left_out(&mut self) -> Result<(), sqlx::Error> {
        while self.free() > 0
            && let Some((id, trial)) = self.left_out.due()
        {
            let start = Instant::now();
            match self.take(1, Some((&id, trial))).await {
                Ok(taken) if taken.attempts.is_empty() => {
                    if self.waits(&id).await? {
                        self.left_out.locked(&id, start.elapsed());
                    } else {
                        self.left_out.forget(&id);
                    }
                }
                Ok(taken) => {
                    self.left_out.accepted(&id, start.elapsed());
                    self.start(taken.attempts);
                }
                Err(error) if is_of_an_event(&error) && self.takes_none().await => {
                    self.left_out.refused(&id, error, start.elapsed());
                }
                Err(error) => {
                    self.left_out.acquit();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Leaves the next events out until each has been taken by itself, because one of them has made a statement fail. Returns
    /// whether that helps.
    async fn suspect_next(&mut self) -> bool {
        if !self.takes_none().await {
            return false;
        }
        let next = self.next().await;
        next.is_ok_and(|next| self.left_out.suspect(next))
    }

    /// Returns whether a statement succeeds that takes no event, but needs the same tables. Otherwise no event is the cause of a
    /// failure.
    async fn takes_none(&self) -> bool {
        let worker = [Value::Text(&self.run.name)];
        let worker = Statement::new("worker", include_str!("../sql/worker.sql"), &worker);
        let none = self.statement(0, None);
        self.send(worker).await.is_ok() && self.send(none).await.is_ok()
    }

    /// Runs a statement. While many other calls wait for connections, the worker waits for longer than these.
    async fn send(&self, statement: Statement) -> Result<Vec<PgRow>, sqlx::Error> {
        let connections = &self.run.worker.queue.connections;
        connections.run_late(|| statement).await
    }

    fn pause(&mut self, error: sqlx::Error) {
        self.run.fails(&mut self.failing, error);
        self.look_at = Instant::now() + jittered(INTERVAL_OF_FAILURES);
    }

    /// Takes at most this many events, or only one that is left out.
    async fn take(
        &mut self,
        wanted: usize,
        only: Option<(&str, Trial)>,
    ) -> Result<Taken, sqlx::Error> {
        let mut taken = Taken::default();
        if self.run.running.is_closed() {
            return Ok(taken);
        }
        let (mut found, mut bodies) = (0, 0_u32);
        for row in self.send(self.statement(wanted, only)).await? {
            // An event whose row cannot be read is unknown to this worker, which returns it later.
            bodies += row.try_get::<i32, _>(9)?.unsigned_abs();
            if row.try_get(8)? {
                found += 1;
                taken.attempts.extend(Attempt::read(&row).ok());
            } else if candidate(&row)
                .is_ok_and(|event| self.left_out.unchanged(event, Duration::ZERO))
            {
                found += 1;
            }
        }
        taken.is_full = found >= wanted || (found > 0 && bodies >= BODIES);
        Ok(taken)
    }

    fn statement(&self, wanted: usize, only: Option<(&str, Trial)>) -> Statement {
        let Run { worker, name, .. } = &*self.run;
        let left_out = match only {
            None => self.left_out.ids(),
            Some(_) => Vec::new(),
        };
        let values = [
            Value::Text(&worker.queue.name),
            Value::Text(name),
            Value::Number(i64::try_from(wanted).unwrap_or(i64::MAX)),
            Value::Number(worker.tries.min(i32::MAX.unsigned_abs() / 2).into()),
            Value::Number(BODIES.into()),
            Value::Texts(&left_out),
            only.map_or(Value::Null, |(id, _)| Value::Text(id)),
            Value::Flag(only.is_some()),
        ];
        let fetch = Statement::new("fetch", include_str!("../sql/fetch.sql"), &values);
        fetch.within(only.and_then(|(_, trial)| trial.limit()))
    }

    /// Returns the events that would be taken next.
    async fn next(&self) -> Result<Vec<Candidate>, sqlx::Error> {
        let queue = &self.run.worker.queue;
        let values = [
            Value::Text(&queue.name),
            Value::Number(i64::try_from(SUSPECTS).unwrap_or(i64::MAX)),
            Value::Texts(&self.left_out.ids()),
        ];
        let next = Statement::new("next", include_str!("../sql/next.sql"), &values);
        let rows = self.send(next).await?;
        rows.iter().map(candidate).collect()
    }

    /// Returns whether the event still waits for a worker. If it could not be taken, another session has locked its row.
    async fn waits(&self, id: &str) -> Result<bool, sqlx::Error> {
        let waits = Statement::new(
            "waits",
            include_str!("../sql/waits.sql"),
            &[Value::Text(id)],
        );
        let rows = self.send(waits).await?;
        rows.first().map_or(Ok(false), |row| row.try_get(1))
    }

    fn start(&self, taken: Vec<Attempt>) {
        for attempt in taken {
            // Until the end of the try is recorded, the worker knows the event.
            let running = self.run.running.add(&attempt.id);
            tokio::spawn(attempt.run(self.run.clone(), running));
        }
    }
}

fn candidate(row: &PgRow) -> Result<Candidate, sqlx::Error> {
    let (id, name): (_, Option<String>) = (row.try_get(1)?, row.try_get(2)?);
    let name = name.unwrap_or_default();
    Ok(Candidate { id, name })
}

/// Returns whether the row of an event may be the cause. If the row of this worker was deleted, no event can be taken before
/// the next heartbeat.
fn is_of_an_event(error: &sqlx::Error) -> bool {
    let constraint = error
        .as_database_error()
        .and_then(|error| error.constraint());
    is_of_a_row(error) && constraint != Some("fk_worker_lock_by")
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

    use super::*;
    use crate::queue::worker::running::RunningGuard;
    use crate::queue::{Enqueue, JobQueue};
    use crate::util::postgres::tests::Refused;

    /// A fetcher of a worker that runs this many callbacks, with as many places.
    fn busy(callbacks: usize) -> (Fetcher<Enqueue>, Vec<RunningGuard>) {
        let pool = PgPoolOptions::new().connect_lazy_with(PgConnectOptions::new());
        let queue = JobQueue::postgres(pool);
        let worker = queue.worker(queue.enqueue());
        let (run, _ended) = Run::new(worker.with_concurrency(callbacks));
        let running = (0..callbacks).map(|id| run.running.add(&id.to_string()));
        let running = running.collect();
        (Fetcher::new(run), running)
    }

    /// Places that become free within a moment are taken with one statement, once they are half of all.
    #[tokio::test(start_paused = true)]
    async fn places_wait_for_others_for_a_moment() {
        for (callbacks, before, meanwhile, waits) in [
            (1, 1, 0, false),
            (4, 2, 0, false),
            (4, 1, 1, false),
            (4, 1, 0, true),
            (5, 2, 0, true),
            (5, 2, 1, false),
            (1000, BATCH - 1, 0, true),
            (1000, BATCH - 1, 1, false),
        ] {
            let (fetcher, mut running) = busy(callbacks);
            let mut end = |count| running.drain(..count).for_each(drop);
            end(before);
            let start = Instant::now();
            let gathered = async {
                fetcher.gather().await;
                start.elapsed()
            };
            let ends = async {
                yield_now().await;
                end(meanwhile);
            };
            let (waited, ()) = tokio::join!(gathered, ends);
            assert_eq!(waited > Duration::ZERO, waits, "{before} of {callbacks}");
            assert!(waited <= 2 * GATHERING);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_is_closed_gathers_no_places() {
        let (fetcher, _running) = busy(4);
        let start = Instant::now();
        let close = async { fetcher.run.running.close() };
        tokio::join!(fetcher.gather(), close);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    /// Events and the time of the next look wake a worker that has a place. A change wakes each.
    #[tokio::test(start_paused = true)]
    async fn a_worker_without_a_place_is_woken_by_changes_alone() {
        const SECOND: Duration = Duration::from_secs(1);
        async fn ready_if(is_ready: bool) {
            if !is_ready {
                pending::<()>().await;
            }
        }
        let (mut fetcher, _running) = busy(1);
        for (takes, changed, stored, woken) in [
            (true, false, false, Some((SECOND, false))),
            (true, false, true, Some((Duration::ZERO, true))),
            (true, true, false, Some((Duration::ZERO, false))),
            (false, false, false, None),
            (false, false, true, None),
            (false, true, false, Some((Duration::ZERO, false))),
        ] {
            let start = Instant::now();
            fetcher.look_at = start + SECOND;
            let wait = fetcher.wait(takes, ready_if(changed), ready_if(stored));
            let waited = timeout(2 * SECOND, wait).await.ok();
            let waited = waited.map(|is_stored| (start.elapsed(), is_stored));
            assert_eq!(waited, woken, "{takes}, {changed}, {stored}");
        }
    }

    #[test]
    fn a_row_is_the_cause_unless_the_row_of_the_worker_is_missing() {
        let refused = |code| sqlx::Error::Database(Box::new(Refused(code)));
        assert!(is_of_an_event(&refused("23514")));
        assert!(!is_of_an_event(&refused("23503")));
        assert!(!is_of_an_event(&sqlx::Error::PoolTimedOut));
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_whose_statement_has_failed_pauses() {
        let (mut fetcher, _running) = busy(1);
        fetcher.pause(sqlx::Error::PoolTimedOut);
        let pause = fetcher.look_at - Instant::now();
        assert!(INTERVAL_OF_FAILURES / 2 <= pause && pause <= INTERVAL_OF_FAILURES);
    }
}
