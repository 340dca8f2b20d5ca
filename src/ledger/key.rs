//! How the shared ledgers write an event's name: two texts that any store can index.

use super::EventName;
use super::digest::fnv1a;

/// Longer than any name that MX gives, and short enough for a key of every store.
const LONGEST: usize = 200;

/// The name of an event in a store: its job, and what tells it from the job's other events.
pub(crate) struct Key {
    pub(crate) job: String,
    pub(crate) event: String,
}

impl Key {
    pub(crate) fn of(name: &EventName) -> Self {
        let job = name.guid().as_str();
        // What `Display` puts behind the guid and a space.
        let text = name.to_string();
        Self {
            job: storable(job),
            event: storable(&text[job.len() + 1..]),
        }
    }
}

/// The text itself. If it is longer than a key may be, or has a NUL, which Postgres cannot
/// store, a digest of it; and so for a text that could be taken for such a digest.
fn storable(text: &str) -> String {
    let plain = text.len() <= LONGEST && !text.contains('\0') && !text.starts_with("digest:");
    if plain {
        text.to_owned()
    } else {
        format!("digest:{:032x}:{}", fnv1a(text.as_bytes()), text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Job, Status, Timestamp};

    #[test]
    fn names_are_stored_as_they_are_unless_a_store_could_not_take_them() {
        let long = "x".repeat(LONGEST + 1);
        let cases = [
            ("as MX sends them", "JOB-1", "JOB-1"),
            ("strange", "a} {b'c\"\\", "a} {b'c\"\\"),
            ("a NUL", "a\0b", "digest:a68d6315038b5822836dbc79783ec15a:3"),
            ("long", &long, "digest:e7b5f423d4969ef3666fee9b430c6717:201"),
            (
                "what looks like a digest",
                "digest:a68d6315038b5822836dbc79783ec15a:3",
                "digest:4cd1dfeb5ccd81baad27e5a1ea80a15f:41",
            ),
        ];
        for (case, guid, stored) in cases {
            let mut job = Job::new(guid.parse().unwrap(), Status::Completed);
            job.updated_at = Some(Timestamp::from_unix_seconds(1));
            let key = Key::of(&EventName::of(&job.into()));
            assert_eq!(key.job, stored, "{case}");
            assert_eq!(key.event, "COMPLETED 1", "{case}");
        }
        let job = Job::new("JOB-1".parse().unwrap(), Status::from(long.as_str()));
        assert!(
            Key::of(&EventName::of(&job.into()))
                .event
                .starts_with("digest:")
        );
    }
}
