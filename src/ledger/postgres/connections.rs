//! The ledger's own connections, and the calls that wait for one.
//!
//! Calls that come while a connection is busy wait, and the next statement takes them together: many
//! deliveries cost few round trips, and one flush of the database's disk.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::call::{Answer, Call, Kind};
use super::connection::{self, Pool};

/// As many calls as one statement takes: some ms of work for the server.
const AT_ONCE: usize = 128;

/// From a connection that was refused to the next attempt, while there is another.
const BETWEEN_DIALS: Duration = Duration::from_millis(200);

pub(super) type Outcome = Result<Answer, Arc<sqlx::Error>>;

/// A call that waits for its answer. Its caller may have given up.
pub(super) struct Waiting {
    pub(super) call: Call,
    pub(super) answer: oneshot::Sender<Outcome>,
}

/// The clones of a ledger share it. Dropped with the last of them, it ends the connections.
pub(super) struct Connections(Arc<Shared>);

struct Shared {
    pool: Pool,
    most: usize,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    calls: VecDeque<Waiting>,
    /// The tasks that have a session each, or make it.
    workers: usize,
    /// Wakes those that wait for a call.
    idle: Vec<oneshot::Sender<()>>,
    /// How many have a session.
    connected: usize,
    /// How many run a commit.
    committing: usize,
    /// When a session could not be made.
    refused: Option<Instant>,
    closed: bool,
}

impl Connections {
    /// At most so many, opened as this pool opens its own.
    pub(super) fn new(pool: &PgPool, most: u32) -> Self {
        Self(Arc::new(Shared {
            pool: Pool::like(pool, most),
            most: most.try_into().unwrap_or(usize::MAX),
            queue: Mutex::default(),
        }))
    }

    /// Makes a call, and waits for its answer. Dropped before that, the call may have been made or not.
    pub(super) async fn call(&self, call: Call) -> Outcome {
        // A runtime that shuts down ends its workers, and others use the ledger still.
        match self.attempt(call.clone()).await {
            None => self.attempt(call).await,
            outcome => outcome,
        }
        .unwrap_or_else(|| Err(Arc::new(sqlx::Error::WorkerCrashed)))
    }

    /// `None` if the worker is gone.
    async fn attempt(&self, call: Call) -> Option<Outcome> {
        let (answer, answered) = oneshot::channel();
        let summoned = {
            let mut queue = self.0.queue();
            queue.calls.push_back(Waiting { call, answer });
            self.0.summon(&mut queue)
        };
        summoned.now();
        answered.await.ok()
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
        let idle = {
            let mut queue = self.0.queue();
            queue.closed = true;
            std::mem::take(&mut queue.idle)
        };
        // Their wakers are gone, and so they look.
        drop(idle);
    }
}

