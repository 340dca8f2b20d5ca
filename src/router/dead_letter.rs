//! The argument of the dead-letter hook.

use crate::error::Error;
use crate::event::JobEvent;

/// An event whose callback failed permanently, and the error.
///
/// The hook [`on_dead_letter`](crate::JobRouter::on_dead_letter) takes it. Failures after
/// [`with_dead_letters_after`](crate::JobRouter::with_dead_letters_after) count as permanent.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    event: JobEvent,
    error: Error,
}

impl DeadLetter {
    pub(crate) fn new(event: JobEvent, error: Error) -> Self {
        Self { event, error }
    }

    /// Returns the event, as the callback received it.
    #[must_use]
    pub fn event(&self) -> &JobEvent {
        &self.event
    }

    /// Returns the event by value.
    #[must_use]
    pub fn into_event(self) -> JobEvent {
        self.event
    }

    /// Returns the error of the delivery.
    ///
    /// Its sources include the callback's own error.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.error
    }
}
