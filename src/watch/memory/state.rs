//! The entries in memory, and when they are due and expire.

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::recent::Recent;
use super::{Full, MAX_BYTES};
use crate::job::JobGuid;
use crate::util::deadline::Instant;
use crate::util::later::later;
use crate::watch::entry::{Due, Entry};
use crate::watch::heard::SettledEvent;
use crate::watch::presence::Presence;
use crate::watch::store::{Counts, Stored, Update};
use crate::watch::waiters::Wake;

#[derive(Default)]
pub(super) struct State {
    slots: HashMap<JobGuid, Slot>,
    presence: Presence,
    /// The slots by the time at which they are due, and at which they expire, and by revision.
    due: BTreeMap<(Instant, u64), JobGuid>,
    expiring: BTreeMap<(Instant, u64), JobGuid>,
    /// Those that expire and whose jobs are not expected, by revision.
    unexpected: BTreeMap<u64, JobGuid>,
    /// The sizes of those together.
    unexpected_bytes: usize,
    /// How many slots have an expectation.
    expected: usize,
    last_revision: u64,
    /// Events of jobs that have no slot.
    recent: Recent,
    listeners: Vec<(u64, Wake)>,
}

struct Slot {
    entry: Entry,
    revision: u64,
    stored_at: Instant,
    due: Option<Instant>,
    expires: Option<Instant>,
    /// How much memory an unexpected job takes, about.
    size: usize,
}

impl State {
    fn next_revision(&mut self) -> u64 {
        self.last_revision += 1;
        self.last_revision
    }

    /// Returns the entry of a job. What was recorded of it while it was not expected becomes one.
    pub(super) fn get(&mut self, job: &JobGuid, now: Instant, recent: usize) -> Option<Stored> {
        if !self.slots.contains_key(job) {
            let (entry, stored_at, expires) = self.recent.entry_of(job, now)?;
            let slot = Slot {
                entry,
                revision: self.next_revision(),
                stored_at,
                due: None,
                expires: Some(expires),
                size: 0,
            };
            self.recent.forget_job(job);
            self.insert(job, slot);
            // This one is the newest, and stays.
            self.forget_excess(recent.max(1));
        }
        let slot = self.slots.get(job)?;
        Some(Stored {
            entry: slot.entry.clone(),
            revision: slot.revision,
            age: now.saturating_duration_since(slot.stored_at),
        })
    }

    pub(super) fn replace(
        &mut self,
        job: &JobGuid,
        update: Update<'_>,
        now: Instant,
        capacity: usize,
        recent: usize,
    ) -> Result<(), Full> {
        let current = self.slots.get(job);
        let was_expected = current.is_some_and(|slot| slot.entry.is_expected());
        if update.entry.is_expected() && !was_expected && self.expected >= capacity {
            return Err(Full);
        }
        let due = match update.due {
            Due::Unchanged => current.and_then(|slot| slot.due),
            Due::In(time) => Some(later(now, time)),
            Due::Never => None,
        };
        let slot = Slot {
            entry: update.entry.clone(),
            revision: self.next_revision(),
            stored_at: now,
            due,
            expires: update.keep.map(|keep| later(now, keep)),
            size: 0,
        };
        self.remove(job);
        self.insert(job, slot);
        self.forget_excess(recent);
        Ok(())
    }

    fn insert(&mut self, job: &JobGuid, mut slot: Slot) {
        if let Some(due) = slot.due {
            self.due.insert((due, slot.revision), job.clone());
        }
        if let Some(expires) = slot.expires {
            self.expiring.insert((expires, slot.revision), job.clone());
            if !slot.entry.is_expected() {
                self.unexpected.insert(slot.revision, job.clone());
                slot.size = slot.entry.to_bytes().len();
                self.unexpected_bytes += slot.size;
            }
        }
        self.expected += usize::from(slot.entry.is_expected());
        self.presence.add(job);
        self.slots.insert(job.clone(), slot);
    }

