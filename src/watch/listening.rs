//! The tasks that hear what other processes have changed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::boxed::DynStore;
use super::waiters::{Waiters, Wake};
use crate::observe;
use crate::util::random::jittered;

/// How often the entries of all jobs with waiters are read.
const READ_INTERVAL: Duration = Duration::from_secs(5);

/// How long tasks that stood still have to go on.
const PROBATION: Duration = Duration::from_secs(1);

/// How many entries are read at once.
const BATCH: usize = 256;

/// How long one read may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The pauses before a connection is opened again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The two tasks, from the first waiter on.
#[derive(Default)]
pub(super) struct Listening(Mutex<Option<Tasks>>);

struct Tasks {
    listen: JoinHandle<()>,
    read: JoinHandle<()>,
    beat: Arc<Beat>,
    /// When they were first found not to be at work.
    suspected: Option<std::time::Instant>,
}

/// When the task that reads was last seen at work. Its runtime, and that runtime's clock, may stand
/// still.
struct Beat(Mutex<std::time::Instant>);

impl Beat {
    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = std::time::Instant::now();
    }

    fn last(&self) -> std::time::Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tasks {
    /// Returns whether they are at work.
    ///
    /// If the runtime is this one and stood still until now, they go on at once. So they are only
    /// given up if they still do nothing some time after they were found so.
    fn run(&mut self) -> bool {
        if self.listen.is_finished() || self.read.is_finished() {
            return false;
        }
        let last = self.beat.last();
        if last.elapsed() <= READ_INTERVAL {
            self.suspected = None;
            return true;
        }
        let since = self.suspected.filter(|since| *since > last);
        let since = *self
            .suspected
            .insert(since.unwrap_or_else(std::time::Instant::now));
        since.elapsed() < PROBATION
    }
}

impl Listening {
    /// Starts the tasks, unless they run. They end with their runtime. If that stands still, they
    /// are started again on this one.
    pub(super) fn ensure(&self, store: &Arc<dyn DynStore>, waiters: &Arc<Waiters>) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.as_mut().is_some_and(Tasks::run) {
            return;
        }
        // The old ones are stopped, if only one has ended.
        *tasks = None;
        let beat = Arc::new(Beat(Mutex::new(std::time::Instant::now())));
        *tasks = Some(Tasks {
            listen: tokio::spawn(listen(store.clone(), waiters.clone())),
            read: tokio::spawn(read(store.clone(), waiters.clone(), beat.clone())),
            beat,
            suspected: None,
        });
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.listen.abort();
        self.read.abort();
    }
}

async fn listen(store: Arc<dyn DynStore>, waiters: Arc<Waiters>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        if let Err(error) = store.listen(Wake(waiters.clone())).await {
            observe::listening_failed(&error);
        }
        if started.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn read(store: Arc<dyn DynStore>, waiters: Arc<Waiters>, beat: Arc<Beat>) {
    let mut next = Instant::now() + jittered(READ_INTERVAL);
    loop {
        beat.now();
        // By the clock, because while other jobs keep being heard of there is always something to
        // read.
        let now = Instant::now();
        if now >= next {
            waiters.read_all();
            next = now + jittered(READ_INTERVAL);
        }
        let jobs = waiters.take_reads(BATCH);
        if jobs.is_empty() {
            let _ = timeout_at(next, waiters.wait_for_reads()).await;
            continue;
        }
        // What was not read is read again after the interval.
        if let Ok(Ok(entries)) = timeout(READ_TIMEOUT, store.load(&jobs)).await {
            for (job, stored) in entries {
                waiters.tell(&job, &stored.entry.aged(stored.age));
            }
        }
    }
}
