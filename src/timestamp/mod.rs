//! A moment in Unix seconds, which is how MX dates a job.

mod convert;

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::job::Scalar;

#[cfg(any(feature = "jiff", feature = "chrono", feature = "time"))]
pub use convert::TimestampRangeError;

/// A moment in whole seconds since 1970-01-01T00:00:00Z.
///
/// MX's webhooks date jobs with such integers (MX's *Job Status* page); the Nexus
/// "read job" endpoint writes the same dates as ISO 8601. Both are read. An integer
/// is always seconds: milliseconds are never guessed. A fraction of a second is
/// dropped, towards the past.
///
/// The features `jiff`, `chrono` and `time` convert it from and to the types of those
/// crates; [`to_system_time`](Self::to_system_time) needs none of them.
///
/// # Example
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
/// use mx_job_webhook::Timestamp;
///
/// let finished = Timestamp::from_unix_seconds(1_471_281_215);
/// assert_eq!(finished, "2016-08-15T17:13:35Z".parse()?);
/// assert_eq!(finished.to_system_time(), Some(UNIX_EPOCH + Duration::from_secs(1_471_281_215)));
/// # Ok::<(), mx_job_webhook::ParseTimestampError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment that many seconds after the Unix epoch, or before it.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::Timestamp;
    ///
    /// const EPOCH: Timestamp = Timestamp::from_unix_seconds(0);
    /// assert!(Timestamp::from_unix_seconds(1_471_281_212) > EPOCH);
    /// ```
    #[must_use]
    pub const fn from_unix_seconds(seconds: i64) -> Self {
        Self(seconds)
    }

    /// Seconds since the Unix epoch; negative before it.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::Timestamp;
    ///
    /// let before_1970: Timestamp = "1969-12-31T23:59:59.500Z".parse()?;
    /// assert_eq!(before_1970.unix_seconds(), -1); // Half a second before, towards the past.
    /// # Ok::<(), mx_job_webhook::ParseTimestampError>(())
    /// ```
    #[must_use]
    pub const fn unix_seconds(self) -> i64 {
        self.0
    }

    /// The same moment as the standard library's type.
    ///
    /// `None` if the platform's clock cannot express it, which happens only for
    /// dates that no job has.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use mx_job_webhook::{Job, Timestamp};
    ///
    /// /// How long MX was at it.
    /// fn took(job: &Job) -> Option<Duration> {
    ///     let [start, end] = [job.started_at, job.finished_at].map(|at| at.and_then(Timestamp::to_system_time));
    ///     end?.duration_since(start?).ok()
    /// }
    ///
    /// let job = br#"{"job": {"guid": "JOB-1", "status": 6, "started_at": 100, "finished_at": 103}}"#;
    /// assert_eq!(took(&Job::decode(job)?), Some(Duration::from_secs(3)));
    /// # Ok::<(), mx_job_webhook::Error>(())
    /// ```
    #[must_use]
    pub fn to_system_time(self) -> Option<SystemTime> {
        let distance = Duration::from_secs(self.0.unsigned_abs());
        if self.0 < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(distance)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(distance)
        }
    }

    /// Reads a date that a payload holds, or nothing where it is no date.
    pub(crate) fn from_scalar(scalar: &Scalar<'_>) -> Option<Self> {
        match scalar {
            Scalar::Text(text) => text.parse().ok(),
            number => number.floor().map(Self),
        }
    }

    fn from_jiff(moment: jiff::Timestamp) -> Self {
        // jiff truncates towards the epoch; a fraction before it belongs to the second before.
        let before_epoch = i64::from(moment.subsec_nanosecond() < 0);
        Self(moment.as_second() - before_epoch)
    }
}

/// Reads ISO 8601 with an offset, such as `2016-08-15T17:13:35+00:00`.
impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let moment = text.parse().map_err(|_| ParseTimestampError(()))?;
        Ok(Self::from_jiff(moment))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.0)
    }
}

/// Reads an integer in Unix seconds, or ISO 8601 with an offset.
impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let scalar = Scalar::deserialize(deserializer)?;
        Self::from_scalar(&scalar).ok_or_else(|| serde::de::Error::custom(ParseTimestampError(())))
    }
}

/// A text was no ISO 8601 date and time with an offset.
///
/// A date without an offset is refused too: which zone it meant would be a guess.
///
/// # Example
///
/// ```
/// use mx_job_webhook::Timestamp;
///
/// assert!("2016-08-15T17:13:35".parse::<Timestamp>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseTimestampError(());

impl fmt::Display for ParseTimestampError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither Unix seconds nor an ISO 8601 date with an offset")
    }
}

impl std::error::Error for ParseTimestampError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_forms_of_iso_8601_and_refuses_what_would_be_a_guess() {
        let cases = [
            ("Zulu", "2016-08-15T17:13:35Z", Some(1_471_281_215)),
            ("offset", "2016-08-15T19:13:35+02:00", Some(1_471_281_215)),
            (
                "zero offset",
                "2016-08-15T17:13:35+00:00",
                Some(1_471_281_215),
            ),
            (
                "milliseconds",
                "2016-08-15T17:13:35.999Z",
                Some(1_471_281_215),
            ),
            ("space", "2016-08-15 17:13:35Z", Some(1_471_281_215)),
            ("before the epoch", "1969-12-31T23:59:58.5Z", Some(-2)),
            ("no offset", "2016-08-15T17:13:35", None),
            ("date only", "2016-08-15", None),
            ("digits", "1471281215", None),
            ("empty", "", None),
            ("month 13", "2016-13-15T17:13:35Z", None),
            ("words", "yesterday", None),
        ];
        for (name, text, expected) in cases {
            let read = text.parse::<Timestamp>().ok().map(Timestamp::unix_seconds);
            assert_eq!(read, expected, "{name}");
        }
    }

    #[test]
    fn converts_to_system_time_on_both_sides_of_the_epoch_and_never_panics() {
        for seconds in [0, 1, -1, 1_471_281_215] {
            let time = Timestamp::from_unix_seconds(seconds)
                .to_system_time()
                .unwrap();
            let back = match time.duration_since(SystemTime::UNIX_EPOCH) {
                Ok(after) => i64::try_from(after.as_secs()).unwrap(),
                Err(before) => -i64::try_from(before.duration().as_secs()).unwrap(),
            };
            assert_eq!(back, seconds);
        }
        for seconds in [i64::MIN, i64::MAX] {
            let _ = Timestamp::from_unix_seconds(seconds).to_system_time();
        }
    }

    #[test]
    fn serialises_as_an_integer() {
        let json = serde_json::to_string(&Timestamp(5)).unwrap();
        assert_eq!(json, "5");
        for json in ["5", "\"1970-01-01T00:00:05Z\"", "5.9"] {
            assert_eq!(
                serde_json::from_str::<Timestamp>(json).unwrap(),
                Timestamp(5),
                "{json}"
            );
        }
        assert!(serde_json::from_str::<Timestamp>("null").is_err());
    }
}
