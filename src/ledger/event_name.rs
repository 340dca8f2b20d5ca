//! What makes two deliveries the same event.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::{Duration, SystemTime};

use super::memory::{CachedHash, Fingerprint};
use super::version::Version;
use crate::event::JobEvent;
use crate::job::{JobGuid, Status, Timestamp};

/// The name of an event: two deliveries with one name are one event.
///
/// MX gives a delivery no id, and one job is delivered several times: as it goes from
/// CHALLENGED to COMPLETED, and once for each time it is CHALLENGED (MX's page on
/// aggregating data). So an event is named by its job's `guid`, its status and a version:
///
/// - **its `updated_at`**, if that was understood in full, with its fraction of a second if
///   one was sent. A webhook and a poll of the same state of a job then have one name.
/// - **a digest of its body**, if `updated_at` is absent, null, or written in a way that
///   [`Timestamp`] does not read. White space between values and the order of an object's
///   entries make no difference; anything else does, in fields that this crate does not know
///   too. So a job that is polled and one that is delivered are two events without a date.
///
/// Two deliveries that differ in anything MX sent are two events, unless both have the same
/// readable date: if in doubt a callback runs twice, and no event is lost. Two deliveries of the
/// same bytes are one event, because nothing tells the second from a retry.
///
/// # As text
///
/// `Display` writes the guid, the status and the version, separated by a space. Only the guid can
/// have spaces in it, so no two names have one text: it is a key for a store, and an idempotency
/// key. It is the same on every machine and in every release:
///
/// - a status is its name in ASCII upper case, in which each byte of UTF-8 other than `A` to
///   `Z`, `0` to `9`, `_` and `-` is written as `%` and two hexadecimal digits; a status that has
///   no name is `#` and its integer;
/// - a version is a decimal number of Unix seconds, without zeros at the end of a fraction, or
///   `#` and 32 hexadecimal digits.
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
/// // The crate does not read a date in words, but it still tells two events apart.
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
    /// Whether its date was plausible when it was named. No part of the name.
    is_plausible: bool,
    /// Filled by the memory ledger only.
    job_hash: CachedHash,
}

/// As its text.
impl fmt::Debug for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EventName")
            .field(&format_args!("{self}"))
            .finish()
    }
}

/// How far MX's clock may be ahead of this machine's.
const CLOCKS_APART: Duration = Duration::from_secs(5 * 60);

impl EventName {
    /// Returns the name of this event.
    ///
    /// A job that is kept without its body is named by `JobEvent::from(job)`: equal jobs have
    /// equal names. Without a readable date that is another name than its delivery's, because the
    /// body is gone: take the name first, or keep the body.
    #[must_use]
    pub fn of(event: &JobEvent) -> Self {
        Self {
            guid: event.guid.clone(),
            status: event.status.clone(),
            version: Version::of(event),
            is_plausible: event.updated_at.is_some_and(is_plausible),
            job_hash: CachedHash::default(),
        }
    }

    /// The job.
    #[must_use]
    pub fn guid(&self) -> &JobGuid {
        &self.guid
    }

    /// What the job was at.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Returns what identifies the event in the tables of this process.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.guid, &self.status, self.version, &self.job_hash)
    }

    /// Returns the time that orders this event among those of its job, if it has one.
    ///
    /// It is the `updated_at` of the job. `None` says that the event makes no other stale, and
    /// never is: its date was not understood, or was later than this machine's clock by more than
    /// five minutes when the event was named. An order by such a date (milliseconds, say, that
    /// read as seconds) would make every later event of the job stale. The date is part of the
    /// name all the same.
    ///
    /// A [`Ledger`](crate::ledger::Ledger) of your own orders by this, fraction included, and by nothing
    /// else.
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

