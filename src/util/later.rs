//! Adding to a time.

use std::time::Duration;

use super::deadline::Instant;

/// Returns a time that is this much later. One that the clock cannot express does not come.
pub(crate) fn later(now: Instant, time: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    now.checked_add(time).unwrap_or(now + CENTURY)
}
