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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::JobEvent;

    const KEEP: Duration = Duration::from_secs(10);
    const MIB: usize = 1024 * 1024;

    fn guid(job: usize) -> JobGuid {
        format!("JOB-{job}").parse().unwrap()
    }

    /// Returns an event whose body has this many bytes.
    fn event(job: usize, size: usize) -> SettledEvent {
        let body = format!(r#"{{"job":{{"guid":"{}","status":6}}}}"#, guid(job));
        let body = body.clone() + &" ".repeat(size - body.len());
        SettledEvent::of(&JobEvent::decode(body).unwrap()).unwrap()
    }

    /// Returns the jobs of the events, after a check of their bytes.
    fn jobs(recent: &Recent) -> Vec<JobGuid> {
        let sizes = recent.events.iter().map(|event| event.event.size());
        assert_eq!(recent.bytes, sizes.sum::<usize>());
        assert!(recent.bytes <= MAX_BYTES);
        let events = recent.events.iter();
        events
            .map(|it| it.event.heard().unwrap().guid.clone())
            .collect()
    }

    fn guids(jobs: impl IntoIterator<Item = usize>) -> Vec<JobGuid> {
        jobs.into_iter().map(guid).collect()
    }

    #[test]
    fn the_oldest_go_once_there_are_too_many_bytes() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        for job in 0..16 {
            recent.push(event(job, MIB), now, KEEP, 1_000);
        }
        assert_eq!(
            jobs(&recent),
            guids(0..16),
            "this is not more than the limit"
        );
        recent.push(event(16, MIB), now, KEEP, 1_000);
        assert_eq!(jobs(&recent), guids(1..17));
        recent.push(event(17, MAX_BYTES + 1), now, KEEP, 1_000);
        assert_eq!(jobs(&recent), guids(1..17), "it would take all room");
        recent.push(event(18, MAX_BYTES), now, KEEP, 1_000);
        assert_eq!(jobs(&recent), guids([18]));
    }

    #[test]
    fn there_are_never_too_many_bytes_however_large_the_events() {
        for mib in [3, 7] {
            let (mut recent, now) = (Recent::default(), Instant::now());
            for job in 0..8 {
                recent.push(event(job, mib * MIB), now, KEEP, 1_000);
                assert_eq!(recent.events.len(), (job + 1).min(16 / mib), "{mib}");
                assert_eq!(recent.bytes, recent.events.len() * mib * MIB);
            }
        }
    }

    #[test]
    fn the_oldest_go_once_there_are_too_many() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        for job in 0..7 {
            recent.push(event(job, 64), now, KEEP, 5);
        }
        assert_eq!(jobs(&recent), guids(2..7));
        recent.push(event(7, 64), now, KEEP, 0);
        assert_eq!(jobs(&recent), guids(2..7), "none is to be kept");
        recent.forget_job(&guid(4));
        assert_eq!(jobs(&recent), guids([2, 3, 5, 6]));
    }

    #[test]
    fn those_whose_time_is_over_do_not_count_and_go_now_and_then() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        for job in 0..16 {
            recent.push(event(job, 64), now, KEEP, 1_000);
        }
        let (before, over) = (now + KEEP - Duration::from_nanos(1), now + KEEP);
        assert!(recent.entry_of(&guid(3), before).is_some());
        assert!(recent.entry_of(&guid(3), over).is_none());
        assert!(recent.entry_of(&guid(16), before).is_none());
        recent.push(event(16, 64), over, KEEP, 1_000);
        assert_eq!(jobs(&recent), guids([16]));
    }
}
