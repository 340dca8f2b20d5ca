//! A moment in Unix time, which is how MX dates a job.

mod convert;

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use jiff::SignedDuration;
use jiff::civil::DateTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::job::Scalar;

#[cfg(any(feature = "jiff", feature = "chrono", feature = "time"))]
pub use convert::TimestampRangeError;

/// A moment in Unix time: seconds since 1970-01-01T00:00:00Z, and a fraction if one was sent.
///
/// MX's webhooks date jobs with integers in seconds (MX's *Job Status* page); the Nexus
/// "read job" endpoint writes the same dates as ISO 8601. Both are read, and a fraction is
/// kept down to the nanosecond. A number is always seconds: milliseconds are never
/// guessed. A date that cannot be kept in full is not read at all; nothing is rounded.
///
/// The features `jiff`, `chrono` and `time` convert it from and to the types of those
/// crates; [`to_system_time`](Self::to_system_time) needs none of them.
///
/// Its `FromStr` reads `2016-08-15T17:13:35` with an offset, and with up to nine digits behind a
/// point. Its `Deserialize` reads what the format hands over: `serde_json` makes a float of a
/// number with a fraction, and digits beyond the float's are gone by then. A float is read if
/// it has 15 digits at most. [`Job::decode`](crate::Job::decode) and
/// [`JobEvent::decode`](crate::JobEvent::decode) read the text.
///
/// `Serialize` writes whole seconds as an integer, and a moment with a fraction as ISO 8601
/// in UTC. Both read back as the same moment. (A fraction outside of the years 0 to 9999 is
/// not read, and left out where it came by a conversion: RFC 3339 has no text for it.)
///
/// # Example
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
/// use mx_job_webhook::job::Timestamp;
///
/// let finished = Timestamp::from_unix_seconds(1_471_281_215);
/// assert_eq!(finished, "2016-08-15T17:13:35Z".parse()?);
/// assert_eq!(finished.to_system_time(), Some(UNIX_EPOCH + Duration::from_secs(1_471_281_215)));
/// # Ok::<(), mx_job_webhook::job::ParseTimestampError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    seconds: i64,
    /// One more than the nanoseconds, so that an `Option` takes no more room.
    nanos: NonZeroU32,
}

impl Timestamp {
    /// The moment that many seconds after the Unix epoch, or before it.
    #[must_use]
    pub const fn from_unix_seconds(seconds: i64) -> Self {
        Self::new(seconds, 0)
    }

    /// The moment that many nanoseconds, of fewer than a second, after those seconds.
    pub(crate) const fn new(seconds: i64, nanos: u32) -> Self {
        Self {
            seconds,
            nanos: NonZeroU32::MIN.saturating_add(nanos),
        }
    }

    /// Seconds since the Unix epoch; negative before it. A fraction is left out, towards the past.
    #[must_use]
    pub const fn unix_seconds(self) -> i64 {
        self.seconds
    }

    /// The nanoseconds since [`unix_seconds`](Self::unix_seconds), from 0 to 999,999,999.
    ///
    /// They count towards the future, also before 1970.
    #[must_use]
    pub const fn subsec_nanos(self) -> u32 {
        self.nanos.get() - 1
    }

    /// The same moment as the standard library's type.
    ///
    /// `None` if the platform's clock cannot express it, which happens only for
    /// dates that no job has.
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

    /// Reads a date that a payload holds, or nothing where it is no date or more exact than ours.
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

    /// The same moment as jiff's type has it.
    #[cfg(feature = "jiff")]
    fn from_jiff(moment: jiff::Timestamp) -> Self {
        // jiff counts nanoseconds away from the epoch; ours count towards the future.
        match u32::try_from(moment.subsec_nanosecond()) {
            Ok(nanos) => Self::new(moment.as_second(), nanos),
            Err(_) => Self::new(
                moment.as_second() - 1,
                BILLION - moment.subsec_nanosecond().unsigned_abs(),
            ),
        }
    }

    /// Whether it reads back as the same moment from what it is written as.
    fn reads_back(self) -> bool {
        self.subsec_nanos() == 0 || self.to_rfc_3339().is_some()
    }

    /// What is written as RFC 3339, in UTC; it begins with the year 0 and ends with the year 9999.
    fn to_rfc_3339(self) -> Option<DateTime> {
        let nanos = i32::try_from(self.subsec_nanos()).ok()?;
        let since_epoch = SignedDuration::new(self.seconds, nanos);
        let moment = EPOCH.checked_add(since_epoch).ok()?;
        (moment.year() >= 0).then_some(moment)
    }

    /// The same moment as jiff's type, if it is in its range: the years -9999 to 9999.
    #[cfg(feature = "jiff")]
    fn to_jiff(self) -> Option<jiff::Timestamp> {
        let nanos = i32::try_from(self.subsec_nanos()).ok()?;
        jiff::Timestamp::new(self.seconds, nanos).ok()
    }

