//! The turns of a worker: each records the tries that have ended, and takes new events, in one transaction.

use std::future::poll_fn;
use std::mem::take;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use sqlx::postgres::PgRow;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::attempt::Attempt;
use super::ended::{Ended, settle};
use super::run::{INTERVAL_OF_FAILURES, Run};
use crate::callback::JobService;
use crate::queue::statement::{Statement, Value};
use crate::util::random::jittered;

/// How many tries a turn records at most, and how many events it takes.
const BATCH: usize = 64;

pub(super) struct Turns<J> {
    run: Arc<Run<J>>,
    ended: UnboundedReceiver<Ended>,
    /// Tries that have ended, and whose end is not recorded.
    unrecorded: Vec<Ended>,
    /// When to look for events next, if none is stored by this process before.
    look_at: Instant,
}

impl<J: JobService> Turns<J> {
    pub(super) fn new(run: Arc<Run<J>>, ended: UnboundedReceiver<Ended>) -> Self {
        Self {
            run,
            ended,
            unrecorded: Vec::new(),
            look_at: Instant::now(),
        }
    }

    /// Takes turns until the worker is closed and its last try is recorded.
    pub(super) async fn take_until_the_end(mut self) {
        let run = self.run.clone();
        loop {
            // They are created before the state is read, so that no change in between is missed.
            let changed = run.running.changed();
            let stored = run.worker.queue.stored.notified();
            self.receive();
            if run.running.is_closed() {
                // Another worker takes the events over.
                let dead_after = run.worker.dead_after;
                self.unrecorded
                    .retain(|ended| ended.failing_for() < dead_after);
                if run.running.count() == 0 {
                    return;
                }
            }
            let now = Instant::now();
            let is_due = self.unrecorded.iter().any(|ended| ended.is_due(now));
            let free = self.free(0);
            if is_due || (free > 0 && self.look_at <= now) {
                // Callbacks that end at the same time share the transaction.
                yield_now().await;
                self.receive();
                self.turn().await;
                continue;
            }
            if self.wait(free > 0, changed, stored).await {
                self.look_at = Instant::now();
            }
        }
    }

    fn receive(&mut self) {
        while let Ok(ended) = self.ended.try_recv() {
            self.unrecorded.push(ended);
        }
    }

    /// Waits until something changes. Returns whether an event was stored that can be taken.
    async fn wait(&mut self, takes: bool, changed: impl Future, stored: impl Future) -> bool {
        let again_at = self.unrecorded.iter().filter_map(Ended::again_at).min();
        let look_at = takes.then_some(self.look_at);
        let wake_at = again_at.into_iter().chain(look_at).min();
        let (mut changed, mut stored) = (pin!(changed), pin!(stored));
        let mut timer = pin!(async {
            match wake_at {
                Some(wake_at) => sleep_until(wake_at).await,
                None => std::future::pending().await,
            }
        });
        poll_fn(|context| {
            if takes && stored.as_mut().poll(context).is_ready() {
                return Poll::Ready(true);
            }
            if let Poll::Ready(Some(ended)) = self.ended.poll_recv(context) {
                self.unrecorded.push(ended);
                return Poll::Ready(false);
            }
            let is_woken = changed.as_mut().poll(context).is_ready()
                || timer.as_mut().poll(context).is_ready();
            if is_woken {
                Poll::Ready(false)
            } else {
                Poll::Pending
            }
        })
        .await
    }

