//! Names of events, by which a ledger recognises duplicates.

mod text;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::{Duration, SystemTime};

use super::version::Version;
use crate::event::JobEvent;
#[cfg(feature = "tokio")]
use crate::job::Job;
use crate::job::{JobGuid, Status, Timestamp};
pub use text::ParseEventNameError;
#[cfg(feature = "postgres")]
pub(crate) use text::{read_status, status_text};

/// The name of an event. Two deliveries with the same name are the same event.
///
/// MX's deliveries have no id, and one job has several events: it goes from CHALLENGED to
/// COMPLETED, and it can be CHALLENGED several times (MX's page on aggregating data). The name of
/// an event therefore consists of the job's `guid`, its status and a version. The version is
///
/// - **`updated_at`**, if [`Timestamp`] can read it exactly, including a fraction of a second. The
///   webhook and a poll of the same state of a job then have the same name.
/// - **a digest of the body**, if `updated_at` is absent, null or not readable. The digest ignores
///   white space between values and the order of an object's entries. Every other difference
///   changes it, also in fields that this crate does not read. The webhook and a poll of the same
///   job are then two events.
///
/// Two deliveries that differ in anything that MX sent are two events, unless both have the same
/// job, status and readable date. So in case of doubt a callback runs twice, and no event is lost.
/// Two deliveries of the same bytes are one event, because the second cannot be distinguished from
/// a retry.
///
/// # As text
///
/// `Display` writes the guid, the status and the version, separated by spaces, and `FromStr` reads
/// that. Only the guid can contain spaces, so different names have different texts. Use the text as a key of a store, or as
/// an idempotency key. It is the same on every machine and in every release:
///
/// - The status is its name in ASCII upper case. Each byte of its UTF-8 other than `A` to `Z`, `0`
///   to `9`, `_` and `-` is written as `%` and two hexadecimal digits. A status without a name is
///   written as `#` and its integer.
/// - The version is a decimal number of Unix seconds, without trailing zeros of a fraction, or `#`
///   and 32 hexadecimal digits.
///
/// # Example
///
/// ```
/// use mx_job_webhook::ledger::EventName;
/// use mx_job_webhook::JobEvent;
///
/// let event = JobEvent::decode(
///     r#"{"job": {"guid": "JOB-1", "status_name": "CHALLENGED", "updated_at": 1471281212}}"#,
/// )?;
/// assert_eq!(EventName::of(&event).to_string(), "JOB-1 CHALLENGED 1471281212");
///
/// // The crate cannot read these dates, but their digests still distinguish the two events.
/// let [monday, tuesday] = ["Monday", "Tuesday"].map(|day| {
///     let body = format!(r#"{{"job": {{"guid": "JOB-1", "status": 2, "updated_at": "{day}"}}}}"#);
///     JobEvent::decode(body).map(|event| EventName::of(&event))
/// });
/// assert_ne!(monday?, tuesday?);
/// # Ok::<(), mx_job_webhook::Error>(())
/// ```
#[derive(Clone)]
pub struct EventName {
    guid: JobGuid,
    status: Status,
    version: Version,
    /// Whether the date was plausible when the event was named. This is not part of the name.
    is_plausible: bool,
}

/// Shows the text of the name.
impl fmt::Debug for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EventName")
            .field(&format_args!("{self}"))
            .finish()
    }
}

/// How far MX's clock may be ahead of this machine's.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

impl EventName {
    /// Returns the name of an event.
    ///
    /// For a job that you kept without its body, use `JobEvent::from(job)`. Equal jobs have equal
    /// names. If the job has no readable date, that name differs from the name of the delivery,
    /// which had another body. In that case get the name first, or keep the body.
    #[must_use]
    pub fn of(event: &JobEvent) -> Self {
        Self {
            guid: event.guid.clone(),
            status: event.status.clone(),
            version: Version::of(event),
            is_plausible: event.updated_at.is_some_and(is_plausible),
        }
    }

    /// Returns the name of an event that was stored, of which the job and the digest are known.
    #[cfg(feature = "tokio")]
    pub(crate) fn stored(job: &Job, digest: Option<[u8; 16]>, is_plausible: bool) -> Option<Self> {
        Some(Self {
            guid: job.guid.clone(),
            status: job.status.clone(),
            version: match digest {
                Some(digest) => Version::Digest(digest),
                None => Version::UpdatedAt(job.updated_at?),
            },
            is_plausible,
        })
    }

    /// Returns the digest of the body, if the name contains one.
    #[cfg(feature = "tokio")]
    pub(crate) fn digest(&self) -> Option<[u8; 16]> {
        match self.version {
            Version::Digest(digest) => Some(digest),
            Version::UpdatedAt(_) => None,
        }
    }

