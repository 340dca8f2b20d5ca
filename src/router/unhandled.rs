//! What no callback was registered for.

use std::ops::Deref;

use crate::event::JobEvent;

/// An event that no callback was registered for, and why.
///
/// # Example
///
/// ```
/// use mx_job_webhook::router::Unhandled;
/// use mx_job_webhook::JobRouter;
///
/// let jobs = JobRouter::new().on_unhandled(|unhandled| async move {
///     match unhandled {
///         Unhandled::UnknownStatus(event) => println!("new at MX: {}", event.status),
///         other => println!("nobody wants {}", other.event().status),
///     }
/// });
/// assert_eq!(format!("{jobs:?}"), "JobRouter { statuses: [], unhandled: true }");
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Unhandled {
    /// The status is one of the ten, and the application registered nothing for it.
    NoCallback(JobEvent),
    /// The status is in no table this version knows: MX may have invented it since.
    UnknownStatus(JobEvent),
}

impl Unhandled {
    /// The event.
    #[must_use]
    pub fn event(&self) -> &JobEvent {
        match self {
            Self::NoCallback(event) | Self::UnknownStatus(event) => event,
        }
    }

    /// The event, to keep.
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
