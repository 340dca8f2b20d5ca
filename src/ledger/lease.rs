//! Durations as the stores count them.

use std::time::Duration;

/// A century: what is longer is as good as for ever, and would be beyond what a store can count.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

pub(crate) fn micros(duration: Duration) -> i64 {
    count(duration.min(LONGEST).as_micros())
}

#[cfg(feature = "redis")]
pub(crate) fn millis(duration: Duration) -> i64 {
    // Redis takes 0 for "at once", before the entry was of any use.
    count(duration.min(LONGEST).as_millis()).max(1)
}

fn count(units: u128) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}
