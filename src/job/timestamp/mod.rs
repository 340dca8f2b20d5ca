//! Timestamps: the dates of a job, as moments of Unix time.

mod convert;
mod decimal;
mod iso_8601;

use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::job::Scalar;

#[cfg(any(feature = "jiff", feature = "chrono", feature = "time"))]
pub use convert::TimestampRangeError;
use decimal::Decimal;
pub use iso_8601::ParseTimestampError;

/// A moment of Unix time, with a fraction of a second if one was sent.
///
/// MX's webhooks have dates as integers, in seconds since 1970-01-01T00:00:00Z (MX's *Job Status*
/// page). The Nexus "read job" endpoint has the same dates as ISO 8601. This type reads both, and
/// keeps a fraction down to the nanosecond. A number always counts seconds, never milliseconds. A
/// date that it cannot keep exactly is not read: it never rounds.
///
/// The features `jiff`, `chrono` and `time` add conversions from and to the types of those crates.
/// [`to_system_time`](Self::to_system_time) needs no feature.
///
/// `Display` prints ISO 8601 in UTC, which `FromStr` reads back. Outside of the years 0 to 9999 it prints a decimal number of seconds.
///
/// `FromStr` reads dates such as `2016-08-15T17:13:35+00:00`, with an offset and with at most nine
/// digits after a point.
///
/// `Deserialize` reads the value that the format passes. `serde_json` passes a number with a
/// fraction as a float, which has lost some digits if there were many, so a float is read only if
/// it has at most 15 digits. [`Job::decode`](crate::Job::decode) and
/// [`JobEvent::decode`](crate::JobEvent::decode) read the text itself.
///
/// `Serialize` writes whole seconds as an integer, and a timestamp with a fraction as ISO 8601 in
/// UTC. Both read back as the same timestamp. RFC 3339 ends with the years 0 and 9999: outside
/// these, a fraction is not read, and the fraction of a converted timestamp is not written.
///
/// # Example
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
/// use mx_job_webhook::job::Timestamp;
///
/// let finished = Timestamp::from_unix_seconds(1_471_281_215);
/// assert_eq!(finished, "2016-08-15T17:13:35Z".parse()?);
/// assert_eq!(finished.to_string(), "2016-08-15T17:13:35Z");
/// assert_eq!(finished.to_system_time(), Some(UNIX_EPOCH + Duration::from_secs(1_471_281_215)));
/// # Ok::<(), mx_job_webhook::job::ParseTimestampError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    seconds: i64,
    /// The nanoseconds plus one. As zero never occurs, an `Option` takes no extra space.
    nanos: NonZeroU32,
}

/// How many nanoseconds a second has.
const NANOS_PER_SECOND: u32 = 1_000_000_000;

impl Timestamp {
    /// Returns the moment this many seconds after the Unix epoch, or before it if negative.
    #[must_use]
    pub const fn from_unix_seconds(seconds: i64) -> Self {
        Self::new(seconds, 0)
    }

    /// Returns the moment `seconds` and `nanos` after the Unix epoch. `nanos` is less than a
    /// second.
    pub(crate) const fn new(seconds: i64, nanos: u32) -> Self {
        Self {
            seconds,
            nanos: NonZeroU32::MIN.saturating_add(nanos),
        }
    }

    /// Returns the whole seconds since the Unix epoch; negative before it.
    ///
    /// A fraction is rounded down, towards the past.
    #[must_use]
    pub const fn unix_seconds(self) -> i64 {
        self.seconds
    }

    /// Returns the nanoseconds since [`unix_seconds`](Self::unix_seconds): 0 to 999,999,999.
    ///
    /// They count towards the future, also before 1970.
    #[must_use]
    pub const fn subsec_nanos(self) -> u32 {
        self.nanos.get() - 1
    }

    /// Returns the moment as the standard library's type.
    ///
    /// Returns `None` if the platform's type cannot express it, which happens only for dates that
    /// no real job has. On Windows, which counts in units of 100 ns, it is rounded down to one.
    #[must_use]
    pub fn to_system_time(self) -> Option<SystemTime> {
        let distance = Duration::from_secs(self.seconds.unsigned_abs());
        let second = if self.seconds < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(distance)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(distance)
        };
        second?.checked_add(Duration::from_nanos(self.subsec_nanos().into()))
    }

    /// Reads a date of a payload. Returns `None` if it is not a date, or cannot be kept exactly.
    pub(crate) fn from_scalar(scalar: &Scalar<'_>) -> Option<Self> {
        match scalar {
            Scalar::Text(text) => text.parse().ok(),
            Scalar::Number(number) => {
                let moment = Self::new(number.whole, number.nanos);
                moment.reads_back().then_some(moment)
            }
            _ => None,
        }
    }

    /// Returns whether the serialised form reads back as the same timestamp.
    fn reads_back(self) -> bool {
        self.subsec_nanos() == 0 || iso_8601::to_utc(self).is_some()
    }

    /// Returns the timestamp as a decimal number of seconds.
    pub(crate) const fn decimal(self) -> Decimal {
        Decimal(self)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match iso_8601::to_utc(*self) {
            Some(moment) => write!(f, "{moment}Z"),
            None => write!(f, "{}", self.decimal()),
        }
    }
}

/// Prints a decimal number of seconds.
impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timestamp({})", self.decimal())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fraction = self.subsec_nanos() > 0;
        match iso_8601::to_utc(*self).filter(|_| fraction) {
            Some(moment) => serializer.collect_str(&format_args!("{moment}Z")),
            None => serializer.serialize_i64(self.seconds),
        }
    }
}

