//! Replicas under load: each stores events, and runs them with effects in the database.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mx_job_webhook::queue::{JobQueue, Try};
use mx_job_webhook::{JobEvent, JobRouter};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool, Row as _};
use tokio::time::sleep;
use tower::BoxError;

use super::{PATIENCE, Running, quick};
use crate::load::{self, Load, Plan, Tally};

/// A process of the application.
#[derive(Clone)]
pub(super) struct Replica {
    pub(super) pool: PgPool,
    pub(super) queue: JobQueue,
}

impl Replica {
    pub(super) fn some(number: usize, options: &PgConnectOptions) -> Vec<Self> {
        let replica = |_| {
            let pool = PgPoolOptions::new()
                .max_connections(8)
                .acquire_timeout(Duration::from_secs(10))
                .connect_lazy_with(options.clone());
            let queue = JobQueue::postgres(pool.clone());
            Self { pool, queue }
        };
        (0..number).map(replica).collect()
    }
}

/// The callbacks so far.
#[derive(Clone)]
struct Runs(Arc<Mutex<Counts>>);

struct Counts {
    started: BTreeMap<String, usize>,
    effects: usize,
    latest: Instant,
    /// The longest time without an effect.
    silence: Duration,
}

impl Runs {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Counts {
            started: BTreeMap::new(),
            effects: 0,
            latest: Instant::now(),
            silence: Duration::ZERO,
        })))
    }

    fn look<T>(&self, at: impl FnOnce(&mut Counts) -> T) -> T {
        at(&mut self.0.lock().unwrap())
    }

    fn start(&self, guid: &str) {
        self.look(|counts| *counts.started.entry(guid.to_owned()).or_default() += 1);
    }

    fn effect(&self) {
        self.look(|counts| {
            counts.effects += 1;
            counts.silence = counts.silence.max(counts.latest.elapsed());
            counts.latest = Instant::now();
        });
    }

    /// Of these events, the first try fails.
    fn fails(guid: &str) -> bool {
        guid.ends_with('7')
    }
}

/// Callbacks whose effect is a row, in the transaction that ends the event.
fn jobs(replica: &Replica, runs: &Runs) -> JobRouter {
    let (replica, runs) = (replica.clone(), runs.clone());
    JobRouter::new().on_completed(move |event: JobEvent| {
        let (Replica { pool, queue }, runs) = (replica.clone(), runs.clone());
        async move {
            let guid = event.guid.as_str();
            runs.start(guid);
            if Runs::fails(guid) && Try::of(&event).unwrap().number() == 1 {
                return Err("the first try fails".into());
            }
            let mut transaction = pool.begin().await?;
            let effect = format!("INSERT INTO mx_test_effects VALUES ('{guid}')");
            sqlx::raw_sql(AssertSqlSafe(effect))
                .execute(&mut *transaction)
                .await?;
            queue.commit_in(&mut transaction, &event).await?;
            transaction.commit().await?;
            runs.effect();
            Ok::<_, BoxError>(())
        }
    })
}

/// Senders and workers.
pub(super) struct Traffic {
    pub(super) tally: Tally,
    runs: Runs,
    load: Load,
    workers: Vec<Running>,
}

impl Traffic {
    pub(super) fn start(plan: Plan, replicas: &[Replica]) -> Self {
        let (tally, runs) = (Tally::new(), Runs::new());
        let services: Vec<_> = replicas.iter().map(|it| it.queue.enqueue()).collect();
        let worker = |replica: &Replica| {
            let worker = quick(&replica.queue, jobs(replica, &runs));
            Running::start(worker.with_tries(1_000))
        };
        Self {
            workers: replicas.iter().map(worker).collect(),
            load: Load::start(plan, &tally, &services),
            tally,
            runs,
        }
    }

    /// Waits for this many more acknowledged events, and this many more effects.
    pub(super) async fn more(&self, events: usize) {
        tokio::join!(self.tally.more(events), self.more_effects(events));
    }

    pub(super) async fn more_effects(&self, effects: usize) {
        let now = self.runs.look(|counts| counts.effects);
        let start = Instant::now();
        while self.runs.look(|counts| counts.effects) < now + effects {
            assert!(
                start.elapsed() < PATIENCE,
                "the workers do not continue\n{}",
                self.tally
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends no further event, and waits until each stored event is done.
    pub(super) async fn finish(self, direct: &PgPool) -> Outcome {
        self.load.finish().await;
        Self::end(self.tally, self.runs, self.workers, direct).await
    }

    /// Waits until each event is stored and done.
    pub(super) async fn all(self, direct: &PgPool) -> Outcome {
        self.load.all().await;
        Self::end(self.tally, self.runs, self.workers, direct).await
    }

    /// Sends no further event, and ends the workers. Events may wait.
    pub(super) async fn stop(self, direct: &PgPool) -> Outcome {
        self.load.finish().await;
        Self::outcome(self.tally, self.runs, self.workers, direct).await
    }

    async fn end(tally: Tally, runs: Runs, workers: Vec<Running>, direct: &PgPool) -> Outcome {
        let waiting = "SELECT count(*) FROM apalis.jobs WHERE status <> 'Done'";
        let start = Instant::now();
        loop {
            let row = sqlx::raw_sql(waiting).fetch_one(direct).await.unwrap();
            let waiting: i64 = row.get(0);
            if waiting == 0 {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{waiting} events are not done");
            sleep(Duration::from_millis(50)).await;
        }
        Self::outcome(tally, runs, workers, direct).await
    }

    async fn outcome(tally: Tally, runs: Runs, workers: Vec<Running>, direct: &PgPool) -> Outcome {
        for worker in &workers {
            worker.shut_down();
        }
        for worker in workers {
            worker.end().await;
        }
        load::read_effects(&tally, direct).await;
        let stored = "SELECT split_part(idempotency_key, ' ', 1) FROM apalis.jobs";
        let stored = sqlx::raw_sql(stored).fetch_all(direct).await.unwrap();
        Outcome {
            tally,
            runs,
            stored: stored.iter().map(|row| row.get(0)).collect(),
        }
    }
}

pub(super) struct Outcome {
    pub(super) tally: Tally,
    runs: Runs,
    stored: Vec<String>,
}

impl Outcome {
    /// Each acknowledged event has its effect, once.
    pub(super) fn nothing_is_lost(&self) {
        assert_eq!(self.tally.lost(), [""; 0]);
        assert_eq!(self.tally.doubled(), [""; 0]);
        self.tally.look(|counts| assert_eq!(counts.given_up, 0));
    }

    /// Acknowledged events that are not in the table.
    pub(super) fn forgotten(&self) -> usize {
        let acknowledged = self.tally.look(|counts| counts.acknowledged.clone());
        let is_gone = |guid: &&String| !self.stored.contains(guid);
        acknowledged.iter().filter(is_gone).count()
    }

    /// Callbacks that ran again for another reason than their own failure.
    fn repeated(&self) -> usize {
        self.runs.look(|counts| {
            let again = |(guid, times): (&String, &usize)| {
                times.saturating_sub(1 + usize::from(Runs::fails(guid)))
            };
            counts.started.iter().map(again).sum()
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let silence = self.runs.look(|counts| counts.silence);
        write!(
            f,
            "{} callbacks repeated; {silence:?} without an effect at the most; {}",
            self.repeated(),
            self.tally
        )
    }
}
