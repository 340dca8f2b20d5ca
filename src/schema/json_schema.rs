//! `JsonSchema`, for API descriptions with schemars.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

use super::fields::{
    FIELDS, Field, FieldType, ISO_8601, JOB, NOT_BLANK, STATUS, STATUSES, TIMESTAMP, UNIX_SECONDS,
    WEBHOOK,
};
use crate::event::JobEvent;
use crate::job::id::Id;
use crate::job::id::kind::IdKind;
use crate::job::{Job, JobGuid, Status, Timestamp};

/// The whole webhook, `{"job": {…}}`, as in the event's body.
impl JsonSchema for JobEvent {
    fn schema_name() -> Cow<'static, str> {
        "MxJobWebhook".into()
    }

    fn schema_id() -> Cow<'static, str> {
        "mx_job_webhook::JobEvent".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": WEBHOOK,
            "type": "object",
            "required": ["job"],
            "properties": { "job": generator.subschema_for::<Job>() },
        })
    }
}

/// The object under `job`, with the documented fields.
///
/// It requires a `guid` that is not blank, and a status by name or by integer. It allows null where
/// MX may send it, and additional fields.
impl JsonSchema for Job {
    fn schema_name() -> Cow<'static, str> {
        "MxJob".into()
    }

    fn schema_id() -> Cow<'static, str> {
        "mx_job_webhook::Job".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let properties: Map<String, Value> = FIELDS
            .iter()
            .map(|field| (field.name.to_owned(), property(field, generator).into()))
            .collect();
        json_schema!({
            "description": JOB,
            "type": "object",
            "required": ["guid"],
            "properties": properties,
            "anyOf": [
                {
                    "required": ["status_name"],
                    "properties": { "status_name": generator.subschema_for::<Status>() },
                },
                { "required": ["status"], "properties": { "status": { "type": "integer" } } },
            ],
        })
    }
}

fn property(field: &Field, generator: &mut SchemaGenerator) -> Schema {
    let mut schema = match field.field_type {
        FieldType::JobGuid => generator.subschema_for::<JobGuid>(),
        FieldType::StatusName => generator.subschema_for::<Option<String>>(),
        FieldType::Date => generator.subschema_for::<Option<Timestamp>>(),
        FieldType::Integer => json_schema!({ "type": ["integer", "null"] }),
        FieldType::Boolean => generator.subschema_for::<Option<bool>>(),
        FieldType::Text => generator.subschema_for::<Option<String>>(),
    };
    schema.insert("description".to_owned(), field.text.into());
    schema
}

/// The name of a status. Any name that is not blank is allowed.
impl JsonSchema for Status {
    fn schema_name() -> Cow<'static, str> {
        "MxJobStatus".into()
    }

    fn schema_id() -> Cow<'static, str> {
        "mx_job_webhook::Status".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": STATUS,
            "type": "string",
            "pattern": NOT_BLANK,
            "examples": STATUSES,
        })
    }
}

/// An integer in Unix seconds, or a string in ISO 8601.
impl JsonSchema for Timestamp {
    fn schema_name() -> Cow<'static, str> {
        "MxTimestamp".into()
    }

    fn schema_id() -> Cow<'static, str> {
        "mx_job_webhook::job::Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": TIMESTAMP,
            "anyOf": [
                { "description": UNIX_SECONDS, "type": "integer", "format": "int64" },
                { "description": ISO_8601, "type": "string", "format": "date-time" },
            ],
        })
    }
}

/// A string that is not blank. The schema is inlined.
impl<K: IdKind> JsonSchema for Id<K> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Mx{}", K::NAME).into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": K::DESCRIPTION, "type": "string", "pattern": NOT_BLANK })
    }
}

#[cfg(test)]
mod tests {
    use schemars::generate::SchemaSettings;

    use super::*;

    /// Documents refer to schemas by these names, so they never change.
    #[test]
    fn names_and_ids_of_schemas_never_change() {
        fn names<T: JsonSchema>() -> (String, String) {
            (T::schema_name().into(), T::schema_id().into())
        }
        let named = |name: &str, id: &str| (name.to_owned(), format!("mx_job_webhook::{id}"));
        assert_eq!(names::<JobEvent>(), named("MxJobWebhook", "JobEvent"));
        assert_eq!(names::<Job>(), named("MxJob", "Job"));
        assert_eq!(names::<Status>(), named("MxJobStatus", "Status"));
        assert_eq!(names::<Timestamp>(), named("MxTimestamp", "job::Timestamp"));
        assert_eq!(JobGuid::schema_name(), "MxJobGuid");
    }

    #[test]
    fn a_webhook_requires_a_job_that_requires_a_guid_and_a_status() {
        let generator = SchemaSettings::draft2020_12().into_generator();
        let schema = generator.into_root_schema_for::<JobEvent>().to_value();
        assert_eq!(schema["required"], serde_json::json!(["job"]));
        assert_eq!(schema["properties"]["job"]["$ref"], "#/$defs/MxJob");

        let job = &schema["$defs"]["MxJob"];
        assert_eq!(job["required"], serde_json::json!(["guid"]));
        let one_of_both = ["status_name", "status"].map(|name| serde_json::json!([name]));
        let either = job["anyOf"].as_array().unwrap();
        let either: Vec<_> = either.iter().map(|it| it["required"].clone()).collect();
        assert_eq!(either, one_of_both);
        for field in FIELDS {
            let property = &job["properties"][field.name];
            assert_eq!(property["description"], field.text, "{}", field.name);
        }
        // Ids are inlined, and the other types are referred to.
        assert_eq!(job["properties"]["guid"]["pattern"], NOT_BLANK);
        assert_eq!(schema["$defs"]["MxJobStatus"]["pattern"], NOT_BLANK);
        let date = schema["$defs"]["MxTimestamp"]["anyOf"].as_array().unwrap();
        let types: Vec<_> = date.iter().map(|it| it["type"].clone()).collect();
        assert_eq!(types, ["integer", "string"]);
        assert!(schema["$defs"].get("MxJobGuid").is_none());
    }
}
