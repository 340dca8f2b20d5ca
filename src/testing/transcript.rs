//! What came of deliveries: every attempt, and its answer.

use std::fmt;

use super::{Answer, Attempt};

/// Every attempt that [`Mx`](super::Mx) made, in the order in which they were sent.
///
/// `Display` prints an attempt a line, with the reason of a refusal, for the message of an
/// assertion that fails. It shows no user and no body.
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
/// let transcript = Mx::new("/").deliver(app, Sample::completed().with_guid("JOB-1")).await;
/// assert!(transcript.all_acknowledged(), "{transcript}");
/// assert_eq!(transcript.to_string(), "      0.0 s  JOB-1 COMPLETED, attempt 1: 204\n");
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Transcript {
    attempts: Vec<Attempt>,
}

impl Transcript {
    pub(super) fn new(attempts: Vec<Attempt>) -> Self {
        Self { attempts }
    }

    /// The attempts, in the order in which they were sent.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::testing::{Mx, Sample};
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let jobs = JobRouter::new().on_halted(|_| async { Err("the database is down") });
    /// let app = JobWebhookEndpoint::new(Credentials::unauthenticated(), jobs);
    /// let transcript = Mx::new("/").deliver(app, Sample::halted()).await;
    ///
    /// let hours = transcript.attempts().last().map(|last| last.sent_at().as_secs() / 3_600);
    /// assert_eq!((transcript.attempts().len(), hours), (13, Some(24)));
    /// # }
    /// ```
    #[must_use]
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// The answers alone; each equals the number that is its status.
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
    /// let samples = [Sample::challenged(), Sample::completed()];
    /// let transcript = Mx::new("/").deliver(app, samples).await;
    /// assert_eq!(transcript.answers(), [204, 204]);
    /// # }
    /// ```
    #[must_use]
    pub fn answers(&self) -> Vec<Answer> {
        self.attempts
            .iter()
            .map(|attempt| attempt.answer().clone())
            .collect()
    }

    /// How many attempts were answered with this status.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::testing::{Mx, Sample};
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let app = JobWebhookEndpoint::new(Credentials::basic("mx", "secret")?, JobRouter::new());
    /// let transcript = Mx::new("/").deliver(app, Sample::completed()).await;
    /// assert_eq!((transcript.count(204), transcript.count(401)), (0, 13));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn count(&self, status: u16) -> usize {
        let answers = self.attempts.iter().map(|attempt| attempt.answer());
        answers.filter(|answer| **answer == status).count()
    }

    /// Whether each delivery was answered 2xx in the end, so that MX gave none up.
    ///
    /// # Example
    ///
    /// ```
    /// use std::sync::atomic::{AtomicBool, Ordering};
    /// use mx_job_webhook::testing::{Mx, Sample};
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
    ///
    /// static DOWN: AtomicBool = AtomicBool::new(true);
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let jobs = JobRouter::new().on_halted(|_| async {
    ///     if DOWN.swap(false, Ordering::Relaxed) { Err("the database is down") } else { Ok(()) }
    /// });
    /// let app = JobWebhookEndpoint::new(Credentials::unauthenticated(), jobs);
    /// let transcript = Mx::new("/").deliver(app, Sample::halted()).await;
    /// assert_eq!(transcript.answers(), [500, 204]);
    /// assert!(transcript.all_acknowledged());
    /// # }
    /// ```
    #[must_use]
    pub fn all_acknowledged(&self) -> bool {
        let first = self.attempts.iter().filter(|attempt| attempt.number() == 1);
        let answers = self.attempts.iter().map(|attempt| attempt.answer());
        first.count() == answers.filter(|answer| answer.is_success()).count()
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.attempts.iter().try_for_each(|attempt| {
            let (sample, number) = (attempt.sample(), attempt.number());
            let seconds = attempt.sent_at().as_secs_f64();
            let guid = sample.text("guid").unwrap_or("(no guid)");
            let status = sample.text("status_name").unwrap_or("(no name)");
            write!(
                f,
                "{seconds:9.1} s  {guid} {status}, attempt {number}: {}",
                attempt.answer()
            )?;
            match attempt.error() {
                Some(error) => writeln!(f, " ({error})"),
                None => writeln!(f),
            }
        })
    }
}
