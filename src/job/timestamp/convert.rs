//! Conversions from and to the timestamps of jiff, chrono and time.
//!
//! Converting to another type fails if the timestamp is out of its range. Converting from one
//! always succeeds, because 64 bits of seconds cover the range of all of them.

// Each item has its own `cfg`. If the module had one, rustdoc would show both at each item.
#![cfg_attr(
    not(any(feature = "jiff", feature = "chrono", feature = "time")),
    allow(unused_imports, reason = "no conversion is compiled")
)]

use std::fmt;

#[cfg(feature = "jiff")]
use super::NANOS_PER_SECOND;
use crate::job::Timestamp;

/// The error of converting a timestamp that is out of the other type's range.
///
/// jiff and `time` end with the year 9999, chrono with the year 262142. No real job has a later
/// date, but a payload can: a date in milliseconds, for example, is read as seconds.
#[cfg(any(feature = "jiff", feature = "chrono", feature = "time"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampRangeError(());

#[cfg(any(feature = "jiff", feature = "chrono", feature = "time"))]
impl fmt::Display for TimestampRangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the timestamp is out of range")
    }
}

#[cfg(any(feature = "jiff", feature = "chrono", feature = "time"))]
impl std::error::Error for TimestampRangeError {}

/// Converts exactly, including the fraction of a second.
#[cfg(feature = "jiff")]
impl From<jiff::Timestamp> for Timestamp {
    fn from(moment: jiff::Timestamp) -> Self {
        // jiff counts the nanoseconds away from the epoch; this type counts them towards the
        // future.
        match u32::try_from(moment.subsec_nanosecond()) {
            Ok(nanos) => Self::new(moment.as_second(), nanos),
            Err(_) => Self::new(
                moment.as_second() - 1,
                NANOS_PER_SECOND - moment.subsec_nanosecond().unsigned_abs(),
            ),
        }
    }
}

/// Converts exactly. Fails before the year -9999 and after the year 9999.
#[cfg(feature = "jiff")]
impl TryFrom<Timestamp> for jiff::Timestamp {
    type Error = TimestampRangeError;

    fn try_from(moment: Timestamp) -> Result<Self, Self::Error> {
        i32::try_from(moment.subsec_nanos())
            .ok()
            .and_then(|nanos| Self::new(moment.unix_seconds(), nanos).ok())
            .ok_or(TimestampRangeError(()))
    }
}

/// Converts from any time zone, including the fraction of a second.
///
/// Unix time has no leap seconds. A leap second becomes the last nanosecond of the second before
/// it.
#[cfg(feature = "chrono")]
impl<Tz: chrono::TimeZone> From<chrono::DateTime<Tz>> for Timestamp {
    fn from(moment: chrono::DateTime<Tz>) -> Self {
        // chrono counts a leap second as nanoseconds past the end of the second before it.
        let nanos = moment.timestamp_subsec_nanos().min(999_999_999);
        Self::new(moment.timestamp(), nanos)
    }
}

/// Converts exactly. Fails outside chrono's range, about 262,000 years around the year 0.
#[cfg(feature = "chrono")]
impl TryFrom<Timestamp> for chrono::DateTime<chrono::Utc> {
    type Error = TimestampRangeError;

    fn try_from(moment: Timestamp) -> Result<Self, Self::Error> {
        Self::from_timestamp(moment.unix_seconds(), moment.subsec_nanos())
            .ok_or(TimestampRangeError(()))
    }
}

/// Converts from any offset, including the fraction of a second.
#[cfg(feature = "time")]
impl From<time::OffsetDateTime> for Timestamp {
    fn from(moment: time::OffsetDateTime) -> Self {
        // The remainder is never negative, so the fraction counts towards the future.
        let nanos = moment.unix_timestamp_nanos().rem_euclid(1_000_000_000);
        Self::new(moment.unix_timestamp(), nanos as u32)
    }
}

/// Converts exactly, to UTC.
///
/// Fails before the year -9999 and after the year 9999. With `time`'s feature `large-dates`, the
/// limits are the years -999,999 and 999,999.
#[cfg(feature = "time")]
impl TryFrom<Timestamp> for time::OffsetDateTime {
    type Error = TimestampRangeError;

    fn try_from(moment: Timestamp) -> Result<Self, Self::Error> {
        Self::from_unix_timestamp(moment.unix_seconds())
            .and_then(|second| second.replace_nanosecond(moment.subsec_nanos()))
            .map_err(|_| TimestampRangeError(()))
    }
}
