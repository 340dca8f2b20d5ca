//! The schemas of schemars and utoipa, checked by an independent validator.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../../it/strategies.rs"]
mod strategies;

use std::sync::LazyLock;

use jsonschema::Validator;
use mx_job_webhook::schema::OpenApiWebhook;
use mx_job_webhook::testing::Sample;
use mx_job_webhook::{Job, JobEvent, Status};
use proptest::prelude::*;
use serde_json::{Value, json};
use utoipa::Modify as _;
use utoipa::openapi::OpenApi;

use strategies::job;

const SAMPLE: &str = include_str!("../../fixtures/completed.json");

/// The validators of a whole webhook, one for each crate that has a schema of it.
static VALIDATORS: LazyLock<[(&str, Validator); 2]> =
    LazyLock::new(|| [("schemars", schemars()), ("utoipa", utoipa())]);

fn schemars() -> Validator {
    let schema = schemars::schema_for!(JobEvent);
    validator(&schema.to_value())
}

fn utoipa() -> Validator {
    let document = described(OpenApiWebhook::new());
    let body = &document["webhooks"]["mxJob"]["post"]["requestBody"]["content"];
    let mut schema = body["application/json"]["schema"].clone();
    // The schemas that it references.
    schema["components"] = document["components"].clone();
    validator(&schema)
}

fn described(webhook: OpenApiWebhook) -> Value {
    let mut document = OpenApi::default();
    webhook.modify(&mut document);
    serde_json::to_value(document).unwrap()
}

fn validator(schema: &Value) -> Validator {
    jsonschema::options()
        .should_validate_formats(true)
        .build(schema)
        .unwrap()
}

fn valid_samples() -> Vec<(&'static str, Sample)> {
    let completed = Sample::completed;
    let mut samples = vec![
        ("completed", completed()),
        ("challenged", Sample::challenged()),
        ("denied", Sample::denied()),
        ("halted", Sample::halted()),
        ("prevented", Sample::prevented()),
        ("an invented name", Sample::new(Status::from("THROTTLED"))),
        ("an invented integer", Sample::new(Status::from(42))),
        (
            "a new field",
            completed().with_field("new", json!({"a": [1]})),
        ),
        // This is white space by some definitions and not by others.
        ("a mark for a guid", completed().with_guid("\u{feff}")),
        ("no name", completed().without_field("status_name")),
        ("no integer", completed().without_field("status")),
        (
            "ISO 8601",
            completed().with_field("updated_at", "2016-08-15T17:13:38+00:00"),
        ),
    ];
    for name in ALL_BUT_GUID {
        let sample = completed().with_field(name, Value::Null);
        samples.extend([(name, sample), (name, completed().without_field(name))]);
    }
    for code in 0..10 {
        samples.push(("a known status", Sample::new(Status::from(code))));
    }
    samples
}

const ALL_BUT_GUID: [&str; 13] = [
    "created_at",
    "error_message",
    "finished_at",
    "institution_guid",
    "is_authenticated",
    "member_guid",
    "member_id",
    "started_at",
    "status",
    "status_name",
    "updated_at",
    "user_guid",
    "user_id",
];

fn invalid_samples() -> Vec<(&'static str, Sample)> {
    let completed = Sample::completed;
    vec![
        ("no guid", completed().without_field("guid")),
        ("a null guid", completed().with_field("guid", Value::Null)),
        ("a blank guid", completed().with_field("guid", " ")),
        ("a guid that is a number", completed().with_field("guid", 7)),
        (
            "no status",
            completed()
                .without_field("status")
                .without_field("status_name"),
        ),
        (
            "null statuses",
            completed()
                .with_field("status", Value::Null)
                .with_field("status_name", Value::Null),
        ),
        (
            "a blank name and no integer",
            completed()
                .with_field("status_name", " ")
                .without_field("status"),
        ),
        (
            "a date in words",
            completed().with_field("updated_at", "yesterday"),
        ),
        (
            "a date that is a bool",
            completed().with_field("updated_at", true),
        ),
        (
            "a name that is a number",
            completed().with_field("status_name", 6),
        ),
        (
            "ids that are objects",
            completed().with_field("user_guid", json!({})),
        ),
        (
            "not a bool",
            completed().with_field("is_authenticated", "yes"),
        ),
    ]
}

fn json_of(sample: &Sample) -> Value {
    serde_json::from_slice(&sample.body()).unwrap()
}

#[test]
fn webhooks_of_mx_are_valid_and_are_decoded() {
    for (by, validator) in VALIDATORS.iter() {
        assert!(validator.is_valid(&serde_json::from_str(SAMPLE).unwrap()));
        for (name, sample) in valid_samples() {
            assert!(validator.is_valid(&json_of(&sample)), "{by}: {name}");
            assert!(sample.event().is_ok(), "{by}: {name}");
        }
    }
}

#[test]
fn a_webhook_without_guid_or_status_or_of_a_wrong_type_is_invalid() {
    for (by, validator) in VALIDATORS.iter() {
        for (name, sample) in invalid_samples() {
            assert!(!validator.is_valid(&json_of(&sample)), "{by}: {name}");
        }
        let others = [
            json!({"type": "BALANCE"}),
            json!({"job": null}),
            json!({"job": []}),
            json!([]),
        ];
        for other in others {
            assert!(!validator.is_valid(&other), "{by}: {other}");
            assert!(Job::decode(other.to_string().as_bytes()).is_err());
        }
    }
}