    /// Returns it as a decimal number of seconds.
    pub(crate) const fn decimal(self) -> Decimal {
        Decimal(self)
    }
}

/// A decimal number of seconds, without zeros at its end: the text of a moment is one for ever.
pub(crate) struct Decimal(Timestamp);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.0.seconds, self.0.subsec_nanos());
        // A number before zero counts its fraction away from it.
        let (sign, whole, fraction) = match (seconds < 0, nanos) {
            (false, _) => ("", seconds.unsigned_abs(), nanos),
            (true, 0) => ("-", seconds.unsigned_abs(), 0),
            (true, _) => ("-", seconds.unsigned_abs() - 1, BILLION - nanos),
        };
        write!(f, "{sign}{whole}")?;
        if fraction == 0 {
            return Ok(());
        }
        let mut digits = fraction;
        let mut width = 9;
        while digits % 10 == 0 {
            digits /= 10;
            width -= 1;
        }
        write!(f, ".{digits:0width$}")
    }
}

/// The nanoseconds of a second.
const BILLION: u32 = 1_000_000_000;

/// As a decimal number of seconds.
impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timestamp({})", self.decimal())
    }
}

/// Reads ISO 8601 with an offset, such as `2016-08-15T17:13:35+00:00`.
impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read_iso_8601(text)
            .filter(|moment| moment.reads_back())
            .ok_or(ParseTimestampError(()))
    }
}

const EPOCH: DateTime = jiff::civil::datetime(1970, 1, 1, 0, 0, 0, 0);

/// Reads `2016-08-15T17:13:35.25+02:00` and its like, to the last digit. What else ISO 8601 has, and
/// what jiff reads beyond it, could be rounded (an offset with a fraction) or contradict itself (a
/// zone in brackets).
fn read_iso_8601(text: &str) -> Option<Timestamp> {
    const SHAPE: &[u8; 19] = b"0000-00-00T00:00:00";
    let (moment, rest) = text.split_at_checked(SHAPE.len())?;
    let is_shaped = moment.bytes().zip(SHAPE).all(|(byte, shape)| match shape {
        b'0' => byte.is_ascii_digit(),
        b'T' => matches!(byte, b'T' | b't' | b' '),
        separator => byte == *separator,
    });
    // Unix time has no leap second, and jiff reads one as the second before.
    if !is_shaped || moment.ends_with("60") {
        return None;
    }
    let (nanos, offset) = match rest.strip_prefix('.') {
        Some(fraction) => {
            let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
            let (digits, offset) = fraction.split_at(digits);
            (read_nanos(digits)?, offset)
        }
        None => (0, rest),
    };
    let moment: DateTime = moment.parse().ok()?;
    let since_epoch = moment.duration_since(EPOCH).as_secs();
    Some(Timestamp::new(since_epoch - read_offset(offset)?, nanos))
}

/// The digits behind the point, nine at most.
fn read_nanos(digits: &str) -> Option<u32> {
    let missing = 9_usize.checked_sub(digits.len())?;
    let scale = 10_u32.pow(u32::try_from(missing).ok()?);
    Some(digits.parse::<u32>().ok()? * scale)
}

/// How many seconds a zone is ahead of UTC.
fn read_offset(text: &str) -> Option<i64> {
    let (sign, hours, minutes) = match text.as_bytes() {
        b"Z" | b"z" => return Some(0),
        [sign @ (b'+' | b'-'), h, hh] => (sign, [h, hh], [&b'0'; 2]),
        [sign @ (b'+' | b'-'), h, hh, b':', m, mm] | [sign @ (b'+' | b'-'), h, hh, m, mm] => {
            (sign, [h, hh], [m, mm])
        }
        _ => return None,
    };
    let number = |digits: [&u8; 2], bound: i64| {
        let [tens, ones] =
            digits.map(|digit| digit.is_ascii_digit().then(|| i64::from(digit - b'0')));
        Some(tens? * 10 + ones?).filter(|number| *number < bound)
    };
    let ahead = (number(hours, 24)? * 60 + number(minutes, 60)?) * 60;
    Some(if *sign == b'-' { -ahead } else { ahead })
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fraction = self.subsec_nanos() > 0;
        match self.to_rfc_3339().filter(|_| fraction) {
            Some(moment) => serializer.collect_str(&format_args!("{moment}Z")),
            None => serializer.serialize_i64(self.seconds),
        }
    }
}

/// Reads Unix seconds, or ISO 8601 with an offset.
impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let scalar = Scalar::deserialize(deserializer)?;
        Self::from_scalar(&scalar).ok_or_else(|| serde::de::Error::custom(ParseTimestampError(())))
    }
}

