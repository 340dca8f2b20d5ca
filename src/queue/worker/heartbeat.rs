//! Heartbeats, by which workers know each other to live.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use sqlx::Row as _;
use tokio::time::{Instant, sleep};

use super::left_out::{Candidate, LeftOut};
use super::run::{INTERVAL_OF_FAILURES, Run};
use super::running::Running;
use crate::ledger::lease::micros;
use crate::observe;
use crate::queue::connections::is_of_an_item;
use crate::queue::statement::{Statement, Value};
use crate::queue::{Shared, first};
use crate::util::until::until;

/// How often the metrics of the queue are set.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// How many events a heartbeat returns at most. Triggers of the application can make each of them slow, so a heartbeat that
/// has failed is followed by one with fewer.
const MOST_RETURNED: i64 = 5_000;

/// How many events of dead workers a heartbeat names at most, and how many unknown ones. Each has a heartbeat of its own then.
const MOST_NAMED: i64 = 64;

/// The name of a worker in the table, and what it knows of its contact with the database.
pub(super) struct Heart {
    queue: Arc<Shared>,
    worker: Arc<str>,
    running: Arc<Running>,
    dead_after: Duration,
    /// Since when there has been no longer gap between heartbeats.
    contact_since: Option<Instant>,
    /// The server's time of the last heartbeat that was answered, in µs.
    answered_at: i64,
    /// How many events the next heartbeat returns at most.
    most_returned: i64,
    left_out: LeftOut,
}

