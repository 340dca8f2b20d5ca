//! What a callback can know of its try.

use super::JobEvent;

/// The try of an event that a worker runs.
///
/// A callback finds it with [`Try::of`], for example to report only the last failure.
///
/// # Example
///
/// ```
/// use mx_job_webhook::JobEvent;
/// use mx_job_webhook::queue::Try;
///
/// async fn completed(event: JobEvent) -> Result<(), tower::BoxError> {
///     if Try::of(&event).is_some_and(|it| it.is_last()) {
///         println!("the last try of {}", event.guid);
///     }
///     Ok(())
/// }
/// # let _ = completed;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Try {
    pub(crate) number: u32,
    pub(crate) limit: u32,
}

impl Try {
    /// Returns the try of this event, or `None` if it did not come from a queue.
    #[must_use]
    pub fn of(event: &JobEvent) -> Option<Self> {
        event.extensions().get().copied()
    }

    /// Returns the number of this try. The first is 1.
    ///
    /// A try whose worker died counts, and one that fails with [`InFlight`](crate::ErrorKind::InFlight) does not. The number
    /// continues after a replay.
    #[must_use]
    pub fn number(self) -> u32 {
        self.number
    }

    /// Returns whether the event is a dead letter if this try fails.
    #[must_use]
    pub fn is_last(self) -> bool {
        self.number >= self.limit
    }
}