#[test]
fn the_schemas_fields_are_those_of_a_written_job() {
    let schema = schemars::schema_for!(Job);
    let described = schema.get("properties").and_then(Value::as_object).unwrap();
    let job = serde_json::to_value(Job::new("JOB-1".parse().unwrap(), Status::Halted)).unwrap();
    let written = job.as_object().unwrap();
    assert_eq!(
        described.keys().collect::<Vec<_>>(),
        written.keys().collect::<Vec<_>>()
    );
}

#[test]
fn ids_statuses_and_timestamps_have_their_own_schemas() {
    use mx_job_webhook::job::{InstitutionGuid, JobGuid, MemberGuid, MemberId, UserGuid, UserId};
    type Ids = (
        JobGuid,
        MemberGuid,
        UserGuid,
        InstitutionGuid,
        MemberId,
        UserId,
    );
    let ids = validator(&schemars::schema_for!(Ids).to_value());
    assert!(ids.is_valid(&json!(["1", "2", "3", "4", "5", "6"])));
    for index in 0..6 {
        let mut some = json!(["1", "2", "3", "4", "5", "6"]);
        some[index] = json!(" ");
        assert!(!ids.is_valid(&some), "{index}");
    }
    let status = validator(&schemars::schema_for!(Status).to_value());
    assert!(status.is_valid(&json!("THROTTLED")) && !status.is_valid(&json!("")));
}

proptest! {
    #[test]
    fn every_written_job_is_valid(job in job()) {
        let written = json!({"job": job});
        for (by, validator) in VALIDATORS.iter() {
            prop_assert!(validator.is_valid(&written), "{}: {}", by, written);
        }
    }
}

#[test]
fn the_schema_of_the_webhook_has_a_title_and_requires_the_job() {
    let schema = schemars::schema_for!(JobEvent).to_value();
    assert_eq!(schema["title"], "MxJobWebhook");
    assert_eq!(schema["required"], json!(["job"]));
    let job = schemars::schema_for!(Job).to_value();
    assert_eq!(job["properties"].as_object().unwrap().len(), 14);
}

#[test]
fn a_status_is_a_string_and_a_timestamp_is_seconds_or_a_date() {
    use mx_job_webhook::job::Timestamp;

    let status = schemars::schema_for!(Status).to_value();
    assert_eq!(status["type"], "string");
    let timestamp = schemars::schema_for!(Timestamp).to_value();
    assert_eq!(timestamp["anyOf"][1]["format"], "date-time");
    let timestamp = validator(&timestamp);
    for valid in [json!(1_471_281_212), json!("2016-08-15T17:13:32Z")] {
        assert!(timestamp.is_valid(&valid), "{valid}");
    }
    for invalid in [json!("soon"), json!(true), json!(null)] {
        assert!(!timestamp.is_valid(&invalid), "{invalid}");
    }
}

#[test]
fn the_names_of_the_schemas_start_with_mx() {
    use mx_job_webhook::job::Timestamp;
    use utoipa::ToSchema;

    let names = [
        <JobEvent as ToSchema>::name(),
        <Job as ToSchema>::name(),
        <Status as ToSchema>::name(),
        <Timestamp as ToSchema>::name(),
    ];
    assert_eq!(
        names,
        ["MxJobWebhook", "MxJob", "MxJobStatus", "MxTimestamp"]
    );
}

#[test]
fn an_applications_path_can_have_the_event_as_its_request_body() {
    use utoipa::OpenApi as _;

    #[utoipa::path(post, path = "/mx", request_body = JobEvent, responses((status = 204)))]
    #[expect(dead_code, reason = "the test uses only its description")]
    async fn mx(_: JobEvent) {}

    #[derive(utoipa::OpenApi)]
    #[openapi(paths(mx))]
    struct Api;

    let schemas = Api::openapi().components.unwrap_or_default().schemas;
    assert!(schemas.contains_key("MxJobWebhook") && schemas.contains_key("MxJob"));
}

#[test]
fn the_name_of_a_webhook_can_be_set() {
    let document = described(OpenApiWebhook::new().with_name("jobStatus"));
    let webhooks = document["webhooks"].as_object().unwrap();
    assert_eq!(webhooks.keys().collect::<Vec<_>>(), ["jobStatus"]);
    assert_eq!(webhooks["jobStatus"]["post"]["operationId"], "jobStatus");
}

#[test]
fn a_webhook_with_two_kinds_of_credentials_accepts_either() {
    let webhook = OpenApiWebhook::new().with_basic().with_bearer();
    let document = described(webhook);
    let security = &document["webhooks"]["mxJob"]["post"]["security"];
    assert_eq!(security, &json!([{"mxBasic": []}, {"mxBearer": []}]));
    let scheme = &document["components"]["securitySchemes"]["mxBasic"];
    assert_eq!(scheme["scheme"], "basic");
}

#[test]
fn the_path_item_alone_can_be_added_to_the_paths_of_a_document() {
    use utoipa::openapi::Components;

    let mut document = OpenApi::default();
    let item = OpenApiWebhook::new().path_item();
    let paths = &mut document.paths.paths;
    paths.insert("/admin/webhooks".to_owned(), item);
    document.components = Some(Components::builder().schema_from::<JobEvent>().build());
    let item = document.paths.get_path_item("/admin/webhooks").unwrap();
    assert!(item.post.is_some());
    let document = serde_json::to_value(&document).unwrap();
    let body = &document["paths"]["/admin/webhooks"]["post"]["requestBody"]["content"];
    let reference = body["application/json"]["schema"]["$ref"].as_str().unwrap();
    assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
}
