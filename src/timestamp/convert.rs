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

use crate::Timestamp;

/// A moment lies outside of what the other crate's type can express.
///
/// jiff and `time` end with the year 9999, chrono with the year 262142. No job has such
/// a date; a payload may, and a date in milliseconds reads as one.
///
/// # Example
///
/// ```
/// use mx_job_webhook::Timestamp;
///
/// let milliseconds = Timestamp::from_unix_seconds(1_471_281_215_000);
/// # #[cfg(feature = "jiff")] {
/// let error = jiff::Timestamp::try_from(milliseconds).unwrap_err();
/// assert_eq!(error.to_string(), "a moment beyond what the other type can express");
/// # }
/// ```
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
///
/// # Example
///
/// ```
/// use mx_job_webhook::Timestamp;
///
/// let moment: jiff::Timestamp = "2016-08-15T17:13:35.9Z".parse()?;
/// assert_eq!(Timestamp::from(moment).unix_seconds(), 1_471_281_215);
/// assert_eq!(Timestamp::from(moment).subsec_nanos(), 900_000_000);
/// # Ok::<(), jiff::Error>(())
/// ```
#[cfg(feature = "jiff")]
impl From<jiff::Timestamp> for Timestamp {
    fn from(moment: jiff::Timestamp) -> Self {
        Self::from_jiff(moment)
    }
}

/// The same moment.
///
/// Fails before the year -9999 and after the year 9999.
///
/// # Example
///
/// ```
/// use mx_job_webhook::Timestamp;
///
/// let finished = Timestamp::from_unix_seconds(1_471_281_215);
/// let finished = jiff::Timestamp::try_from(finished)?;
/// assert_eq!(finished.to_string(), "2016-08-15T17:13:35Z");
/// # Ok::<(), mx_job_webhook::TimestampRangeError>(())
/// ```
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
///
/// # Example
///
/// ```
/// use chrono::{DateTime, Utc};
/// use mx_job_webhook::Timestamp;
///
/// let moment: DateTime<Utc> = "2016-08-15T17:13:35.9Z".parse()?;
/// assert_eq!(Timestamp::from(moment).unix_seconds(), 1_471_281_215);
/// # Ok::<(), chrono::ParseError>(())
/// ```
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
///
/// # Example
///
/// ```
/// use chrono::{DateTime, Datelike, Utc};
/// use mx_job_webhook::Timestamp;
///
/// let finished = Timestamp::from_unix_seconds(1_471_281_215);
/// let finished = DateTime::<Utc>::try_from(finished)?;
/// assert_eq!((finished.year(), finished.month(), finished.day()), (2016, 8, 15));
/// # Ok::<(), mx_job_webhook::TimestampRangeError>(())
/// ```
#[cfg(feature = "chrono")]
impl TryFrom<Timestamp> for chrono::DateTime<chrono::Utc> {
    type Error = TimestampRangeError;

    fn try_from(moment: Timestamp) -> Result<Self, Self::Error> {
        Self::from_timestamp(moment.unix_seconds(), moment.subsec_nanos())
            .ok_or(TimestampRangeError(()))
    }
}

/// The same moment, at any offset, with its fraction of a second.
///
/// # Example
///
/// ```
/// use mx_job_webhook::Timestamp;
/// use time::{Duration, OffsetDateTime};
///
/// let moment = OffsetDateTime::UNIX_EPOCH - Duration::milliseconds(1);
/// assert_eq!(Timestamp::from(moment).unix_seconds(), -1);
/// assert_eq!(Timestamp::from(moment).subsec_nanos(), 999_000_000);
/// ```
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
///
/// # Example
///
/// ```
/// use mx_job_webhook::Timestamp;
/// use time::{Month, OffsetDateTime};
///
/// let finished = Timestamp::from_unix_seconds(1_471_281_215);
/// let finished = OffsetDateTime::try_from(finished)?;
/// assert_eq!(finished.to_calendar_date(), (2016, Month::August, 15));
/// # Ok::<(), mx_job_webhook::TimestampRangeError>(())
/// ```
#[cfg(feature = "time")]
impl TryFrom<Timestamp> for time::OffsetDateTime {
    type Error = TimestampRangeError;

    fn try_from(moment: Timestamp) -> Result<Self, Self::Error> {
        Self::from_unix_timestamp(moment.unix_seconds())
            .and_then(|second| second.replace_nanosecond(moment.subsec_nanos()))
            .map_err(|_| TimestampRangeError(()))
    }
}
