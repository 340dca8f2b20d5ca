//! The table from which all schemas are made.

/// A field of the job, as MX's *Job Status* page describes it.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) field_type: FieldType,
    pub(super) text: &'static str,
}

/// The type of a field. All fields except the job's own GUID may be null.
#[derive(Clone, Copy)]
pub(super) enum FieldType {
    JobGuid,
    StatusName,
    Date,
    Integer,
    Boolean,
    Text,
}

/// In the order of MX's sample.
#[rustfmt::skip]
pub(super) const FIELDS: [Field; 14] = [
    field("created_at", FieldType::Date, "When the job was created."),
    field("error_message", FieldType::Text, "The error message, if the job failed; plain text without markup."),
    field("finished_at", FieldType::Date, "When the job finished; most likely null for a CHALLENGED job."),
    field("guid", FieldType::JobGuid, "MX's id of the job."),
    field("institution_guid", FieldType::Text, "MX's id of the bank."),
    field("is_authenticated", FieldType::Boolean, "True once credentials are valid and challenges answered."),
    field("member_guid", FieldType::Text, "MX's id of the member: one user's connection to the bank."),
    field("member_id", FieldType::Text, "The partner's own id of the member; null if the user manages the member."),
    field("started_at", FieldType::Date, "When the job started."),
    field("status", FieldType::Integer, "The status as an integer; used only if there is no name."),
    field("status_name", FieldType::StatusName, "The status as a name; takes precedence over the integer."),
    field("updated_at", FieldType::Date, "When the job was last updated; distinguishes one CHALLENGED from the next."),
    field("user_guid", FieldType::Text, "MX's id of the user."),
    field("user_id", FieldType::Text, "The partner's own id of the user."),
];

const fn field(name: &'static str, field_type: FieldType, text: &'static str) -> Field {
    Field {
        name,
        field_type,
        text,
    }
}

pub(super) const WEBHOOK: &str = "MX's job-status webhook.";
pub(super) const JOB: &str = "One run of MX against a bank for a member. MX may add fields, and may send null for any field.";
pub(super) const STATUS: &str =
    "The name of a job's status. MX may send names other than the examples.";
pub(super) const STATUSES: [&str; 5] = ["CHALLENGED", "COMPLETED", "PREVENTED", "DENIED", "HALTED"];
pub(super) const TIMESTAMP: &str = "A timestamp, in Unix seconds or as ISO 8601 with an offset.";
pub(super) const UNIX_SECONDS: &str = "Seconds since 1970-01-01T00:00:00Z.";
pub(super) const ISO_8601: &str = "ISO 8601 with an offset.";

/// Matches text that is not blank, as ids and names must be.
///
/// In the regular expressions of JSON Schema, a byte-order mark is white space and U+0085 is not.
/// In this crate it is the other way round.
pub(super) const NOT_BLANK: &str = r"[^\s\u0085]|\uFEFF";
