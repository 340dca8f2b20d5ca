//! What is known of a job: what was heard of it, and what is expected.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::heard::Heard;
use crate::job::{Job, Status, Timestamp};
use crate::ledger::EventName;
use crate::util::random::random;

/// How many names of events are kept for a job. MX challenges a user a few times.
const MAX_NAMES: usize = 16;

/// How long a job that waits for its user is remembered.
///
/// MX halts a job whose challenge is not answered for about ten minutes (MX's page on job
/// statuses), so an application that still wants the job expects it again before that.
const REST: Duration = Duration::from_secs(60 * 60);

/// How long a job that has ended is remembered at least, so that all who wait hear of it, even if
/// their processes read it some seconds later.
const SHORTEST: Duration = Duration::from_secs(30);

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
    /// The names of events that were heard, the oldest first.
    names: Vec<String>,
    expectation: Option<Expectation>,
}

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

    /// Returns the job as it was heard last.
    pub(super) fn latest(&self) -> Option<&Heard> {
        self.latest.as_ref().map(|latest| &latest.heard)
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
        let is_latest = self
            .latest
            .as_ref()
            .is_none_or(|latest| ends || !latest.ends() && !seen.is_before(&latest.seen()));
        let after = self.expectation.as_ref().and_then(|it| it.after.as_ref());
        let counts = is_latest && event.counts_after(after);
        let waited = self.expectation.as_ref().map(|it| it.age);
        if is_latest {
            entry.latest = Some(event);
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

    /// Hears an event whose name is known. That is news only if it is the latest, and was heard so
    /// long ago that it does not count any more.
    fn hear_again(&self, event: Latest, look_back: Duration) -> Option<Change> {
        let latest = self.latest.as_ref()?;
        if latest.age <= look_back || latest.seen().name != event.seen().name {
            return None;
        }
        let mut entry = self.clone();
        entry.latest = Some(event);
        Some(Change {
            keep: entry.keep(look_back),
            entry,
            due: Due::Unchanged,
            wakes: true,
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
        change.keep = Some(look_back);
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

    /// Returns the entry as bytes: a JSON document.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let seen = |seen: &Seen| {
            let time = seen
                .time
                .map(|time| json!([time.unix_seconds(), time.subsec_nanos()]));
            json!({ "name": seen.name, "time": time })
        };
        let mut document = Map::new();
        document.insert("version".into(), VERSION.into());
        if let Some(latest) = &self.latest {
            // A job has no keys that are not strings, so this cannot fail.
            let job = serde_json::to_value(latest.heard.job()).unwrap_or_default();
            let name = latest.heard.name();
            let digest = name
                .digest()
                .map(|digest| format!("{:032x}", u128::from_be_bytes(digest)));
            let latest = json!({
                "job": job,
                "digest": digest,
                "is_plausible": name.ordering_time().is_some(),
                "age": millis(latest.age),
            });
            document.insert("latest".into(), latest);
        }
        document.insert("names".into(), self.names.clone().into());
        if let Some(expectation) = &self.expectation {
            let status = expectation.status.as_ref();
            let status = status.map(|status| match status.name() {
                Some(name) => Value::from(name),
                None => Value::from(status.code()),
            });
            document.insert(
                "expectation".into(),
                json!({
                    "id": expectation.id,
                    "age": millis(expectation.age),
                    "after": expectation.after.as_ref().map(seen),
                    "rests": expectation.rests,
                    "reads": expectation.reads,
                    "status": status,
                }),
            );
        }
        Value::Object(document).to_string().into_bytes()
    }

    /// Reads the bytes of [`to_bytes`](Self::to_bytes).
    ///
    /// # Errors
    ///
    /// If they are not an entry, or one of a later release.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidEntry> {
        Self::read(bytes).ok_or(InvalidEntry(()))
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let document: Value = serde_json::from_slice(bytes).ok()?;
        if document.get("version")? != VERSION {
            return None;
        }
        let seen = |value: &Value| {
            let time = match value.get("time")? {
                Value::Null => None,
                time => Some(timestamp(time)?),
            };
            Some(Seen {
                name: value.get("name")?.as_str()?.to_owned(),
                time,
            })
        };
        let latest = match document.get("latest") {
            None => None,
            Some(latest) => {
                let job: Job = serde_json::from_value(latest.get("job")?.clone()).ok()?;
                let digest = match latest.get("digest")? {
                    Value::Null => None,
                    digest => Some(
                        u128::from_str_radix(digest.as_str()?, 16)
                            .ok()?
                            .to_be_bytes(),
                    ),
                };
                let is_plausible = latest.get("is_plausible")?.as_bool()?;
                Some(Latest {
                    heard: Heard {
                        name: EventName::stored(&job, digest, is_plausible)?,
                        job,
                    },
                    age: Duration::from_millis(latest.get("age")?.as_u64()?),
                })
            }
        };
        let names = document.get("names")?.as_array()?.iter();
        let names = names.map(|name| Some(name.as_str()?.to_owned()));
        let expectation = match document.get("expectation") {
            None => None,
            Some(expectation) => Some(Expectation {
                id: expectation.get("id")?.as_u64()?,
                age: Duration::from_millis(expectation.get("age")?.as_u64()?),
                after: match expectation.get("after")? {
                    Value::Null => None,
                    after => Some(seen(after)?),
                },
                rests: expectation.get("rests")?.as_bool()?,
                reads: u32::try_from(expectation.get("reads")?.as_u64()?).ok()?,
                status: match expectation.get("status")? {
                    Value::Null => None,
                    Value::String(name) => Some(Status::from(name.as_str())),
                    status => Some(Status::from(status.as_i64()?)),
                },
            }),
        };
        Some(Self {
            latest,
            names: names.collect::<Option<_>>()?,
            expectation,
        })
    }
}

/// The version of the format.
const VERSION: u64 = 1;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn timestamp(value: &Value) -> Option<Timestamp> {
    let seconds = value.get(0)?.as_i64()?;
    let nanos = u32::try_from(value.get(1)?.as_u64()?).ok()?;
    (nanos < 1_000_000_000).then(|| Timestamp::new(seconds, nanos))
}

/// The error of bytes that are no [`Entry`].
#[derive(Clone, Debug)]
pub struct InvalidEntry(());

impl std::fmt::Display for InvalidEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the store contains an entry that this release cannot read")
    }
}

impl std::error::Error for InvalidEntry {}
