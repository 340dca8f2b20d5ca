//! Jobs that are expected and heard of while an engine fails. Afterwards each acknowledgement is checked.

use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mx_job_webhook::job::JobGuid;
use mx_job_webhook::watch::{Expected, Failsafe, JobWatch, WatchStore};
use mx_job_webhook::{Error, ErrorKind, Job, JobEvent, JobRouter, Status};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout_at};
use tower::{Layer as _, ServiceExt as _};

use crate::support::unique_id;

/// Longer than any engine takes to fail over.
const PATIENCE: Duration = Duration::from_secs(40);

/// Longer than a waiter takes to hear without a notification, while the store works.
const HEARS: Duration = Duration::from_secs(9);

/// How long an event is delivered after the end of the load.
const LAST_DELIVERIES: Duration = Duration::from_secs(3);

/// How many waiters there are at a time, and as many callers that expect jobs and deliver events.
const WAITERS: usize = 2;

/// The rate is low, because the test measures the recovery time.
const PAUSE: Duration = Duration::from_millis(5);

/// When the failsafe reads a job. It is longer than a store takes to leave an old master.
const OVERDUE: Duration = Duration::from_secs(3);

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(600);

/// Returns a watch as each replica has one.
pub(crate) fn watch(store: impl WatchStore) -> JobWatch {
    JobWatch::new(store)
        .with_patience(OVERDUE)
        .with_store_timeout(Duration::from_secs(2))
}

pub(crate) fn new_guid() -> JobGuid {
    format!("JOB-{}", unique_id()).parse().unwrap()
}

/// A job is completed, in a process with this watch.
pub(crate) async fn deliver(watch: &JobWatch, job: &JobGuid) -> Result<(), Error> {
    let jobs = watch.layer().layer(JobRouter::new());
    let event = Job::new(job.clone(), Status::Completed).into();
    jobs.oneshot(event).await.map(|_| ())
}

/// Expects jobs and settles events until it is stopped, while a failsafe runs.
pub(crate) struct Load {
    here: JobWatch,
    there: JobWatch,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    failsafe: JoinHandle<()>,
    through: Vec<(JobGuid, Waiter)>,
}

struct Shared {
    stopped: AtomicBool,
    refused: AtomicUsize,
    counts: Mutex<Counts>,
    /// Jobs that a failsafe has read, and for which the callback ran.
    handled: Mutex<HashSet<JobGuid>>,
}

struct Counts {
    /// Jobs whose `expect` has returned, and of which nothing is heard.
    expected: Vec<JobGuid>,
    /// Jobs whose event was acknowledged, and that were not expected.
    heard: Vec<JobGuid>,
    waiters: usize,
    /// Jobs whose waiters did not hear of an acknowledged event.
    unheard: Vec<JobGuid>,
    /// The longest time to a waiter from the acknowledgement, or from the last refusal before it heard.
    slowest: Duration,
    latest: Instant,
    /// When a call was refused last.
    latest_refusal: Option<Instant>,
    silence: Duration,
}

/// What an engine has forgotten, as positions in the order of the acknowledgements.
pub(crate) struct Outcome {
    pub(crate) expected: usize,
    pub(crate) forgotten_jobs: Vec<usize>,
    pub(crate) heard: usize,
    pub(crate) forgotten_events: Vec<usize>,
    pub(crate) waiters: usize,
    pub(crate) unheard: usize,
    /// Those of them that waited through the failure, until the end.
    pub(crate) unheard_through: usize,
    /// Those of them whose events are forgotten.
    pub(crate) lost: Vec<JobGuid>,
    pub(crate) slowest: Duration,
    pub(crate) refused: usize,
    /// The longest time in which nothing was recorded.
    pub(crate) silence: Duration,
}

