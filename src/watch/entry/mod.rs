//! What is known of a job: what was heard of it, and what is expected.

mod expecting;
mod hearing;
mod json;

use std::time::Duration;

use super::heard::Heard;
use crate::job::{Status, Timestamp};
use crate::ledger::EventName;
pub use json::InvalidEntry;

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
    /// The event that ended the job, or its challenges: the newest with a date, and the last without.
    /// In the order in which they were heard.
    heard: Vec<Remembered>,
    /// The names of events that were heard, the oldest first.
    names: Vec<String>,
    /// The names of events that the application has named as seen.
    seen: Vec<String>,
    /// How long the entry has to be kept, by the look-backs of the watches that have changed it.
    keep: Duration,
    expectation: Option<Expectation>,
}

/// An event that was heard.
#[derive(Clone, Debug, PartialEq)]
struct Remembered {
    heard: Heard,
    age: Duration,
    /// Whether it was too old to count when the job was expected. If it is heard again, it is news.
    is_old: bool,
}

/// The times of the watch that changes an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) patience: Duration,
    pub(super) look_back: Duration,
}

impl Times {
    /// Returns the times for a job that is not expected.
    pub(super) fn of_look_back(look_back: Duration) -> Self {
        Self {
            patience: Duration::ZERO,
            look_back,
        }
    }
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
    /// As before. If there was no entry, or it has expired, never.
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

impl Remembered {
    fn new(heard: &Heard) -> Self {
        Self {
            heard: heard.clone(),
            age: Duration::ZERO,
            is_old: false,
        }
    }

    fn ends(&self) -> bool {
        ends(&self.heard.status)
    }

    fn seen(&self) -> Seen {
        Seen::of(self.heard.name())
    }

    /// Returns whether the watch has heard it lately enough that a new event has to be compared with it.
    fn is_newer_than(&self, other: &Seen) -> bool {
        !self.is_old && other.is_before(&self.seen())
    }
}

/// How many names of events are kept of a job. MX challenges a user a few times.
const MAX_NAMES: usize = 16;

/// Adds a name, and drops the oldest if there are too many.
fn add_name(names: &mut Vec<String>, name: &str) {
    if names.iter().any(|known| known == name) {
        return;
    }
    if names.len() == MAX_NAMES {
        names.remove(0);
    }
    names.push(name.to_owned());
}

/// Returns whether a job with this status is over.
pub(super) fn ends(status: &Status) -> bool {
    status.is_actionable() && *status != Status::Challenged
}

impl Entry {
    /// Returns the entry with all its times this much longer ago.
    pub(super) fn aged(mut self, age: Duration) -> Self {
        for event in &mut self.heard {
            event.age = event.age.saturating_add(age);
        }
        if let Some(expectation) = &mut self.expectation {
            expectation.age = expectation.age.saturating_add(age);
        }
        self.keep = self.keep.saturating_sub(age);
        self
    }

    /// Returns the last event that was heard within this time, if one counts for an application that
    /// has seen `after`.
    pub(super) fn heard_lately(&self, after: Option<&Seen>, look_back: Duration) -> Option<&Heard> {
        let counts = |event: &&Remembered| {
            !event.is_old && event.age <= look_back && self.counts_after(event, after)
        };
        self.heard
            .iter()
            .rev()
            .find(counts)
            .map(|event| &event.heard)
    }

    /// Returns whether the application, which has seen `after`, has still to see this event.
    ///
    /// An event that ends a job always counts, because nothing follows it.
    fn counts_after(&self, event: &Remembered, after: Option<&Seen>) -> bool {
        event.ends()
            || after.is_none_or(|after| {
                let seen = event.seen();
                // One of the two may have no date. The application has named each that it has seen.
                let was_seen =
                    self.seen.contains(&seen.name) && self.was_heard_before(&seen, after);
                seen.name != after.name && !seen.is_before(after) && !was_seen
            })
    }

    fn was_heard_before(&self, event: &Seen, other: &Seen) -> bool {
        let position = |event: &Seen| self.names.iter().position(|name| *name == event.name);
        let (event, other) = (position(event), position(other));
        event.is_some_and(|event| other.is_some_and(|other| event < other))
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
        self.heard.last().map(|event| &event.heard)
    }

    fn has_ended(&self) -> bool {
        self.heard.iter().any(|event| event.ends() && !event.is_old)
    }

    /// Returns how long to keep the entry. `None` keeps it until it changes again.
    fn kept(&self) -> Option<Duration> {
        match &self.expectation {
            Some(expectation) if !expectation.rests => None,
            Some(_) => Some(REST.max(self.keep)),
            None => Some(SHORTEST.max(self.keep)),
        }
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
