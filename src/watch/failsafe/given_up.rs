//! Jobs that are given up.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use tower::BoxError;

use crate::job::{JobGuid, Status};
use crate::watch::entry::Entry;
use crate::watch::heard::Heard;

/// A job of which nothing was heard for too long, with all that is known of it.
///
/// `Debug` shows no error of the application, because it may name a person.
pub struct GivenUp {
    job: JobGuid,
    expected_for: Duration,
    reads: u32,
    last_status: Option<Status>,
    heard: Option<Heard>,
    error: Option<BoxError>,
}

impl GivenUp {
    pub(super) fn new(
        job: JobGuid,
        entry: &Entry,
        status: Option<&Status>,
        error: Option<BoxError>,
    ) -> Self {
        Self {
            job,
            expected_for: entry.expected_for(),
            reads: entry.reads(),
            last_status: status.or(entry.last_status()).cloned(),
            heard: entry.last_heard().cloned(),
            error,
        }
    }

    /// Counts the read that has just been made.
    pub(super) fn with_another_read(mut self) -> Self {
        self.reads = self.reads.saturating_add(1);
        self
    }

    /// Returns the job's guid.
    #[must_use]
    pub fn job(&self) -> &JobGuid {
        &self.job
    }

    /// Returns for how long the job was expected.
    #[must_use]
    pub fn expected_for(&self) -> Duration {
        self.expected_for
    }

    /// Returns how often the job was read since it was expected.
    #[must_use]
    pub fn reads(&self) -> u32 {
        self.reads
    }

    /// Returns the status that was read last, if a read succeeded.
    #[must_use]
    pub fn last_status(&self) -> Option<&Status> {
        self.last_status.as_ref()
    }

    /// Returns what was heard of the job last, such as an earlier challenge.
    #[must_use]
    pub fn heard(&self) -> Option<&Heard> {
        self.heard.as_ref()
    }

    /// Returns the error of the last read, or of the callback that it ran.
    #[must_use]
    pub fn error(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.error.as_deref()
    }
}

impl fmt::Debug for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GivenUp")
            .field("job", &self.job)
            .field("expected_for", &self.expected_for)
            .field("reads", &self.reads)
            .field("last_status", &self.last_status)
            .field("heard", &self.heard)
            .field("is_error", &self.error.is_some())
            .finish()
    }
}
