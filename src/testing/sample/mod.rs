//! Payloads as MX would send them.

mod job;

use std::fmt;
use std::iter::{Once, once};

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{Error, JobEvent, Status};

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
/// use mx_job_webhook::{JobRouter, Receipt, testing::Sample};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let jobs = JobRouter::new().on_denied(|event| async move {
///     assert_eq!(event.error_message.as_deref(), Some("Try again."));
/// });
///
/// let sample = Sample::denied().with_field("error_message", "Try again.");
/// assert_eq!(jobs.call(sample.event()?).await?, Receipt::Handled);
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Sample {
    job: Map<String, Value>,
}

impl Sample {
    /// A job that completed: MX's own sample.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::testing::Sample;
    ///
    /// let job = Sample::completed().event()?.into_job();
    /// assert_eq!(job.guid, "JOB-a177e002-e5b8-0680-3427-39556fa93c6e");
    /// # Ok::<(), mx_job_webhook::Error>(())
    /// ```
    #[must_use]
    pub fn completed() -> Self {
        Self::new(Status::Completed)
    }

    /// A job whose bank asks the user something.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::testing::Sample;
    ///
    /// let job = Sample::challenged().event()?.into_job();
    /// assert_eq!((job.is_authenticated, job.finished_at), (Some(false), None));
    /// # Ok::<(), mx_job_webhook::Error>(())
    /// ```
    #[must_use]
    pub fn challenged() -> Self {
        Self::new(Status::Challenged)
    }

    /// A job whose bank refused the credentials.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::testing::Sample;
    ///
    /// assert!(Sample::denied().event()?.error_message.is_some());
    /// # Ok::<(), mx_job_webhook::Error>(())
    /// ```
    #[must_use]
    pub fn denied() -> Self {
        Self::new(Status::Denied)
    }

    /// A job that failed for another reason than the credentials.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Status, testing::Sample};
    ///
    /// assert_eq!(Sample::halted().event()?.status, Status::Halted);
    /// # Ok::<(), mx_job_webhook::Error>(())
    /// ```
    #[must_use]
    pub fn halted() -> Self {
        Self::new(Status::Halted)
    }

    /// A job that MX did not start, after too many failed logins.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Status, testing::Sample};
    ///
    /// assert_eq!(Sample::prevented().event()?.status, Status::Prevented);
    /// # Ok::<(), mx_job_webhook::Error>(())
    /// ```
    #[must_use]
    pub fn prevented() -> Self {
        Self::new(Status::Prevented)
    }

    /// The five statuses that MX sends webhooks for, each of another job.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::testing::Sample;
    ///
    /// let names = Sample::of_each_status().map(|sample| sample.event().map(|e| e.status.to_string()));
    /// let names = names.into_iter().collect::<Result<Vec<_>, _>>()?;
    /// assert_eq!(names, ["CHALLENGED", "COMPLETED", "PREVENTED", "DENIED", "HALTED"]);
    /// # Ok::<(), mx_job_webhook::Error>(())
    /// ```
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
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Status, testing::Sample};
    ///
    /// let event = Sample::new(Status::from("THROTTLED")).event()?;
    /// assert_eq!((event.status.name(), event.status_code), (Some("THROTTLED"), None));
    /// # Ok::<(), mx_job_webhook::Error>(())
    /// ```
    #[must_use]
    pub fn new(status: Status) -> Self {
        Self {
            job: job::of(&status),
        }
    }

    /// The same of another job, of another member and another user: one for each number.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::testing::Sample;
    ///
    /// let [one, two] = [1, 2].map(|number| Sample::halted().numbered(number));
    /// assert_eq!(one.event()?.guid, "JOB-00000000-0000-4000-8000-000000000001");
    /// assert_ne!(one.event()?.member_guid, two.event()?.member_guid);
    /// # Ok::<(), mx_job_webhook::Error>(())
    /// ```
    #[must_use]
    pub fn numbered(self, number: u32) -> Self {
        let guid = |kind| format!("{kind}-00000000-0000-4000-8000-{number:012}");
        self.with_guid(&guid("JOB"))
            .with_field("member_guid", guid("MBR"))
            .with_field("user_guid", guid("USR"))
            .with_field("user_id", number.to_string())
    }

    /// Sets the job's GUID.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::testing::Sample;
    ///
    /// assert_eq!(Sample::halted().with_guid("JOB-1").event()?.guid, "JOB-1");
    /// # Ok::<(), mx_job_webhook::Error>(())
    /// ```
    #[must_use]
    pub fn with_guid(self, guid: &str) -> Self {
        self.with_field("guid", guid)
    }

    /// Sets when the job was last updated, in Unix seconds.
    ///
    /// It is part of what names an event: the same status with another date is another one.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{EventName, testing::Sample};
    ///
    /// let first = EventName::of(&Sample::challenged().event()?);
    /// let later = Sample::challenged().with_updated_at(1_471_281_216);
    /// let again = EventName::of(&later.event()?);
    /// assert_ne!(first, again);
    /// # Ok::<(), mx_job_webhook::Error>(())
    /// ```
    #[must_use]
    pub fn with_updated_at(self, unix_seconds: i64) -> Self {
        self.with_field("updated_at", unix_seconds)
    }

    /// Sets a field of the job, documented or not, to any JSON.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::testing::Sample;
    ///
    /// let event = Sample::completed().with_field("new_at_mx", true).event()?;
    /// assert!(event.body().ends_with(br#""user_id":"7834372140"}}"#));
    /// assert!(std::str::from_utf8(event.body())?.contains(r#""new_at_mx":true"#));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.job.insert(name.to_owned(), value.into());
        self
    }

    /// Leaves a field of the job out.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Status, testing::Sample};
    ///
    /// let event = Sample::denied().without_field("status_name").event()?;
    /// assert_eq!(event.status, Status::Denied, "the integer serves");
    /// # Ok::<(), mx_job_webhook::Error>(())
    /// ```
    #[must_use]
    pub fn without_field(mut self, name: &str) -> Self {
        self.job.remove(name);
        self
    }

    /// The body of the webhook: `{"job": {…}}` in JSON.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Job, testing::Sample};
    ///
    /// let job = Job::decode(&Sample::completed().body())?;
    /// assert_eq!(job.user_id.unwrap().as_str(), "7834372140");
    /// # Ok::<(), mx_job_webhook::Error>(())
    /// ```
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
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{ErrorKind, testing::Sample};
    ///
    /// assert!(Sample::completed().event().is_ok());
    /// let error = Sample::completed().without_field("guid").event().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::InvalidJob);
    /// ```
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
