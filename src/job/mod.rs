//! Jobs: the fourteen fields that MX documents, and decoding them.
//!
//! Pure data, without HTTP and without async code.

mod decode;
pub mod id;
pub(crate) mod json;
mod number;
mod object;
mod read;
mod scalar;
mod status;
mod timestamp;
mod white_space;
mod write;

use std::fmt;

use crate::error::Error;
pub use id::{BlankIdError, InstitutionGuid, JobGuid, MemberGuid, MemberId, UserGuid, UserId};
use number::Number;
use read::PartialJob;
use scalar::Scalar;
pub use status::{OtherStatus, Status};
#[cfg(any(feature = "jiff", feature = "chrono", feature = "time"))]
pub use timestamp::TimestampRangeError;
pub use timestamp::{ParseTimestampError, Timestamp};

/// One run of MX against a bank for a member, as a webhook describes it.
///
/// The fourteen fields of MX's *Job Status* page, one to one: `status` is the page's
/// `status_name`, and `status_code` its `status`. MX reserves the right to add fields
/// and to send null for any (MX's page on webhooks, *best practices*), so everything
/// but `guid` and `status` is optional. A field that is absent, null, blank (an id)
/// or of a value that it cannot be read from is `None`; the payload itself stays in
/// [`JobEvent::body`](crate::JobEvent::body). So are values that JSON's grammar has and
/// no Rust type does: half a surrogate pair (`"\ud83d"`), a number beyond every range.
///
/// `Serialize` writes the documented shape and `Deserialize` reads it, so a job can be
/// stored as JSON or queued, and read again. The formats have to be self-describing,
/// as JSON is. `Deserialize` reads the object that stands under `job`, and what the format
/// hands over: `serde_json` itself refuses half a surrogate pair and numbers beyond every
/// float. [`Job::decode`] reads a whole webhook, by JSON's grammar alone.
///
/// `Debug` shows neither the ids of the user nor the error message, which is free text.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{Job, Status};
///
/// let job = Job::decode(br#"{"job": {"guid": "JOB-1", "status_name": "DENIED", "status": 8}}"#)?;
/// assert_eq!(job.guid, "JOB-1");
/// assert_eq!(job.status, Status::Denied);
///
/// let stored = serde_json::to_string(&job)?;
/// assert_eq!(serde_json::from_str::<Job>(&stored)?, job);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Job {
    /// MX's id of the job.
    pub guid: JobGuid,
    /// What the job is at: `status_name`, or `status` where the name is missing.
    pub status: Status,
    /// The integer that MX sent as `status`; kept, never consulted when a name is there.
    pub status_code: Option<i64>,
    /// When the job was created.
    pub created_at: Option<Timestamp>,
    /// When the job started.
    pub started_at: Option<Timestamp>,
    /// When the job finished; most likely null while CHALLENGED.
    pub finished_at: Option<Timestamp>,
    /// When the job was last updated; tells one CHALLENGED from the next.
    pub updated_at: Option<Timestamp>,
    /// The error's message, if the job failed: text, not markup.
    pub error_message: Option<String>,
    /// MX's id of the bank; also read from MX's misspelling `insitution_guid`.
    pub institution_guid: Option<InstitutionGuid>,
    /// False at first; true once credentials are valid and challenges answered.
    pub is_authenticated: Option<bool>,
    /// MX's id of the member: one user's connection to the bank.
    pub member_guid: Option<MemberGuid>,
    /// The partner's own id of the member; null if the user manages the member.
    pub member_id: Option<MemberId>,
    /// MX's id of the user.
    pub user_guid: Option<UserGuid>,
    /// The partner's own id of the user.
    pub user_id: Option<UserId>,
}

impl Job {
    /// A job with the two fields that every job has, and `None` everywhere else.
    ///
    /// `status_code` is the integer that belongs to the status.
    #[must_use]
    pub fn new(guid: JobGuid, status: Status) -> Self {
        Self {
            guid,
            status_code: status.code(),
            status,
            created_at: None,
            started_at: None,
            finished_at: None,
            updated_at: None,
            error_message: None,
            institution_guid: None,
            is_authenticated: None,
            member_guid: None,
            member_id: None,
            user_guid: None,
            user_id: None,
        }
    }

    /// Reads a whole webhook, `{"job": {…}}`.
    ///
    /// The one way in which this crate decodes a delivery, here for those who keep
    /// bodies and read them elsewhere. Any order of fields, unknown fields, nulls,
    /// ISO 8601 dates, a byte-order mark and white space around the document are fine.
    /// Nothing in a payload makes it panic or recurse without bound.
    ///
    /// # Errors
    ///
    /// An [`Error`] whose [kind](Error::kind) is
    /// - [`NotJson`](crate::ErrorKind::NotJson): not UTF-8, or not one JSON document;
    /// - [`OtherWebhook`](crate::ErrorKind::OtherWebhook): another kind of MX webhook;
    /// - [`NoJob`](crate::ErrorKind::NoJob): no object `job` at the root;
    /// - [`InvalidJob`](crate::ErrorKind::InvalidJob): no usable `guid`, no status, or a
    ///   documented field twice; [`Error::field`] names it.
    ///
    /// No error repeats any of the payload.
    pub fn decode(webhook: &[u8]) -> Result<Self, Error> {
        decode::decode(webhook)
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("guid", &self.guid)
            .field("status", &self.status)
            .field("status_code", &self.status_code)
            .field("created_at", &self.created_at)
            .field("started_at", &self.started_at)
            .field("finished_at", &self.finished_at)
            .field("updated_at", &self.updated_at)
            .field("institution_guid", &self.institution_guid)
            .field("is_authenticated", &self.is_authenticated)
            .field("member_guid", &self.member_guid)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_person_and_no_free_text() {
        let mut job = Job::new("JOB-1".parse().unwrap(), Status::Denied);
        job.user_guid = Some("USR-secret".parse().unwrap());
        job.user_id = Some("secret-user".parse().unwrap());
        job.member_id = Some("secret-member".parse().unwrap());
        job.error_message = Some("secret message".into());
        let debug = format!("{job:?}");
        assert!(
            debug.contains("JOB-1") && !debug.contains("secret"),
            "{debug}"
        );
    }

    #[test]
    fn a_job_that_is_kept_stays_under_a_kilobyte() {
        assert!(size_of::<Job>() <= 512, "{}", size_of::<Job>());
    }
}
