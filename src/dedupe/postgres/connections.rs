//! The ledger's own connections, and the calls that wait for one.
//!
//! Calls that come while a connection is busy wait, and the next statement takes them together: many
//! deliveries cost few round trips, and one flush of the database's disk.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::call::{Answer, Call, Kind};
use super::connection::{self, Pool};

/// As many calls as one statement takes: some ms of work for the server.
const AT_ONCE: usize = 128;

pub(super) type Outcome = Result<Answer, Arc<sqlx::Error>>;

/// A call that waits for its answer. Its caller may have given up.
pub(super) struct Waiting {
    pub(super) call: Call,
    pub(super) answer: oneshot::Sender<Outcome>,
}

/// What the clones of a ledger share. Dropped with the last of them, it ends the connections.
pub(super) struct Connections(Arc<Shared>);

struct Shared {
    pool: Pool,
    most: usize,
    queue: Mutex<Queue>,
    called: Notify,
}

#[derive(Default)]
struct Queue {
    calls: VecDeque<Waiting>,
    /// The tasks that have a connection each, or make it.
    workers: usize,
    /// Of those, how many wait for a call.
    idle: usize,
    /// Of those, how many run a commit.
    committing: usize,
    closed: bool,
}

impl Connections {
    /// At most so many, opened as this pool opens its own.
    pub(super) fn new(pool: &PgPool, most: u32) -> Self {
        Self(Arc::new(Shared {
            pool: Pool::like(pool, most),
            most: most.try_into().unwrap_or(usize::MAX),
            queue: Mutex::default(),
            called: Notify::new(),
        }))
    }

    /// Makes a call, and waits for its answer. Dropped before that, the call may have been made or not.
    pub(super) async fn call(&self, call: Call) -> Outcome {
        let (answer, answered) = oneshot::channel();
        if self.0.push(Waiting { call, answer }) {
            let worker = Worker {
                shared: self.0.clone(),
                is_committing: false,
                has_left: false,
            };
            tokio::spawn(connection::run(worker));
        }
        // A runtime that shuts down ends the task of the connection.
        let outcome = answered.await;
        outcome.unwrap_or_else(|_| Err(Arc::new(sqlx::Error::WorkerCrashed)))
    }

    /// The same, again and again while another transaction has the event locked.
    pub(super) async fn call_until_it_is_free(&self, call: Call) -> Outcome {
        let mut pause = Duration::from_millis(2);
        loop {
            match self.call(call.clone()).await {
                Ok(Answer::Busy) => sleep(pause).await,
                outcome => return outcome,
            }
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.0.queue().closed = true;
        self.0.called.notify_waiters();
    }
}

impl Shared {
    /// Whether another connection is wanted.
    fn push(&self, waiting: Waiting) -> bool {
        let mut queue = self.queue();
        let has_to_wait = waiting.call.kind == Kind::Commit && !queue.may_commit(self.most);
        queue.calls.push_back(waiting);
        if has_to_wait {
            return false;
        }
        if queue.idle > 0 {
            self.called.notify_one();
            return false;
        }
        let wanted = queue.workers < self.most;
        queue.workers += usize::from(wanted);
        wanted
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the tasks that have a connection. However it ends, no call waits in vain.
pub(super) struct Worker {
    shared: Arc<Shared>,
    is_committing: bool,
    has_left: bool,
}

impl Worker {
    pub(super) fn pool(&self) -> &Pool {
        &self.shared.pool
    }

    /// The calls for one statement. `None` ends the task: there was no call for so long, or the ledger is gone.
    pub(super) async fn next(&mut self, patience: Duration) -> Option<Vec<Waiting>> {
        let deadline = Instant::now() + patience;
        loop {
            // Before the look at the queue, so that no call in between is missed.
            let called = self.shared.called.notified();
            {
                let mut queue = self.shared.queue();
                queue.committing -= usize::from(std::mem::take(&mut self.is_committing));
                let calls = queue.take(self.shared.most);
                if let Some(Waiting { call, .. }) = calls.first() {
                    self.is_committing = call.kind == Kind::Commit;
                    queue.committing += usize::from(self.is_committing);
                    return Some(calls);
                }
                if queue.closed || Instant::now() >= deadline {
                    queue.workers -= 1;
                    self.has_left = true;
                    return None;
                }
                queue.idle += 1;
            }
            let idle = Idle(&self.shared);
            let _ = timeout_at(deadline, called).await;
            drop(idle);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.has_left {
            return;
        }
        let mut queue = self.shared.queue();
        queue.workers -= 1;
        queue.committing -= usize::from(self.is_committing);
        if queue.workers == 0 {
            // Their callers hear that no task is there.
            queue.calls.clear();
        } else {
            // Calls that had to wait for this one.
            self.shared.called.notify_one();
        }
    }
}

struct Idle<'a>(&'a Shared);

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.0.queue().idle -= 1;
    }
}

impl Queue {
    /// Whether one more connection may run a commit. It waits for the disk and for standbys; the last connection is
    /// left for claims, which wait for neither.
    fn may_commit(&self, most: usize) -> bool {
        self.committing + 1 < most.max(2)
    }

    /// The first call, and those behind it that its statement can take too: of its kind, and each of another
    /// event, since a statement sees the table as it was when it began.
    fn take(&mut self, most: usize) -> Vec<Waiting> {
        let may_commit = self.may_commit(most);
        let mut taken: Vec<Waiting> = Vec::new();
        let mut left = VecDeque::new();
        while let Some(waiting) = self.calls.pop_front() {
            if waiting.answer.is_closed() {
                continue;
            }
            let fits = match taken.first() {
                None => may_commit || waiting.call.kind != Kind::Commit,
                Some(first) => {
                    first.call.kind == waiting.call.kind
                        && !taken
                            .iter()
                            .any(|other| other.call.is_of_the_same_event_as(&waiting.call))
                }
            };
            if fits {
                taken.push(waiting);
            } else {
                left.push_back(waiting);
            }
            if taken.len() == AT_ONCE {
                break;
            }
        }
        left.append(&mut self.calls);
        self.calls = left;
        taken
    }
}