    /// Returns the id of the job.
    #[must_use]
    pub fn guid(&self) -> &JobGuid {
        &self.guid
    }

    /// Returns the status of the job.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Returns the time that orders this event among the events of its job.
    ///
    /// It is the `updated_at` of the job. Returns `None` if `updated_at` could not be read, or if
    /// it was more than five minutes ahead of this machine's clock when the event was named. An
    /// event without an ordering time is never stale, and makes no other event stale.
    ///
    /// A date in the future is ignored because it would make all later events of the job stale, for
    /// example if it is in milliseconds. It is nevertheless part of the name. A name that is read
    /// from text is named when it is read, so a date that has passed since then counts.
    ///
    /// If you implement a [`Ledger`](crate::ledger::Ledger), order events by this time alone,
    /// including its fraction.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::job::Timestamp;
    /// use mx_job_webhook::ledger::EventName;
    /// use mx_job_webhook::{Job, Status};
    ///
    /// let mut job = Job::new("JOB-1".parse()?, Status::Challenged);
    /// assert_eq!(EventName::of(&job.clone().into()).ordering_time(), None); // It has no date.
    ///
    /// job.updated_at = Some(Timestamp::from_unix_seconds(1_471_281_212));
    /// assert_eq!(EventName::of(&job.clone().into()).ordering_time(), job.updated_at);
    ///
    /// job.updated_at = Some(Timestamp::from_unix_seconds(1_471_281_212_000)); // milliseconds
    /// assert_eq!(EventName::of(&job.into()).ordering_time(), None);
    /// # Ok::<(), mx_job_webhook::job::BlankIdError>(())
    /// ```
    #[must_use]
    pub fn ordering_time(&self) -> Option<Timestamp> {
        match self.version {
            Version::UpdatedAt(timestamp) if self.is_plausible => Some(timestamp),
            _ => None,
        }
    }
}

/// Returns whether a job can have been updated at this time, by this machine's clock.
fn is_plausible(updated_at: Timestamp) -> bool {
    let Ok(seconds) = u64::try_from(updated_at.unix_seconds()) else {
        return true;
    };
    let earliest_now = Duration::from_secs(seconds).saturating_sub(MAX_CLOCK_SKEW);
    let earliest_now = SystemTime::UNIX_EPOCH.checked_add(earliest_now);
    // A time that the clock cannot express is in the future.
    earliest_now.is_some_and(|earliest_now| earliest_now <= SystemTime::now())
}

// By hand, because `is_plausible` depends on when the event was named.
impl PartialEq for EventName {
    fn eq(&self, other: &Self) -> bool {
        (&self.guid, &self.status, self.version) == (&other.guid, &other.status, other.version)
    }
}

impl Eq for EventName {}