/// Whether a job can have been updated then: not in the future, by this machine's clock.
fn is_plausible(updated_at: Timestamp) -> bool {
    let Ok(seconds) = u64::try_from(updated_at.unix_seconds()) else {
        return true;
    };
    let earliest_now = Duration::from_secs(seconds).saturating_sub(CLOCKS_APART);
    let earliest_now = SystemTime::UNIX_EPOCH.checked_add(earliest_now);
    // What the clock cannot express is further in the future than anything.
    earliest_now.is_some_and(|earliest_now| earliest_now <= SystemTime::now())
}

// By hand, because whether a date is plausible depends on when it was asked.
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

/// The guid, the status and the version, as said [above](#as-text).
impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.guid)?;
        match (self.status.name(), self.status.code()) {
            (Some(name), _) => write_name(name, f)?,
            (None, Some(code)) => write!(f, "#{code}")?,
            (None, None) => {}
        }
        f.write_str(" ")?;
        write!(f, "{}", self.version)
    }
}

/// Writes a status so that it has neither a space nor a `#`, whatever MX may call it.
fn write_name(name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let is_plain = |byte: u8| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-');
    if name.bytes().all(is_plain) {
        return f.write_str(name);
    }
    for byte in name.bytes() {
        if is_plain(byte) {
            write!(f, "{}", char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::hash::DefaultHasher;

    use super::*;
    use crate::job::Job;

    fn decoded(body: &str) -> EventName {
        EventName::of(&JobEvent::decode(body.to_owned()).unwrap())
    }

    /// A job that is CHALLENGED, with these fields.
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
    fn one_event_is_a_job_at_a_status_at_a_time() {
        let first = challenged(r#""updated_at":1471281212"#);
        let same = [
            challenged(r#""updated_at":1471281212,"error_message":"told apart by nothing else""#),
            challenged(r#""new":true,"updated_at":1471281212.000"#),
            challenged(r#""updated_at":"2016-08-15T19:13:32.000+02:00""#),
            decoded(r#"{"job":{"updated_at":14712812120e-1,"guid":"JOB-1","status":2}}"#),
        ];
        for same in same {
            assert_eq!((&first, hash(&first)), (&same, hash(&same)));
            assert_eq!(first.fingerprint(), same.fingerprint());
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
                assert_ne!(other.fingerprint(), another.fingerprint());
                assert_ne!(other.to_string(), another.to_string());
            }
        }
    }

    /// A date that is not understood tells two events apart by how it is written, and so does any
    /// other difference where there is no date.
    #[test]
    fn without_a_time_that_is_understood_anything_tells_two_events_apart() {
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
                assert_ne!(name.fingerprint(), other.fingerprint());
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

    /// Names are stored: none of these texts may ever change.
    #[test]
    fn the_texts_of_these_names_stay_as_they_are() {
        let texts = [
            (
                r#""status_name":"CHALLENGED","updated_at":1471281212"#,
                "CHALLENGED 1471281212",
            ),
            (
                r#""status":2,"updated_at":1471281212.100"#,
                "CHALLENGED 1471281212.1",
            ),
            (
                r#""status":6,"updated_at":"2022-06-16T18:42:43.000000009Z""#,
                "COMPLETED 1655404963.000000009",
            ),
            (r#""status":6,"updated_at":0"#, "COMPLETED 0"),
            (r#""status":6,"updated_at":-1"#, "COMPLETED -1"),
            (r#""status":6,"updated_at":-0.5"#, "COMPLETED -0.5"),
            (
                r#""status":6,"updated_at":"1969-12-31T23:59:58.500Z""#,
                "COMPLETED -1.5",
            ),
            (
                r#""status":6,"updated_at":9223372036854775807"#,
                "COMPLETED 9223372036854775807",
            ),
            (
                r#""status":6,"updated_at":-9223372036854775808"#,
                "COMPLETED -9223372036854775808",
            ),
            (r#""status":42,"updated_at":1"#, "#42 1"),
            (r#""status":-7,"updated_at":1"#, "#-7 1"),
            (r#""status_name":"42","updated_at":1"#, "42 1"),
            (r##""status_name":"#42","updated_at":1"##, "%2342 1"),
            (r#""status_name":"auth-2_b","updated_at":1"#, "AUTH-2_B 1"),
            (
                r#""status_name":"in flight 2","updated_at":1"#,
                "IN%20FLIGHT%202 1",
            ),
            (r#""status_name":"100% ","updated_at":1"#, "100%25 1"),
            (
                r#""status_name":"a\u0000b\nc","updated_at":1"#,
                "A%00B%0AC 1",
            ),
            (r#""status_name":"é","updated_at":1"#, "%C3%A9 1"),
            (r#""status_name":"É","updated_at":1"#, "%C3%89 1"),
            (
                r#""status_name":"ß🏦\u0378","updated_at":1"#,
                "%C3%9F%F0%9F%8F%A6%CD%B8 1",
            ),
        ];
        for (fields, text) in texts {
            let name = decoded(&format!(r#"{{"job":{{"guid":"JOB-1",{fields}}}}}"#));
            assert_eq!(name.to_string(), format!("JOB-1 {text}"));
        }
        let digests = [
            (
                r#"{"job":{"guid":"JOB-1","status_name":"CHALLENGED","updated_at":"1471281212"}}"#,
                "JOB-1 CHALLENGED #92a907a514054313127bbc9e01f3be9f",
            ),
            (
                r#"{"job": {"updated_at": null, "status": 2, "guid": "JOB-\u00e9", "new": [1.0, "é🏦"]}}"#,
                "JOB-é CHALLENGED #f854a92ba19f54905a4329799e520c79",
            ),
        ];
        for (body, text) in digests {
            assert_eq!(decoded(body).to_string(), text);
        }
        let job = Job::new("JOB-1".parse().unwrap(), Status::Challenged);
        assert_eq!(
            EventName::of(&job.into()).to_string(),
            "JOB-1 CHALLENGED #d43cf7b9bedb5677baa1495178f0b270"
        );
    }

    #[test]
    fn the_text_is_unique_however_strange_the_parts_are() {
        let strange = |guid: &str, status: Status| {
            let mut job = Job::new(guid.parse().unwrap(), status);
            job.updated_at = Some(Timestamp::from_unix_seconds(1));
            EventName::of(&job.into()).to_string()
        };
        let texts = [
            strange("a b", "c".into()),
            strange("a", "b c".into()),
            strange("a", "\"b c\"".into()),
            strange("a", "b%20c".into()),
            strange("a", "42".into()),
            strange("a", 42.into()),
            strange("a", "#42".into()),
            strange("a", "".into()),
            strange("a ", "".into()),
            strange("a #42", "".into()),
        ];
        for (index, text) in texts.iter().enumerate() {
            assert!(!texts[..index].contains(text), "{text}");
        }
    }

    #[test]
    fn a_date_in_the_future_orders_nothing_and_is_a_name_all_the_same() {
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
                "clocks apart",
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
            ("the last", Timestamp::new(i64::MAX, 999_999_999), false),
            ("the first", Timestamp::from_unix_seconds(i64::MIN), true),
        ];
        for (case, updated_at, orders) in cases {
            let name = dated(updated_at);
            assert_eq!(name.ordering_time(), orders.then_some(updated_at), "{case}");
            assert_eq!(name, dated(updated_at), "{case}");
            assert_ne!(name, dated(Timestamp::from_unix_seconds(5)), "{case}");
        }
    }

    #[test]
    fn a_name_is_the_same_before_and_after_its_date() {
        let after = dated(Timestamp::from_unix_seconds(1_471_281_212));
        let before = EventName {
            is_plausible: false,
            ..after.clone()
        };
        assert_eq!((&before, hash(&before)), (&after, hash(&after)));
        assert_eq!(before.to_string(), after.to_string());
    }
}
