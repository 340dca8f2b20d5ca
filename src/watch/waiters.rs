//! The waiters of this process, and what wakes them.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::entry::{Entry, Seen};
use super::heard::{Heard, SettledEvent};
use super::presence::Presence;
use crate::job::JobGuid;

/// The waiters of a process.
#[derive(Default)]
pub(super) struct Waiters {
    state: Mutex<State>,
    /// How many jobs have waiters.
    count: AtomicUsize,
    /// Notified when there is something to read.
    reads: Notify,
}

#[derive(Default)]
struct State {
    /// The waiters of each job, by id.
    by_job: HashMap<JobGuid, Vec<Waiter>>,
    presence: Presence,
    last_id: u64,
    /// Jobs whose entries may have changed. In order, so that a simulation can be replayed.
    to_read: BTreeSet<JobGuid>,
    /// The job that was read last. The next read begins after it, so that each job is read in turn.
    last_read: Option<JobGuid>,
}

struct Waiter {
    id: u64,
    interest: Arc<Interest>,
    // Boxed, because a waiter waits for long, and rarely has it.
    answer: oneshot::Sender<Box<Heard>>,
}

/// Which events count for a waiter.
pub(super) struct Interest {
    pub(super) after: Option<Seen>,
    pub(super) look_back: Duration,
    /// When the job was expected.
    pub(super) since: Instant,
}

impl Interest {
    /// Returns what was heard, if it counts: lately, or since the job was expected.
    pub(super) fn heard<'a>(&self, entry: &'a Entry) -> Option<&'a Heard> {
        let look_back = self.look_back.max(self.since.elapsed());
        entry.heard_lately(self.after.as_ref(), look_back)
    }
}

/// The place of a waiter. Dropping it stops waiting.
pub(super) struct Registration {
    waiters: Arc<Waiters>,
    job: JobGuid,
    id: u64,
    pub(super) answer: oneshot::Receiver<Box<Heard>>,
}

impl State {
    /// Returns the next job to read in a circle.
    fn next_to_read(&self) -> Option<JobGuid> {
        let last = self.last_read.as_ref();
        let after = last.and_then(|last| {
            let after = (Excluded(last), Unbounded);
            self.to_read.range::<JobGuid, _>(after).next()
        });
        after.or_else(|| self.to_read.first()).cloned()
    }
}

impl Waiters {
    pub(super) fn register(
        self: &Arc<Self>,
        job: &JobGuid,
        interest: Arc<Interest>,
    ) -> Registration {
        let (answer, receiver) = oneshot::channel();
        let mut state = self.state();
        state.last_id += 1;
        let id = state.last_id;
        if !state.by_job.contains_key(job) {
            state.presence.add(job);
            self.count.fetch_add(1, Ordering::SeqCst);
        }
        let waiters = state.by_job.entry(job.clone()).or_default();
        waiters.push(Waiter {
            id,
            interest,
            answer,
        });
        drop(state);
        Registration {
            waiters: self.clone(),
            job: job.clone(),
            id,
            answer: receiver,
        }
    }

    /// Returns whether there may be waiters for the job of this event. If there are none at all, that
    /// takes no lock.
    pub(super) fn may_wait_for(&self, event: &SettledEvent) -> bool {
        self.count.load(Ordering::SeqCst) > 0 && self.state().presence.may_contain(event.key())
    }

    /// Tells the waiters of this job what was heard of it, if it counts for them.
    pub(super) fn tell(&self, job: &JobGuid, entry: &Entry) {
        let mut state = self.state();
        let Some(waiters) = state.by_job.get_mut(job) else {
            return;
        };
        let counts = |waiter: &Waiter| waiter.interest.heard(entry).is_some();
        let (told, others) = std::mem::take(waiters).into_iter().partition(counts);
        let told: Vec<Waiter> = told;
        *waiters = others;
        if waiters.is_empty() {
            self.forget(&mut state, job);
        }
        drop(state);
        for waiter in told {
            if let Some(heard) = waiter.interest.heard(entry) {
                // It may have stopped waiting.
                let _ = waiter.answer.send(Box::new(heard.clone()));
            }
        }
    }

    /// Forgets a job that has no waiters any more.
    fn forget(&self, state: &mut State, job: &JobGuid) {
        state.by_job.remove(job);
        state.presence.remove(job);
        self.count.fetch_sub(1, Ordering::SeqCst);
    }

    /// Waits until there is something to read.
    pub(super) async fn wait_for_reads(&self) {
        self.reads.notified().await;
    }

    /// Takes jobs whose entries have to be read and that have waiters, at most `limit`.
    pub(super) fn take_reads(&self, limit: usize) -> Vec<JobGuid> {
        let mut state = self.state();
        let mut taken = Vec::new();
        while taken.len() < limit {
            let Some(job) = state.next_to_read() else {
                break;
            };
            state.to_read.remove(&job);
            if state.by_job.contains_key(&job) {
                taken.push(job.clone());
            }
            state.last_read = Some(job);
        }
        taken
    }

    /// Has the entries of all jobs with waiters read.
    pub(super) fn read_all(&self) {
        let mut state = self.state();
        let State {
            by_job, to_read, ..
        } = &mut *state;
        to_read.extend(by_job.keys().cloned());
        drop(state);
        self.reads.notify_one();
    }

    fn read(&self, job: &JobGuid) {
        let mut state = self.state();
        if state.by_job.contains_key(job) {
            state.to_read.insert(job.clone());
            drop(state);
            self.reads.notify_one();
        }
    }

    /// Returns how many wait.
    pub(super) fn len(&self) -> usize {
        self.state().by_job.values().map(Vec::len).sum()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code of the application runs while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut state = self.waiters.state();
        let Some(waiters) = state.by_job.get_mut(&self.job) else {
            return;
        };
        // They are in the order of their ids.
        let Ok(position) = waiters.binary_search_by_key(&self.id, |waiter| waiter.id) else {
            return;
        };
        waiters.remove(position);
        if waiters.is_empty() {
            self.waiters.forget(&mut state, &self.job);
        }
    }
}

/// Tells this process that an entry has changed. A [`WatchStore`](super::WatchStore) calls it.
#[derive(Clone)]
pub struct Wake(pub(super) Arc<Waiters>);

impl Wake {
    /// Says that the store can hear changes from now on. What was missed before is read.
    pub fn connected(&self) {
        self.0.read_all();
    }

    /// Says what the entry of this job is now.
    pub(super) fn entry(&self, job: &JobGuid, entry: &Entry) {
        self.0.tell(job, entry);
    }

    /// Says that the entry of this job has changed. Unknown jobs are ignored.
    pub fn job(&self, job: &JobGuid) {
        self.0.read(job);
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wake").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_whose_last_waiter_has_left_takes_no_memory() {
        let waiters = Arc::new(Waiters::default());
        let job: JobGuid = "JOB-1".parse().unwrap();
        let interest = Arc::new(Interest {
            after: None,
            look_back: Duration::ZERO,
            since: Instant::now(),
        });
        let registered = [0; 2].map(|_| waiters.register(&job, interest.clone()));
        let [first, second] = registered;
        drop(first);
        assert_eq!(waiters.state().by_job.len(), 1);
        drop(second);
        assert!(waiters.state().by_job.is_empty());
        assert_eq!(waiters.count.load(Ordering::SeqCst), 0);
    }
}
