//! Durable work: events are stored in a queue in Postgres, and workers run their callbacks.
//!
//! Use it if callbacks take longer than a sender waits, or if failed events have to be seen and run again. MX does not publish
//! how long it waits; many proxies wait for a minute. A delivery is answered 204 once its event is stored. Workers then run the same
//! `Service<JobEvent>` that would otherwise be mounted, in the same process or in others. The guide
//! [`durable_work`](crate::guide::durable_work) says how to run, watch and repair a queue.
//!
//! The events are rows of the table `apalis.jobs`, which belongs to
//! [apalis](https://docs.rs/apalis-postgres). Its board and other tools show them. The worker is this crate's own:
//! apalis' worker ends at the first error of the database, and its callbacks then count as dead while they run.
//!
//! This room uses `dead_letters`, `ledger`, `observe`, `background`, `callback`, `event`, `error` and `util`.
//!
//! # Example
//!
//! ```no_run
//! use mx_job_webhook::queue::JobQueue;
//! use mx_job_webhook::{Credentials, JobEvent, JobRouter, JobWebhook};
//! use sqlx::PgPool;
//!
//! async fn completed(event: JobEvent) -> Result<(), tower::BoxError> {
//!     // Minutes of work for `event.member_guid`. After an error, it runs again later.
//!     Ok(())
//! }
//!
//! # async fn serve(pool: PgPool, shutdown: impl Future) -> Result<(), Box<dyn std::error::Error>> {
//! let queue = JobQueue::postgres(pool).named("mx-jobs");
//! queue.migrate().await?;
//!
//! // In the web server:
//! let webhooks = JobWebhook::new(Credentials::basic("mx", "secret")?, queue.enqueue());
//! let app = axum::Router::<()>::new().layer(webhooks.at("/admin/webhooks"));
//!
//! // In the same process, or in others:
//! let jobs = JobRouter::new().on_completed(completed);
//! queue.worker(jobs).with_concurrency(4).with_tries(5).run_until(shutdown).await?;
//! # drop(app); Ok(()) }
//! ```

mod batches;
mod commit_in;
mod connections;
mod dead_letters;
mod enqueue;
mod letter_rows;
mod migrate;
mod prune;
mod statement;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row as _};
use tokio::sync::Notify;

use crate::dead_letters::PostgresDeadLetters;
pub use crate::event::tried::Try;
use crate::util::postgres::UnexpectedAnswer;
use batches::{BATCH, Batches};
use connections::Connections;
pub use enqueue::Enqueue;
use statement::{Statement, Value};
pub use worker::Worker;

/// The name of a queue by default.
const NAME: &str = "mx-jobs";

/// How many connections a queue opens at most by default.
const CONNECTIONS: u32 = 4;

/// A durable queue of events, in the database of the application's pool.
///
/// Make one queue for an application, and clone it. Clones share their connections. See the
/// [module](self) for an example.
///
/// Each event is one row, under its [`EventName`](crate::ledger::EventName). A second delivery of an event changes
/// nothing, for as long as the row exists. The row contains the body as it was received, and no headers. Call
/// [`prune`](Self::prune) regularly.
///
/// # Connections
///
/// The queue has **connections of its own**, at most four by default, in addition to those of the pool. It therefore
/// works even if callbacks hold all connections of the pool. It opens them as the pool does, with the same options and
/// `after_connect`. It works through `PgBouncer` in session and transaction mode. Each statement is one round trip. The server
/// ends it after 3 s, and a call that has no answer after 5 s fails.
///
/// Dead letters that are no event have two more connections. Only [`migrate`](Self::migrate) uses the pool.
///
/// # Durability
///
/// A stored event is on the server's disk and on its synchronous standbys, even if the application has set
/// `synchronous_commit` to `off` or `local`.
#[derive(Clone)]
pub struct JobQueue {
    shared: Arc<Shared>,
    letters: PostgresDeadLetters,
}

/// The parts that clones, workers and stored events share.
struct Shared {
    name: String,
    connections: Connections,
    /// Events that are stored at the same time share statements.
    storing: Batches,
    /// Wakes workers of this process when an event is stored.
    stored: Notify,
}

impl JobQueue {
    /// Returns the queue `mx-jobs` in the database of this pool.
    ///
    /// Call [`migrate`](Self::migrate) before you use it.
    #[must_use]
    pub fn postgres(pool: PgPool) -> Self {
        Self {
            letters: PostgresDeadLetters::of_queue(pool.clone(), NAME),
            shared: Arc::new(Shared {
                name: NAME.to_owned(),
                connections: Connections::like(&pool, CONNECTIONS),
                storing: Batches::new(storing(CONNECTIONS)),
                stored: Notify::new(),
            }),
        }
    }

    /// Sets the name of the queue. Defaults to `mx-jobs`.
    ///
    /// Several queues can share a database. Events are handed from processes to processes by this name, so a change
    /// leaves the events of the old name behind.
    ///
    /// # Panics
    ///
    /// If the name is empty, longer than 200 bytes, or contains a NUL.
    #[must_use]
    #[track_caller]
    pub fn named(self, name: impl Into<String>) -> Self {
        let name = name.into();
        assert!(
            !name.is_empty() && name.len() <= 200 && !name.contains('\0'),
            "the name of a queue has 1 to 200 bytes, and no NUL"
        );
        self.rebuilt(name, None)
    }

