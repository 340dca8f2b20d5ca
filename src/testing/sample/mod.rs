//! Payloads as MX would send them.

mod job;

use std::fmt;
use std::iter::{Once, once};

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::event::JobEvent;
use crate::job::Status;

/// A job webhook as MX would send it, to deliver as it is or to vary.
///
/// `completed` is the sample on MX's *Job Status* page to the letter. That is the only one MX
/// publishes; in the others the dates, `error_message` and `is_authenticated` are what the
/// page's field table leads to expect. All of them are of one job and one user, and the later
/// statuses have later dates, so that a few in a row are one job's story;
/// [`numbered`](Self::numbered) makes other jobs.
///
/// A clone is cheap enough for a test. `Debug` shows the job's GUID and status.
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
    /// A job that completed: MX's own sample.
    #[must_use]
    pub fn completed() -> Self {
        Self::new(Status::Completed)
    }

    /// A job whose bank asks the user something.
    #[must_use]
    pub fn challenged() -> Self {
        Self::new(Status::Challenged)
    }

    /// A job whose bank refused the credentials.
    #[must_use]
    pub fn denied() -> Self {
        Self::new(Status::Denied)
    }

    /// A job that failed for another reason than the credentials.
    #[must_use]
    pub fn halted() -> Self {
        Self::new(Status::Halted)
    }

    /// A job that MX did not start, after too many failed logins.
    #[must_use]
    pub fn prevented() -> Self {
        Self::new(Status::Prevented)
    }

    /// The five statuses that MX sends webhooks for, each of another job.
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

    /// A job with any status, one that MX sends no webhook for or may invent included.
    ///
    /// A status with a name outside the table has no integer, and the other way round.
    #[must_use]
    pub fn new(status: Status) -> Self {
        Self {
            job: job::of(&status),
        }
    }

    /// The same of another job, of another member and another user: one for each number.
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
    /// It is part of what names an event: the same status with another date is another one.
    #[must_use]
    pub fn with_updated_at(self, unix_seconds: i64) -> Self {
        self.with_field("updated_at", unix_seconds)
    }

    /// Sets a field of the job, documented or not, to any JSON.
    #[must_use]
    pub fn with_field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.job.insert(name.to_owned(), value.into());
        self
    }

    /// Leaves a field of the job out.
    #[must_use]
    pub fn without_field(mut self, name: &str) -> Self {
        self.job.remove(name);
        self
    }

    /// The body of the webhook: `{"job": {…}}` in JSON.
    #[must_use]
    pub fn body(&self) -> Bytes {
        let job = Value::Object(self.job.clone());
        Bytes::from(format!(r#"{{"job":{job}}}"#))
    }

    /// What a callback gets of it, for calling one without HTTP.
    ///
    /// # Errors
    ///
    /// As [`Job::decode`](crate::Job::decode), if it was varied until it is no job any more.
    pub fn event(&self) -> Result<JobEvent, Error> {
        JobEvent::decode(self.body())
    }

    /// A field, if it is text.
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

/// Itself, once: for [`Mx::deliver`](super::Mx::deliver), which takes any number.
impl IntoIterator for Sample {
    type Item = Self;
    type IntoIter = Once<Self>;

    fn into_iter(self) -> Once<Self> {
        once(self)
    }
}
