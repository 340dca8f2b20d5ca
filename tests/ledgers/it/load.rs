//! Many concurrent deliveries, as MX sends them: each is retried until it is acknowledged. The results
//! are counted.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mx_job_webhook::ledger::PostgresLedger;
use mx_job_webhook::{Error, ErrorKind, JobEvent, JobRouter, Receipt};
use sqlx::{PgPool, Row as _};
use tower::{BoxError, Service, ServiceExt as _};

use crate::support::{completed, unique_id};

/// A generous limit for a server's recovery.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two senders send every event of this number at once.
const TWICE: usize = 8;

/// The results of the deliveries so far.
#[derive(Clone)]
pub(crate) struct Tally(Arc<Mutex<Counts>>);

pub(crate) struct Counts {
    /// The guids that were answered with a success.
    pub(crate) acknowledged: BTreeSet<String>,
    /// The number of completed callbacks per guid.
    pub(crate) effects: BTreeMap<String, usize>,
    /// Guids that remained unacknowledged after all retries.
    pub(crate) given_up: usize,
    pub(crate) errors: usize,
    /// Deliveries whose claim or commit failed.
    unavailable: usize,
    /// The number of answers per error.
    messages: BTreeMap<String, usize>,
    latest: Instant,
    /// The longest time without an acknowledgement.
    silence: Duration,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Counts {
            acknowledged: BTreeSet::new(),
            effects: BTreeMap::new(),
            given_up: 0,
            errors: 0,
            unavailable: 0,
            messages: BTreeMap::new(),
            latest: Instant::now(),
            silence: Duration::ZERO,
        })))
    }

    pub(crate) fn look<T>(&self, at: impl FnOnce(&mut Counts) -> T) -> T {
        at(&mut self.0.lock().unwrap())
    }

    /// Records an effect of the event with this guid.
    pub(crate) fn effect(&self, guid: &str) {
        self.look(|counts| *counts.effects.entry(guid.to_owned()).or_default() += 1);
    }

    /// Waits until this condition holds.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Counts) -> bool) {
        let patience = Instant::now() + PATIENCE;
        while !self.look(|counts| is_so(counts)) {
            assert!(Instant::now() < patience, "waited too long: {what}\n{self}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for this many more acknowledged events.
    pub(crate) async fn more(&self, events: usize) {
        let now = self.look(|counts| counts.acknowledged.len());
        let enough = |counts: &Counts| counts.acknowledged.len() >= now + events;
        self.until("more events are acknowledged", enough).await;
    }

    /// Waits for this many more deliveries that found the ledger unavailable.
    pub(crate) async fn more_unavailable(&self, deliveries: usize) {
        let now = self.look(|counts| counts.unavailable);
        let enough = |counts: &Counts| counts.unavailable >= now + deliveries;
        self.until("the ledger is unavailable", enough).await;
    }

    fn answer(&self, guid: &str, answer: Result<Receipt, Error>) -> bool {
        self.look(|counts| match answer {
            Ok(_) => {
                counts.acknowledged.insert(guid.to_owned());
                counts.silence = counts.silence.max(counts.latest.elapsed());
                counts.latest = Instant::now();
                true
            }
            Err(error) => {
                counts.errors += 1;
                let unavailable = error.kind() == ErrorKind::LedgerUnavailable;
                counts.unavailable += usize::from(unavailable);
                *counts.messages.entry(with_causes(&error)).or_default() += 1;
                false
            }
        })
    }

    /// The acknowledged events that had no effect.
    pub(crate) fn lost(&self) -> Vec<String> {
        self.look(|counts| {
            let has_none = |guid: &&String| !counts.effects.contains_key(*guid);
            counts
                .acknowledged
                .iter()
                .filter(has_none)
                .cloned()
                .collect()
        })
    }

    /// The events that had more than one effect.
    pub(crate) fn doubled(&self) -> Vec<String> {
        self.look(|counts| {
            let doubled = counts.effects.iter().filter(|(_, times)| **times > 1);
            doubled.map(|(guid, _)| guid.clone()).collect()
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lost, doubled) = (self.lost().len(), self.doubled().len());
        self.look(|counts| {
            write!(
                f,
                "{} acknowledged, {lost} of them without effect; {doubled} effects doubled; {} errors; {} \
                 given up; {:?} without an acknowledgement at the most",
                counts.acknowledged.len(),
                counts.errors,
                counts.given_up,
                counts.silence
            )?;
            let mut messages: Vec<_> = counts.messages.iter().collect();
            messages.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
            for (message, times) in messages.iter().take(6) {
                let message: String = message.chars().take(160).collect();
                write!(f, "\n    {times} × {message}")?;
            }
            Ok(())
        })
    }
}

/// The causes without numbers, so that equal errors are counted together.
fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text.replace(|character: char| character.is_ascii_digit(), "#")
}

/// A sending plan.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// `usize::MAX`: until [`Load::finish`].
    pub(crate) events: usize,
    pub(crate) at_once: usize,
    /// The time during which an event is retried.
    pub(crate) patience: Duration,
}

impl Plan {
    pub(crate) fn of(events: usize) -> Self {
        Self {
            events,
            at_once: 16,
            patience: PATIENCE,
        }
    }
}

