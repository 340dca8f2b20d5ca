//! Any bytes decode to what the documentation says, or to the error that it says.

use mx_job_webhook::job::Timestamp;
use mx_job_webhook::{Job, JobEvent};

use crate::job;
use crate::json::{self, Json};

/// `Job::decode` of any bytes agrees with the reference: the same fields, or an error of the same kind that names the
/// same field. A decoded job is written as a webhook that decodes to the same job. `serde_json` agrees with the reader
/// of JSON that the reference uses.
pub(crate) fn check(body: &[u8]) {
    agrees_with_serde_json(body);
    let found = Job::decode(body);
    let expected = job::read(body);
    match (&found, &expected) {
        (Ok(job), _) => assert_eq!(Ok(fields(job)), expected),
        (Err(error), _) => assert_eq!(Err((error.kind(), error.field())), expected),
    }
    if let Ok(job) = found {
        let event = JobEvent::from(job.clone());
        assert_eq!(Job::decode(event.body()).as_ref().ok(), Some(&job));
    }
}

fn fields(job: &Job) -> job::Job {
    let moment =
        |date: Option<Timestamp>| date.map(|date| (date.unix_seconds(), date.subsec_nanos()));
    job::Job {
        guid: job.guid.to_string(),
        status: (job.status.name().map(str::to_owned), job.status.code()),
        status_code: job.status_code,
        dates: [
            job.created_at,
            job.started_at,
            job.finished_at,
            job.updated_at,
        ]
        .map(moment),
        ids: [
            job.institution_guid.as_ref().map(ToString::to_string),
            job.member_guid.as_ref().map(ToString::to_string),
            job.member_id.as_ref().map(ToString::to_string),
            job.user_guid.as_ref().map(ToString::to_string),
            job.user_id.as_ref().map(ToString::to_string),
        ],
        error_message: job.error_message.clone(),
        is_authenticated: job.is_authenticated,
    }
}

/// The reference's reader accepts all that `serde_json` accepts, with the same strings, and accepts no more than
/// half surrogate pairs, deeply nested values and numbers that no float can hold.
fn agrees_with_serde_json(body: &[u8]) {
    let ours = std::str::from_utf8(body).ok().and_then(json::read);
    let theirs = serde_json::from_slice::<serde_json::Value>(body);
    match (&ours, &theirs) {
        (Some(ours), Ok(theirs)) => assert!(is_same(ours, theirs), "{ours:?} {theirs}"),
        (None, Ok(theirs)) => panic!("the reference does not read {theirs}"),
        (Some(_), Err(error)) => {
            let text = error.to_string();
            let limits = [
                "surrogate",
                "hex escape",
                "recursion limit",
                "number out of range",
            ];
            assert!(
                limits.iter().any(|limit| text.contains(limit)),
                "the reference reads more: {text}"
            );
        }
        (None, Err(_)) => {}
    }
}

fn is_same(ours: &Json, theirs: &serde_json::Value) -> bool {
    use serde_json::Value;
    match (ours, theirs) {
        (Json::Null, Value::Null) => true,
        (Json::Bool(ours), Value::Bool(theirs)) => ours == theirs,
        (Json::Number(ours), Value::Number(theirs)) => {
            ours.parse::<f64>().ok() == theirs.as_f64() || theirs.is_f64()
        }
        (Json::String(_), Value::String(theirs)) => ours.as_text().as_ref() == Some(theirs),
        (Json::Array(ours), Value::Array(theirs)) => {
            ours.len() == theirs.len()
                && ours
                    .iter()
                    .zip(theirs)
                    .all(|(ours, theirs)| is_same(ours, theirs))
        }
        (Json::Object(ours), Value::Object(theirs)) => theirs.iter().all(|(key, theirs)| {
            // `serde_json` keeps the last of several values.
            let last = ours
                .iter()
                .rfind(|(ours, _)| json::text(ours).as_ref() == Some(key));
            last.is_some_and(|(_, ours)| is_same(ours, theirs))
        }),
        _ => false,
    }
}
