//! Errors that no retry will mend, and where the events go that they were about.

use std::fmt;

use tower::BoxError;

use crate::{Error, JobEvent};

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
/// use mx_job_webhook::{Job, JobEvent, JobRouter, Permanent, Receipt, Status};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let jobs = JobRouter::new()
///     .on_completed(|_| async { Err(Permanent::new("the member was deleted")) })
///     .on_dead_letter(|letter| async move {
///         println!("kept for somebody to look at: {letter:?}");
///     });
/// let event = JobEvent::from(Job::new("JOB-1".parse()?, Status::Completed));
/// assert_eq!(jobs.call(event).await?, Receipt::DeadLettered);
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
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{JobEvent, Permanent};
    ///
    /// /// Fails for good where nothing will be otherwise tomorrow, and for now where it may.
    /// async fn completed(event: JobEvent) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    ///     let member = event.member_guid.as_ref().ok_or_else(|| Permanent::new("a job without a member"))?;
    ///     std::fs::write("/nowhere/accounts", member.as_str())?;
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let jobs = mx_job_webhook::JobRouter::new().on_completed(completed);
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
    /// assert!(jobs.call(event).await.unwrap_err().is_permanent());
    /// # Ok(()) }
    /// ```
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

/// An event whose callback failed for good, and what it failed with.
///
/// What the hook [`on_dead_letter`](crate::JobRouter::on_dead_letter) gets.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{DeadLetter, Job, JobEvent, JobRouter, Permanent, Status};
///
/// async fn keep(letter: DeadLetter) {
///     assert_eq!(letter.event().guid, "JOB-1");
///     assert!(letter.error().is_permanent());
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let jobs = JobRouter::new()
///     .on_denied(|_| async { Err(Permanent::new("no such user")) })
///     .on_dead_letter(keep);
/// let event = JobEvent::from(Job::new("JOB-1".parse()?, Status::Denied));
/// assert!(jobs.call(event).await.is_ok());
/// # Ok(()) }
/// ```
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
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{JobEvent, JobRouter, Permanent, Receipt};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let jobs = JobRouter::new()
    ///     .on_completed(|_| async { Err(Permanent::new("the member was deleted")) })
    ///     .on_dead_letter(|letter| async move {
    ///         // What was received, to be looked at.
    ///         if letter.event().body().is_empty() { Err("nothing to keep") } else { Ok(()) }
    ///     });
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
    /// assert_eq!(jobs.call(event).await?, Receipt::DeadLettered);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn event(&self) -> &JobEvent {
        &self.event
    }

    /// The event, to keep.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{JobEvent, JobRouter, Permanent};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (sender, letters) = std::sync::mpsc::channel();
    /// let jobs = JobRouter::new()
    ///     .on_completed(|_| async { Err(Permanent::new("the member was deleted")) })
    ///     .on_dead_letter(move |letter| {
    ///         let kept = sender.send(letter.into_event());
    ///         async move { kept }
    ///     });
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
    /// jobs.call(event).await?;
    /// assert_eq!(letters.try_recv()?.guid, "JOB-1");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn into_event(self) -> JobEvent {
        self.event
    }

    /// What the callback failed with; the callback's own error is in its sources.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{JobEvent, JobRouter, Permanent, Receipt};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let jobs = JobRouter::new()
    ///     .on_completed(|_| async { Err(Permanent::new("the member was deleted")) })
    ///     .on_dead_letter(|letter| async move {
    ///         let reason = std::error::Error::source(letter.error()).map(ToString::to_string);
    ///         reason.filter(|reason| reason == "a permanent error").map(drop).ok_or("no reason")
    ///     });
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
    /// assert_eq!(jobs.call(event).await?, Receipt::DeadLettered);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.error
    }
}