    fn remove(&mut self, job: &JobGuid) {
        let MapEntry::Occupied(slot) = self.slots.entry(job.clone()) else {
            return;
        };
        let slot = slot.remove();
        if let Some(due) = slot.due {
            self.due.remove(&(due, slot.revision));
        }
        if let Some(expires) = slot.expires {
            self.expiring.remove(&(expires, slot.revision));
            self.unexpected.remove(&slot.revision);
        }
        self.unexpected_bytes -= slot.size;
        self.expected -= usize::from(slot.entry.is_expected());
        self.presence.remove(job);
    }

    pub(super) fn forget_expired(&mut self, now: Instant) {
        while let Some(oldest) = self.expiring.first_entry() {
            if oldest.key().0 > now {
                return;
            }
            let job = oldest.remove();
            self.remove(&job);
        }
    }

    /// Forgets entries of jobs that are not expected, if there are too many, or they are too large.
    /// Those that have changed longest ago go first.
    fn forget_excess(&mut self, recent: usize) {
        while self.unexpected.len() > recent || self.unexpected_bytes > MAX_BYTES {
            let Some((_, job)) = self.unexpected.pop_first() else {
                return;
            };
            self.remove(&job);
        }
    }

    pub(super) fn claim_due(
        &mut self,
        limit: usize,
        lease: Duration,
        now: Instant,
    ) -> Vec<(JobGuid, Stored)> {
        let mut claimed = Vec::new();
        while claimed.len() < limit {
            let Some((&(due, revision), job)) = self.due.first_key_value() else {
                break;
            };
            if due > now {
                break;
            }
            let job = job.clone();
            self.due.remove(&(due, revision));
            let next_revision = self.next_revision();
            let Some(slot) = self.slots.get_mut(&job) else {
                continue;
            };
            if let Some(expires) = slot.expires {
                let (before, after) = ((expires, slot.revision), (expires, next_revision));
                self.expiring.remove(&before);
                self.expiring.insert(after, job.clone());
                if self.unexpected.remove(&slot.revision).is_some() {
                    self.unexpected.insert(next_revision, job.clone());
                }
            }
            slot.revision = next_revision;
            // One that is due again at once would be claimed again by this call.
            slot.due = Some(later(now, lease.max(Duration::from_millis(1))));
            let stored = Stored {
                entry: slot.entry.clone(),
                revision: slot.revision,
                age: now.saturating_duration_since(slot.stored_at),
            };
            if let Some(due) = slot.due {
                self.due.insert((due, next_revision), job.clone());
            }
            claimed.push((job, stored));
        }
        claimed
    }

    pub(super) fn count(&self, now: Instant) -> Counts {
        let overdue = self.due.keys().take_while(|(due, _)| *due <= now).count();
        Counts {
            outstanding: self.due.len() as u64,
            overdue: overdue as u64,
        }
    }

    pub(super) fn record_unexpected(
        &mut self,
        event: SettledEvent,
        now: Instant,
        keep: Duration,
        limit: usize,
    ) -> Option<SettledEvent> {
        if self.presence.may_contain(event.key()) {
            return Some(event);
        }
        self.recent.push(event, now, keep, limit);
        None
    }

    pub(super) fn listeners(&self) -> Vec<Wake> {
        self.listeners
            .iter()
            .map(|(_, wake)| wake.clone())
            .collect()
    }

    pub(super) fn add_listener(&mut self, wake: Wake) -> u64 {
        let id = self.next_revision();
        self.listeners.push((id, wake));
        id
    }

