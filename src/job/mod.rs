//! Jobs: the fourteen fields that MX documents, and decoding them.
//!
//! This module is pure data, without HTTP and without async code. It uses `error` alone.

mod decode;
pub mod id;
pub(crate) mod json;
mod number;
mod object;
pub(crate) mod other_webhook;
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
/// The fields are the fourteen of MX's *Job Status* page: `status` is the page's `status_name`, and
/// `status_code` is its `status`. MX reserves the right to add fields and to send null for any
/// field (MX's page on webhooks, *best practices*), so only `guid` and `status` are required.
///
/// A field is `None` if it is absent or null, if it is a blank id, or if its value cannot be read.
/// Such values include those that JSON's grammar allows and no Rust type can hold: half a surrogate
/// pair (`"\ud83d"`), or a number out of range. The payload itself is in
/// [`JobEvent::body`](crate::JobEvent::body).
///
/// `Serialize` writes the documented object, and `Deserialize` reads it, so a job can be stored or
/// queued in any self-describing format, such as JSON. `Deserialize` reads the object under `job`,
/// and only values that the format accepts: `serde_json` refuses half a surrogate pair, and numbers
/// that are out of range for a float. [`Job::decode`] reads a whole webhook, by JSON's grammar
/// alone.
///
/// `Debug` leaves out the ids of the user and the error message, which is free text.
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
    /// The status: `status_name`, or `status` if there is no usable name.
    pub status: Status,
    /// The integer that MX sent as `status`. If there is a name, the name decides.
    pub status_code: Option<i64>,
    /// When the job was created.
    pub created_at: Option<Timestamp>,
    /// When the job started.
    pub started_at: Option<Timestamp>,
    /// When the job finished; most likely null for a CHALLENGED job.
    pub finished_at: Option<Timestamp>,
    /// When the job was last updated; distinguishes one CHALLENGED from the next.
    pub updated_at: Option<Timestamp>,
    /// The error message, if the job failed; plain text without markup.
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
    /// Returns a job with this GUID and status.
    ///
    /// `status_code` is the integer of the status. All other fields are `None`.
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

    /// Decodes a whole webhook, `{"job": {…}}`.
    ///
    /// Deliveries are decoded by this function; call it for bodies that you stored. It accepts any
    /// order of fields, unknown fields, nulls, ISO 8601 dates, a byte-order mark, and white space
    /// around the document. It neither panics nor recurses, whatever the payload.
    ///
    /// # Errors
    ///
    /// An [`Error`] of one of these [kinds](Error::kind):
    ///
    /// - [`NotJson`](crate::ErrorKind::NotJson): the bytes are not UTF-8, or not one JSON document.
    /// - [`UnexpectedWebhook`](crate::ErrorKind::UnexpectedWebhook): it is another of MX's webhooks.
    /// - [`NoJob`](crate::ErrorKind::NoJob): the root has no object `job`.
    /// - [`InvalidJob`](crate::ErrorKind::InvalidJob): the job has no usable `guid` or no status,
    ///   or has a documented field twice. [`Error::field`] names the field.
    ///
    /// The error contains nothing of the payload.
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
    fn debug_leaves_out_personal_ids_and_free_text() {
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
    fn a_job_takes_at_most_half_a_kilobyte() {
        assert!(size_of::<Job>() <= 512, "{}", size_of::<Job>());
    }
}