/// Running senders.
pub(crate) struct Load {
    senders: tokio::task::JoinSet<()>,
    limit: Arc<AtomicUsize>,
    next: Arc<AtomicUsize>,
}

impl Load {
    /// Sends events to these replicas.
    pub(crate) fn start<S>(plan: Plan, tally: &Tally, replicas: &[S]) -> Self
    where
        S: Service<JobEvent, Response = Receipt, Error = Error> + Clone + Send + Sync + 'static,
        S::Future: Send,
    {
        let run = unique_id();
        let mut load = Self {
            senders: tokio::task::JoinSet::new(),
            limit: Arc::new(AtomicUsize::new(plan.events)),
            next: Arc::default(),
        };
        for _ in 0..plan.at_once {
            let (next, limit) = (load.next.clone(), load.limit.clone());
            let (tally, replicas, run) = (tally.clone(), replicas.to_vec(), run.clone());
            load.senders.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= limit.load(Ordering::SeqCst) {
                        return;
                    }
                    let guid = format!("{run}-{number}");
                    let event = completed(&guid, 1);
                    let send = || send(&event, &replicas, &tally, plan.patience);
                    let acknowledged = if number % TWICE == 0 {
                        let (one, other) = tokio::join!(send(), send());
                        one && other
                    } else {
                        send().await
                    };
                    if !acknowledged {
                        tally.look(|counts| counts.given_up += 1);
                    }
                }
            });
        }
        load
    }

    /// Starts no further event, and waits until each started event is acknowledged or given up.
    pub(crate) async fn finish(self) {
        let begun = self.next.load(Ordering::SeqCst);
        self.limit.fetch_min(begun, Ordering::SeqCst);
        self.all().await;
    }

    /// Waits until each event is acknowledged or given up.
    pub(crate) async fn all(mut self) {
        while let Some(sender) = self.senders.join_next().await {
            sender.unwrap();
        }
    }
}

/// Sends an event until it is acknowledged, each time to another replica.
async fn send<S>(event: &JobEvent, replicas: &[S], tally: &Tally, patience: Duration) -> bool
where
    S: Service<JobEvent, Response = Receipt, Error = Error> + Clone,
{
    let started = Instant::now();
    loop {
        let replica = replicas[fastrand::usize(..replicas.len())].clone();
        let answer = replica.oneshot(event.clone()).await;
        if tally.answer(event.guid.as_str(), answer) {
            return true;
        }
        if started.elapsed() > patience {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(5..50))).await;
    }
}

/// Sends every acknowledged event once more and returns the number of callbacks that ran again.
pub(crate) async fn forgotten<S>(tally: &Tally, replica: &S) -> usize
where
    S: Service<JobEvent, Response = Receipt, Error = Error> + Clone,
{
    let mut again = 0;
    let patience = Instant::now() + PATIENCE;
    for guid in tally.look(|counts| counts.acknowledged.clone()) {
        let event = completed(&guid, 1);
        let receipt = loop {
            match replica.clone().oneshot(event.clone()).await {
                Ok(receipt) => break receipt,
                // Its claim remains until the lease expires.
                Err(error) => assert!(Instant::now() < patience, "{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        again += usize::from(receipt != Receipt::Duplicate);
    }
    again
}

/// Callbacks with their effect in memory.
pub(crate) fn in_memory(tally: &Tally) -> JobRouter {
    let tally = tally.clone();
    JobRouter::new().on_completed(move |event: JobEvent| {
        tally.effect(event.guid.as_str());
        async {}
    })
}

/// The table of the effects of [`in_the_database`].
///
/// Only the ledger prevents a second row.
pub(crate) async fn create_effects(pool: &PgPool) {
    let table = "CREATE TABLE IF NOT EXISTS mx_test_effects (job text NOT NULL)";
    sqlx::query(table).execute(pool).await.unwrap();
}

/// Callbacks whose effect is a row, written in the transaction of `commit_in`.
pub(crate) fn in_the_database(pool: &PgPool) -> JobRouter {
    let (pool, ledger) = (pool.clone(), PostgresLedger::new(pool.clone()));
    JobRouter::new().on_completed(move |event: JobEvent| {
        let (pool, ledger) = (pool.clone(), ledger.clone());
        async move {
            let mut transaction = pool.begin().await?;
            // Uses a simple query without a prepared statement, so that any failure comes from the ledger.
            let effect = format!(
                "INSERT INTO mx_test_effects VALUES ('{}')",
                event.guid.as_str()
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(effect))
                .execute(&mut *transaction)
                .await?;
            ledger.commit_in(&mut transaction, &event).await?;
            transaction.commit().await?;
            Ok::<_, BoxError>(())
        }
    })
}

/// Counts the effects in the database.
pub(crate) async fn read_effects(tally: &Tally, pool: &PgPool) {
    let count = "SELECT job, count(*) FROM mx_test_effects GROUP BY job";
    for row in sqlx::query(count).fetch_all(pool).await.unwrap() {
        let (job, times): (String, i64) = (row.get(0), row.get(1));
        let times = usize::try_from(times).unwrap();
        tally.look(|counts| counts.effects.insert(job, times));
    }
}
