//! How many events one statement changes.

use std::time::Duration;

use crate::queue::connections::took_too_long;

/// A statement that takes longer for few events may take too long for more.
const SLOW: Duration = Duration::from_secs(1);

/// How many events the next statement changes at most. Triggers of the application can make each of them slow.
pub(super) struct BatchSize {
    most: usize,
    largest: usize,
}

impl BatchSize {
    pub(super) fn new(largest: usize) -> Self {
        Self {
            most: largest,
            largest,
        }
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// A statement has changed events in this time.
    pub(super) fn succeeded(&mut self, took: Duration) {
        if took < SLOW {
            self.most = (self.most * 2).min(self.largest);
        }
    }

    /// A statement for this many events has failed. Returns whether the next one may succeed, because it is for one event.
    pub(super) fn failed(&mut self, events: usize, error: &sqlx::Error) -> bool {
        let was_too_large = events > 1 && took_too_long(error);
        if was_too_large {
            self.most = 1;
        }
        was_too_large
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::postgres::TOOK_TOO_LONG;
    use crate::util::postgres::tests::Refused;

    #[test]
    fn after_a_statement_that_took_too_long_the_next_ones_are_for_one_event_then_for_two_and_so_on()
    {
        let refused = |code| sqlx::Error::Database(Box::new(Refused(code)));
        let mut size = BatchSize::new(5);
        assert_eq!(size.most(), 5);
        assert!(!size.failed(5, &refused("23514")));
        assert_eq!(size.most(), 5);
        assert!(size.failed(2, &refused(TOOK_TOO_LONG)));
        assert_eq!(size.most(), 1);
        assert!(!size.failed(1, &refused(TOOK_TOO_LONG)));
        size.succeeded(SLOW);
        assert_eq!(size.most(), 1);
        for most in [2, 4, 5, 5] {
            size.succeeded(SLOW - Duration::from_nanos(1));
            assert_eq!(size.most(), most);
        }
    }
}
