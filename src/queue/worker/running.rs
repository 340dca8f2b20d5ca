//! The events that a worker is running.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// The events that a worker has taken and not recorded.
#[derive(Default)]
pub(super) struct Running {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// The ids of the events. After a crash of the server, one can be there twice.
    ids: Vec<String>,
    /// How many of them have ended.
    unrecorded: usize,
    /// Whether the worker takes no further events.
    is_closed: bool,
    /// Whether a fetch may still add events.
    is_fetching: bool,
}

impl State {
    fn has_ended(&self) -> bool {
        self.is_closed && !self.is_fetching && self.ids.is_empty()
    }
}

impl Running {
    pub(super) fn ids(&self) -> Vec<String> {
        self.lock().ids.clone()
    }

    /// Adds an event until the guard is dropped.
    pub(super) fn add(self: &Arc<Self>, id: &str) -> RunningGuard {
        self.lock().ids.push(id.to_owned());
        RunningGuard {
            running: self.clone(),
            id: id.to_owned(),
            has_ended: false,
        }
    }

    /// Says that fetches may add events until the guard is dropped.
    pub(super) fn start_fetching(self: &Arc<Self>) -> FetchingGuard {
        self.lock().is_fetching = true;
        FetchingGuard(self.clone())
    }

    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_waiters();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Returns how many callbacks are running, and how many have ended without being recorded.
    pub(super) fn callbacks(&self) -> (usize, usize) {
        let state = self.lock();
        (state.ids.len() - state.unrecorded, state.unrecorded)
    }

    /// Waits until something changes after this call.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Returns whether the worker takes no further events, and none is left.
    pub(super) fn has_ended(&self) -> bool {
        self.lock().has_ended()
    }

    /// Waits until the worker takes no further events.
    pub(super) async fn closed(&self) {
        self.until(Self::is_closed).await;
    }

    /// Waits until the worker takes no further events, and none is left.
    pub(super) async fn ended(&self) {
        self.until(Self::has_ended).await;
    }

    async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed();
            if is_so(self) {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An event that is running or not recorded.
pub(super) struct RunningGuard {
    running: Arc<Running>,
    id: String,
    has_ended: bool,
}

impl RunningGuard {
    /// Says that the callback has ended.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
        self.running.lock().unrecorded += 1;
        self.running.changed.notify_waiters();
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        let mut state = self.running.lock();
        if let Some(index) = state.ids.iter().position(|id| *id == self.id) {
            state.ids.swap_remove(index);
        }
        state.unrecorded -= usize::from(self.has_ended);
        drop(state);
        self.running.changed.notify_waiters();
    }
}

pub(super) struct FetchingGuard(Arc<Running>);

impl Drop for FetchingGuard {
    fn drop(&mut self) {
        self.0.lock().is_fetching = false;
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_worker_has_ended_once_it_is_closed_and_nothing_is_left() {
        for bits in 0..8 {
            let [is_closed, is_fetching, runs] = [1, 2, 4].map(|bit| bits & bit != 0);
            let running = Arc::<Running>::default();
            let _fetching = is_fetching.then(|| running.start_fetching());
            let _runs = runs.then(|| running.add("1"));
            if is_closed {
                running.close();
            }
            let has_ended = is_closed && !is_fetching && !runs;
            assert_eq!(running.has_ended(), has_ended, "{bits}");
            assert_eq!(running.is_closed(), is_closed, "{bits}");
            let ended = timeout(Duration::ZERO, running.ended()).await;
            assert_eq!(ended.is_ok(), has_ended, "{bits}");
            let closed = timeout(Duration::ZERO, running.closed()).await;
            assert_eq!(closed.is_ok(), is_closed, "{bits}");
        }
    }

    /// A callback has a place until it ends, and the worker knows its event until that is recorded.
    #[test]
    fn events_are_known_until_they_are_recorded() {
        let running = Arc::<Running>::default();
        let (mut one, two) = (running.add("1"), running.add("2"));
        assert_eq!(running.callbacks(), (2, 0));
        one.end();
        assert_eq!(running.callbacks(), (1, 1));
        assert_eq!(running.ids(), ["1", "2"]);
        drop(one);
        assert_eq!(running.callbacks(), (1, 0));
        assert_eq!(running.ids(), ["2"]);
        drop(two);
        assert_eq!(running.callbacks(), (0, 0));
        assert_eq!(running.ids(), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn each_change_is_heard_of() {
        let running = Arc::<Running>::default();
        let (fetching, mut event) = (running.start_fetching(), running.add("1"));
        let changes: [Box<dyn FnOnce()>; 4] = [
            Box::new(|| event.end()),
            Box::new(|| drop(running.add("2"))),
            Box::new(|| running.close()),
            Box::new(|| drop(fetching)),
        ];
        for change in changes {
            let changed = running.changed();
            change();
            timeout(Duration::from_secs(1), changed).await.unwrap();
        }
    }
}