impl Shared {
    /// Who is to take the calls that wait: a worker that is idle, or a new one.
    fn summon(self: &Arc<Self>, queue: &mut Queue) -> Summoned {
        if !queue.has_calls_to_take(self.most) {
            return Summoned::None;
        }
        if let Some(idle) = queue.next_idle() {
            return Summoned::Idle(idle);
        }
        if queue.workers == self.most || queue.was_refused_just_now() {
            return Summoned::None;
        }
        queue.workers += 1;
        Summoned::New(Worker {
            shared: self.clone(),
            is_connected: false,
            is_committing: false,
            has_left: false,
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nothing is woken, started or dropped while the queue is locked. A runtime that shuts down drops a worker at once, and
/// that one leaves the queue; and a waker is anybody's code.
#[must_use]
enum Summoned {
    None,
    Idle(oneshot::Sender<()>),
    New(Worker),
}

impl Summoned {
    fn now(self) {
        match self {
            Self::None => {}
            Self::Idle(idle) => drop(idle.send(())),
            // Without a runtime it leaves the queue, and the caller hears so.
            Self::New(worker) => {
                if let Ok(runtime) = Handle::try_current() {
                    runtime.spawn(connection::run(worker));
                }
            }
        }
    }
}

/// One of the tasks that have a session each. However it ends, no call waits in vain.
pub(super) struct Worker {
    shared: Arc<Shared>,
    is_connected: bool,
    is_committing: bool,
    has_left: bool,
}

impl Worker {
    pub(super) fn pool(&self) -> &Pool {
        &self.shared.pool
    }

    /// Waits until there is a call to take. False ends the task: there was none for so long, or the ledger is gone.
    pub(super) async fn is_wanted(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let woken = {
                let mut queue = self.shared.queue();
                queue.committing -= usize::from(std::mem::take(&mut self.is_committing));
                if queue.has_calls_to_take(self.shared.most) {
                    return true;
                }
                if queue.closed || Instant::now() >= deadline {
                    self.has_left = true;
                    let left = queue.leave(self.is_connected, false);
                    drop(queue);
                    left.now();
                    return false;
                }
                let (idle, woken) = oneshot::channel();
                queue.idle.push(idle);
                woken
            };
            let _ = timeout_at(deadline, woken).await;
        }
    }

    /// The calls for one statement, if no other worker was quicker.
    pub(super) fn take(&mut self) -> Vec<Waiting> {
        let mut queue = self.shared.queue();
        let calls = queue.take(self.shared.most);
        if let Some(Waiting { call, .. }) = calls.first() {
            self.is_committing = call.kind == Kind::Commit;
            queue.committing += usize::from(self.is_committing);
        }
        // For the calls that this statement cannot take.
        let summoned = self.shared.summon(&mut queue);
        drop(queue);
        summoned.now();
        calls
    }

    /// One that may have a session already.
    pub(super) fn wake_another(&self) {
        let idle = self.shared.queue().next_idle();
        if let Some(idle) = idle {
            Summoned::Idle(idle).now();
        }
    }

    /// Has a session, or has lost it.
    pub(super) fn set_connected(&mut self, is_connected: bool) {
        let mut queue = self.shared.queue();
        queue.connected -= usize::from(self.is_connected);
        queue.connected += usize::from(is_connected);
        self.is_connected = is_connected;
    }

    /// A session could not be made. The calls that wait hear of it, unless another worker has one.
    pub(super) fn refuse(&mut self, error: sqlx::Error) {
        let error = Arc::new(error);
        let calls = {
            let mut queue = self.shared.queue();
            if queue.connected > 0 {
                queue.refused = Some(Instant::now());
                return;
            }
            std::mem::take(&mut queue.calls)
        };
        for waiting in calls {
            let _ = waiting.answer.send(Err(error.clone()));
        }
    }

    /// Whether another worker does without this one's session.
    pub(super) fn is_dispensable(&self) -> bool {
        self.shared.queue().connected > 0
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.has_left {
            let left = self
                .shared
                .queue()
                .leave(self.is_connected, self.is_committing);
            left.now();
        }
    }
}

/// What a worker leaves.
#[must_use]
struct Left {
    /// Of the last worker. Their callers hear that no task is there.
    _calls: VecDeque<Waiting>,
    /// Takes the calls that had to wait for this worker.
    idle: Option<oneshot::Sender<()>>,
}

impl Left {
    fn now(self) {
        if let Some(idle) = self.idle {
            Summoned::Idle(idle).now();
        }
    }
}

impl Queue {
    fn leave(&mut self, was_connected: bool, was_committing: bool) -> Left {
        self.workers -= 1;
        self.connected -= usize::from(was_connected);
        self.committing -= usize::from(was_committing);
        if self.workers == 0 {
            return Left {
                _calls: std::mem::take(&mut self.calls),
                idle: None,
            };
        }
        Left {
            _calls: VecDeque::new(),
            idle: self.next_idle(),
        }
    }

    fn next_idle(&mut self) -> Option<oneshot::Sender<()>> {
        self.idle.retain(|idle| !idle.is_closed());
        self.idle.pop()
    }

    /// Whether one more connection may run a commit. It waits for the disk and for standbys; the last connection is
    /// left for claims, which wait for neither.
    fn may_commit(&self, most: usize) -> bool {
        self.committing + 1 < most.max(2)
    }

    fn was_refused_just_now(&self) -> bool {
        let is_recent = |refused: Instant| refused.elapsed() < BETWEEN_DIALS;
        self.connected > 0 && self.refused.is_some_and(is_recent)
    }

    fn has_calls_to_take(&self, most: usize) -> bool {
        let may_commit = self.may_commit(most);
        let takes = |waiting: &Waiting| {
            (may_commit || waiting.call.kind != Kind::Commit) && !waiting.answer.is_closed()
        };
        self.calls.iter().any(takes)
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
