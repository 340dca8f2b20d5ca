//! The events that a worker is running.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// The ids of the events that a worker has taken and not settled.
#[derive(Default)]
pub(super) struct Running {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    ids: HashSet<String>,
    /// Whether the worker takes no further events.
    is_closed: bool,
}

impl Running {
    pub(super) fn ids(&self) -> Vec<String> {
        self.lock().ids.iter().cloned().collect()
    }

    /// Adds an event until the guard is dropped.
    pub(super) fn add(self: &Arc<Self>, id: &str) -> RunningGuard {
        self.lock().ids.insert(id.to_owned());
        RunningGuard {
            running: self.clone(),
            id: id.to_owned(),
        }
    }

    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_waiters();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    pub(super) fn count(&self) -> usize {
        self.lock().ids.len()
    }

    /// Waits until an event is removed, or the worker is closed, after this call.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Waits until the worker takes no further events, and none is left.
    pub(super) async fn ended(&self) {
        loop {
            let changed = self.changed.notified();
            {
                let state = self.lock();
                if state.is_closed && state.ids.is_empty() {
                    return;
                }
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct RunningGuard {
    running: Arc<Running>,
    id: String,
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.running.lock().ids.remove(&self.id);
        self.running.changed.notify_waiters();
    }
}
