//! What a webhook consists of: the one table that all schemas are made of.

/// A field of the job, as MX's *Job Status* page has it.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) holds: Holds,
    pub(super) text: &'static str,
}

/// What a field holds. All but the job's own GUID may be null.
#[derive(Clone, Copy)]
pub(super) enum Holds {
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
    field("created_at", Holds::Date, "When the job was created."),
    field("error_message", Holds::Text, "The error's message, if the job failed: text, not markup."),
    field("finished_at", Holds::Date, "When the job finished; most likely null while CHALLENGED."),
    field("guid", Holds::JobGuid, "MX's id of the job."),
    field("institution_guid", Holds::Text, "MX's id of the bank."),
    field("is_authenticated", Holds::Boolean, "True once credentials are valid and challenges answered."),
    field("member_guid", Holds::Text, "MX's id of the member: one user's connection to the bank."),
    field("member_id", Holds::Text, "The partner's own id of the member; null if the user manages it."),
    field("started_at", Holds::Date, "When the job started."),
    field("status", Holds::Integer, "The status as an integer; serves where the name is missing."),
    field("status_name", Holds::StatusName, "The status as a name, which decides."),
    field("updated_at", Holds::Date, "When the job was last updated; tells one CHALLENGED from the next."),
    field("user_guid", Holds::Text, "MX's id of the user."),
    field("user_id", Holds::Text, "The partner's own id of the user."),
];

const fn field(name: &'static str, holds: Holds, text: &'static str) -> Field {
    Field { name, holds, text }
}

pub(super) const WEBHOOK: &str = "MX's job-status webhook.";
pub(super) const JOB: &str =
    "One run of MX against a bank for a member. MX may add fields, and send null for any.";
pub(super) const STATUS: &str =
    "The name of a job's status. MX may invent others than the examples.";
pub(super) const STATUSES: [&str; 5] = ["CHALLENGED", "COMPLETED", "PREVENTED", "DENIED", "HALTED"];
pub(super) const TIMESTAMP: &str = "A moment: in Unix seconds, or as ISO 8601 with an offset.";
pub(super) const UNIX_SECONDS: &str = "Seconds since 1970-01-01T00:00:00Z.";
pub(super) const ISO_8601: &str = "ISO 8601 with an offset.";

/// What is not blank, as an id and a name have to be. To the expressions of JSON Schema a byte-order
/// mark is white space and U+0085 is not; here it is the other way round.
pub(super) const NOT_BLANK: &str = r"[^\s\u0085]|\uFEFF";

/// The id types, what each is called in a description, and what it is.
macro_rules! for_each_id {
    ($macro:ident) => {
        $macro!(crate::job::JobGuid, "MxJobGuid", "MX's id of a job.");
        $macro!(
            crate::job::MemberGuid,
            "MxMemberGuid",
            "MX's id of a member."
        );
        $macro!(crate::job::UserGuid, "MxUserGuid", "MX's id of a user.");
        $macro!(
            crate::job::InstitutionGuid,
            "MxInstitutionGuid",
            "MX's id of a bank."
        );
        $macro!(
            crate::job::MemberId,
            "MxMemberId",
            "The partner's own id of a member."
        );
        $macro!(
            crate::job::UserId,
            "MxUserId",
            "The partner's own id of a user."
        );
    };
}
pub(super) use for_each_id;
