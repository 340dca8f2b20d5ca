//! The value that the dead-letter hook takes.

use crate::error::Error;
use crate::event::JobEvent;

/// An event whose callback failed for good, and what it failed with.
///
/// What the hook [`on_dead_letter`](crate::JobRouter::on_dead_letter) gets.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    event: JobEvent,
    error: Error,
}

impl DeadLetter {
    pub(crate) fn new(event: JobEvent, error: Error) -> Self {
        Self { event, error }
    }

    /// The event, as the callback was given it.
    #[must_use]
    pub fn event(&self) -> &JobEvent {
        &self.event
    }

    /// The event, to keep.
    #[must_use]
    pub fn into_event(self) -> JobEvent {
        self.event
    }

    /// What the callback failed with; the callback's own error is in its sources.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.error
    }
}
