//! The worker: it takes events from the queue, and runs their callbacks.

mod attempt;
mod batch;
mod ended;
mod fetcher;
mod heartbeat;
mod left_out;
mod metrics;
mod recorder;
mod run;
mod running;
mod take_over;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::callback::JobService;
use crate::util::random::jittered;

/// A worker of a queue: see [`JobQueue::worker`](super::JobQueue::worker).
///
/// Run as many workers as you like, in one process or in several. Each event goes to one of them.
///
/// # Tries
///
/// If a callback fails, its event runs again after a pause, on any worker. The pauses double, and are shortened at random
/// by up to a half. While an event pauses, the worker runs others. After the last try, and at once after a
/// [`Permanent`](crate::Permanent) error, the event is a dead letter: it stays until you
/// [replay](super::JobQueue::replay) or [discard](super::JobQueue::discard) it. A callback can read the number of its
/// try: see [`Try`](super::Try).
///
/// # Workers that die
///
/// A worker sends heartbeats to the database while callbacks run. If it is silent for 30 s, because its process died,
/// was frozen or lost the database, other workers take its events over, once they have run for that long themselves. A try whose worker died counts, but its callback
/// may not have started: an event becomes a dead letter by it in the third try at the earliest, also after a replay. If the
/// silent worker still lives, its callbacks continue, so an event can run twice at the same time. The
/// [fencing token](crate::JobEvent::fencing_token) of the later run is larger, and
/// [`commit_in`](super::JobQueue::commit_in) lets the effect of one of them stand.
///
/// A crash of the server can undo that an event was taken, but not that it was stored or has ended. Such an event runs
/// once more too.
///
/// If the whole database was away, no worker counts as dead before it has had as long to report again.
#[derive(Clone)]
pub struct Worker<J> {
    queue: Arc<Shared>,
    jobs: J,
    concurrency: usize,
    tries: u32,
    first_pause: Duration,
    longest_pause: Duration,
    dead_after: Duration,
    interval: Duration,
}

impl<J> Worker<J> {
    pub(super) fn new(queue: Arc<Shared>, jobs: J) -> Self {
        Self {
            queue,
            jobs,
            concurrency: 4,
            tries: 12,
            first_pause: Duration::from_secs(5),
            longest_pause: Duration::from_secs(60 * 60),
            dead_after: Duration::from_secs(30),
            interval: Duration::from_secs(1),
        }
    }

    /// Sets how many callbacks run at once. Defaults to 4.
    ///
    /// # Panics
    ///
    /// If the number is 0.
    #[must_use]
    #[track_caller]
    pub fn with_concurrency(mut self, callbacks: usize) -> Self {
        assert!(callbacks > 0, "a worker runs at least one callback");
        self.concurrency = callbacks;
        self
    }

    /// Sets how often an event is tried before it is a dead letter. Defaults to 12, in 1.2 to 2.4 hours of pauses.
    ///
    /// An event has the tries of the worker that runs it first, or first after a replay.
    ///
    /// # Panics
    ///
    /// If the number is 0.
    #[must_use]
    #[track_caller]
    pub fn with_tries(mut self, tries: u32) -> Self {
        assert!(tries > 0, "an event is tried at least once");
        self.tries = tries;
        self
    }

    /// Sets the pause after the first failure, and the longest one. Defaults to 5 s and 1 h.
    #[must_use]
    pub fn with_backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.first_pause = first;
        self.longest_pause = longest;
        self
    }

    /// Sets for how long a worker may be silent before others take its events over. Defaults to 30 s.
    ///
    /// Workers send heartbeats four times as often, and at least every 30 s. Use the same value for all workers of a queue. Shorter times than
    /// pauses of the machine or of the network let events run twice.
    ///
    /// # Panics
    ///
    /// If the time is less than a second.
    #[must_use]
    #[track_caller]
    pub fn with_dead_after(mut self, silence: Duration) -> Self {
        assert!(
            silence >= Duration::from_secs(1),
            "a worker needs a second to report"
        );
        self.dead_after = silence;
        self
    }

    /// Sets how often an idle worker looks for events. Defaults to 1 s.
    ///
    /// Events that were stored by the same process wake its workers at once. Those that pause after a failure do not, so they
    /// run again up to this time later.
    #[must_use]
    pub fn with_poll_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Returns the pause after this many failures. After a replay, they are counted from 1 again.
    fn pause_after(&self, failures: u32) -> Duration {
        let factor = 2_u32.checked_pow(failures.saturating_sub(1));
        let pause = self.first_pause.saturating_mul(factor.unwrap_or(u32::MAX));
        jittered(pause.min(self.longest_pause))
    }

    /// Runs events until the shutdown, and then waits for the callbacks that are running.
    ///
    /// The shutdown is any future. After it, the worker takes no further events. If callbacks take longer than your
    /// platform waits, put a timeout around this future: other workers take over the events that did not finish.
    ///
    /// While the database is unreachable, the worker waits for it. The results of callbacks that end in the meantime are
    /// recorded once it is back. After the shutdown, it waits for the database as long as for a silent worker. What it could not
    /// record then is logged, and may run again.
    ///
    /// # Errors
    ///
    /// - If the tables do not exist or cannot be used. Call [`migrate`](super::JobQueue::migrate) first.
    /// - `WorkerCrashed`, if a part of the worker panics, for example within the application's subscriber of `tracing`.
    ///   Callbacks that were running have ended and are recorded, or run again elsewhere. Start another worker.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the worker takes no further events. Callbacks that are running continue on the
    /// runtime, and their results are recorded.
    pub async fn run_until(self, shutdown: impl Future) -> Result<(), sqlx::Error>
    where
        J: JobService,
    {
        run::run(self, shutdown).await
    }
}

impl<J: fmt::Debug> fmt::Debug for Worker<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("queue", &self.queue.name)
            .field("jobs", &self.jobs)
            .field("concurrency", &self.concurrency)
            .field("tries", &self.tries)
            .finish_non_exhaustive()
    }
}