/// Reads Unix seconds, or ISO 8601 with an offset.
impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let scalar = Scalar::deserialize(deserializer)?;
        Self::from_scalar(&scalar)
            .ok_or_else(|| serde::de::Error::custom(ParseTimestampError::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(moment: Timestamp) -> (i64, u32) {
        (moment.unix_seconds(), moment.subsec_nanos())
    }

    #[test]
    fn converts_to_system_time_on_both_sides_of_the_epoch_and_never_panics() {
        for (seconds, nanos) in [
            (0, 0),
            (1, 0),
            (-1, 0),
            (1_471_281_215, 5),
            (-2, 500_000_000),
        ] {
            let time = Timestamp::new(seconds, nanos).to_system_time().unwrap();
            let expected = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
            let back = match time.duration_since(SystemTime::UNIX_EPOCH) {
                Ok(after) => i128::try_from(after.as_nanos()).unwrap(),
                Err(before) => -i128::try_from(before.duration().as_nanos()).unwrap(),
            };
            assert_eq!(back, expected);
        }
        for seconds in [i64::MIN, i64::MAX] {
            let _ = Timestamp::new(seconds, 999_999_999).to_system_time();
        }
    }

    #[test]
    fn is_printed_as_a_date_that_is_read_back() {
        for (seconds, nanos, printed) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (1_471_281_215, 999_000_000, "2016-08-15T17:13:35.999Z"),
            (-2, 500_000_000, "1969-12-31T23:59:58.5Z"),
            (
                253_402_300_799,
                999_999_999,
                "9999-12-31T23:59:59.999999999Z",
            ),
        ] {
            let moment = Timestamp::new(seconds, nanos);
            assert_eq!(moment.to_string(), printed);
            assert_eq!(printed.parse(), Ok(moment));
        }
        for (seconds, printed) in [
            (253_402_300_800, "253402300800"),
            (i64::MIN, "-9223372036854775808"),
        ] {
            assert_eq!(Timestamp::from_unix_seconds(seconds).to_string(), printed);
        }
    }

    #[test]
    fn orders_by_seconds_and_then_by_the_fraction() {
        let moments = [
            Timestamp::from_unix_seconds(i64::MIN),
            Timestamp::new(-2, 999_999_999),
            Timestamp::from_unix_seconds(-1),
            Timestamp::new(-1, 1),
            Timestamp::from_unix_seconds(0),
            Timestamp::new(0, 1),
            Timestamp::new(0, 999_999_999),
            Timestamp::from_unix_seconds(1),
            Timestamp::new(i64::MAX, 999_999_999),
        ];
        assert!(moments.is_sorted_by(|one, next| one < next));
    }

    #[test]
    fn serialises_as_an_integer_or_as_iso_8601_and_reads_back() {
        let cases = [
            ((5, 0), "5", true),
            ((-5, 0), "-5", true),
            ((i64::MAX, 0), "9223372036854775807", true),
            ((5, 250_000_000), "\"1970-01-01T00:00:05.25Z\"", true),
            ((-1, 500_000_000), "\"1969-12-31T23:59:59.5Z\"", true),
            // The year is out of RFC 3339's range.
            ((i64::MAX, 1), "9223372036854775807", false),
            ((-62_167_219_201, 1), "-62167219201", false),
            (
                (-62_167_219_200, 1),
                "\"0000-01-01T00:00:00.000000001Z\"",
                true,
            ),
        ];
        for ((seconds, nanos), json, same) in cases {
            let moment = Timestamp::new(seconds, nanos);
            assert_eq!(serde_json::to_string(&moment).unwrap(), json);
            let read: Timestamp = serde_json::from_str(json).unwrap();
            assert_eq!(read == moment, same, "{json}");
        }
        for (json, expected) in [
            ("5.0", Some((5, 0))),
            ("5.25", Some((5, 250_000_000))),
            ("1471281212.1", Some((1_471_281_212, 100_000_000))),
            ("1471281212.12345", Some((1_471_281_212, 123_450_000))),
            ("5e0", Some((5, 0))),
            ("9.2e18", Some((9_200_000_000_000_000_000, 0))),
            // The year is out of RFC 3339's range.
            ("253402300800.5", None),
            ("-62167219201.5", None),
            ("-62167219201", Some((-62_167_219_201, 0))),
            ("\"-000001-12-31T23:59:59.5Z\"", None),
            ("\"-000001-12-31T23:59:59Z\"", None),
            (
                "\"9999-12-31T23:59:59.999Z\"",
                Some((253_402_300_799, 999_000_000)),
            ),
            ("null", None),
            ("{\"seconds\":5}", None),
        ] {
            let read = serde_json::from_str::<Timestamp>(json).ok().map(parts);
            assert_eq!(read, expected, "{json}");
        }
    }

    /// A float may stand for another number. With `arbitrary_precision`, the text is read instead.
    #[test]
    fn a_number_with_more_digits_than_a_float_has_is_read_exactly_or_not_at_all() {
        for (json, exact) in [
            ("1471281212.123456789", (1_471_281_212, 123_456_789)),
            ("9007199254740993.0", (9_007_199_254_740_993, 0)),
        ] {
            let read = serde_json::from_str::<Timestamp>(json).ok().map(parts);
            assert!(read.is_none_or(|read| read == exact), "{json}: {read:?}");
        }
    }

    #[test]
    fn an_optional_timestamp_takes_16_bytes() {
        assert_eq!(size_of::<Option<Timestamp>>(), 16);
    }
}
