//! `ToSchema`, for API descriptions with utoipa.

use std::borrow::Cow;

use utoipa::openapi::schema::{
    AllOf, AnyOfBuilder, KnownFormat, Object, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::fields::{
    FIELDS, Field, FieldType, ISO_8601, JOB, NOT_BLANK, STATUS, STATUSES, TIMESTAMP, UNIX_SECONDS,
    WEBHOOK,
};
use crate::event::JobEvent;
use crate::job::id::Id;
use crate::job::id::kind::IdKind;
use crate::job::{Job, JobGuid, Status, Timestamp};

type Schemas = Vec<(String, RefOr<Schema>)>;

impl PartialSchema for JobEvent {
    fn schema() -> RefOr<Schema> {
        Object::builder()
            .description(Some(WEBHOOK))
            .property("job", reference::<Job>())
            .required("job")
            .into()
    }
}

/// The whole webhook, `{"job": {…}}`, as in the event's body.
///
/// To describe a handler that takes the extractor, write `request_body = JobEvent`.
impl ToSchema for JobEvent {
    fn name() -> Cow<'static, str> {
        "MxJobWebhook".into()
    }

    fn schemas(schemas: &mut Schemas) {
        schemas.push((Job::name().into(), Job::schema()));
        Job::schemas(schemas);
    }
}

impl PartialSchema for Job {
    fn schema() -> RefOr<Schema> {
        let fields = FIELDS.iter().fold(Object::builder(), |job, field| {
            job.property(field.name, property(field))
        });
        let status_name = Object::builder()
            .property("status_name", reference::<Status>())
            .required("status_name");
        let status = Object::builder()
            .property("status", Object::with_type(Type::Integer))
            .required("status");
        AllOf::builder()
            .description(Some(JOB))
            .item(fields.required("guid"))
            .item(AnyOfBuilder::new().item(status_name).item(status))
            .into()
    }
}

/// The object under `job`, with the documented fields.
///
/// It requires a `guid` that is not blank, and a status by name or by integer. It allows null where
/// MX may send it, and additional fields.
impl ToSchema for Job {
    fn name() -> Cow<'static, str> {
        "MxJob".into()
    }

    fn schemas(schemas: &mut Schemas) {
        let status = <Status as ToSchema>::name();
        schemas.push((status.into(), Status::schema()));
        schemas.push((Timestamp::name().into(), Timestamp::schema()));
    }
}

fn property(field: &Field) -> RefOr<Schema> {
    let nullable = |value_type| {
        Object::builder()
            .schema_type(SchemaType::from_iter([value_type, Type::Null]))
            .description(Some(field.text))
            .into()
    };
    match field.field_type {
        FieldType::JobGuid => JobGuid::schema(),
        FieldType::Date => AnyOfBuilder::new()
            .item(reference::<Timestamp>())
            .item(Object::with_type(Type::Null))
            .description(Some(field.text))
            .into(),
        FieldType::Integer => nullable(Type::Integer),
        FieldType::Boolean => nullable(Type::Boolean),
        FieldType::StatusName | FieldType::Text => nullable(Type::String),
    }
}

fn reference<T: ToSchema>() -> Ref {
    Ref::from_schema_name(T::name())
}

impl PartialSchema for Status {
    fn schema() -> RefOr<Schema> {
        not_blank(STATUS).examples(STATUSES).into()
    }
}

/// The name of a status. Any name that is not blank is allowed.
impl ToSchema for Status {
    fn name() -> Cow<'static, str> {
        "MxJobStatus".into()
    }
}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        let form = |form, format, text| {
            Object::builder()
                .schema_type(form)
                .format(Some(SchemaFormat::KnownFormat(format)))
                .description(Some(text))
        };
        AnyOfBuilder::new()
            .item(form(Type::Integer, KnownFormat::Int64, UNIX_SECONDS))
            .item(form(Type::String, KnownFormat::DateTime, ISO_8601))
            .description(Some(TIMESTAMP))
            .into()
    }
}

/// An integer in Unix seconds, or a string in ISO 8601.
impl ToSchema for Timestamp {
    fn name() -> Cow<'static, str> {
        "MxTimestamp".into()
    }
}

fn not_blank(text: &str) -> ObjectBuilder {
    Object::builder()
        .schema_type(Type::String)
        .pattern(Some(NOT_BLANK))
        .description(Some(text))
}

impl<K: IdKind> PartialSchema for Id<K> {
    fn schema() -> RefOr<Schema> {
        not_blank(K::DESCRIPTION).into()
    }
}

/// A string that is not blank.
impl<K: IdKind> ToSchema for Id<K> {
    fn name() -> Cow<'static, str> {
        format!("Mx{}", K::NAME).into()
    }
}
