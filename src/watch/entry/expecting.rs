//! Expecting a job, and what the failsafe changes while it is expected.

use std::time::Duration;

use super::{Change, Due, Entry, Expectation, Seen, Times, add_name};
use crate::job::Status;
use crate::util::random::random;

impl Entry {
    /// Expects an event after the one that the application has seen, or any event.
    ///
    /// Returns `None` if that changes nothing: the job is over, or is expected already.
    pub(in crate::watch) fn expect(&self, after: Option<&Seen>, times: Times) -> Option<Change> {
        let mut entry = self.clone();
        for event in &mut entry.heard {
            // `expect` does not return it, so a read or another delivery has to wake the waiters.
            event.is_old |= event.age > times.look_back;
        }
        if entry.has_ended() {
            return None;
        }
        if self.expectation().is_some() {
            return entry.expect_later(after);
        }
        // A challenge that the application has not seen rests the job, as if it were heard now. If
        // the job rests already, the application has seen its challenge, and expects what follows.
        let is_news = after.is_some() || self.expectation.is_none();
        entry.name_as_seen(after);
        let rests = is_news && entry.heard_lately(after, times.look_back).is_some();
        entry.keep = entry.keep.max(times.look_back);
        entry.expectation = Some(Expectation {
            id: random(),
            age: Duration::ZERO,
            after: after.cloned(),
            rests,
            reads: 0,
            status: None,
        });
        Some(Change {
            due: if rests {
                Due::Never
            } else {
                Due::In(times.patience)
            },
            keep: entry.kept(),
            entry,
            wakes: false,
            waited: None,
        })
    }

    /// Changes what a job that is expected already is expected after, if the application has seen a
    /// later event. It stays due when it was, however often it is expected.
    fn expect_later(mut self, after: Option<&Seen>) -> Option<Change> {
        let after = after?;
        let before = self.expectation.as_ref().and_then(|it| it.after.as_ref());
        let is_earlier = before.is_some_and(|before| after.is_before(before));
        if is_earlier || self.seen.contains(&after.name) {
            return None;
        }
        self.name_as_seen(Some(after));
        if let Some(expectation) = &mut self.expectation {
            expectation.after = Some(after.clone());
        }
        Some(self.changed(Due::Unchanged))
    }

    fn name_as_seen(&mut self, seen: Option<&Seen>) {
        if let Some(seen) = seen {
            add_name(&mut self.seen, &seen.name);
        }
    }

    /// Keeps the lease of the failsafe that fulfils this expectation.
    pub(in crate::watch) fn extend(&self, expectation: u64, lease: Duration) -> Option<Change> {
        (self.expectation() == Some(expectation)).then(|| self.changed(Due::In(lease)))
    }

    /// Postpones the next read of a job whose read ended nothing.
    pub(in crate::watch) fn postpone(
        &self,
        expectation: u64,
        status: Option<&Status>,
        pause: Duration,
    ) -> Option<Change> {
        if self.expectation() != Some(expectation) {
            return None;
        }
        let mut change = self.changed(Due::In(pause));
        if let Some(expectation) = &mut change.entry.expectation {
            expectation.reads = expectation.reads.saturating_add(1);
            if let Some(status) = status {
                expectation.status = Some(status.clone());
            }
        }
        Some(change)
    }

    /// Ends an expectation that is given up.
    pub(in crate::watch) fn give_up(&self, expectation: u64) -> Option<Change> {
        if self.expectation() != Some(expectation) {
            return None;
        }
        let mut change = self.changed(Due::Never);
        change.entry.expectation = None;
        change.keep = change.entry.kept();
        Some(change)
    }
}
