//! The fourteen fields of a job with a status.

use serde_json::{Map, Value};

use crate::job::Status;

pub(super) fn of(status: &Status) -> Map<String, Value> {
    let ended = matches!(
        status,
        Status::Completed | Status::Prevented | Status::Denied | Status::Halted
    );
    let authenticated = matches!(
        status,
        Status::Received | Status::Transferred | Status::Processed | Status::Completed
    );
    let error_message = match status {
        Status::Prevented => "Too many failed attempts.".into(),
        Status::Denied => "The credentials were refused.".into(),
        Status::Halted => "The institution could not be reached.".into(),
        _ => Value::Null,
    };
    let later = status.code().map_or(0, |code| code.clamp(0, 6));
    let job = [
        ("created_at", 1_471_281_212.into()),
        ("error_message", error_message),
        ("finished_at", ended.then_some(1_471_281_215).into()),
        ("guid", "JOB-a177e002-e5b8-0680-3427-39556fa93c6e".into()),
        (
            "institution_guid",
            "INS-3aeb38da-26e4-3818-e0fa-673315ab7754".into(),
        ),
        ("is_authenticated", authenticated.into()),
        (
            "member_guid",
            "MBR-48d9a481-f2a2-7e13-2685-62869cf0d33a".into(),
        ),
        ("member_id", Value::Null),
        ("started_at", 1_471_281_213.into()),
        ("status", status.code().into()),
        ("status_name", status.name().into()),
        ("updated_at", (1_471_281_212 + later).into()),
        (
            "user_guid",
            "USR-eaf4ac68-d17d-5e9b-7b46-959a5b315a9e".into(),
        ),
        ("user_id", "7834372140".into()),
    ];
    let fields = job.map(|(name, value): (_, Value)| (name.to_owned(), value));
    fields.into_iter().collect()
}
