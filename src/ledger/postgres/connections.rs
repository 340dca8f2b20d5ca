//! The ledger's own connections, and making calls on them.
//!
//! A call goes into a queue, from which workers take calls. While all workers are busy, calls wait,
//! and the next statement takes several of them. So many deliveries at once need few round trips,
//! and few flushes of the database's disk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::call::{Answer, Call};
use super::queue::{Departure, IdleWorker, Outcome, PendingCall, Queue};
use super::worker::Worker;
use crate::util::postgres::Opener;

/// The connections of a ledger and its clones. When the last clone is dropped, they are closed.
pub(super) struct Connections(Arc<Shared>);

pub(super) struct Shared {
    pub(super) opener: Opener,
    pub(super) max_workers: usize,
    queue: Mutex<Queue>,
}

impl Connections {
    /// Returns connections that are opened as this pool opens its own, at most this many.
    pub(super) fn new(pool: &PgPool, max_connections: u32) -> Self {
        Self(Arc::new(Shared {
            opener: Opener::like(pool, max_connections),
            max_workers: max_connections.try_into().unwrap_or(usize::MAX),
            queue: Mutex::default(),
        }))
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// Makes a call, and waits for its answer.
    ///
    /// If the future is dropped, the call may or may not have been made.
    pub(super) async fn call(&self, call: Call) -> Outcome {
        // A worker ends with its runtime, while other runtimes may still use the ledger.
        match self.attempt(call.clone()).await {
            None => self.attempt(call).await,
            outcome => outcome,
        }
        .unwrap_or_else(|| Err(Arc::new(sqlx::Error::WorkerCrashed)))
    }

    /// Makes a call once. Returns `None` if the worker ended before it answered.
    async fn attempt(&self, call: Call) -> Option<Outcome> {
        let (answer, answered) = oneshot::channel();
        let wake_up = {
            let mut queue = self.0.queue();
            queue.calls.push_back(PendingCall { call, answer });
            self.0.wake_up(&mut queue)
        };
        wake_up.perform();
        answered.await.ok()
    }

    /// Makes a call, and repeats it while another transaction has the event locked.
    pub(super) async fn call_until_unlocked(&self, call: Call) -> Outcome {
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
            queue.is_closed = true;
            std::mem::take(&mut queue.idle)
        };
        // Dropping the senders wakes the idle workers, which then see that the queue is closed.
        drop(idle);
    }
}

impl Shared {
    /// Chooses a worker for the pending calls: an idle one, or a new one.
    pub(super) fn wake_up(self: &Arc<Self>, queue: &mut Queue) -> WakeUp {
        if !queue.has_calls(self.max_workers) {
            return WakeUp::None;
        }
        if let Some(idle) = queue.next_idle() {
            return WakeUp::Idle(idle);
        }
        if queue.workers == self.max_workers || queue.was_just_refused() {
            return WakeUp::None;
        }
        queue.workers += 1;
        WakeUp::New(Worker::new(self))
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        // No code panics while it holds the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker to wake or to start once the queue is unlocked.
///
/// Both run foreign code, which must not run under the lock: a waker can do anything, and a runtime
/// that shuts down drops a new worker at once, which then locks the queue to leave it.
#[must_use]
pub(super) enum WakeUp {
    None,
    Idle(IdleWorker),
    New(Worker),
}

impl WakeUp {
    /// Drops the abandoned calls of a worker that has left, and chooses its successor.
    pub(super) fn after(departure: Departure) -> Self {
        drop(departure.abandoned);
        departure.successor.map_or(Self::None, Self::Idle)
    }

    pub(super) fn perform(self) {
        match self {
            Self::None => {}
            Self::Idle(worker) => drop(worker.send(())),
            // Without a runtime, the worker is dropped and leaves the queue, so the caller gets an
            // error.
            Self::New(worker) => {
                if let Ok(runtime) = Handle::try_current() {
                    runtime.spawn(worker.run());
                }
            }
        }
    }
}
