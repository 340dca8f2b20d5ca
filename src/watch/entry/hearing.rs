//! Hearing an event.

use std::time::Duration;

use super::{Change, Due, Entry, Remembered, Seen, Times, add_name};
use crate::watch::heard::Heard;

/// How long after an event a duplicate of it says the same.
const SAME_TIME: Duration = Duration::from_secs(1);

impl Entry {
    /// Hears an event. Returns `None` if that changes nothing.
    pub(in crate::watch) fn hear(&self, heard: &Heard, times: Times) -> Option<Change> {
        let event = Remembered::new(heard);
        let seen = event.seen();
        let ends = event.ends();
        let is_known = self.names.contains(&seen.name);
        let is_old = |known: &Remembered| known.is_old && known.seen().name == seen.name;
        // A challenge that was heard before changes nothing, even if the job is expected again: the
        // application knows it, and waits for what follows.
        if is_known && !self.heard.iter().any(is_old) && !(ends && self.is_expected()) {
            return self.hear_again(&seen, times);
        }
        let mut entry = self.clone();
        add_name(&mut entry.names, &seen.name);
        entry.keep = entry.keep.max(times.look_back);
        let is_latest = entry.remember(event.clone());
        let after = self.expectation.as_ref().and_then(|it| it.after.as_ref());
        let counts = is_latest && entry.counts_after(&event, after);
        let waited = self.expectation.as_ref().map(|it| it.age);
        let mut due = Due::Never;
        if ends {
            entry.expectation = None;
        } else if let Some(expectation) = &mut entry.expectation {
            due = Due::Unchanged;
            if counts {
                expectation.rests = true;
                due = Due::Never;
            } else if !is_known
                && !expectation.rests
                && after.is_some_and(|it| it.name == seen.name)
            {
                // The callback of this event has resumed the job, and has expected what follows.
                expectation.age = Duration::ZERO;
                expectation.reads = 0;
                due = Due::In(times.patience);
            }
        }
        Some(Change {
            keep: entry.kept(),
            entry,
            due,
            // Others may wait for any event of the job.
            wakes: is_latest,
            waited: waited.filter(|_| ends),
        })
    }

    /// Remembers an event, unless it is older than one that is remembered.
    fn remember(&mut self, event: Remembered) -> bool {
        let seen = event.seen();
        if event.ends() {
            // Nothing follows it, so what was before does not matter. Of two, the last one counts.
            self.heard.clear();
        } else if self.has_ended() || self.heard.iter().any(|known| known.is_newer_than(&seen)) {
            return false;
        } else {
            let has_time = seen.time.is_some();
            let replaces =
                |known: &Remembered| known.ends() || known.seen().time.is_some() == has_time;
            self.heard.retain(|known| !replaces(known));
        }
        self.heard.push(event);
        true
    }

    /// Hears an event whose name is known. If it is remembered, it counts for as long as if it were
    /// new.
    fn hear_again(&self, seen: &Seen, times: Times) -> Option<Change> {
        let mut entry = self.clone();
        let event = entry
            .heard
            .iter_mut()
            .find(|it| it.seen().name == seen.name)?;
        if event.age < SAME_TIME {
            return None;
        }
        // The waiters have heard of it, unless it did not count any more.
        let wakes = event.age > times.look_back;
        event.age = Duration::ZERO;
        entry.keep = entry.keep.max(times.look_back);
        Some(Change {
            keep: entry.kept(),
            entry,
            due: Due::Unchanged,
            wakes,
            waited: None,
        })
    }
}
