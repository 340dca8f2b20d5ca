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
use super::left_out::{Candidate, LeftOut};
use super::run::{INTERVAL_OF_FAILURES, Run};
use super::running::FetchingGuard;
use crate::callback::JobService;
use crate::queue::connections::is_of_an_item;
use crate::queue::statement::{Statement, Value};
use crate::util::later::later;
use crate::util::postgres::{TOOK_TOO_LONG, has_sqlstate};
use crate::util::random::jittered;

/// How many events one statement takes at most.
const BATCH: usize = 64;

/// How large the bodies of these events are at most in bytes, without the last one. The answer has to arrive in time.
const BODIES: usize = 1 << 20;

/// How many tries may have ended without being recorded before the worker takes no further events.
const UNRECORDED: usize = 64;

/// How long the places of callbacks that have ended wait for others, until half of all are free.
const GATHERING: Duration = Duration::from_millis(1);

/// How often the search for slow events lets the others pass.
const PASSING_INTERVAL: Duration = Duration::from_secs(5);

pub(super) struct Fetcher<J> {
    run: Arc<Run<J>>,
    /// When to look for events next, if none is stored by this process before.
    look_at: Instant,
    /// How many events the next statement takes at most. Triggers of the application can make each of them slow.
    most_taken: usize,
    left_out: LeftOut,
    /// When to take such an event again at the earliest.
    left_out_at: Instant,
    _fetching: FetchingGuard,
}

