//! Permanent failures of callbacks.

use std::fmt;

use tower::BoxError;

/// The error of a callback that would fail again at every retry.
///
/// If a callback fails, the delivery is answered 500, and MX delivers the event again, up to 12
/// times in about 24 hours. If retries cannot help, for example because the application has deleted
/// the member, return this error. The hook [`on_dead_letter`](crate::JobRouter::on_dead_letter)
/// then receives the event. If the hook succeeds, the delivery is acknowledged.
///
/// Without the hook, this is an ordinary error: an event that is neither handled nor kept must not
/// be acknowledged. The error may be anywhere in the chain of sources of the callback's error.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{Background, Job, JobEvent, JobRouter, Permanent, Receipt, Status};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let jobs = JobRouter::new()
///     .on_completed(|_| async { Err(Permanent::new("the member was deleted")) })
///     .on_dead_letter(|letter| async move {
///         println!("keep for inspection: {letter:?}");
///     });
/// let event = JobEvent::from(Job::new("JOB-1".parse()?, Status::Completed));
/// assert_eq!(Background::new().run(jobs, event).await?, Receipt::DeadLettered);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Permanent(Mark);

/// Marks a chain of sources as permanent.
///
/// It is a separate error because an `anyhow::Error` that is made from a `Permanent` shows only the
/// sources.
#[derive(Debug)]
struct Mark(BoxError);

impl Permanent {
    /// Marks an error as permanent.
    pub fn new(error: impl Into<BoxError>) -> Self {
        Self(Mark(error.into()))
    }

    /// Returns whether this error is a `Permanent` or its mark.
    pub(crate) fn is(error: &(dyn std::error::Error + 'static)) -> bool {
        error.is::<Self>() || error.is::<Mark>()
    }
}

impl fmt::Display for Permanent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a permanent error")
    }
}

impl std::error::Error for Permanent {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no retry will help")
    }
}

impl std::error::Error for Mark {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}
