//! Adding to a time.

use std::time::Duration;

use super::deadline::Instant;

/// Returns a time that is this much later. One that the clock cannot express does not come.
pub(crate) fn later(now: Instant, time: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    now.checked_add(time).unwrap_or(now + CENTURY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_the_clock_cannot_express_does_not_come_for_decades() {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        let now = Instant::now();
        assert_eq!(later(now, YEAR), now + YEAR);
        assert!(later(now, Duration::MAX) > now + 50 * YEAR);
    }
}