    /// Sets how many connections the queue opens at most. Defaults to 4.
    ///
    /// Stored events and the results of tries share them, but for one that is reserved for the heartbeats of workers, if
    /// there are several.
    ///
    /// # Panics
    ///
    /// If the number is 0.
    #[must_use]
    #[track_caller]
    pub fn with_max_connections(self, connections: u32) -> Self {
        assert!(connections > 0, "a queue needs at least one connection");
        let name = self.shared.name.clone();
        self.rebuilt(name, Some(connections))
    }

    fn rebuilt(self, name: String, connections: Option<u32>) -> Self {
        let connections = connections.unwrap_or(self.shared.connections.max());
        let pool = self.shared.connections.application();
        Self {
            letters: PostgresDeadLetters::of_queue(pool.clone(), &name),
            shared: Arc::new(Shared {
                name,
                connections: Connections::like(pool, connections),
                storing: Batches::new(storing(connections)),
                stored: Notify::new(),
            }),
        }
    }

    /// Returns a service that stores each event, to mount in place of the callbacks.
    ///
    /// The receipt is [`Queued`](crate::Receipt::Queued), or [`Duplicate`](crate::Receipt::Duplicate) if a worker has handled
    /// the event already. Both are answered 204. If the event cannot be stored, the answer is 503, and MX delivers it again.
    #[must_use]
    pub fn enqueue(&self) -> Enqueue {
        Enqueue::new(self.shared.clone())
    }

    /// Returns a worker that runs the events of this queue through a service of events.
    ///
    /// `jobs` is a [`JobRouter`](crate::JobRouter), or tower middleware around one.
    #[must_use]
    pub fn worker<J>(&self, jobs: J) -> Worker<J> {
        Worker::new(self.shared.clone(), jobs)
    }

    /// Counts the events that are waiting, running and dead.
    ///
    /// A worker calls it every ten seconds for the metrics.
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn counts(&self) -> Result<QueueCounts, sqlx::Error> {
        self.shared.counts().await
    }
}

/// Returns how many statements store events at once. One connection is left to heartbeats.
fn storing(connections: u32) -> usize {
    let statements = usize::try_from(connections - 1).unwrap_or(usize::MAX);
    statements.clamp(1, BATCH)
}

impl Shared {
    async fn counts(&self) -> Result<QueueCounts, sqlx::Error> {
        let counts = include_str!("sql/counts.sql");
        let counts = Statement::new("counts", counts, &[Value::Text(&self.name)]);
        let rows = self.connections.run(&counts).await?;
        let row = first(&rows, "counts")?;
        let number = |column| row.try_get::<i64, _>(column).map(i64::unsigned_abs);
        let oldest: Option<i64> = row.try_get(4)?;
        Ok(QueueCounts {
            waiting: number(1)?,
            running: number(2)?,
            dead: number(3)?,
            oldest: oldest.map(|age| Duration::from_micros(age.max(0).unsigned_abs())),
        })
    }
}

/// Returns the first row of the answer to a statement that always returns one.
fn first<'a>(rows: &'a [PgRow], name: &'static str) -> Result<&'a PgRow, sqlx::Error> {
    Ok(rows.first().ok_or(UnexpectedAnswer(name))?)
}

/// Reads an array of an answer, which is NULL if it is empty.
fn json<T: DeserializeOwned>(array: Option<&str>) -> Vec<T> {
    array
        .and_then(|array| serde_json::from_str(array).ok())
        .unwrap_or_default()
}

/// The numbers of events in a queue: see [`JobQueue::counts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueCounts {
    /// Events that wait for a worker, or for their next try.
    pub waiting: u64,
    /// Events whose callbacks run, and those of dead workers that no worker has taken over yet.
    pub running: u64,
    /// Dead letters of the queue. Other bodies that were kept are not counted.
    pub dead: u64,
    /// For how long the oldest of the events that could run now has waited for a worker.
    pub oldest: Option<Duration>,
}

// By hand, because the `Debug` of a pool shows the server's address.
impl fmt::Debug for JobQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobQueue")
            .field("name", &self.shared.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

    use super::*;

    #[test]
    fn one_connection_is_left_to_heartbeats_if_there_are_several() {
        let statements = [1, 2, 4, u32::MAX].map(storing);
        assert_eq!(statements, [1, 1, 3, BATCH]);
    }

    #[tokio::test]
    async fn a_queue_of_another_name_keeps_the_number_of_connections() {
        let pool = PgPoolOptions::new().connect_lazy_with(PgConnectOptions::new());
        let queue = JobQueue::postgres(pool);
        for connections in [4, 3, 7] {
            let queue = match connections {
                4 => queue.clone(),
                _ => queue.clone().with_max_connections(connections),
            };
            let other = queue.named("other");
            assert_eq!(other.shared.connections.max(), connections);
            let worker = other.worker(());
            let enqueue = other.enqueue();
            for shown in [
                format!("{other:?}"),
                format!("{worker:?}"),
                format!("{enqueue:?}"),
            ] {
                assert!(
                    shown.contains("other") && !shown.contains("host"),
                    "{shown}"
                );
            }
        }
    }
}
