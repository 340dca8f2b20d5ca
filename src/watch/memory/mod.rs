//! The store for one process.

mod recent;
mod state;

use std::fmt;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::heard::SettledEvent;
use super::store::{Counts, Replaced, Stored, Update, WatchStore};
use super::waiters::Wake;
use crate::job::JobGuid;
use crate::util::deadline::Instant;
use state::State;

/// How many jobs can be expected by default.
const CAPACITY: usize = 100_000;

/// How many events of jobs that are not expected are kept by default.
const RECENT: usize = 16_384;

/// How many bytes the events of jobs that are not expected may take together, and as many the entries
/// of jobs that have ended.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// A [`WatchStore`] in the memory of this process.
///
/// By default 100,000 jobs can be expected at a time. Beyond that, `expect` is an error; no
/// expectation is forgotten. A restart forgets everything.
///
/// For as long as the watch looks back, the store also keeps the last 16,384 jobs that have ended,
/// and the last 16,384 events of jobs that are not expected. Each of the two takes at most 16 MiB.
///
/// Clones share the store.
#[derive(Clone)]
pub struct MemoryWatchStore {
    capacity: usize,
    recent: usize,
    state: Arc<Mutex<State>>,
}

impl MemoryWatchStore {
    /// Returns a store for 100,000 expected jobs.
    #[must_use]
    pub fn new() -> Self {
        Self {
            capacity: CAPACITY,
            recent: RECENT,
            state: Arc::default(),
        }
    }

    /// Sets how many jobs can be expected at a time. Defaults to 100,000.
    ///
    /// Jobs that rest after a challenge count, for an hour or as long as the watch looks back. Clones that were made before keep
    /// their own capacity.
    #[must_use]
    pub fn with_capacity(mut self, jobs: usize) -> Self {
        self.capacity = jobs;
        self
    }

    /// Sets how many events are kept of jobs that are not expected, and how many jobs that have ended.
    /// Defaults to 16,384.
    ///
    /// If there are more within the time that the watch looks back, the oldest are forgotten, and a
    /// later `expect` does not hear of them. The failsafe then reads the job. Clones that were made
    /// before keep their own number.
    #[must_use]
    pub fn with_recent(mut self, events: usize) -> Self {
        self.recent = events;
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WatchStore for MemoryWatchStore {
    type Error = Full;

    async fn load(&self, jobs: &[JobGuid]) -> Result<Vec<(JobGuid, Stored)>, Full> {
        let now = Instant::now();
        let mut state = self.state();
        state.forget_expired(now);
        let found = jobs
            .iter()
            .filter_map(|job| Some((job.clone(), state.get(job, now, self.recent)?)));
        Ok(found.collect())
    }

    async fn replace(
        &self,
        job: &JobGuid,
        expected: Option<u64>,
        update: Update<'_>,
    ) -> Result<Replaced, Full> {
        let now = Instant::now();
        let mut state = self.state();
        state.forget_expired(now);
        let current = state.get(job, now, self.recent);
        if current.as_ref().map(|stored| stored.revision) != expected {
            return Ok(Replaced::Conflict(current));
        }
        state.replace(job, update, now, self.capacity, self.recent)?;
        let listeners = if update.wakes {
            state.listeners()
        } else {
            Vec::new()
        };
        drop(state);
        for listener in listeners {
            // The store may forget the entry before they could read it.
            listener.entry(job, update.entry);
        }
        Ok(Replaced::Done)
    }

    async fn claim_due(
        &self,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<(JobGuid, Stored)>, Full> {
        let now = Instant::now();
        let mut state = self.state();
        state.forget_expired(now);
        Ok(state.claim_due(limit, lease, now))
    }

    async fn count(&self) -> Result<Counts, Full> {
        Ok(self.state().count(Instant::now()))
    }

    async fn listen(&self, wake: Wake) -> Result<(), Full> {
        let id = self.state().add_listener(wake.clone());
        let _listener = Listener { store: self, id };
        wake.connected();
        pending().await
    }

    fn record_unexpected(&self, event: SettledEvent, keep: Duration) -> Option<SettledEvent> {
        let now = Instant::now();
        self.state()
            .record_unexpected(event, now, keep, self.recent)
    }
}

/// Removes a listener when it is dropped.
struct Listener<'a> {
    store: &'a MemoryWatchStore,
    id: u64,
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        self.store.state().remove_listener(self.id);
    }
}

impl Default for MemoryWatchStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryWatchStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryWatchStore")
            .field("capacity", &self.capacity)
            .field("recent", &self.recent)
            .finish_non_exhaustive()
    }
}

/// The error of a store that expects as many jobs as it can.
#[derive(Clone, Copy, Debug)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the store expects as many jobs as its capacity allows")
    }
}

impl std::error::Error for Full {}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn a_listener_that_is_dropped_is_removed() {
        let store = MemoryWatchStore::new();
        let context = &mut Context::from_waker(Waker::noop());
        {
            let mut listening = pin!(store.listen(Wake(Arc::default())));
            assert!(listening.as_mut().poll(context).is_pending());
            assert_eq!(store.state().listeners().len(), 1);
        }
        assert_eq!(store.state().listeners().len(), 0);
    }
}
