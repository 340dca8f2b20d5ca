//! Events of jobs that are not expected, for the time that a watch looks back.

use std::collections::VecDeque;
use std::time::Duration;

use super::MAX_BYTES;
use crate::job::JobGuid;
use crate::util::deadline::Instant;
use crate::util::later::later;
use crate::watch::entry::{Entry, Times};
use crate::watch::heard::SettledEvent;

/// How many events of a job are looked at. A job has a few, and each may be delivered again.
const MAX_OF_A_JOB: usize = 64;

/// The last events, in the order in which they were heard.
///
/// To record one takes no look-up and no decoding, because every delivery of an unexpected job pays
/// for it. To find one takes a scan, which only `expect` pays for.
#[derive(Default)]
pub(super) struct Recent {
    events: VecDeque<Event>,
    bytes: usize,
}

struct Event {
    event: SettledEvent,
    at: Instant,
    keep: Duration,
}

impl Event {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }
}

impl Recent {
    pub(super) fn push(&mut self, event: SettledEvent, at: Instant, keep: Duration, limit: usize) {
        let size = event.size();
        if size > MAX_BYTES || limit == 0 {
            return;
        }
        let is_full = self.events.len() >= limit || self.bytes + size > MAX_BYTES;
        // Ages are looked at now and then.
        if is_full || self.events.len() % 16 == 0 {
            self.forget(at, limit, size);
        }
        self.bytes += size;
        self.events.push_back(Event { event, at, keep });
    }

    /// Forgets what is too old, and the oldest until there is room for an event of this size.
    #[cold]
    fn forget(&mut self, now: Instant, limit: usize, size: usize) {
        while let Some(oldest) = self.events.front() {
            let is_full = self.events.len() >= limit || self.bytes + size > MAX_BYTES;
            if !is_full && oldest.age(now) < oldest.keep {
                break;
            }
            self.bytes -= oldest.event.size();
            self.events.pop_front();
        }
    }

    /// Forgets the events of a job that has a slot now.
    pub(super) fn forget_job(&mut self, job: &JobGuid) {
        let key = SettledEvent::key_of(job);
        let bytes = &mut self.bytes;
        self.events.retain(|Event { event, .. }| {
            // Another job can have the same key, so the few events with it are decoded.
            let is_of_job = event.key() == key && event.heard().is_none_or(|it| it.guid == *job);
            if is_of_job {
                *bytes -= event.size();
            }
            !is_of_job
        });
    }

    /// Returns an entry of the events of a job, when it was stored, and when it expires.
    pub(super) fn entry_of(
        &self,
        job: &JobGuid,
        now: Instant,
    ) -> Option<(Entry, Instant, Instant)> {
        let key = SettledEvent::key_of(job);
        let mut found: Option<(Entry, Instant, Instant)> = None;
        let is_of_job = |event: &&Event| event.event.key() == key && event.age(now) < event.keep;
        let last = self
            .events
            .iter()
            .rev()
            .filter(is_of_job)
            .take(MAX_OF_A_JOB);
        let last: Vec<_> = last.collect();
        for event in last.into_iter().rev() {
            let heard = event.event.heard().filter(|heard| heard.guid == *job);
            let Some(heard) = heard else {
                continue;
            };
            let before = match found.take() {
                Some((entry, at, _)) => entry.aged(event.at.saturating_duration_since(at)),
                None => Entry::default(),
            };
            let entry = match before.hear(&heard, Times::of_look_back(event.keep)) {
                Some(change) => change.entry,
                None => before,
            };
            found = Some((entry, event.at, later(event.at, event.keep)));
        }
        found
    }
}