    async fn turn(&mut self) {
        let now = Instant::now();
        let (mut due, mut later) = (Vec::new(), Vec::new());
        for ended in take(&mut self.unrecorded) {
            if due.len() < BATCH && ended.is_due(now) {
                due.push(ended);
            } else {
                later.push(ended);
            }
        }
        // What is recorded in this turn makes room for what is taken in it.
        self.unrecorded = later;
        let wanted = self.free(due.len()).min(BATCH);
        let mut statements = Vec::new();
        if !due.is_empty() {
            statements.push(settle(&self.run.name, &due));
        }
        if wanted > 0 {
            statements.push(self.fetch(wanted));
        }
        if statements.is_empty() {
            return;
        }
        let outcome = self.run.worker.queue.connections.run_all(&statements).await;
        let answers = outcome.and_then(|answers| Answers::read(&statements, answers));
        match answers {
            Ok(answers) => {
                self.record(due, &answers.settled);
                self.start(answers.taken, wanted);
            }
            Err(error) => {
                self.look_at = Instant::now() + jittered(INTERVAL_OF_FAILURES);
                if is_of_one(&error) {
                    self.record_one_by_one(due).await;
                } else {
                    self.record_later(due);
                }
            }
        }
    }

    /// Returns how many events can be taken if this many further tries are recorded at the same time.
    fn free(&self, due: usize) -> usize {
        if self.run.running.is_closed() {
            return 0;
        }
        let unrecorded = self.unrecorded.len() + due;
        let callbacks = self.run.running.count().saturating_sub(unrecorded);
        self.run.worker.concurrency.saturating_sub(callbacks)
    }

    fn fetch(&self, wanted: usize) -> Statement {
        let values = [
            Value::Text(&self.run.worker.queue.name),
            Value::Text(&self.run.name),
            Value::Number(i64::try_from(wanted).unwrap_or(i64::MAX)),
            Value::Number(
                self.run
                    .worker
                    .tries
                    .min(i32::MAX.unsigned_abs() / 2)
                    .into(),
            ),
        ];
        Statement::new("fetch", include_str!("../sql/fetch.sql"), &values)
    }

    fn start(&mut self, taken: Vec<Attempt>, wanted: usize) {
        if wanted > 0 {
            let pause = jittered(self.run.worker.interval);
            let has_more = taken.len() == wanted;
            self.look_at = Instant::now() + if has_more { Default::default() } else { pause };
        }
        for attempt in taken {
            // Until the end of the try is recorded, heartbeats name the event.
            let running = self.run.running.add(&attempt.id);
            tokio::spawn(attempt.run(self.run.clone(), running));
        }
    }

    fn record(&mut self, due: Vec<Ended>, rows: &[PgRow]) {
        // An event whose answer cannot be read returns to the queue with a later heartbeat.
        let again = due
            .into_iter()
            .filter_map(|ended| ended.recorded(rows).unwrap_or_default());
        self.unrecorded.extend(again);
    }

    fn record_later(&mut self, due: Vec<Ended>) {
        for mut ended in due {
            ended.try_again_later();
            self.unrecorded.push(ended);
        }
    }

    /// Records each try by itself, because one of them may have made the statement fail.
    async fn record_one_by_one(&mut self, due: Vec<Ended>) {
        for ended in due {
            let one = [ended];
            let settle = settle(&self.run.name, &one);
            let rows = self.run.worker.queue.connections.run(&settle).await;
            let [ended] = one;
            match rows {
                Ok(rows) => self.record(vec![ended], &rows),
                Err(_) => self.record_later(vec![ended]),
            }
        }
    }
}

/// The answers to the statements of a turn.
#[derive(Default)]
struct Answers {
    settled: Vec<PgRow>,
    taken: Vec<Attempt>,
}

impl Answers {
    fn read(statements: &[Statement], rows: Vec<Vec<PgRow>>) -> Result<Self, sqlx::Error> {
        let mut answers = Self::default();
        for (statement, rows) in statements.iter().zip(rows) {
            if statement.name == "fetch" {
                let taken: Result<_, _> = rows.iter().map(Attempt::read).collect();
                answers.taken = taken?;
            } else {
                answers.settled = rows;
            }
        }
        Ok(answers)
    }
}

/// Returns whether one try may be the cause of a failure: its data, a constraint, or a trigger of the application.
fn is_of_one(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| {
        ["22", "23", "54", "P0"]
            .iter()
            .any(|class| code.starts_with(class))
    })
}
