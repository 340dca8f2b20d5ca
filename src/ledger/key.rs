//! Keys of events in the shared ledgers: two texts that every store can index.

use super::EventName;
use super::digest::fnv1a;

/// The maximum length of a key's text, in bytes.
///
/// MX's names are shorter, and every store accepts a key of this length.
const MAX_LENGTH: usize = 200;

/// The key of an event: the job's guid, and the rest of the event's name.
pub(crate) struct Key {
    pub(crate) job: String,
    pub(crate) event: String,
}

impl Key {
    pub(crate) fn of(name: &EventName) -> Self {
        let job = name.guid().as_str();
        // The text begins with the guid and a space.
        let text = name.to_string();
        Self {
            job: storable(job),
            event: storable(&text[job.len() + 1..]),
        }
    }
}

/// Returns the text itself, or a digest of it if it cannot be stored.
///
/// A text is replaced if it is too long, or contains a NUL, which Postgres cannot store. A text
/// that looks like a digest is replaced too, so that it cannot collide with one.
pub(crate) fn storable(text: &str) -> String {
    let is_plain = text.len() <= MAX_LENGTH && !text.contains('\0') && !text.starts_with("digest:");
    if is_plain {
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
    fn texts_that_cannot_be_stored_are_replaced_by_a_digest() {
        let long = "x".repeat(MAX_LENGTH + 1);
        let cases = [
            ("plain", "JOB-1", "JOB-1"),
            ("with special characters", "a} {b'c\"\\", "a} {b'c\"\\"),
            ("a NUL", "a\0b", "digest:a68d6315038b5822836dbc79783ec15a:3"),
            ("long", &long, "digest:e7b5f423d4969ef3666fee9b430c6717:201"),
            (
                "like a digest",
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
