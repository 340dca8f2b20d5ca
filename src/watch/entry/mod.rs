//! What is known of a job: what was heard of it, and what is expected.

mod json;

use std::time::Duration;

use super::heard::Heard;
use crate::job::{Status, Timestamp};
use crate::ledger::EventName;
use crate::util::random::random;
pub use json::InvalidEntry;

/// How many names of events are kept for a job. MX challenges a user a few times.
const MAX_NAMES: usize = 16;

/// How long a job that waits for its user is remembered.
///
/// MX halts a job whose challenge is not answered for about ten minutes (MX's page on job
/// statuses), so an application that still wants the job expects it again before that.
const REST: Duration = Duration::from_secs(60 * 60);

/// How long what was heard is remembered at least, so that all waiters hear of it, even if their
/// processes read it some seconds later.
pub(super) const SHORTEST: Duration = Duration::from_secs(30);

/// What a [`WatchStore`](super::WatchStore) keeps of a job.
///
/// A store does not look into it. It keeps the entry itself, or the bytes of
/// [`to_bytes`](Self::to_bytes).
///
/// All times in it are durations before it was stored, so the clocks of replicas do not matter: see
/// [`Stored::age`](super::Stored::age).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// The latest event that was heard.
    latest: Option<Latest>,
    /// The latest event, if that was heard too long ago to count when the job was expected.
    earlier: Option<Heard>,
    /// The time of the newest event that was heard.
    newest: Option<Timestamp>,
    /// The names of events that were heard, the oldest first.
    names: Vec<String>,
    expectation: Option<Expectation>,
}

/// How long after an event a duplicate of it says the same.
const SAME_TIME: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq)]
struct Latest {
    heard: Heard,
    age: Duration,
}

/// An event that the application has seen: its name without the job, and its time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    name: String,
    time: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq)]
struct Expectation {
    /// Tells this expectation from earlier and later ones of the job.
    id: u64,
    /// How long ago the application expected the job.
    age: Duration,
    /// Events up to this one do not count.
    after: Option<Seen>,
    /// Whether the job waits for its user, and not for MX.
    rests: bool,
    /// How often the failsafe has read the job.
    reads: u32,
    /// The status that it read last.
    status: Option<Status>,
}

/// When the failsafe acts on an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Due {
    /// As before.
    Unchanged,
    /// After this time.
    In(Duration),
    /// Never.
    Never,
}

/// A change of an entry.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) entry: Entry,
    pub(super) due: Due,
    /// How long the entry is kept. `None` keeps it until it changes again.
    pub(super) keep: Option<Duration>,
    /// Whether it wakes the waiters of the job.
    pub(super) wakes: bool,
    /// For how long the event that ended the expectation was expected.
    pub(super) waited: Option<Duration>,
}

impl Seen {
    pub(super) fn of(name: &EventName) -> Self {
        // The text begins with the guid and a space.
        let text = name.to_string();
        Self {
            name: text[name.guid().as_str().len() + 1..].to_owned(),
            time: name.ordering_time(),
        }
    }

    /// Returns whether it is known to be older than the other event.
    fn is_before(&self, other: &Self) -> bool {
        matches!((self.time, other.time), (Some(this), Some(other)) if this < other)
    }
}

impl Latest {
    fn ends(&self) -> bool {
        ends(&self.heard.status)
    }

    fn seen(&self) -> Seen {
        Seen::of(self.heard.name())
    }

    /// Returns whether the application, which has seen the other event, has still to see this one.
    ///
    /// What ends a job always counts, because nothing follows it.
    fn counts_after(&self, after: Option<&Seen>) -> bool {
        self.ends()
            || after.is_none_or(|after| {
                let seen = self.seen();
                seen.name != after.name && !seen.is_before(after)
            })
    }
}

/// Returns whether a job with this status is over.
pub(super) fn ends(status: &Status) -> bool {
    status.is_actionable() && *status != Status::Challenged
}

