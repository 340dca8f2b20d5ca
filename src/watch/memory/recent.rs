//! Events of jobs that nobody expects, for the time that a watch looks back.

use std::collections::VecDeque;
use std::time::Duration;

use crate::job::JobGuid;
use crate::util::deadline::Instant;
use crate::watch::entry::Entry;
use crate::watch::heard::Heard;

/// The last events, in the order in which they were heard.
///
/// To record one takes no look-up, because every delivery of a job that nobody expects pays for it.
/// To find one takes a scan, which only `expect` pays for.
#[derive(Default)]
pub(super) struct Recent {
    keys: VecDeque<u64>,
    events: VecDeque<Event>,
}

struct Event {
    heard: Heard,
    at: Instant,
    look_back: Duration,
}

impl Recent {
    pub(super) fn push(&mut self, heard: Heard, at: Instant, look_back: Duration, limit: usize) {
        // Two, so that it shrinks too.
        for _ in 0..2 {
            let is_over = |event: &Event| at.saturating_duration_since(event.at) >= event.look_back;
            if self.events.len() >= limit.max(1) || self.events.front().is_some_and(is_over) {
                self.events.pop_front();
                self.keys.pop_front();
            }
        }
        self.keys.push_back(key(heard.name().guid()));
        self.events.push_back(Event {
            heard,
            at,
            look_back,
        });
    }

    /// Returns an entry of the events of a job, when it was stored, and when it expires, if ever.
    pub(super) fn entry_of(
        &self,
        job: &JobGuid,
        now: Instant,
    ) -> Option<(Entry, Instant, Option<Instant>)> {
        let key = key(job);
        let mut found: Option<(Entry, Instant, Option<Instant>)> = None;
        let positions = self
            .keys
            .iter()
            .enumerate()
            .filter(|(_, other)| **other == key);
        for (position, _) in positions {
            let event = &self.events[position];
            let age = now.saturating_duration_since(event.at);
            if event.heard.name().guid() != job || age >= event.look_back {
                continue;
            }
            let before = match found.take() {
                Some((entry, at, _)) => entry.aged(event.at.saturating_duration_since(at)),
                None => Entry::default(),
            };
            let expires = event.at.checked_add(event.look_back);
            let heard = before.hear(&event.heard, event.look_back);
            let entry = heard.map_or(before, |change| change.entry);
            found = Some((entry, event.at, expires));
        }
        found
    }
}

/// Counts jobs by a part of their key, to answer most look-ups without hashing a guid.
pub(super) struct Presence(Vec<u32>);

const PARTS: usize = 4096;

impl Default for Presence {
    fn default() -> Self {
        Self(vec![0; PARTS])
    }
}

impl Presence {
    pub(super) fn may_contain(&self, job: &JobGuid) -> bool {
        self.0[part(job)] > 0
    }

    pub(super) fn add(&mut self, job: &JobGuid) {
        self.0[part(job)] += 1;
    }

    pub(super) fn remove(&mut self, job: &JobGuid) {
        self.0[part(job)] -= 1;
    }
}

fn part(job: &JobGuid) -> usize {
    // The upper bits of a product depend on all bits of the key.
    (key(job).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize
}

/// Returns the last eight bytes of a guid, which for MX's are random.
fn key(job: &JobGuid) -> u64 {
    let text = job.as_str().as_bytes();
    match text.last_chunk() {
        Some(last) => u64::from_le_bytes(*last),
        None => text.iter().fold(0, |key, byte| key << 8 | u64::from(*byte)),
    }
}
