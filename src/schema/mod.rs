//! What a job webhook looks like, for descriptions of an API: one table, and an impl for each crate
//! that asks for it.
//!
//! The schemas say what MX documents, with null wherever MX may send it. Decoding takes more than
//! that (MX's misspelling `insitution_guid`, a partner's id that is a number), but nothing that a
//! schema allows is refused, except what no schema can say: a field twice, a text that is no date.

#[cfg(feature = "schemars")]
mod json_schema;
#[cfg(feature = "utoipa")]
mod to_schema;
#[cfg(feature = "utoipa")]
mod webhook;

#[cfg(feature = "utoipa")]
pub use webhook::OpenApiWebhook;

/// A field of the job, as MX's *Job Status* page has it.
struct Field {
    name: &'static str,
    holds: Holds,
    text: &'static str,
}

/// What a field holds. All but the job's own GUID may be null.
#[derive(Clone, Copy)]
enum Holds {
    JobGuid,
    StatusName,
    Date,
    Integer,
    Boolean,
    Text,
}

/// In the order of MX's sample.
#[rustfmt::skip]
const FIELDS: [Field; 14] = [
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

const WEBHOOK: &str = "MX's job-status webhook.";
const JOB: &str =
    "One run of MX against a bank for a member. MX may add fields, and send null for any.";
const STATUS: &str = "The name of a job's status. MX may invent others than the examples.";
const STATUSES: [&str; 5] = ["CHALLENGED", "COMPLETED", "PREVENTED", "DENIED", "HALTED"];
const TIMESTAMP: &str = "A moment: in Unix seconds, or as ISO 8601 with an offset.";
const UNIX_SECONDS: &str = "Seconds since 1970-01-01T00:00:00Z.";
const ISO_8601: &str = "ISO 8601 with an offset.";

/// What is not blank, as an id and a name have to be. A byte-order mark is white space to the
/// expressions of JSON Schema, and not to Rust.
const NOT_BLANK: &str = r"[\S\uFEFF]";

/// The id types, what each is called in a description, and what it is.
macro_rules! for_each_id {
    ($macro:ident) => {
        $macro!(crate::JobGuid, "MxJobGuid", "MX's id of a job.");
        $macro!(crate::MemberGuid, "MxMemberGuid", "MX's id of a member.");
        $macro!(crate::UserGuid, "MxUserGuid", "MX's id of a user.");
        $macro!(
            crate::InstitutionGuid,
            "MxInstitutionGuid",
            "MX's id of a bank."
        );
        $macro!(
            crate::MemberId,
            "MxMemberId",
            "The partner's own id of a member."
        );
        $macro!(crate::UserId, "MxUserId", "The partner's own id of a user.");
    };
}
use for_each_id;
