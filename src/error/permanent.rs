//! Errors that no retry will mend.

use std::fmt;

use tower::BoxError;

/// An error that no retry will mend: acknowledge the event once it is dead-lettered.
///
/// A callback that fails is answered 500, and MX delivers the event again, up to 12 times
/// in about 24 hours. Where that is of no use, say a member that the application has
/// deleted, the callback returns this error instead. Then the hook
/// [`on_dead_letter`](crate::JobRouter::on_dead_letter) gets the event, and if it succeeds
/// the delivery is acknowledged.
///
/// Without that hook it is an error like any other: an event that nobody keeps must not be
/// acknowledged. It is found wherever it is in the chain of sources of a callback's error.
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
///         println!("kept for somebody to look at: {letter:?}");
///     });
/// let event = JobEvent::from(Job::new("JOB-1".parse()?, Status::Completed));
/// assert_eq!(Background::new().run(jobs, event).await?, Receipt::DeadLettered);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Permanent(Mark);

/// What `Permanent` is known by. It is a source of its own because `anyhow::Error` shows of the
/// error that it was made from no more than the sources.
#[derive(Debug)]
struct Mark(BoxError);

impl Permanent {
    /// Says of an error that it is permanent.
    pub fn new(error: impl Into<BoxError>) -> Self {
        Self(Mark(error.into()))
    }

    /// Whether this is one, or what one is known by.
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
        f.write_str("no retry will mend it")
    }
}

impl std::error::Error for Mark {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}