impl Entry {
    /// Returns the entry with all its times this much longer ago.
    pub(super) fn aged(mut self, age: Duration) -> Self {
        if let Some(latest) = &mut self.latest {
            latest.age = latest.age.saturating_add(age);
        }
        if let Some(expectation) = &mut self.expectation {
            expectation.age = expectation.age.saturating_add(age);
        }
        self
    }

    /// Returns the job as it was heard last, if that counts for an application that has seen
    /// `after`.
    pub(super) fn heard_after(&self, after: Option<&Seen>) -> Option<&Heard> {
        let latest = self.latest.as_ref()?;
        latest.counts_after(after).then_some(&latest.heard)
    }

    /// Returns what was heard of the job within the time that a watch looks back, if that counts.
    pub(super) fn heard_lately(&self, after: Option<&Seen>, look_back: Duration) -> Option<&Heard> {
        let is_late = self.latest.as_ref()?.age <= look_back;
        self.heard_after(after).filter(|_| is_late)
    }

    /// Returns whether the job is expected, also while it waits for its user.
    #[must_use]
    pub fn is_expected(&self) -> bool {
        self.expectation.is_some()
    }

    /// Returns the id of the expectation that the failsafe has to fulfil.
    pub(super) fn expectation(&self) -> Option<u64> {
        let expectation = self.expectation.as_ref()?;
        (!expectation.rests).then_some(expectation.id)
    }

    /// Returns how long ago the application expected the job.
    pub(super) fn expected_for(&self) -> Duration {
        self.expectation
            .as_ref()
            .map_or(Duration::ZERO, |it| it.age)
    }

    pub(super) fn reads(&self) -> u32 {
        self.expectation.as_ref().map_or(0, |it| it.reads)
    }

    pub(super) fn last_status(&self) -> Option<&Status> {
        self.expectation.as_ref()?.status.as_ref()
    }

    /// Returns the job as it was heard last, however long ago.
    pub(super) fn last_heard(&self) -> Option<&Heard> {
        let latest = self.latest.as_ref().map(|latest| &latest.heard);
        latest.or(self.earlier.as_ref())
    }

    fn add_name(&mut self, name: &str) {
        if self.names.iter().any(|known| known == name) {
            return;
        }
        if self.names.len() == MAX_NAMES {
            self.names.remove(0);
        }
        self.names.push(name.to_owned());
    }

    /// Hears an event. Returns `None` if that changes nothing.
    pub(super) fn hear(&self, heard: &Heard, look_back: Duration) -> Option<Change> {
        let event = Latest {
            heard: heard.clone(),
            age: Duration::ZERO,
        };
        let seen = event.seen();
        let ends = event.ends();
        // A challenge that was heard before changes nothing, even if the job is expected again: the
        // application knows it, and waits for what follows.
        if self.names.contains(&seen.name) && !(ends && self.is_expected()) {
            return self.hear_again(event, look_back);
        }
        let mut entry = self.clone();
        entry.add_name(&seen.name);
        let has_ended = self.latest.as_ref().is_some_and(Latest::ends);
        let is_outdated = seen.time.is_some_and(|time| Some(time) < self.newest);
        let is_latest = ends || !has_ended && !is_outdated;
        entry.newest = entry.newest.max(seen.time);
        let after = self.expectation.as_ref().and_then(|it| it.after.as_ref());
        let counts = is_latest && event.counts_after(after);
        let waited = self.expectation.as_ref().map(|it| it.age);
        if is_latest {
            entry.latest = Some(event);
            entry.earlier = None;
        }
        if !counts {
            return Some(Change {
                keep: entry.keep(look_back),
                entry,
                due: Due::Unchanged,
                // Others may wait for any event of the job.
                wakes: is_latest,
                waited: None,
            });
        }
        if ends {
            entry.expectation = None;
        } else if let Some(expectation) = &mut entry.expectation {
            expectation.rests = true;
        }
        Some(Change {
            keep: entry.keep(look_back),
            entry,
            due: Due::Never,
            wakes: true,
            waited: waited.filter(|_| ends),
        })
    }

