//! Writing a job in the shape that MX documents.

use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::Job;

/// Writes the fourteen documented fields, in the order of MX's sample.
impl Serialize for Job {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut job = serializer.serialize_struct("Job", 14)?;
        job.serialize_field("created_at", &self.created_at)?;
        job.serialize_field("error_message", &self.error_message)?;
        job.serialize_field("finished_at", &self.finished_at)?;
        job.serialize_field("guid", &self.guid)?;
        job.serialize_field("institution_guid", &self.institution_guid)?;
        job.serialize_field("is_authenticated", &self.is_authenticated)?;
        job.serialize_field("member_guid", &self.member_guid)?;
        job.serialize_field("member_id", &self.member_id)?;
        job.serialize_field("started_at", &self.started_at)?;
        job.serialize_field("status", &self.written_code())?;
        job.serialize_field("status_name", &self.status.name())?;
        job.serialize_field("updated_at", &self.updated_at)?;
        job.serialize_field("user_guid", &self.user_guid)?;
        job.serialize_field("user_id", &self.user_id)?;
        job.end()
    }
}

impl Job {
    /// The integer as it was sent. A status without a name is nothing but its integer, which
    /// must then be written whatever `status_code` says.
    fn written_code(&self) -> Option<i64> {
        match self.status.name() {
            Some(_) => self.status_code,
            None => self.status.code(),
        }
    }
}
