//! Heartbeats, by which workers know each other to live.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Row as _;
use tokio::time::{Instant, sleep};

use super::run::{INTERVAL_OF_FAILURES, Run};
use super::running::Running;
use crate::ledger::lease::micros;
use crate::observe;
use crate::queue::statement::{Statement, Value};
use crate::queue::{Shared, first};
use crate::util::until::until;

/// How often the metrics of the queue are set.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// How many events a heartbeat returns at most. Triggers of the application can make each of them slow, so a heartbeat that
/// has failed is followed by one with fewer.
const MOST_RETURNED: i64 = 5_000;

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
                self.most_returned = (self.most_returned / 8).max(1);
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
        let takes_over = self
            .contact_since
            .is_some_and(|since| since.elapsed() >= self.dead_after);
        // An event that is taken while the heartbeat waits for its connection must not look unknown.
        let beat = || {
            let ids = self.running.ids();
            let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
            let values = [
                Value::Text(&self.queue.name),
                Value::Text(&self.worker),
                Value::Texts(&ids),
                Value::Number(micros(self.dead_after)),
                Value::Flag(takes_over),
                Value::Time(self.answered_at),
                Value::Number(self.most_returned),
            ];
            Statement::new("heartbeat", include_str!("../sql/heartbeat.sql"), &values)
        };
        let rows = self.queue.connections.run_late(beat).await?;
        let row = first(&rows, "heartbeat")?;
        let (returned, continues): (i64, bool) = (row.try_get(1)?, row.try_get(2)?);
        self.answered_at = row.try_get(4)?;
        if returned >= self.most_returned {
            self.most_returned = (self.most_returned * 2).min(MOST_RETURNED);
        }
        let dead: Option<&str> = row.try_get(3)?;
        // A row that was made by hand can lack its name.
        let dead: Vec<Option<String>> = dead
            .and_then(|dead| serde_json::from_str(dead).ok())
            .unwrap_or_default();
        for name in dead {
            observe::dead_lettered(&name.unwrap_or_default());
        }
        if returned > 0 {
            observe::taken_over(&self.queue.name, returned.unsigned_abs());
            self.queue.stored.notify_one();
        }
        self.contact_since = self
            .contact_since
            .filter(|_| continues)
            .or_else(|| Some(Instant::now()));
        Ok(())
    }
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
