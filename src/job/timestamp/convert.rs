//! From and to the types of moments that other crates have.
//!
//! Outwards a moment may be out of range, which is an error. Inwards none is: all of those types
//! end before 64 bits of seconds do.

// Each item names its own feature, not the module: documentation adds up what it finds on the way.
#![cfg_attr(
    not(any(feature = "jiff", feature = "chrono", feature = "time")),
    allow(unused_imports, reason = "no type is asked for")
)]

use std::fmt;

use crate::job::Timestamp;

/// A moment lies outside of what the other crate's type can express.
///
/// jiff and `time` end with the year 9999, chrono with the year 262142. No job has such
/// a date; a payload may, and a date in milliseconds reads as one.
#[cfg(any(feature = "jiff", feature = "chrono", feature = "time"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampRangeError(());

#[cfg(any(feature = "jiff", feature = "chrono", feature = "time"))]
impl fmt::Display for TimestampRangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a moment beyond what the other type can express")
    }
}

#[cfg(any(feature = "jiff", feature = "chrono", feature = "time"))]
impl std::error::Error for TimestampRangeError {}

/// The same moment, with its fraction of a second.
#[cfg(feature = "jiff")]
impl From<jiff::Timestamp> for Timestamp {
    fn from(moment: jiff::Timestamp) -> Self {
        Self::from_jiff(moment)
    }
}

/// The same moment.
///
/// Fails before the year -9999 and after the year 9999.
#[cfg(feature = "jiff")]
impl TryFrom<Timestamp> for jiff::Timestamp {
    type Error = TimestampRangeError;

    fn try_from(moment: Timestamp) -> Result<Self, Self::Error> {
        moment.to_jiff().ok_or(TimestampRangeError(()))
    }
}

/// The same moment, in any zone, with its fraction of a second.
///
/// A leap second is the end of the second before it, as Unix time has none.
#[cfg(feature = "chrono")]
impl<Tz: chrono::TimeZone> From<chrono::DateTime<Tz>> for Timestamp {
    fn from(moment: chrono::DateTime<Tz>) -> Self {
        // Past a second's end chrono counts the leap second after it.
        let nanos = moment.timestamp_subsec_nanos().min(999_999_999);
        Self::new(moment.timestamp(), nanos)
    }
}

/// The same moment.
///
/// Fails outside of chrono's calendar, about 262,000 years around the year 0.
#[cfg(feature = "chrono")]
impl TryFrom<Timestamp> for chrono::DateTime<chrono::Utc> {
    type Error = TimestampRangeError;

    fn try_from(moment: Timestamp) -> Result<Self, Self::Error> {
        Self::from_timestamp(moment.unix_seconds(), moment.subsec_nanos())
            .ok_or(TimestampRangeError(()))
    }
}

/// The same moment, at any offset, with its fraction of a second.
#[cfg(feature = "time")]
impl From<time::OffsetDateTime> for Timestamp {
    fn from(moment: time::OffsetDateTime) -> Self {
        // Both parts of the number, so that the fraction counts towards the future.
        let nanos = moment.unix_timestamp_nanos().rem_euclid(1_000_000_000);
        Self::new(moment.unix_timestamp(), nanos as u32)
    }
}

/// The same moment, in UTC.
///
/// Fails before the year -9999 and after the year 9999; with `time`'s feature
/// `large-dates`, with the year 999,999.
#[cfg(feature = "time")]
impl TryFrom<Timestamp> for time::OffsetDateTime {
    type Error = TimestampRangeError;

    fn try_from(moment: Timestamp) -> Result<Self, Self::Error> {
        Self::from_unix_timestamp(moment.unix_seconds())
            .and_then(|second| second.replace_nanosecond(moment.subsec_nanos()))
            .map_err(|_| TimestampRangeError(()))
    }
}