impl Hash for EventName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.guid, &self.status, self.version).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use std::hash::DefaultHasher;

    use super::super::memory::Fingerprint;
    use super::*;
    use crate::job::Job;

    fn decoded(body: &str) -> EventName {
        EventName::of(&JobEvent::decode(body.to_owned()).unwrap())
    }

    /// Returns the name of a CHALLENGED job with these fields.
    fn challenged(fields: &str) -> EventName {
        decoded(&format!(
            r#"{{"job":{{"guid":"JOB-1","status_name":"CHALLENGED",{fields}}}}}"#
        ))
    }

    fn dated(updated_at: Timestamp) -> EventName {
        let mut job = Job::new("JOB-1".parse().unwrap(), Status::Challenged);
        job.updated_at = Some(updated_at);
        EventName::of(&job.into())
    }

    fn hash(name: &EventName) -> u64 {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn a_name_consists_of_job_status_and_time() {
        let first = challenged(r#""updated_at":1471281212"#);
        let same = [
            challenged(r#""updated_at":1471281212,"error_message":"another body""#),
            challenged(r#""new":true,"updated_at":1471281212.000"#),
            challenged(r#""updated_at":"2016-08-15T19:13:32.000+02:00""#),
            decoded(r#"{"job":{"updated_at":14712812120e-1,"guid":"JOB-1","status":2}}"#),
        ];
        for same in same {
            assert_eq!((&first, hash(&first)), (&same, hash(&same)));
            assert_eq!(Fingerprint::of(&first), Fingerprint::of(&same));
            assert_eq!(first.to_string(), same.to_string());
        }
        let others = [
            challenged(r#""updated_at":1471281213"#),
            challenged(r#""updated_at":1471281212.1"#),
            challenged(r#""updated_at":1471281212.9"#),
            challenged(r#""updated_at":"2016-08-15T17:13:32.100000001Z""#),
            challenged(r#""updated_at":"1471281212""#),
            challenged(r#""created_at":1471281212"#),
            decoded(r#"{"job":{"guid":"JOB-1","status":6,"updated_at":1471281212}}"#),
            decoded(r#"{"job":{"guid":"JOB-2","status":2,"updated_at":1471281212}}"#),
        ];
        for (index, other) in others.iter().enumerate() {
            assert_ne!(first, *other);
            for another in others[..index].iter().chain([&first]) {
                assert_ne!(other, another);
                assert_ne!(hash(other), hash(another));
                assert_ne!(Fingerprint::of(other), Fingerprint::of(another));
                assert_ne!(other.to_string(), another.to_string());
            }
        }
    }

    /// Events without a readable date differ if anything in their bodies does, including how the
    /// date is written.
    #[test]
    fn without_a_readable_date_every_difference_makes_another_event() {
        let dates = [
            r#""1471281212""#,
            r#""1471281213""#,
            r#""2016-08-15T17:13:32""#,
            r#""2016-08-15T17:13:33""#,
            r#""Mon, 15 Aug 2016 17:13:32 +0000""#,
            r#""Mon, 15 Aug 2016 17:13:33 +0000""#,
            r#"{"seconds":1471281212}"#,
            r#"{"seconds":1471281213}"#,
            "[1471281212]",
            "[1471281213]",
            "9223372036854775808",
            "9223372036854775809",
            "1471281212.0000000001",
            "1471281212.0000000002",
            r#""2016-12-31T23:59:60Z""#,
            r#""\ud83d""#,
            r#""\ud83e""#,
            "true",
            "null",
            r#"null,"new":1"#,
            r#"null,"new":2"#,
            r#"null,"new":[{"deep":[1]}]"#,
            r#"null,"new":[{"deep":[2]}]"#,
            r#"null,"\ud83d":[]"#,
            r#"null,"error_message":"a""#,
            r#"null,"error_message":"b""#,
        ];
        let names: Vec<_> = dates
            .iter()
            .map(|date| challenged(&format!(r#""updated_at":{date}"#)))
            .chain([challenged(r#""new":1"#)])
            .collect();
        for (index, name) in names.iter().enumerate() {
            assert_eq!(name.ordering_time(), None);
            for other in &names[..index] {
                assert_ne!(name, other);
                assert_ne!(Fingerprint::of(name), Fingerprint::of(other));
                assert_ne!(name.to_string(), other.to_string());
            }
        }
        assert_eq!(
            challenged(r#""new":{"a":1,"b":[]},"updated_at":null"#),
            decoded(
                "\u{feff}{ \"job\":{\"updated_at\" :null,\"status_name\":\"CHALLENGED\",\r\n\t\"new\": \
                 {\"b\":[ ],\"a\":1},\"guid\":\"JOB-1\"}}\n"
            )
        );
    }

    #[test]
    fn equal_jobs_have_equal_names() {
        let named = |status: &str| {
            let job = Job::new("JOB-1".parse().unwrap(), Status::from(status));
            EventName::of(&job.into())
        };
        assert_eq!(named("AUTHENTICATED"), named(" authenticated\n"));
        assert_eq!(named("COMPLETED"), named("Completed"));
        assert_ne!(named("AUTHENTICATED"), named("THROTTLED"));
    }

    #[test]
    fn a_date_in_the_future_is_part_of_the_name_but_orders_nothing() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = i64::try_from(now.unwrap().as_secs()).unwrap();
        let cases = [
            (
                "long ago",
                Timestamp::from_unix_seconds(1_471_281_212),
                true,
            ),
            ("before the epoch", Timestamp::from_unix_seconds(-1), true),
            ("now", Timestamp::from_unix_seconds(now), true),
            (
                "within the clock skew",
                Timestamp::from_unix_seconds(now + 4 * 60),
                true,
            ),
            (
                "in the future",
                Timestamp::from_unix_seconds(now + 6 * 60),
                false,
            ),
            (
                "milliseconds",
                Timestamp::from_unix_seconds(now * 1_000),
                false,
            ),
            ("the latest", Timestamp::new(i64::MAX, 999_999_999), false),
            ("the earliest", Timestamp::from_unix_seconds(i64::MIN), true),
        ];
        for (case, updated_at, orders) in cases {
            let name = dated(updated_at);
            assert_eq!(name.ordering_time(), orders.then_some(updated_at), "{case}");
            assert_eq!(name, dated(updated_at), "{case}");
            assert_ne!(name, dated(Timestamp::from_unix_seconds(5)), "{case}");
        }
    }

    #[test]
    fn plausibility_is_not_part_of_the_name() {
        let after = dated(Timestamp::from_unix_seconds(1_471_281_212));
        let before = EventName {
            is_plausible: false,
            ..after.clone()
        };
        assert_eq!((&before, hash(&before)), (&after, hash(&after)));
        assert_eq!(before.to_string(), after.to_string());
    }
}
