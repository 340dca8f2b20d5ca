//! The webhook in an `OpenAPI` document.

use std::collections::BTreeSet;

use mx_job_webhook::schema::OpenApiWebhook;
use serde_json::{Value, json};
use utoipa::openapi::{Info, OpenApi, Paths, RefOr, Schema};
use utoipa::{Modify as _, ToSchema};

use crate::support::SAMPLE;

fn described(webhook: OpenApiWebhook) -> Value {
    let mut document = OpenApi::new(Info::new("An API", "1"), Paths::new());
    webhook.modify(&mut document);
    serde_json::to_value(document).unwrap()
}

fn operation(webhook: OpenApiWebhook) -> Value {
    described(webhook)["webhooks"]["mxJob"]["post"].clone()
}

#[test]
fn the_documented_answers_are_those_of_the_guide() {
    let table = include_str!("../../src/docs/answers.md")
        .split("# The table")
        .nth(1)
        .unwrap();
    let table = table.split("\n# ").next().unwrap();
    let answers: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.strip_suffix(" |")?.rsplit("| ").next()?.get(..3))
        .filter(|answer| answer.bytes().all(|byte| byte.is_ascii_digit()))
        .collect();
    assert_eq!(answers.len(), 10);
    let operation = operation(OpenApiWebhook::new());
    let described = operation["responses"].as_object().unwrap();
    let described: BTreeSet<&str> = described.keys().map(String::as_str).collect();
    assert_eq!(described, answers);
    for (status, header) in [
        ("401", "WWW-Authenticate"),
        ("405", "Allow"),
        ("503", "Retry-After"),
    ] {
        assert!(
            operation["responses"][status]["headers"][header].is_object(),
            "{header}"
        );
    }
}

#[test]
fn the_example_is_the_documented_sample() {
    let body = &operation(OpenApiWebhook::new())["requestBody"];
    assert_eq!(body["required"], true);
    let documented: Value = serde_json::from_str(SAMPLE).unwrap();
    assert_eq!(body["content"]["application/json"]["example"], documented);
}

#[test]
fn the_webhook_requires_the_configured_credentials() {
    let (basic, bearer) = (json!({"mxBasic": []}), json!({"mxBearer": []}));
    let webhook = OpenApiWebhook::new();
    let cases = [
        ("none", webhook, vec![]),
        ("basic", webhook.with_basic(), vec![basic.clone()]),
        ("bearer", webhook.with_bearer(), vec![bearer.clone()]),
        (
            "either",
            webhook.with_bearer().with_basic(),
            vec![basic, bearer],
        ),
    ];
    for (name, webhook, security) in cases {
        let document = described(webhook);
        assert_eq!(operation(webhook)["security"], json!(security), "{name}");
        let schemes = &document["components"]["securitySchemes"];
        let schemes = schemes.as_object().map_or(0, serde_json::Map::len);
        assert_eq!(schemes, security.len(), "{name}");
    }
    let schemes = &described(webhook.with_basic().with_bearer())["components"]["securitySchemes"];
    assert_eq!(
        schemes["mxBasic"],
        json!({"type": "http", "scheme": "basic"})
    );
    assert_eq!(
        schemes["mxBearer"],
        json!({"type": "http", "scheme": "bearer"})
    );
}

/// The application's own job, which is unrelated to MX.
struct Job;

impl utoipa::PartialSchema for Job {
    fn schema() -> RefOr<Schema> {
        String::schema()
    }
}

impl ToSchema for Job {}

#[test]
fn the_applications_own_descriptions_are_kept() {
    let components = utoipa::openapi::Components::builder()
        .schema_from::<Job>()
        .build();
    let mut document = OpenApi::builder().components(Some(components)).build();
    OpenApiWebhook::new().with_name("one").modify(&mut document);
    OpenApiWebhook::new().with_name("two").modify(&mut document);
    let document = serde_json::to_value(document).unwrap();
    let webhooks = document["webhooks"].as_object().unwrap();
    assert_eq!(webhooks.keys().collect::<Vec<_>>(), ["one", "two"]);
    let schemas = document["components"]["schemas"].as_object().unwrap();
    assert_eq!(
        schemas.keys().collect::<Vec<_>>(),
        ["Job", "MxJob", "MxJobStatus", "MxJobWebhook", "MxTimestamp"]
    );
    assert_eq!(schemas["Job"]["type"], "string");
}

/// Collects what `$ref` refers to.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            found.extend(
                object
                    .get("$ref")
                    .and_then(Value::as_str)
                    .map(str::to_owned),
            );
            object.values().for_each(|value| references(value, found));
        }
        Value::Array(array) => array.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_to_a_schema_and_ids_are_not_blank() {
    use mx_job_webhook::job::{JobGuid, UserId};

    let document = described(OpenApiWebhook::new());
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let schema = document.pointer(reference.strip_prefix('#').unwrap());
        assert!(schema.is_some_and(Value::is_object), "{reference}");
    }
    let schemas = &document["components"]["schemas"];
    let not_blank = [
        &schemas["MxJobStatus"],
        &schemas["MxJob"]["allOf"][0]["properties"]["guid"],
    ];
    for schema in not_blank {
        assert_eq!(schema["type"], "string", "{schema}");
        assert!(schema["pattern"].is_string(), "{schema}");
        assert!(schema["description"].is_string(), "{schema}");
    }
    assert_eq!(JobGuid::name(), "MxJobGuid");
    assert_eq!(UserId::name(), "MxUserId");
}