impl Load {
    /// One replica waits; another one expects jobs, and takes the deliveries.
    pub(crate) fn on(here: &JobWatch, there: &JobWatch) -> Self {
        let shared = Arc::new(Shared {
            stopped: AtomicBool::new(false),
            refused: AtomicUsize::new(0),
            counts: Mutex::new(Counts {
                expected: Vec::new(),
                heard: Vec::new(),
                waiters: 0,
                unheard: Vec::new(),
                slowest: Duration::ZERO,
                latest: Instant::now(),
                latest_refusal: None,
                silence: Duration::ZERO,
            }),
            handled: Mutex::default(),
        });
        // The failsafe does not read the jobs that these wait for.
        let here = &here.clone().with_patience(NEVER);
        let mut workers = Vec::new();
        for _ in 0..WAITERS {
            workers.push(tokio::spawn(expect_jobs(there.clone(), shared.clone())));
            workers.push(tokio::spawn(hear_events(there.clone(), shared.clone())));
            let (here, there) = (here.clone(), there.clone());
            workers.push(tokio::spawn(wait_for_jobs(here, there, shared.clone())));
        }
        let failsafe = run_failsafe(there, &shared);
        Self {
            failsafe,
            here: here.clone(),
            there: there.clone(),
            shared,
            workers,
            through: Vec::new(),
        }
    }

    /// Starts waiters that wait until the end of the load.
    pub(crate) async fn wait_through(&mut self, number: usize) {
        for _ in 0..number {
            let job = new_guid();
            let expected = self.here.expect(&job).await.unwrap();
            let waiter = Waiter::new(&job, expected);
            self.through.push((job, waiter));
        }
    }

    /// Returns how many jobs were expected and how many events were heard so far.
    pub(crate) fn recorded(&self) -> (usize, usize) {
        let counts = self.shared.counts.lock().unwrap();
        (counts.expected.len(), counts.heard.len())
    }

    /// Waits until this many more jobs are expected, and this many more events are heard.
    pub(crate) async fn records(&self, more: usize) {
        let (expected, heard) = self.recorded();
        let patience = Instant::now() + PATIENCE;
        loop {
            let now = self.recorded();
            if now.0 >= expected + more && now.1 >= heard + more {
                return;
            }
            assert!(
                Instant::now() < patience,
                "{now:?} recorded, {} refused: the store does not recover",
                self.shared.refused.load(Ordering::SeqCst)
            );
            sleep(PAUSE).await;
        }
    }

    /// Waits until this many more calls are refused.
    pub(crate) async fn refuses(&self, more: usize) {
        let goal = self.shared.refused.load(Ordering::SeqCst) + more;
        while self.shared.refused.load(Ordering::SeqCst) < goal {
            sleep(PAUSE).await;
        }
    }

    /// Stops the load, and checks each acknowledgement in a process that has just started. The one that runs the
    /// failsafe dies.
    pub(crate) async fn stop<S>(self, store: S, what: &str) -> Outcome
    where
        S: WatchStore + Clone,
    {
        self.shared.stopped.store(true, Ordering::SeqCst);
        for worker in self.workers {
            worker.await.unwrap();
        }
        let mut unheard_through = 0;
        for (job, waiter) in self.through {
            deliver_until_acknowledged(&self.there, &job, &self.shared).await;
            unheard_through += usize::from(!waiter.end(&self.shared).await);
        }
        self.failsafe.abort();
        let watch = watch(store.clone());
        let (expected, heard, unheard) = {
            let mut counts = self.shared.counts.lock().unwrap();
            (
                std::mem::take(&mut counts.expected),
                std::mem::take(&mut counts.heard),
                std::mem::take(&mut counts.unheard),
            )
        };
        let lost = forgotten_events(&watch, &unheard).await;
        let forgotten_events = forgotten_events(&watch, &heard).await;
        let failsafe = run_failsafe(&watch, &self.shared);
        let forgotten_jobs = forgotten_jobs(&self.shared, store, &expected).await;
        failsafe.abort();
        let counts = self.shared.counts.lock().unwrap();
        let outcome = Outcome {
            expected: expected.len(),
            forgotten_jobs,
            heard: heard.len(),
            forgotten_events,
            waiters: counts.waiters,
            unheard: unheard.len(),
            unheard_through,
            lost: lost.iter().map(|number| unheard[*number].clone()).collect(),
            slowest: counts.slowest,
            refused: self.shared.refused.load(Ordering::SeqCst),
            silence: counts.silence,
        };
        println!("{what}: {outcome}");
        outcome
    }
}