/// Which events a statement takes.
enum Choice<'a> {
    /// The next ones that are not left out.
    Next,
    /// The same without these, which may wait.
    Behind(&'a [&'a str]),
    Only(&'a str),
    /// Only this one of several, each of which may wait.
    OneOf(&'a str),
}

impl<J: JobService> Fetcher<J> {
    pub(super) fn new(run: Arc<Run<J>>) -> Self {
        Self {
            _fetching: run.running.start_fetching(),
            run,
            look_at: Instant::now(),
            most_taken: BATCH,
            left_out: LeftOut::default(),
            left_out_at: Instant::now(),
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
                self.fetch(self.free()).await;
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

    async fn fetch(&mut self, free: usize) {
        let free = free.saturating_sub(self.take_left_out(free).await);
        let wanted = free.min(self.most_taken);
        if wanted == 0 {
            return;
        }
        match self.take(wanted, Choice::Next).await {
            Ok(taken) => {
                self.most_taken = (self.most_taken * 2).min(BATCH);
                let bodies: usize = taken.iter().map(|attempt| attempt.body.len()).sum();
                if taken.len() < wanted && bodies < BODIES {
                    let look_at = later(Instant::now(), jittered(self.run.worker.interval));
                    let next_at = self.left_out.next_at();
                    let next_at = next_at.map(|next_at| next_at.max(self.left_out_at));
                    self.look_at = next_at.map_or(look_at, |next_at| next_at.min(look_at));
                } else {
                    // More may wait than this worker can take.
                    self.run.worker.queue.stored.notify_one();
                }
                self.start(taken);
            }
            // Several of them may be too slow for one statement.
            Err(error) if wanted > 1 && has_sqlstate(&error, &[TOOK_TOO_LONG]) => {
                self.most_taken = 1;
            }
            Err(error) if is_of_an_event(&error) => {
                if !self.fetch_one_by_one(free.min(BATCH)).await {
                    self.pause();
                }
            }
            Err(_) => self.pause(),
        }
    }

    /// Takes an event that was left out, if it is time. Returns how many it has taken.
    async fn take_left_out(&mut self, free: usize) -> usize {
        let start = Instant::now();
        let is_time = free > 0 && self.left_out_at <= start;
        let Some(event) = self.left_out.due().filter(|_| is_time) else {
            return 0;
        };
        let taken = self.take(1, Choice::Only(&event.id)).await;
        // One that waits must not slow the others down.
        self.left_out_at = Instant::now() + 10 * start.elapsed();
        match taken {
            Ok(taken) => {
                self.left_out.remove(&event.id);
                let count = taken.len();
                if count > 0 {
                    self.left_out.try_all();
                }
                self.start(taken);
                return count;
            }
            Err(error) if is_of_an_event(&error) => {
                let queue = &self.run.worker.queue.name;
                self.left_out.add(queue, vec![(event, error)]);
            }
            Err(_) => self.left_out_at += INTERVAL_OF_FAILURES,
        }
        0
    }

    /// Takes each of the next events by itself, because the database may refuse to change the row of one of them. Returns
    /// whether that has helped.
    async fn fetch_one_by_one(&mut self, wanted: usize) -> bool {
        // If no event is the cause, a statement that takes none fails too.
        if self.take(0, Choice::Next).await.is_err() {
            return false;
        }
        let Ok(next) = self.next(wanted).await else {
            return false;
        };
        let ids: Vec<_> = next.iter().map(|event| event.id.clone()).collect();
        let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
        let mut refused = Vec::new();
        let mut has_taken = false;
        let mut passed_at = None;
        for event in next {
            if self.run.running.is_closed() || self.free() == 0 {
                break;
            }
            match self.take(1, Choice::OneOf(&event.id)).await {
                Ok(taken) => {
                    has_taken |= !taken.is_empty();
                    self.start(taken);
                }
                Err(error) if is_of_an_event(&error) => refused.push((event, error)),
                Err(_) => break,
            }
            // Others do not wait for the search once it has found one.
            let is_time = |at: Instant| at.elapsed() >= PASSING_INTERVAL;
            if !refused.is_empty() && passed_at.is_none_or(is_time) {
                has_taken |= self.take_behind(&ids).await;
                passed_at = Some(Instant::now());
            }
        }
        self.left_out.add(&self.run.worker.queue.name, refused) || has_taken
    }

    /// Takes the next events other than these. Returns whether there were any.
    async fn take_behind(&self, others: &[&str]) -> bool {
        let free = self.free().min(BATCH);
        let taken = match free {
            0 => return false,
            _ => self.take(free, Choice::Behind(others)).await,
        };
        let taken = taken.unwrap_or_default();
        let has_taken = !taken.is_empty();
        self.start(taken);
        has_taken
    }

    fn pause(&mut self) {
        self.look_at = Instant::now() + jittered(INTERVAL_OF_FAILURES);
    }

    /// Takes at most this many events.
    async fn take(&self, wanted: usize, choice: Choice<'_>) -> Result<Vec<Attempt>, sqlx::Error> {
        let Run { worker, name, .. } = &*self.run;
        if self.run.running.is_closed() {
            return Ok(Vec::new());
        }
        let (left_out, only) = match choice {
            Choice::Next => (self.left_out.ids(), None),
            Choice::Behind(others) => ([&self.left_out.ids(), others].concat(), None),
            Choice::Only(id) | Choice::OneOf(id) => (Vec::new(), Some(id)),
        };
        let values = [
            Value::Text(&worker.queue.name),
            Value::Text(name),
            Value::Number(i64::try_from(wanted).unwrap_or(i64::MAX)),
            Value::Number(worker.tries.min(i32::MAX.unsigned_abs() / 2).into()),
            Value::Number(i64::try_from(BODIES).unwrap_or(i64::MAX)),
            Value::Texts(&left_out),
            only.map_or(Value::Null, Value::Text),
            Value::Flag(only.is_some()),
        ];
        let mut fetch = Statement::new("fetch", include_str!("../sql/fetch.sql"), &values);
        if let Choice::OneOf(_) | Choice::Behind(_) = choice {
            fetch = fetch.in_a_search();
        }
        let rows = worker.queue.connections.run(&fetch).await?;
        // A heartbeat returns an event whose row cannot be read.
        Ok(rows
            .iter()
            .filter_map(|row| Attempt::read(row).ok())
            .collect())
    }

    /// Returns the events that would be taken next.
    async fn next(&self, wanted: usize) -> Result<Vec<Candidate>, sqlx::Error> {
        let queue = &self.run.worker.queue;
        let values = [
            Value::Text(&queue.name),
            Value::Number(i64::try_from(wanted).unwrap_or(i64::MAX)),
            Value::Texts(&self.left_out.ids()),
        ];
        let next = Statement::new("next", include_str!("../sql/next.sql"), &values);
        let rows = queue.connections.run(&next).await?;
        let read = |row: &PgRow| {
            let (id, name): (_, Option<String>) = (row.try_get(1)?, row.try_get(2)?);
            let name = name.unwrap_or_default();
            Ok(Candidate { id, name })
        };
        rows.iter().map(read).collect()
    }

    fn start(&self, taken: Vec<Attempt>) {
        for attempt in taken {
            // Until the end of the try is recorded, heartbeats name the event.
            let running = self.run.running.add(&attempt.id);
            tokio::spawn(attempt.run(self.run.clone(), running));
        }
    }
}

/// Returns whether the row of an event may be the cause. If the row of this worker was deleted, no event can be taken before
/// the next heartbeat.
fn is_of_an_event(error: &sqlx::Error) -> bool {
    let constraint = error
        .as_database_error()
        .and_then(|error| error.constraint());
    is_of_an_item(error) && constraint != Some("fk_worker_lock_by")
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

    use super::*;
    use crate::background::Background;
    use crate::queue::worker::running::RunningGuard;
    use crate::queue::{Enqueue, JobQueue};

    /// A fetcher of a worker that runs this many callbacks, with as many places.
    fn busy(callbacks: usize) -> (Fetcher<Enqueue>, Vec<RunningGuard>) {
        let pool = PgPoolOptions::new().connect_lazy_with(PgConnectOptions::new());
        let queue = JobQueue::postgres(pool);
        let worker = queue.worker(queue.enqueue());
        let (ended, _) = tokio::sync::mpsc::unbounded_channel();
        let run = Run {
            worker: worker.with_concurrency(callbacks),
            name: "worker".into(),
            running: Arc::default(),
            background: Background::new(),
            ended,
        };
        let running = (0..callbacks).map(|id| run.running.add(&id.to_string()));
        let running = running.collect();
        (Fetcher::new(Arc::new(run)), running)
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
}
