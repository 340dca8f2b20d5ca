//! Durations in the units of the stores.

use std::time::Duration;

/// The maximum duration, a century. Longer ones would overflow in the stores.
const MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Returns the duration in microseconds.
pub(crate) fn micros(duration: Duration) -> i64 {
    count(duration.min(MAX).as_micros())
}

/// Returns the duration in milliseconds, at least one.
#[cfg(feature = "redis")]
pub(crate) fn millis(duration: Duration) -> i64 {
    // For Redis, a time-to-live of 0 deletes the key at once.
    count(duration.min(MAX).as_millis()).max(1)
}

fn count(units: u128) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}