/// A text was no ISO 8601 date and time with an offset.
///
/// A date without an offset is refused too: which zone it meant would be a guess. So are a
/// leap second, which Unix time does not have, and more digits than a nanosecond has.
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

    fn parts(moment: Timestamp) -> (i64, u32) {
        (moment.unix_seconds(), moment.subsec_nanos())
    }

    #[test]
    fn reads_the_forms_of_iso_8601_and_refuses_what_would_be_a_guess() {
        const MOMENT: i64 = 1_471_281_215;
        let cases = [
            ("Zulu", "2016-08-15T17:13:35Z", Some((MOMENT, 0))),
            ("offset", "2016-08-15T19:13:35+02:00", Some((MOMENT, 0))),
            (
                "zero offset",
                "2016-08-15T17:13:35+00:00",
                Some((MOMENT, 0)),
            ),
            ("no fraction", "2016-08-15T17:13:35.000Z", Some((MOMENT, 0))),
            (
                "milliseconds",
                "2016-08-15T17:13:35.999Z",
                Some((MOMENT, 999_000_000)),
            ),
            (
                "nanoseconds",
                "2016-08-15T17:13:35.000000001Z",
                Some((MOMENT, 1)),
            ),
            ("more digits", "2016-08-15T17:13:35.0000000001Z", None),
            ("space", "2016-08-15 17:13:35Z", Some((MOMENT, 0))),
            (
                "before the epoch",
                "1969-12-31T23:59:58.5Z",
                Some((-2, 500_000_000)),
            ),
            (
                "the year 60",
                "0060-06-06T06:06:06Z",
                Some((-60_260_176_434, 0)),
            ),
            ("a leap second", "2016-12-31T23:59:60Z", None),
            (
                "a leap second elsewhere",
                "2017-01-01T00:59:60.5+01:00",
                None,
            ),
            ("short", "20160815T171335Z", None),
            (
                "an offset with 60 minutes",
                "2016-12-31T23:59:59+00:60",
                None,
            ),
            ("an offset of a day", "2016-12-31T23:59:59+24:00", None),
            (
                "an offset with seconds",
                "2016-08-15T17:13:35+00:00:00",
                None,
            ),
            (
                "an offset without a colon",
                "2016-08-15T15:13:35-0200",
                Some((MOMENT, 0)),
            ),
            (
                "an offset in hours",
                "2016-08-15T19:13:35+02",
                Some((MOMENT, 0)),
            ),
            (
                "a zone in brackets",
                "2016-08-15T17:13:35Z[America/New_York]",
                None,
            ),
            ("a point and nothing", "2016-08-15T17:13:35.Z", None),
            ("another alphabet", "２016-08-15T17:13:35Z", None),
            ("no offset", "2016-08-15T17:13:35", None),
            ("date only", "2016-08-15", None),
            ("digits", "1471281215", None),
            ("empty", "", None),
            ("month 13", "2016-13-15T17:13:35Z", None),
            ("words", "yesterday", None),
        ];
        for (name, text, expected) in cases {
            let read = text.parse::<Timestamp>().ok().map(parts);
            assert_eq!(read, expected, "{name}");
        }
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
    fn shows_a_decimal_number() {
        let cases = [
            ((0, 0), "0"),
            ((1_471_281_212, 0), "1471281212"),
            ((1_471_281_212, 100_000_000), "1471281212.1"),
            ((1_471_281_212, 1), "1471281212.000000001"),
            ((-1, 0), "-1"),
            ((-1, 500_000_000), "-0.5"),
            ((-2, 500_000_000), "-1.5"),
            ((-1, 999_999_999), "-0.000000001"),
            ((i64::MIN, 0), "-9223372036854775808"),
            ((i64::MIN, 900_000_000), "-9223372036854775807.1"),
            ((i64::MAX, 999_999_999), "9223372036854775807.999999999"),
        ];
        for ((seconds, nanos), expected) in cases {
            let shown = format!("{:?}", Timestamp::new(seconds, nanos));
            assert_eq!(shown, format!("Timestamp({expected})"));
        }
    }

    #[test]
    fn is_written_as_an_integer_or_as_iso_8601_and_read_as_the_same_moment() {
        let cases = [
            ((5, 0), "5", true),
            ((-5, 0), "-5", true),
            ((i64::MAX, 0), "9223372036854775807", true),
            ((5, 250_000_000), "\"1970-01-01T00:00:05.25Z\"", true),
            ((-1, 500_000_000), "\"1969-12-31T23:59:59.5Z\"", true),
            // Outside of the years that RFC 3339 has.
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
            // Outside of the years that RFC 3339 has.
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

    /// As a float, another number may have been written; with `arbitrary_precision` it is no float.
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
    fn an_optional_one_takes_no_more_room() {
        assert_eq!(size_of::<Option<Timestamp>>(), 16);
    }
}
