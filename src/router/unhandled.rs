//! What no callback was registered for.

use std::ops::Deref;

use crate::JobEvent;

/// An event that no callback was registered for, and why.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{JobRouter, Unhandled};
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
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{JobEvent, Unhandled};
    ///
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
    /// let unhandled = Unhandled::NoCallback(event);
    /// assert_eq!(unhandled.event().guid, unhandled.guid); // It derefs, too.
    /// # Ok::<(), mx_job_webhook::Error>(())
    /// ```
    #[must_use]
    pub fn event(&self) -> &JobEvent {
        match self {
            Self::NoCallback(event) | Self::UnknownStatus(event) => event,
        }
    }

    /// The event, to keep.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{JobEvent, JobRouter};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (sender, events) = std::sync::mpsc::channel();
    /// let jobs = JobRouter::new().on_unhandled(move |unhandled| {
    ///     let kept = sender.send(unhandled.into_event());
    ///     async move { kept }
    /// });
    /// jobs.call(JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "FAILED"}}"#)?).await?;
    /// assert_eq!(events.try_recv()?.status.name(), Some("FAILED"));
    /// # Ok(()) }
    /// ```
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
