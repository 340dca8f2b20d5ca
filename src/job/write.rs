//! Writes a job as the object that MX documents.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::job::Job;

/// Writes the fourteen documented fields, in the order of MX's sample.
///
/// It writes a map, because some formats drop the names of a struct's fields.
impl Serialize for Job {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut job = serializer.serialize_map(Some(14))?;
        job.serialize_entry("created_at", &self.created_at)?;
        job.serialize_entry("error_message", &self.error_message)?;
        job.serialize_entry("finished_at", &self.finished_at)?;
        job.serialize_entry("guid", &self.guid)?;
        job.serialize_entry("institution_guid", &self.institution_guid)?;
        job.serialize_entry("is_authenticated", &self.is_authenticated)?;
        job.serialize_entry("member_guid", &self.member_guid)?;
        job.serialize_entry("member_id", &self.member_id)?;
        job.serialize_entry("started_at", &self.started_at)?;
        job.serialize_entry("status", &self.written_code())?;
        job.serialize_entry("status_name", &self.status.name())?;
        job.serialize_entry("updated_at", &self.updated_at)?;
        job.serialize_entry("user_guid", &self.user_guid)?;
        job.serialize_entry("user_id", &self.user_id)?;
        job.end()
    }
}

impl Job {
    /// Returns the integer to write. A status without a name consists of its integer alone, which
    /// takes precedence over `status_code`.
    fn written_code(&self) -> Option<i64> {
        match self.status.name() {
            Some(_) => self.status_code,
            None => self.status.code(),
        }
    }
}