    pub(super) fn remove_listener(&mut self, id: u64) {
        self.listeners.retain(|(known, _)| *known != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(10);
    const MANY: usize = 1_000;
    /// An eighth of what fits.
    const LARGE: usize = MAX_BYTES / 8;

    fn guid(job: usize) -> JobGuid {
        format!("JOB-{job}").parse().unwrap()
    }

    /// Returns an entry of a job that is not expected, of this size.
    fn entry(size: usize) -> Entry {
        let of = |name: String| {
            let document = format!(r#"{{"version": 1, "names": ["{name}"]}}"#);
            Entry::from_bytes(document.as_bytes()).unwrap()
        };
        let frame = of(String::new()).to_bytes().len();
        let entry = of("x".repeat(size - frame));
        assert_eq!(entry.to_bytes().len(), size);
        entry
    }

    fn store(state: &mut State, job: usize, size: usize, now: Instant, recent: usize) {
        let update = Update {
            entry: &entry(size),
            due: Due::Never,
            keep: Some(KEEP),
            wakes: false,
        };
        state
            .replace(&guid(job), update, now, MANY, recent)
            .unwrap();
    }

    /// Returns which of the jobs have an entry.
    fn kept(state: &mut State, now: Instant) -> Vec<usize> {
        let is_kept = |job: &usize| state.get(&guid(*job), now, MANY).is_some();
        (0..MANY).filter(is_kept).collect()
    }

    #[test]
    fn of_jobs_that_are_not_expected_as_many_are_kept_as_there_may_be() {
        let (mut state, now) = (State::default(), Instant::now());
        for job in 0..5 {
            store(&mut state, job, 100, now, 3);
        }
        assert_eq!(kept(&mut state, now), [2, 3, 4]);
        // One that changes is the newest.
        store(&mut state, 2, 100, now, 3);
        store(&mut state, 5, 100, now, 3);
        assert_eq!(kept(&mut state, now), [2, 4, 5]);
    }

    #[test]
    fn together_they_take_no_more_bytes_than_they_may() {
        let (mut state, now) = (State::default(), Instant::now());
        for job in 0..8 {
            store(&mut state, job, LARGE, now, MANY);
        }
        assert_eq!(kept(&mut state, now), [0, 1, 2, 3, 4, 5, 6, 7], "they fit");
        store(&mut state, 8, 100, now, MANY);
        assert_eq!(kept(&mut state, now), [1, 2, 3, 4, 5, 6, 7, 8]);
        store(&mut state, 9, 3 * LARGE, now, MANY);
        assert_eq!(kept(&mut state, now), [4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn those_that_have_changed_or_expired_take_no_room() {
        let (mut state, now) = (State::default(), Instant::now());
        for round in 0..3 {
            let now = now + KEEP * round;
            state.forget_expired(now);
            assert_eq!(kept(&mut state, now), [0; 0]);
            for job in [0, 1, 2, 3, 4, 5, 6, 7].repeat(2) {
                store(&mut state, job, LARGE, now, MANY);
            }
            assert_eq!(kept(&mut state, now), [0, 1, 2, 3, 4, 5, 6, 7]);
        }
    }

    #[test]
    fn one_that_was_claimed_before_its_time_was_over_is_new_if_it_is_stored_again() {
        let (mut state, now) = (State::default(), Instant::now());
        let update = Update {
            entry: &entry(100),
            due: Due::In(Duration::ZERO),
            keep: Some(KEEP),
            wakes: false,
        };
        state.replace(&guid(0), update, now, MANY, 3).unwrap();
        assert_eq!(state.claim_due(MANY, KEEP, now).len(), 1);
        assert_eq!(kept(&mut state, now), [0], "a claim changes nothing else");
        let now = now + KEEP;
        state.forget_expired(now);
        for job in [1, 2, 0] {
            store(&mut state, job, 100, now, 3);
        }
        assert_eq!(kept(&mut state, now), [0, 1, 2], "three fit");
    }

    #[test]
    fn an_entry_is_kept_for_its_time_and_no_longer() {
        let (mut state, now) = (State::default(), Instant::now());
        store(&mut state, 1, 100, now, MANY);
        let (before, over) = (now + KEEP - Duration::from_nanos(1), now + KEEP);
        state.forget_expired(before);
        assert_eq!(kept(&mut state, before), [1]);
        state.forget_expired(over);
        assert_eq!(kept(&mut state, over), [0; 0]);
    }
}