/// What a heartbeat does with the events that have lost their worker.
enum Lost<'a> {
    Return,
    ReturnOnly(&'a str),
    /// Returns only this one of several, each of which may wait.
    ReturnOneOf(&'a str),
    /// Only says which they are.
    Name,
}

/// The answer to a heartbeat.
struct Answer {
    returned: i64,
    /// Whether it would have returned events of dead workers.
    takes_over: bool,
    named: Vec<Candidate>,
}

impl Heart {
    pub(super) fn new<J>(run: &Run<J>) -> Self {
        Self {
            queue: run.worker.queue.clone(),
            worker: run.name.clone(),
            running: run.running.clone(),
            dead_after: run.worker.dead_after,
            contact_since: None,
            answered_at: 0,
            most_returned: MOST_RETURNED,
            left_out: LeftOut::default(),
        }
    }

    /// Sends heartbeats until the worker has ended, and the last of its callbacks.
    pub(super) async fn beat_until_the_end(self) {
        let running = self.running.clone();
        let ended = pin!(running.ended());
        until(ended, self.beat_forever()).await;
    }

    async fn beat_forever(mut self) {
        let mut has_failed = false;
        loop {
            sleep(self.dead_after / 4).await;
            while let Err(error) = self.beat().await {
                if !has_failed {
                    observe::queue_failed(&self.queue.name, &error.into());
                }
                has_failed = true;
                sleep(INTERVAL_OF_FAILURES).await;
            }
            has_failed = false;
        }
    }

    /// Reports that this worker lives, and returns events of dead workers to the queue.
    ///
    /// After an outage of the database, all workers look dead. A worker therefore takes over nothing before it has
    /// had contact for as long as others may be silent. The database says whether the contact continues, because a
    /// heartbeat can wait there, or in a pooler, for longer than the outage.
    pub(super) async fn beat(&mut self) -> Result<(), sqlx::Error> {
        let start = Instant::now();
        while let Err(error) = self.send(Lost::Return).await {
            if !is_of_an_item(&error) || start.elapsed() >= self.dead_after {
                return Err(error);
            }
            self.most_returned = (self.most_returned / 8).max(1);
            // This says that the worker lives, which the statement that failed did not.
            let lost = self.send(Lost::Name).await?.named;
            if !self.return_one_by_one(lost).await? {
                return Err(error);
            }
        }
        while start.elapsed() < self.dead_after / 4
            && let Some(event) = self.left_out.due()
        {
            if !self.return_left_out(event).await? {
                break;
            }
        }
        Ok(())
    }

    /// Returns each event by itself, because the database may refuse to change the row of one of them. Returns whether that
    /// has helped.
    async fn return_one_by_one(&mut self, lost: Vec<Candidate>) -> Result<bool, sqlx::Error> {
        let mut refused = Vec::new();
        let mut has_returned = false;
        let mut answered_at = Instant::now();
        let mut has_failed = false;
        for event in lost {
            let outcome = self.send(Lost::ReturnOneOf(&event.id)).await;
            has_failed = outcome.is_err();
            match outcome {
                Ok(answer) => {
                    has_returned |= answer.returned > 0;
                    answered_at = Instant::now();
                }
                Err(error) if is_of_an_item(&error) => refused.push((event, error)),
                Err(error) => {
                    self.left_out.add(&self.queue.name, refused);
                    return Err(error);
                }
            }
            // A statement that failed did not say that the worker lives.
            if answered_at.elapsed() >= self.dead_after / 8 {
                self.send(Lost::Name).await?;
                answered_at = Instant::now();
            }
        }
        if has_failed {
            self.send(Lost::Name).await?;
        }
        if has_returned {
            self.left_out.try_all();
        }
        Ok(self.left_out.add(&self.queue.name, refused) || has_returned)
    }

    /// Returns an event that was left out. Returns false if this worker may not take over any.
    async fn return_left_out(&mut self, event: Candidate) -> Result<bool, sqlx::Error> {
        match self.send(Lost::ReturnOnly(&event.id)).await {
            Ok(answer) if answer.returned == 0 && !answer.takes_over => return Ok(false),
            Ok(answer) => {
                self.left_out.remove(&event.id);
                if answer.returned > 0 {
                    self.left_out.try_all();
                }
            }
            Err(error) if is_of_an_item(&error) => {
                self.left_out.add(&self.queue.name, vec![(event, error)]);
                self.send(Lost::Name).await?;
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Sends one heartbeat.
    async fn send(&mut self, lost: Lost<'_>) -> Result<Answer, sqlx::Error> {
        let takes_over = self
            .contact_since
            .is_some_and(|since| since.elapsed() >= self.dead_after);
        let (only, names) = match lost {
            Lost::Return => (Value::Null, false),
            Lost::ReturnOnly(id) | Lost::ReturnOneOf(id) => (Value::Text(id), false),
            Lost::Name => (Value::Null, true),
        };
        let most = if names {
            MOST_NAMED
        } else {
            self.most_returned
        };
        // An event that is taken while the heartbeat waits for its connection must not look unknown.
        let beat = || {
            let ids = self.running.ids();
            let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
            let left_out = match lost {
                Lost::ReturnOnly(_) | Lost::ReturnOneOf(_) => Vec::new(),
                _ => self.left_out.ids(),
            };
            let values = [
                Value::Text(&self.queue.name),
                Value::Text(&self.worker),
                Value::Texts(&ids),
                Value::Number(micros(self.dead_after)),
                Value::Flag(takes_over),
                Value::Time(self.answered_at),
                Value::Number(most),
                Value::Texts(&left_out),
                only,
                Value::Flag(names),
            ];
            let heartbeat =
                Statement::new("heartbeat", include_str!("../sql/heartbeat.sql"), &values);
            match lost {
                Lost::ReturnOneOf(_) => heartbeat.in_a_search(),
                _ => heartbeat,
            }
        };
        let rows = self.queue.connections.run_late(beat).await?;
        let row = first(&rows, "heartbeat")?;
        let (returned, continues): (i64, bool) = (row.try_get(1)?, row.try_get(2)?);
        self.answered_at = row.try_get(4)?;
        if returned >= self.most_returned {
            self.most_returned = (self.most_returned * 2).min(MOST_RETURNED);
        }
        // A row that was made by hand can lack its name.
        let dead: Vec<Option<String>> = json(row.try_get(3)?);
        let back = returned.unsigned_abs().saturating_sub(dead.len() as u64);
        for name in dead {
            observe::dead_lettered(&name.unwrap_or_default());
        }
        if back > 0 {
            observe::taken_over(&self.queue.name, back);
            self.queue.stored.notify_one();
        }
        self.contact_since = self
            .contact_since
            .filter(|_| continues)
            .or_else(|| Some(Instant::now()));
        let named: Vec<(String, Option<String>)> = json(row.try_get(5)?);
        let candidate = |(id, name): (_, Option<String>)| Candidate {
            id,
            name: name.unwrap_or_default(),
        };
        Ok(Answer {
            returned,
            takes_over: takes_over && continues,
            named: named.into_iter().map(candidate).collect(),
        })
    }
}

/// Reads an array of the answer, which is NULL if it is empty.
fn json<T: DeserializeOwned>(array: Option<&str>) -> Vec<T> {
    array
        .and_then(|array| serde_json::from_str(array).ok())
        .unwrap_or_default()
}

/// Sets the metrics of the queue now and then, on a task of its own: heartbeats must not wait for a slow count.
pub(super) async fn count_until_the_end(queue: Arc<Shared>, running: Arc<Running>) {
    let ended = pin!(running.ended());
    let count = async {
        loop {
            if let Ok(counts) = queue.counts().await {
                let oldest = counts.oldest.unwrap_or_default();
                let (waiting, running, dead) = (counts.waiting, counts.running, counts.dead);
                observe::queued_events(&queue.name, waiting, running, dead, oldest);
            }
            sleep(COUNT_INTERVAL).await;
        }
    };
    until(ended, count).await;
}
