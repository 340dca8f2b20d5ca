//! The dead letters that the page shows.
//!
//! The trait has the methods of `JobQueue` that the page calls, so that tests can use letters in memory.
//! The types stand for those of the queue.

use std::fmt;
use std::future::Future;
use std::str::FromStr;

use axum::body::Bytes;
use mx_job_webhook::Status;
use mx_job_webhook::job::Timestamp;

/// A queue's dead letters.
pub(crate) trait Letters: Clone + Send + Sync + 'static {
    /// The error of a queue that cannot be reached.
    type Error: fmt::Display + Send;

    /// Returns a page of the letters that pass the filter.
    fn dead_letters(
        &self,
        filter: &LetterFilter,
    ) -> impl Future<Output = Result<LetterPage, Self::Error>> + Send;

    /// Returns the body of a letter, or `None` if there is no such letter.
    fn dead_letter_body(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<Option<Bytes>, Self::Error>> + Send;

    /// Makes a letter run again, with fresh tries. Returns whether there is such a letter.
    fn replay(&self, name: &str) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Makes all letters that pass the filter run again. Returns how many.
    fn replay_all(
        &self,
        filter: &LetterFilter,
    ) -> impl Future<Output = Result<u64, Self::Error>> + Send;

    /// Deletes a letter. Returns whether there was such a letter.
    fn discard(&self, name: &str) -> impl Future<Output = Result<bool, Self::Error>> + Send;
}

/// An event that failed permanently or too often, or a body that nothing could handle.
#[derive(Clone)]
pub(crate) struct Letter {
    pub(crate) name: String,
    pub(crate) kind: LetterKind,
    pub(crate) status: Option<Status>,
    pub(crate) tries: u32,
    pub(crate) error: String,
    pub(crate) failed_at: Timestamp,
}

impl Letter {
    /// Returns the name that identifies the letter.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns what the letter is.
    pub(crate) fn kind(&self) -> LetterKind {
        self.kind
    }

    /// Returns the job's status, if the letter is an event.
    pub(crate) fn status(&self) -> Option<&Status> {
        self.status.as_ref()
    }

    /// Returns the number of tries.
    pub(crate) fn tries(&self) -> u32 {
        self.tries
    }

    /// Returns the text of the last error, with its causes.
    pub(crate) fn error(&self) -> &str {
        &self.error
    }

    /// Returns when the last try failed.
    pub(crate) fn failed_at(&self) -> Timestamp {
        self.failed_at
    }
}

/// What a letter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LetterKind {
    /// An event whose callback failed.
    Event,
    /// A body that could not be decoded.
    Undecodable,
    /// Another of MX's webhooks.
    OtherWebhook,
}

/// Which letters, and how many.
#[derive(Clone, Default)]
pub(crate) struct LetterFilter {
    pub(crate) status: Option<Status>,
    pub(crate) kind: Option<LetterKind>,
    pub(crate) limit: Option<u32>,
    pub(crate) after: Option<LetterCursor>,
}

impl LetterFilter {
    /// Returns a filter that every letter passes.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Selects the letters with this status.
    pub(crate) fn with_status(mut self, status: Status) -> Self {
        self.status = Some(status);
        self
    }

    /// Selects the letters of this kind.
    pub(crate) fn with_kind(mut self, kind: LetterKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Sets the size of a page.
    pub(crate) fn with_limit(mut self, limit: u32) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Continues after the page that returned this cursor.
    pub(crate) fn after(mut self, cursor: LetterCursor) -> Self {
        self.after = Some(cursor);
        self
    }
}

/// A page of letters.
pub(crate) struct LetterPage {
    pub(crate) letters: Vec<Letter>,
    pub(crate) next: Option<LetterCursor>,
}

impl LetterPage {
    /// Returns the letters of this page.
    pub(crate) fn letters(&self) -> &[Letter] {
        &self.letters
    }

    /// Returns the cursor of the next page, if there is one.
    pub(crate) fn next(&self) -> Option<LetterCursor> {
        self.next.clone()
    }
}

/// The end of a page.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LetterCursor(pub(crate) usize);

impl fmt::Display for LetterCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for LetterCursor {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}
