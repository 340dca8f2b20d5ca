//! Storing events.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use sqlx::Row as _;
use tower::Service;
use ulid::Ulid;

use super::statement::{Statement, Value};
use super::{Shared, first};
use crate::callback::JobFuture;
use crate::dead_letters;
use crate::error::{Error, ErrorKind, Receipt};
use crate::event::{JobEvent, Source};
use crate::ledger::EventName;
use crate::util::random::random;

/// A service that stores each event in a queue: see [`JobQueue::enqueue`](super::JobQueue::enqueue).
///
/// It is always ready. If its future is dropped, the event may be stored nevertheless; the next delivery then finds
/// it.
#[derive(Clone)]
pub struct Enqueue {
    queue: Arc<Shared>,
}

impl Enqueue {
    pub(super) fn new(queue: Arc<Shared>) -> Self {
        Self { queue }
    }
}

impl Service<JobEvent> for Enqueue {
    type Response = Receipt;
    type Error = Error;
    type Future = JobFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, event: JobEvent) -> JobFuture {
        let queue = self.queue.clone();
        JobFuture::new(async move {
            let stored = queue.store(&event).await;
            let receipt = stored
                .map_err(|error| Error::with_source(ErrorKind::QueueUnavailable, error.into()))?;
            // A dead letter that is replayed into the queue has its effect, now or before.
            if event.source() == Source::Replay {
                return Ok(Receipt::Queued);
            }
            Ok(receipt)
        })
    }
}

/// A row of an event, unless there is one for it.
pub(super) struct NewRow {
    id: String,
    pub(super) key: String,
    pub(super) body: Bytes,
}

#[cfg(test)]
impl NewRow {
    pub(super) fn sample() -> Self {
        Self {
            id: id(),
            key: "JOB-1 COMPLETED -".to_owned(),
            body: Bytes::new(),
        }
    }
}

impl Shared {
    /// Stores an event, if it is not stored yet. Returns once it is committed.
    async fn store(&self, event: &JobEvent) -> Result<Receipt, Arc<sqlx::Error>> {
        let row = NewRow {
            id: id(),
            key: key(&EventName::of(event)),
            body: event.body().clone(),
        };
        self.storing.call(row, |rows| self.insert(rows)).await
    }

    /// Returns a receipt for each row.
    async fn insert(&self, rows: Vec<Arc<NewRow>>) -> Result<Vec<Receipt>, sqlx::Error> {
        let ids: Vec<&str> = rows.iter().map(|row| &*row.id).collect();
        let keys: Vec<&str> = rows.iter().map(|row| &*row.key).collect();
        let bodies: Vec<&[u8]> = rows.iter().map(|row| &*row.body).collect();
        let values = [
            Value::Text(&self.name),
            Value::Texts(&ids),
            Value::Texts(&keys),
            Value::Parameter,
        ];
        let enqueue = Statement::new("enqueue", include_str!("sql/enqueue.sql"), &values);
        let answer = self.connections.run_with_bodies(&enqueue, &bodies).await?;
        let answer = first(&answer, "enqueue")?;
        // An event that existed may be of an earlier statement whose answer was lost.
        self.stored.notify_one();
        let stored: Vec<String> = answer.try_get(1)?;
        let repeated = rows.iter().filter(|row| !stored.contains(&row.id));
        let (ids, keys): (Vec<&str>, Vec<&str>) = repeated.map(|row| (&*row.id, &*row.key)).unzip();
        let mut handled = Vec::new();
        if !ids.is_empty() {
            let values = [
                Value::Text(&self.name),
                Value::Texts(&ids),
                Value::Texts(&keys),
            ];
            let look = Statement::new("handled", include_str!("sql/handled.sql"), &values);
            // If this fails, all are stored nevertheless.
            let rows = self.connections.run(&look).await.unwrap_or_default();
            handled = rows
                .iter()
                .filter_map(|row| row.try_get::<String, _>(1).ok())
                .collect();
        }
        let receipt = |row: &Arc<NewRow>| match handled.contains(&row.id) {
            true => Receipt::Duplicate,
            false => Receipt::Queued,
        };
        Ok(rows.iter().map(receipt).collect())
    }
}

/// Returns the text that identifies an event in the table: its name, of which parts that the server cannot store are
/// replaced by digests.
pub(super) fn key(name: &EventName) -> String {
    dead_letters::key::of_name(name)
}

/// Returns a new id. Ids are in the order of their time.
fn id() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = now.unwrap_or_default().as_millis();
    let random = (u128::from(random()) << 64) | u128::from(random());
    Ulid::from_parts(u64::try_from(millis).unwrap_or(u64::MAX), random).to_string()
}

impl fmt::Debug for Enqueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enqueue")
            .field("queue", &self.queue.name)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_eighty_random_bits() {
        let random = || Ulid::from_string(&id()).unwrap().random();
        let ids: Vec<u128> = (0..100).map(|_| random()).collect();
        for bit in 0..80 {
            let set = ids.iter().filter(|id| *id >> bit & 1 == 1).count();
            assert!(0 < set && set < ids.len(), "bit {bit}");
        }
    }
}
