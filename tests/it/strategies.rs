//! Strategies for jobs of every kind. The package `tests/schemas` includes this file too.

use mx_job_webhook::job::Timestamp;
use mx_job_webhook::{Job, Status};
use proptest::option;
use proptest::prelude::*;

fn id<T: std::str::FromStr + std::fmt::Debug>() -> impl Strategy<Value = T> {
    prop_oneof!["[A-Z]{3}-[0-9a-f-]{36}", ".{1,80}", "\\PC{1,8}"]
        .prop_filter_map("an id is not blank", |text| text.parse().ok())
}

fn timestamp() -> impl Strategy<Value = Option<Timestamp>> {
    let decimal = (
        -1_000_000_000_000_i64..100_000_000_000,
        0..1_000_000_000_u32,
    );
    option::of(prop_oneof![
        any::<i64>().prop_map(Timestamp::from_unix_seconds),
        decimal.prop_filter_map("a year that RFC 3339 has", |(seconds, nanos)| {
            serde_json::from_str(&format!("{seconds}.{nanos:09}")).ok()
        }),
    ])
}

fn status() -> impl Strategy<Value = Status> {
    prop_oneof![
        (-3_i64..15).prop_map(Status::from),
        any::<i64>().prop_map(Status::from),
        "[A-Z_]{1,20}".prop_map(|name| Status::from(name.as_str())),
        ".{1,20}"
            .prop_filter("a name is not blank", |name| !name.trim().is_empty())
            .prop_map(|name| Status::from(name.as_str())),
    ]
}

pub(crate) fn job() -> impl Strategy<Value = Job> {
    let dates = (timestamp(), timestamp(), timestamp(), timestamp());
    let ids = (id(), option::of(id()), option::of(id()), option::of(id()));
    let partner = (
        option::of(id()),
        option::of(id()),
        option::of(".*"),
        option::of(any::<bool>()),
    );
    (status(), option::of(any::<i64>()), dates, ids, partner).prop_map(
        |(status, code, dates, ids, partner)| {
            let mut job = Job::new(ids.0, status);
            // A status without a name is only its integer.
            if job.status.name().is_some() {
                job.status_code = code;
            }
            (
                job.created_at,
                job.started_at,
                job.finished_at,
                job.updated_at,
            ) = dates;
            (job.institution_guid, job.member_guid, job.user_guid) = (ids.1, ids.2, ids.3);
            (
                job.member_id,
                job.user_id,
                job.error_message,
                job.is_authenticated,
            ) = partner;
            job
        },
    )
}