impl Outcome {
    pub(crate) fn nothing_is_forgotten(&self) {
        assert_eq!(self.forgotten_jobs, [0; 0], "expected jobs");
        assert_eq!(self.forgotten_events, [0; 0], "events that were heard");
        assert_eq!(self.unheard, 0, "waiters");
    }

    /// Who waited through the failure hears of an event that is acknowledged afterwards, even if the job is forgotten.
    /// An event that was forgotten after its acknowledgement can have had a waiter.
    pub(crate) fn every_waiter_hears(&self) {
        assert_eq!(self.unheard_through, 0, "waiters");
        assert_eq!(self.deaf(), 0, "waiters");
        assert!(self.unheard <= WAITERS, "waiters: {self}");
    }

    /// Returns how many waiters did not hear of an event that stands.
    fn deaf(&self) -> usize {
        self.unheard - self.lost.len()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} jobs expected, {} forgotten; {} events heard, {} forgotten; {} waiters, {} did not hear \
             ({} of them of an event that stands), the others after {:.2?} at most; {} refused, nothing recorded for {:.2?} at most",
            self.expected,
            self.forgotten_jobs.len(),
            self.heard,
            self.forgotten_events.len(),
            self.waiters,
            self.unheard,
            self.deaf(),
            self.slowest,
            self.refused,
            self.silence
        )
    }
}

impl Shared {
    fn runs(&self) -> bool {
        !self.stopped.load(Ordering::SeqCst)
    }

    fn answer<T>(&self, answer: Result<T, Error>, record: impl FnOnce(&mut Counts)) -> Option<T> {
        match answer {
            Ok(answer) => {
                let mut counts = self.counts.lock().unwrap();
                if self.runs() {
                    counts.silence = counts.silence.max(counts.latest.elapsed());
                }
                counts.latest = Instant::now();
                record(&mut counts);
                Some(answer)
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WatchUnavailable, "{error:#}");
                self.refused.fetch_add(1, Ordering::SeqCst);
                self.counts.lock().unwrap().latest_refusal = Some(Instant::now());
                None
            }
        }
    }

    /// Returns since when the store has worked, or the time of the acknowledgement if that is later.
    fn works_since(&self, acknowledged: Instant) -> Instant {
        let refusal = self.counts.lock().unwrap().latest_refusal;
        refusal.map_or(acknowledged, |refusal| refusal.max(acknowledged))
    }
}

async fn expect_jobs(watch: JobWatch, shared: Arc<Shared>) {
    while shared.runs() {
        let job = new_guid();
        let answer = watch.expect(&job).await;
        let _ = shared.answer(answer, |counts| counts.expected.push(job));
        sleep(PAUSE).await;
    }
}

async fn hear_events(watch: JobWatch, shared: Arc<Shared>) {
    while shared.runs() {
        let job = new_guid();
        let answer = deliver(&watch, &job).await;
        shared.answer(answer, |counts| counts.heard.push(job));
        sleep(PAUSE).await;
    }
}

async fn wait_for_jobs(here: JobWatch, there: JobWatch, shared: Arc<Shared>) {
    while shared.runs() {
        let job = new_guid();
        if let Some(expected) = shared.answer(here.expect(&job).await, |_| {}) {
            let waiter = Waiter::new(&job, expected);
            sleep(Duration::from_millis(fastrand::u64(0..30))).await;
            if deliver_until_acknowledged(&there, &job, &shared).await {
                waiter.end(&shared).await;
            }
        }
        sleep(PAUSE).await;
    }
}

