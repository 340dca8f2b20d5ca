//! Heartbeats, by which workers know each other to live.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Row as _;
use tokio::time::{Instant, sleep, sleep_until};

use super::run::{INTERVAL_OF_FAILURES, Run};
use crate::ledger::lease::micros;
use crate::observe;
use crate::queue::first;
use crate::queue::statement::{Statement, Value};
use crate::util::later::later;
use crate::util::until::until;

/// What a worker knows of its contact with the database.
#[derive(Clone, Copy, Default)]
pub(super) struct Contact {
    /// Since when there has been no longer gap between heartbeats.
    since: Option<Instant>,
    /// When the last heartbeat was answered.
    answered: Option<Instant>,
    /// The server's time of it, in µs.
    pub(super) answered_at: i64,
}

impl Contact {
    pub(super) fn answered(self) -> Option<Instant> {
        self.answered
    }

    pub(super) fn is_as_long_as(self, time: Duration) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= time)
    }
}

/// Sends heartbeats until the worker has ended, and the last of its callbacks.
pub(super) async fn beat_until_the_end<J>(run: Arc<Run<J>>) {
    let ended = pin!(run.running.ended());
    until(ended, beat_forever(&run)).await;
}

/// How long the pause between heartbeats is at most. An idle connection lives for longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

async fn beat_forever<J>(run: &Run<J>) {
    let mut has_failed = false;
    let mut begun = Instant::now();
    loop {
        // A heartbeat that takes long does not delay the next one.
        let pause = (run.worker.dead_after / 4).min(LONGEST_PAUSE);
        sleep_until(later(begun, pause)).await;
        begun = Instant::now();
        while let Err(error) = beat(run).await {
            if !has_failed {
                observe::queue_failed(&run.worker.queue.name, &error.into());
            }
            has_failed = true;
            sleep(INTERVAL_OF_FAILURES).await;
        }
        has_failed = false;
    }
}

/// Reports that a worker lives. That touches no event, whose row could make it wait.
///
/// The database says whether the contact continues, because a heartbeat can wait there, or in a pooler, for longer than an
/// outage.
pub(super) async fn beat<J>(run: &Run<J>) -> Result<(), sqlx::Error> {
    let queue = &run.worker.queue;
    let before = run.contact();
    let beat = || {
        let values = [
            Value::Text(&queue.name),
            Value::Text(&run.name),
            Value::Number(micros(run.worker.dead_after)),
            Value::Time(before.answered_at),
        ];
        Statement::new("heartbeat", include_str!("../sql/heartbeat.sql"), &values)
    };
    let rows = queue.connections.run_reserved(beat).await?;
    let row = first(&rows, "heartbeat")?;
    let (continues, answered_at) = (row.try_get(1)?, row.try_get(2)?);
    let since = before.since.filter(|_| continues);
    run.set_contact(Contact {
        since: since.or_else(|| Some(Instant::now())),
        answered: Some(Instant::now()),
        answered_at,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_contact_is_as_long_as_there_was_no_gap() {
        const SECOND: Duration = Duration::from_secs(1);
        assert!(!Contact::default().is_as_long_as(Duration::ZERO));
        let contact = Contact {
            since: Some(Instant::now()),
            ..Contact::default()
        };
        advance(SECOND - Duration::from_nanos(1)).await;
        assert!(!contact.is_as_long_as(SECOND));
        advance(Duration::from_nanos(1)).await;
        assert!(contact.is_as_long_as(SECOND));
    }
}
