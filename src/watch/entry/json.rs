//! The form in which stores keep an entry.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Entry, Expectation, Remembered, Seen};
use crate::job::{Job, Status, Timestamp};
use crate::ledger::EventName;
use crate::watch::heard::Heard;

/// The version of the format.
const VERSION: u64 = 1;

impl Entry {
    /// Returns the entry as bytes: a JSON document.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut document = Map::new();
        document.insert("version".into(), VERSION.into());
        let heard = self.heard.iter().map(|event| {
            json!({
                "heard": heard_to_json(&event.heard),
                "age": millis(event.age),
                "is_old": event.is_old,
            })
        });
        document.insert("heard".into(), heard.collect());
        document.insert("names".into(), self.names.clone().into());
        document.insert("seen".into(), self.seen.clone().into());
        document.insert("keep".into(), millis(self.keep).into());
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
                    "after": expectation.after.as_ref().map(seen_to_json),
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
        let event = |event: &Value| {
            Some(Remembered {
                heard: heard_from_json(event.get("heard")?)?,
                age: Duration::from_millis(event.get("age")?.as_u64()?),
                is_old: event.get("is_old")?.as_bool()?,
            })
        };
        let name = |name: &Value| Some(name.as_str()?.to_owned());
        let expectation = |expectation: &Value| {
            let status = match expectation.get("status")? {
                Value::Null => None,
                Value::String(name) => Some(Status::from(name.as_str())),
                status => Some(Status::from(status.as_i64()?)),
            };
            Some(Expectation {
                id: expectation.get("id")?.as_u64()?,
                age: Duration::from_millis(expectation.get("age")?.as_u64()?),
                after: optional(expectation.get("after")?, seen_from_json)?,
                rests: expectation.get("rests")?.as_bool()?,
                reads: u32::try_from(expectation.get("reads")?.as_u64()?).ok()?,
                status,
            })
        };
        let of = |key| document.get(key).unwrap_or(&Value::Null);
        Some(Self {
            heard: list(of("heard"), event)?,
            names: list(document.get("names")?, name)?,
            seen: list(of("seen"), name)?,
            keep: Duration::from_millis(optional(of("keep"), Value::as_u64)?.unwrap_or(0)),
            expectation: optional(of("expectation"), expectation)?,
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads a value that may be null. Returns `None` if it cannot be read.
fn optional<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Option<T>> {
    match value {
        Value::Null => Some(None),
        value => read(value).map(Some),
    }
}

/// Reads an array. Null is an empty one.
fn list<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    match value {
        Value::Null => Some(Vec::new()),
        value => value.as_array()?.iter().map(read).collect(),
    }
}

fn heard_to_json(heard: &Heard) -> Value {
    let digest = heard.name.digest();
    json!({
        // A job has no keys that are not strings, so this cannot fail.
        "job": serde_json::to_value(&heard.job).unwrap_or_default(),
        "digest": digest.map(|digest| format!("{:032x}", u128::from_be_bytes(digest))),
        "is_plausible": heard.name.ordering_time().is_some(),
    })
}

fn heard_from_json(value: &Value) -> Option<Heard> {
    let job: Job = serde_json::from_value(value.get("job")?.clone()).ok()?;
    let digest = optional(value.get("digest")?, |digest| {
        let digest = u128::from_str_radix(digest.as_str()?, 16).ok()?;
        Some(digest.to_be_bytes())
    })?;
    let is_plausible = value.get("is_plausible")?.as_bool()?;
    let name = EventName::stored(&job, digest, is_plausible)?;
    Some(Heard { job, name })
}

fn seen_to_json(seen: &Seen) -> Value {
    json!({ "name": seen.name, "time": seen.time.map(time_to_json) })
}

fn seen_from_json(value: &Value) -> Option<Seen> {
    Some(Seen {
        name: value.get("name")?.as_str()?.to_owned(),
        time: optional(value.get("time")?, time_from_json)?,
    })
}

fn time_to_json(time: Timestamp) -> Value {
    json!([time.unix_seconds(), time.subsec_nanos()])
}

fn time_from_json(value: &Value) -> Option<Timestamp> {
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