/// Delivers an event until it is acknowledged, as MX does. Gives up when the load has been stopped for a while.
async fn deliver_until_acknowledged(watch: &JobWatch, job: &JobGuid, shared: &Shared) -> bool {
    let mut patience = Instant::now() + LAST_DELIVERIES;
    loop {
        let answer = deliver(watch, job).await;
        if shared.answer(answer, |_| {}).is_some() {
            return true;
        }
        if shared.runs() {
            patience = Instant::now() + LAST_DELIVERIES;
        } else if Instant::now() > patience {
            return false;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

struct Waiter {
    job: JobGuid,
    waiting: JoinHandle<Option<Instant>>,
}

impl Waiter {
    fn new(job: &JobGuid, expected: Expected) -> Self {
        let waiting = async move {
            let heard = expected.within(PATIENCE + HEARS).await;
            heard.ok().flatten().map(|_| Instant::now())
        };
        Self {
            job: job.clone(),
            waiting: tokio::spawn(waiting),
        }
    }

    /// Waits until it hears of an event that has just been acknowledged. Returns whether it did.
    ///
    /// A store that refuses calls refuses to be read too. The waiter has to hear when that has ended.
    async fn end(mut self, shared: &Shared) -> bool {
        let acknowledged = Instant::now();
        let mut since = acknowledged;
        let heard = loop {
            let heard = timeout_at((since + HEARS).into(), &mut self.waiting).await;
            let worked_since = std::mem::replace(&mut since, shared.works_since(acknowledged));
            match heard {
                Ok(heard) => break heard.unwrap(),
                Err(_) if worked_since == since => break None,
                Err(_) => {}
            }
        };
        let mut counts = shared.counts.lock().unwrap();
        counts.waiters += 1;
        match heard {
            None => counts.unheard.push(self.job),
            Some(at) => {
                let took = at.saturating_duration_since(since);
                counts.slowest = counts.slowest.max(took);
            }
        }
        heard.is_some()
    }
}

/// Returns the events of which a new waiter does not hear.
async fn forgotten_events(watch: &JobWatch, heard: &[JobGuid]) -> Vec<usize> {
    const AT_ONCE: usize = 8;
    let mut waiting = JoinSet::new();
    for start in 0..AT_ONCE {
        let mine = heard.iter().enumerate().skip(start).step_by(AT_ONCE);
        let mine: Vec<_> = mine.map(|(number, job)| (number, job.clone())).collect();
        let watch = watch.clone();
        waiting.spawn(async move {
            let mut forgotten = Vec::new();
            for (number, job) in mine {
                let expected = watch.expect(&job).await.unwrap();
                if expected.within(Duration::ZERO).await.unwrap().is_none() {
                    forgotten.push(number);
                }
            }
            forgotten
        });
    }
    let mut forgotten = waiting.join_all().await.concat();
    forgotten.sort_unstable();
    forgotten
}

fn run_failsafe(watch: &JobWatch, shared: &Arc<Shared>) -> JoinHandle<()> {
    let shared = shared.clone();
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        shared.handled.lock().unwrap().insert(event.guid.clone());
        async {}
    });
    let read = |job: JobGuid| async move { Ok::<_, Infallible>(Job::new(job, Status::Completed)) };
    let failsafe = Failsafe::new(watch, watch.layer().layer(jobs), read)
        .with_concurrency(32)
        .with_lease(Duration::from_secs(3));
    tokio::spawn(failsafe.run_until(std::future::pending::<()>()))
}

/// Returns the jobs that no failsafe has read, and that are not expected any more.
async fn forgotten_jobs<S: WatchStore>(
    shared: &Shared,
    store: S,
    expected: &[JobGuid],
) -> Vec<usize> {
    let missing = || {
        let handled = shared.handled.lock().unwrap();
        let missing = expected.iter().filter(|job| !handled.contains(*job));
        missing.cloned().collect::<Vec<_>>()
    };
    let patience = Instant::now() + PATIENCE;
    loop {
        let loaded = store.load(&missing()).await.map_err(Into::into).unwrap();
        let waiting = loaded
            .iter()
            .filter(|(_, stored)| stored.entry.is_expected());
        let waiting = waiting.count();
        if waiting == 0 {
            break;
        }
        assert!(Instant::now() < patience, "{waiting} are never read");
        sleep(Duration::from_millis(50)).await;
    }
    let missing: HashSet<_> = missing().into_iter().collect();
    let forgotten = expected.iter().enumerate();
    let forgotten = forgotten.filter(|(_, job)| missing.contains(*job));
    forgotten.map(|(number, _)| number).collect()
}
