//! Properties of decoding, on jobs and bytes that nobody thought of.

use mx_job_webhook::{Job, JobEvent, Status, Timestamp};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::support::SAMPLE;

fn id<T: std::str::FromStr + std::fmt::Debug>() -> impl Strategy<Value = T> {
    prop_oneof!["[A-Z]{3}-[0-9a-f-]{36}", ".{1,80}", "\\PC{1,8}"]
        .prop_filter_map("an id is not blank", |text| text.parse().ok())
}

fn timestamp() -> impl Strategy<Value = Option<Timestamp>> {
    option::of(any::<i64>().prop_map(Timestamp::from_unix_seconds))
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
            // A status without a name is nothing but its integer.
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

proptest! {
    #[test]
    fn what_is_written_reads_as_the_same_job(job in job()) {
        let event = JobEvent::from(job.clone());
        prop_assert_eq!(&Job::decode(event.body()).unwrap(), &job);
        let stored = serde_json::to_string(&job).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Job>(&stored).unwrap(), &job);
        let value = serde_json::to_value(&job).unwrap();
        prop_assert_eq!(&serde_json::from_value::<Job>(value).unwrap(), &job);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = Job::decode(&bytes);
    }

    #[test]
    fn no_json_makes_it_panic(json in "[\\[\\]{}:,\"a-u_0-9.eE+\\- \\\\]{0,200}") {
        let _ = Job::decode(json.as_bytes());
    }

    #[test]
    fn no_change_of_one_byte_makes_it_panic(at in 0..SAMPLE.len(), byte: u8, cut: bool) {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        bytes[at] = byte;
        if cut {
            bytes.truncate(at + 1);
        }
        let _ = Job::decode(&bytes);
    }

    #[test]
    fn no_value_in_a_field_costs_more_than_that_field(
        field in prop::sample::select(vec![
            "created_at", "error_message", "finished_at", "institution_guid", "is_authenticated",
            "member_guid", "member_id", "started_at", "updated_at", "user_guid", "user_id", "new",
        ]),
        value in prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".*".prop_map(Into::into),
            vec(any::<i32>(), 0..3).prop_map(Into::into),
        ],
    ) {
        let json = serde_json::json!({"job": {"guid": "J", "status_name": "DENIED", field: value}});
        let job = Job::decode(json.to_string().as_bytes()).unwrap();
        prop_assert_eq!(job.guid.as_str(), "J");
        prop_assert_eq!(job.status, Status::Denied);
    }
}
