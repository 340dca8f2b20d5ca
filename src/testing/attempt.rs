//! One attempt: what was sent, and what came back.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use super::Sample;
use crate::Error;

/// One request, and what came back.
///
/// # Example
///
/// ```
/// use mx_job_webhook::testing::{Mx, Sample};
/// use mx_job_webhook::{Credentials, ErrorKind, JobRouter, JobWebhookEndpoint};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let app = JobWebhookEndpoint::new(Credentials::unauthenticated(), JobRouter::new());
/// let sample = Sample::completed().without_field("guid");
/// let transcript = Mx::new("/").with_retries(0).deliver(app, sample).await;
///
/// let attempt = &transcript.attempts()[0];
/// assert_eq!(*attempt.answer(), 422);
/// assert_eq!(attempt.error().map(|error| error.kind()), Some(ErrorKind::InvalidJob));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Attempt {
    sample: Sample,
    number: u32,
    sent_at: Duration,
    answer: Answer,
    error: Option<Error>,
}

impl Attempt {
    pub(super) fn new(
        sample: Sample,
        number: u32,
        sent_at: Duration,
        answer: Answer,
        error: Option<Error>,
    ) -> Self {
        Self {
            sample,
            number,
            sent_at,
            answer,
            error,
        }
    }

    /// What was sent.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::testing::{Mx, Sample};
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let app = JobWebhookEndpoint::new(Credentials::unauthenticated(), JobRouter::new());
    /// let transcript = Mx::new("/").deliver(app, Sample::denied()).await;
    /// assert_eq!(*transcript.attempts()[0].sample(), Sample::denied());
    /// # }
    /// ```
    #[must_use]
    pub fn sample(&self) -> &Sample {
        &self.sample
    }

    /// Which attempt of its delivery it was, from 1.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::testing::{Mx, Sample};
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let jobs = JobRouter::new().on_denied(|_| async { Err("the database is down") });
    /// let app = JobWebhookEndpoint::new(Credentials::unauthenticated(), jobs);
    /// let transcript = Mx::new("/").with_retries(1).deliver(app, Sample::denied()).await;
    /// assert_eq!(transcript.attempts().last().map(|last| last.number()), Some(2));
    /// # }
    /// ```
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// When it was sent, counted from the call of `deliver`, by tokio's clock.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use mx_job_webhook::testing::{Mx, Sample};
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let app = JobWebhookEndpoint::new(Credentials::unauthenticated(), JobRouter::new());
    /// let transcript = Mx::new("/").with_duplicates(1).deliver(app, Sample::denied()).await;
    /// assert_eq!(transcript.attempts()[1].sent_at(), Duration::from_secs(1));
    /// # }
    /// ```
    #[must_use]
    pub fn sent_at(&self) -> Duration {
        self.sent_at
    }

    /// What came back.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::testing::{Answer, Mx, Sample};
    /// use tower::service_fn;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let breaks = service_fn(|_| async { Err::<http::Response<()>, _>("connection reset") });
    /// let transcript = Mx::new("/").with_retries(0).deliver(breaks, Sample::denied()).await;
    /// let expected = Answer::Failed("connection reset".to_owned());
    /// assert_eq!(*transcript.attempts()[0].answer(), expected);
    /// # }
    /// ```
    #[must_use]
    pub fn answer(&self) -> &Answer {
        &self.answer
    }

    /// Why it was refused, where the response's extensions say so.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::testing::{Mx, Sample};
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let app = JobWebhookEndpoint::new(Credentials::bearer("a-token")?, JobRouter::new());
    /// let transcript = Mx::new("/").with_retries(0).deliver(app, Sample::denied()).await;
    /// let reason = transcript.attempts()[0].error().map(ToString::to_string);
    /// assert_eq!(reason.as_deref(), Some("unauthorized"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }
}

/// What came back for one request; it equals the number that is its status.
///
/// # Example
///
/// ```
/// use http::StatusCode;
/// use mx_job_webhook::testing::Answer;
///
/// assert_eq!(Answer::Status(StatusCode::NO_CONTENT), 204);
/// assert_ne!(Answer::TimedOut, 408);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// A response with this status.
    Status(StatusCode),
    /// No response in time: the sender hung up.
    TimedOut,
    /// The service failed, and this is what its error prints: the connection broke.
    Failed(String),
}

impl Answer {
    /// Whether it is 2xx, so that nothing is sent again.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::testing::Answer;
    ///
    /// assert!(Answer::Status(http::StatusCode::OK).is_success());
    /// assert!(!Answer::TimedOut.is_success());
    /// ```
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Status(status) if status.is_success())
    }
}

impl PartialEq<u16> for Answer {
    fn eq(&self, status: &u16) -> bool {
        matches!(self, Self::Status(own) if own == status)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{}", status.as_u16()),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Failed(error) => write!(f, "failed: {error}"),
        }
    }
}
