//! The argument of the callback for unhandled events.

use std::ops::Deref;

use crate::event::JobEvent;

/// An event whose status has no callback, and the reason.
///
/// The callback of [`on_unhandled`](crate::JobRouter::on_unhandled) takes it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Unhandled {
    /// The status is one of the ten that MX documents, and the application registered no callback.
    NoCallback(JobEvent),
    /// The status is unknown to this version of the crate. MX may have added it since.
    UnknownStatus(JobEvent),
}

impl Unhandled {
    /// Returns the event.
    #[must_use]
    pub fn event(&self) -> &JobEvent {
        match self {
            Self::NoCallback(event) | Self::UnknownStatus(event) => event,
        }
    }

    /// Returns the event by value.
    #[must_use]
    pub fn into_event(self) -> JobEvent {
        match self {
            Self::NoCallback(event) | Self::UnknownStatus(event) => event,
        }
    }
}

impl Deref for Unhandled {
    type Target = JobEvent;

    fn deref(&self) -> &JobEvent {
        self.event()
    }
}