    /// Hears an event whose name is known. If it is the latest, it counts for as long as if it were
    /// new.
    fn hear_again(&self, event: Latest, look_back: Duration) -> Option<Change> {
        let latest = self.latest.as_ref()?;
        if latest.age < SAME_TIME || latest.seen().name != event.seen().name {
            return None;
        }
        // The waiters have heard of it, unless it did not count any more.
        let wakes = latest.age > look_back;
        let mut entry = self.clone();
        entry.latest = Some(event);
        Some(Change {
            keep: entry.keep(look_back),
            entry,
            due: Due::Unchanged,
            wakes,
            waited: None,
        })
    }

    fn keep(&self, look_back: Duration) -> Option<Duration> {
        match &self.expectation {
            Some(expectation) if !expectation.rests => None,
            Some(_) => Some(REST.max(look_back)),
            None => Some(SHORTEST.max(look_back)),
        }
    }

    /// Expects an event after the one that the application has seen, or any event.
    ///
    /// Returns `None` if that changes nothing: the job is over, or is expected already.
    pub(super) fn expect(
        &self,
        after: Option<&Seen>,
        patience: Duration,
        look_back: Duration,
    ) -> Option<Change> {
        let mut entry = self.clone();
        if let Some(latest) = entry.latest.take_if(|latest| latest.age > look_back) {
            // `expect` does not return it, so a read or another delivery has to wake the waiters.
            let name = latest.seen().name;
            entry.names.retain(|known| *known != name);
            entry.earlier = Some(latest.heard);
        }
        if entry.latest.as_ref().is_some_and(Latest::ends) {
            return None;
        }
        match &self.expectation {
            Some(expectation) if !expectation.rests => {
                return entry.expect_later(after, expectation.after.as_ref());
            }
            _ => {}
        }
        // A challenge that the application has not seen rests the job, as if it were heard now. If
        // the job rests already, the application has seen its challenge, and expects what follows.
        let is_news = after.is_some() || self.expectation.is_none();
        let rests = is_news && entry.heard_after(after).is_some();
        entry.expectation = Some(Expectation {
            id: random(),
            age: Duration::ZERO,
            after: after.cloned(),
            rests,
            reads: 0,
            status: None,
        });
        Some(Change {
            due: if rests { Due::Never } else { Due::In(patience) },
            keep: entry.keep(look_back),
            entry,
            wakes: false,
            waited: None,
        })
    }

    /// Changes what a job that is expected already is expected after, if the application has seen a
    /// later event. It stays due when it was, however often it is expected.
    fn expect_later(mut self, after: Option<&Seen>, before: Option<&Seen>) -> Option<Change> {
        let after = after?;
        if before.is_some_and(|before| before.name == after.name || after.is_before(before)) {
            return None;
        }
        if let Some(expectation) = &mut self.expectation {
            expectation.after = Some(after.clone());
        }
        // A challenge that counts would have rested the job.
        Some(self.changed(Due::Unchanged))
    }

    /// Keeps the lease of the failsafe that fulfils this expectation.
    pub(super) fn extend(&self, expectation: u64, lease: Duration) -> Option<Change> {
        (self.expectation() == Some(expectation)).then(|| self.changed(Due::In(lease)))
    }

    /// Postpones the next read of a job whose read ended nothing.
    pub(super) fn postpone(
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
    pub(super) fn give_up(&self, expectation: u64, look_back: Duration) -> Option<Change> {
        if self.expectation() != Some(expectation) {
            return None;
        }
        let mut change = self.changed(Due::Never);
        change.entry.expectation = None;
        change.keep = change.entry.keep(look_back);
        Some(change)
    }

    fn changed(&self, due: Due) -> Change {
        Change {
            entry: self.clone(),
            due,
            keep: None,
            wakes: false,
            waited: None,
        }
    }
}
