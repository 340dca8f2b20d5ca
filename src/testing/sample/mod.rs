//! Payloads as MX sends them.

mod job;

use std::fmt;
use std::iter::{Once, once};

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::event::JobEvent;
use crate::job::Status;

/// A job webhook as MX sends it, to deliver unchanged or varied.
///
/// `completed` equals the sample on MX's *Job Status* page, the only one that MX publishes. In the
/// others, the dates, `error_message` and `is_authenticated` follow the field table of that page.
/// All samples are of one job and one user, and later statuses have later dates, so that several in
/// a row are the course of one job. [`numbered`](Self::numbered) returns samples of other jobs.
///
/// `Debug` prints the job's GUID and status.
///
/// # Example
///
/// ```
/// use mx_job_webhook::testing::Sample;
/// use mx_job_webhook::{Background, JobRouter, Receipt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let jobs = JobRouter::new().on_denied(|event| async move {
///     assert_eq!(event.error_message.as_deref(), Some("Try again."));
/// });
///
/// let sample = Sample::denied().with_field("error_message", "Try again.");
/// assert_eq!(Background::new().run(jobs, sample.event()?).await?, Receipt::Handled);
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Sample {
    job: Map<String, Value>,
}

impl Sample {
    /// Returns a completed job, which is MX's own sample.
    #[must_use]
    pub fn completed() -> Self {
        Self::new(Status::Completed)
    }

    /// Returns a job whose bank asks the user a question.
    #[must_use]
    pub fn challenged() -> Self {
        Self::new(Status::Challenged)
    }

    /// Returns a job whose bank refused the credentials.
    #[must_use]
    pub fn denied() -> Self {
        Self::new(Status::Denied)
    }

    /// Returns a job that failed for a reason other than the credentials.
    #[must_use]
    pub fn halted() -> Self {
        Self::new(Status::Halted)
    }

    /// Returns a job that MX did not start, after too many failed logins.
    #[must_use]
    pub fn prevented() -> Self {
        Self::new(Status::Prevented)
    }

    /// Returns five jobs, one for each status that MX sends webhooks for.
    #[must_use]
    pub fn of_each_status() -> [Self; 5] {
        [
            Self::challenged().numbered(1),
            Self::completed().numbered(2),
            Self::prevented().numbered(3),
            Self::denied().numbered(4),
            Self::halted().numbered(5),
        ]
    }

    /// Returns a job with any status, including statuses that MX sends no webhook for.
    ///
    /// A status outside of MX's table has either a name or an integer, and the sample has only
    /// that.
    #[must_use]
    pub fn new(status: Status) -> Self {
        Self {
            job: job::of(&status),
        }
    }

    /// Sets the ids of the job, the member and the user, by a number.
    ///
    /// Different numbers result in different ids.
    #[must_use]
    pub fn numbered(self, number: u32) -> Self {
        let guid = |kind| format!("{kind}-00000000-0000-4000-8000-{number:012}");
        self.with_guid(&guid("JOB"))
            .with_field("member_guid", guid("MBR"))
            .with_field("user_guid", guid("USR"))
            .with_field("user_id", number.to_string())
    }

    /// Sets the job's GUID.
    #[must_use]
    pub fn with_guid(self, guid: &str) -> Self {
        self.with_field("guid", guid)
    }

    /// Sets when the job was last updated, in Unix seconds.
    ///
    /// The date is part of an event's name, so the same status with another date is another event.
    #[must_use]
    pub fn with_updated_at(self, unix_seconds: i64) -> Self {
        self.with_field("updated_at", unix_seconds)
    }

    /// Sets a field of the job to any JSON. The field need not be documented.
    #[must_use]
    pub fn with_field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.job.insert(name.to_owned(), value.into());
        self
    }

    /// Removes a field of the job.
    #[must_use]
    pub fn without_field(mut self, name: &str) -> Self {
        self.job.remove(name);
        self
    }

    /// Returns the body of the webhook: `{"job": {…}}` in JSON.
    #[must_use]
    pub fn body(&self) -> Bytes {
        let job = Value::Object(self.job.clone());
        Bytes::from(format!(r#"{{"job":{job}}}"#))
    }

    /// Returns the event that a callback receives, to call one without HTTP.
    ///
    /// # Errors
    ///
    /// Returns the error of [`Job::decode`](crate::Job::decode), if the sample was varied so that
    /// it is not a job.
    pub fn event(&self) -> Result<JobEvent, Error> {
        JobEvent::decode(self.body())
    }

    /// Returns a field, if it is text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.job.get(name)?.as_str()
    }
}

impl fmt::Debug for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sample")
            .field("guid", &self.job.get("guid"))
            .field("status", &self.job.get("status"))
            .field("status_name", &self.job.get("status_name"))
            .finish_non_exhaustive()
    }
}

/// Returns the sample itself, once, because [`Mx::deliver`](super::Mx::deliver) takes any number.
impl IntoIterator for Sample {
    type Item = Self;
    type IntoIter = Once<Self>;

    fn into_iter(self) -> Once<Self> {
        once(self)
    }
}
