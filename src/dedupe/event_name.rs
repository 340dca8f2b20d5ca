//! What makes two deliveries the same event.

use std::fmt;

use super::fingerprint::Fingerprint;
use crate::{Job, JobGuid, Status, Timestamp};

/// The name of an event: two deliveries with one name are one event.
///
/// MX gives a delivery no id, and one job is delivered several times: as it goes from
/// CHALLENGED to COMPLETED, and once for each time it is CHALLENGED (MX's page on
/// aggregating data). So an event is named by its job's `guid`, its status and its
/// `updated_at`. Without an `updated_at`, a digest of the fourteen documented fields
/// stands in its place; it is the same on every machine and in every release.
///
/// `Display` gives the name as a text that is unique to the event: a key for a
/// [`Ledger`](crate::Ledger) that stores text.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{EventName, Job};
///
/// let job = Job::decode(
///     br#"{"job": {"guid": "JOB-1", "status_name": "CHALLENGED", "updated_at": 1471281212}}"#,
/// )?;
/// assert_eq!(EventName::of(&job).to_string(), "JOB-1 CHALLENGED 1471281212");
/// # Ok::<(), mx_job_webhook::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventName {
    guid: JobGuid,
    status: Status,
    version: Version,
    /// Taken once, although a ledger in memory is asked twice or more.
    fingerprint: Fingerprint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Version {
    UpdatedAt(Timestamp),
    Digest(u64),
}

impl EventName {
    /// The name of the event that this job was delivered for.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{EventName, Job};
    ///
    /// // From a webhook, and from the Nexus API: one event.
    /// let webhook = br#"{"job": {"guid": "JOB-1", "status": 6, "updated_at": 1655404963}}"#;
    /// let polled = br#"{"job": {"guid": "JOB-1", "status": 6, "updated_at": "2022-06-16T18:42:43.000Z"}}"#;
    /// assert_eq!(EventName::of(&Job::decode(webhook)?), EventName::of(&Job::decode(polled)?));
    /// # Ok::<(), mx_job_webhook::Error>(())
    /// ```
    #[must_use]
    pub fn of(job: &Job) -> Self {
        let version = job
            .updated_at
            .map_or_else(|| Version::Digest(digest(job)), Version::UpdatedAt);
        Self {
            guid: job.guid.clone(),
            status: job.status.clone(),
            version,
            fingerprint: Fingerprint::of(&job.guid, &job.status, version),
        }
    }

    /// The job.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{EventName, Job, Status};
    ///
    /// let name = EventName::of(&Job::new("JOB-1".parse()?, Status::Denied));
    /// assert_eq!(name.guid(), "JOB-1");
    /// # Ok::<(), mx_job_webhook::BlankIdError>(())
    /// ```
    #[must_use]
    pub fn guid(&self) -> &JobGuid {
        &self.guid
    }

    /// What the job was at.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{EventName, Job, Status};
    ///
    /// let name = EventName::of(&Job::new("JOB-1".parse()?, Status::Denied));
    /// assert_eq!(name.status(), &Status::Denied);
    /// # Ok::<(), mx_job_webhook::BlankIdError>(())
    /// ```
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// What stands for it in tables of this process.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// When the job was updated; orders the events of one job.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{EventName, Job, Status, Timestamp};
    ///
    /// let mut job = Job::new("JOB-1".parse()?, Status::Challenged);
    /// assert_eq!(EventName::of(&job).updated_at(), None); // Named by a digest, and without an order.
    ///
    /// job.updated_at = Some(Timestamp::from_unix_seconds(1_471_281_212));
    /// assert_eq!(EventName::of(&job).updated_at(), job.updated_at);
    /// # Ok::<(), mx_job_webhook::BlankIdError>(())
    /// ```
    #[must_use]
    pub fn updated_at(&self) -> Option<Timestamp> {
        match self.version {
            Version::UpdatedAt(timestamp) => Some(timestamp),
            Version::Digest(_) => None,
        }
    }
}

/// The guid, the status and the Unix seconds, or `#` and the digest.
impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |name: &str| name.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'_'));
        // Equal events have one text: case makes no difference in a status.
        match self.status.name().map(str::to_ascii_uppercase) {
            // Read from its end, the text can mean but one event: a strange name is quoted.
            Some(name) if !plain(&name) => write!(f, "{} {name:?} ", self.guid)?,
            Some(name) => write!(f, "{} {name} ", self.guid)?,
            None => write!(f, "{} {} ", self.guid, self.status)?,
        }
        match self.version {
            Version::UpdatedAt(timestamp) => write!(f, "{}", timestamp.unix_seconds()),
            Version::Digest(digest) => write!(f, "#{digest:016x}"),
        }
    }
}

/// FNV-1a over the documented shape. It tells one job's versions apart, no more: whoever wants to
/// make two of them collide has the credentials, and could as well not send the second.
fn digest(job: &Job) -> u64 {
    let shape = serde_json::to_vec(job).unwrap_or_default();
    fnv1a(&shape)
}

pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(change: impl FnOnce(&mut Job)) -> EventName {
        let mut job = Job::new("JOB-1".parse().unwrap(), Status::Challenged);
        change(&mut job);
        EventName::of(&job)
    }

    fn at(seconds: i64) -> impl Fn(&mut Job) {
        move |job| job.updated_at = Some(Timestamp::from_unix_seconds(seconds))
    }

    #[test]
    fn one_event_is_a_job_at_a_status_at_a_time() {
        let first = named(at(1));
        assert_eq!(
            first,
            named(|job| {
                at(1)(job);
                job.error_message = Some("told apart by nothing else".into());
            })
        );
        let others = [
            named(at(2)),
            named(|job| {
                at(1)(job);
                job.status = Status::Completed;
            }),
            named(|job| {
                at(1)(job);
                job.guid = "JOB-2".parse().unwrap();
            }),
            named(|_| {}),
        ];
        for other in others {
            assert_ne!(first, other);
            assert_ne!(first.to_string(), other.to_string());
        }
    }

    #[test]
    fn without_a_time_any_documented_field_tells_two_events_apart() {
        let first = named(|_| {});
        assert_eq!(first, named(|_| {}));
        assert_eq!(first.updated_at(), None);
        assert_ne!(first, named(|job| job.is_authenticated = Some(true)));
        // Stored names must stay good: this one may never change.
        assert_eq!(first.to_string(), "JOB-1 CHALLENGED #1ce3f6db512ae7db");
    }

    #[test]
    fn the_text_is_unique_however_strange_the_parts_are() {
        let strange = |guid: &str, status: &str| {
            named(|job| {
                at(1)(job);
                job.guid = guid.parse().unwrap();
                job.status = Status::from(status);
            })
            .to_string()
        };
        assert_ne!(strange("a b", "c"), strange("a", "b c"));
        assert_ne!(strange("a", "b \"c"), strange("a", "b \\\"c"));
        assert_ne!(strange("a", "\"b c\""), strange("a", "b c"));
        assert_eq!(strange("a", "new"), strange("a", "NEW"));
        assert_ne!(
            strange("a", "42"),
            named(|job| {
                at(1)(job);
                job.guid = "a".parse().unwrap();
                job.status = Status::from(42);
            })
            .to_string()
        );
    }

    #[test]
    fn the_digest_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
