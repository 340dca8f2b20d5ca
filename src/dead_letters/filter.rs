//! Which letters to list or replay.

use std::fmt;

use super::LetterCursor;
use super::cursor::MAX_MICROS;
use super::letter::LetterKind;
use crate::job::{Status, Timestamp};
use crate::ledger::key::storable;
use crate::ledger::status_text;

/// How many letters a page has by default, and at most.
const LIMIT: usize = 50;
const MAX_LIMIT: usize = 1_000;

/// A choice of letters: all of them by default.
///
/// Each condition narrows the choice.
#[derive(Clone)]
pub struct LetterFilter {
    kind: Option<LetterKind>,
    status: Option<Status>,
    error: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    limit: usize,
    after: Option<LetterCursor>,
}

impl LetterFilter {
    /// Returns a filter that chooses all letters.
    #[must_use]
    pub fn new() -> Self {
        Self {
            kind: None,
            status: None,
            error: None,
            since: None,
            until: None,
            limit: LIMIT,
            after: None,
        }
    }

    /// Chooses letters of this kind.
    #[must_use]
    pub fn with_kind(mut self, kind: LetterKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Chooses events with this status.
    #[must_use]
    pub fn with_status(mut self, status: Status) -> Self {
        self.status = Some(status);
        self
    }

    /// Chooses letters whose latest error contains this text, in the same case.
    #[must_use]
    pub fn with_error_containing(mut self, text: impl Into<String>) -> Self {
        self.error = Some(text.into());
        self
    }

    /// Chooses letters that failed last at this time or later, by the server's clock.
    #[must_use]
    pub fn failed_since(mut self, time: Timestamp) -> Self {
        self.since = Some(time);
        self
    }

    /// Chooses letters that failed last before this time, by the server's clock.
    #[must_use]
    pub fn failed_until(mut self, time: Timestamp) -> Self {
        self.until = Some(time);
        self
    }

    /// Sets how many letters a page has at most. Defaults to 50; 1,000 are the maximum.
    #[must_use]
    pub fn with_limit(mut self, letters: usize) -> Self {
        self.limit = letters.clamp(1, MAX_LIMIT);
        self
    }

    /// Continues a list after an earlier page.
    #[must_use]
    pub fn after(mut self, cursor: LetterCursor) -> Self {
        self.after = Some(cursor);
        self
    }

    /// Lists from the beginning again.
    #[cfg(feature = "queue")]
    pub(crate) fn without_cursor(mut self) -> Self {
        self.after = None;
        self
    }

    pub(crate) fn kind(&self) -> Option<LetterKind> {
        self.kind
    }

    /// Returns the status as it is stored.
    pub(crate) fn status_text(&self) -> Option<String> {
        let status = self.status.as_ref()?;
        Some(storable(&status_text(status)))
    }

    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Returns whether no letter can match: errors contain no NUL, and the server takes none.
    pub(crate) fn is_impossible(&self) -> bool {
        self.error().is_some_and(|error| error.contains('\0'))
    }

    /// Returns the bounds in microseconds: from the first on, and before the second.
    pub(crate) fn micros(&self) -> (Option<i64>, Option<i64>) {
        (self.since.map(micros), self.until.map(micros))
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn cursor(&self) -> Option<&LetterCursor> {
        self.after.as_ref()
    }
}

impl Default for LetterFilter {
    fn default() -> Self {
        Self::new()
    }
}

// By hand, because the text of an error can name a person.
impl fmt::Debug for LetterFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LetterFilter")
            .field("kind", &self.kind)
            .field("status", &self.status)
            .field("has_error", &self.error.is_some())
            .field("since", &self.since)
            .field("until", &self.until)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// Returns the first whole microsecond that is not before this time, within what the server can
/// compute.
fn micros(time: Timestamp) -> i64 {
    let nanos = i64::from(time.subsec_nanos());
    let whole = time.unix_seconds().saturating_mul(1_000_000);
    whole
        .saturating_add((nanos + 999) / 1_000)
        .clamp(0, MAX_MICROS)
}

/// Returns a time of the server.
pub(crate) fn timestamp(micros: i64) -> Timestamp {
    let nanos = micros.rem_euclid(1_000_000) * 1_000;
    Timestamp::new(
        micros.div_euclid(1_000_000),
        u32::try_from(nanos).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up_to_microseconds_and_bounded() {
        for (time, expected) in [
            (Timestamp::from_unix_seconds(5), 5_000_000),
            (Timestamp::new(5, 1), 5_000_001),
            (Timestamp::new(5, 1_000), 5_000_001),
            (Timestamp::new(5, 999_999_999), 6_000_000),
            (Timestamp::from_unix_seconds(-1), 0),
            (Timestamp::from_unix_seconds(i64::MIN), 0),
            (Timestamp::new(i64::MAX, 999_999_999), MAX_MICROS),
        ] {
            assert_eq!(micros(time), expected, "{time:?}");
        }
        for micros in [0, 1, 1_471_281_212_123_456, -1] {
            let time = timestamp(micros);
            let back = time.unix_seconds() * 1_000_000 + i64::from(time.subsec_nanos()) / 1_000;
            assert_eq!(back, micros);
        }
    }

    #[test]
    fn a_limit_is_within_its_bounds_and_debug_shows_no_error() {
        let filter = LetterFilter::default();
        for (asked, limit) in [(0, 1), (7, 7), (1_000, 1_000), (usize::MAX, 1_000)] {
            assert_eq!(filter.clone().with_limit(asked).limit(), limit);
        }
        assert_eq!(filter.limit(), 50);
        let shown = format!("{:?}", filter.with_error_containing("secret"));
        assert!(
            shown.contains("has_error: true") && !shown.contains("secret"),
            "{shown}"
        );
    }

    #[test]
    fn a_status_is_chosen_as_it_is_stored() {
        let of = |status| LetterFilter::new().with_status(status).status_text();
        assert_eq!(of(Status::Completed).unwrap(), "COMPLETED");
        assert_eq!(of(Status::from("no more")).unwrap(), "NO%20MORE");
        assert_eq!(of(Status::from(42)).unwrap(), "#42");
        let long = of(Status::from("X".repeat(300).as_str())).unwrap();
        assert!(long.starts_with("digest:"), "{long}");
    }
}
