//! Properties of decoding, on generated jobs and bytes.

use mx_job_webhook::ledger::EventName;
use mx_job_webhook::{Job, JobEvent, Status};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use crate::strategies::job;
use crate::support::SAMPLE;

proptest! {
    #[test]
    fn a_written_job_reads_as_the_same_job(job in job()) {
        let event = JobEvent::from(job.clone());
        prop_assert_eq!(&Job::decode(event.body()).unwrap(), &job);
        let stored = serde_json::to_string(&job).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Job>(&stored).unwrap(), &job);
        let value = serde_json::to_value(&job).unwrap();
        prop_assert_eq!(&serde_json::from_value::<Job>(value).unwrap(), &job);
    }

    #[test]
    fn decoding_arbitrary_bytes_does_not_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = Job::decode(&bytes);
    }

    #[test]
    fn decoding_arbitrary_json_does_not_panic(json in "[\\[\\]{}:,\"a-u_0-9.eE+\\- \\\\]{0,200}") {
        let _ = Job::decode(json.as_bytes());
    }

    #[test]
    fn changing_one_byte_does_not_make_decoding_panic(at in 0..SAMPLE.len(), byte: u8, cut: bool) {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        bytes[at] = byte;
        if cut {
            bytes.truncate(at + 1);
        }
        let _ = Job::decode(&bytes);
    }

    #[test]
    fn any_value_in_a_field_affects_only_that_field(
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

/// A JSON text before layout; its keys are unique.
#[derive(Clone, Debug, PartialEq)]
enum Json {
    Scalar(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

fn scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "null", "true", "false", "0", "-0", "1.0", "1", "1e400", "-5"
        ])
        .prop_map(str::to_owned),
        any::<i64>().prop_map(|integer| integer.to_string()),
        any::<f32>().prop_map(|float| serde_json::json!(float).to_string()),
        "[a-b \"\\\\é🏦{\\[,:]{0,4}".prop_map(|text| serde_json::json!(text).to_string()),
        Just(r#""\ud83d""#.to_owned()),
    ]
}

fn json() -> impl Strategy<Value = Json> {
    scalar()
        .prop_map(Json::Scalar)
        .prop_recursive(4, 24, 4, |within| {
            prop_oneof![
                vec(within.clone(), 0..4).prop_map(Json::Array),
                btree_map("[a-c]{0,2}", within, 0..4)
                    .prop_map(|entries| Json::Object(entries.into_iter().collect())),
            ]
        })
}

/// A webhook of one job, with or without a date of any kind, and with unknown fields.
fn webhook() -> impl Strategy<Value = Json> {
    let date = prop_oneof![
        scalar().prop_map(Json::Scalar),
        json(),
        prop::sample::select(vec![
            "1471281212",
            "1471281212.0",
            "1471281212.5",
            "1471281212000",
            "1471281212.0000000001",
            "9223372036854775808",
            r#""1471281212""#,
            r#""2016-08-15T17:13:32Z""#,
            r#""2016-08-15T17:13:32.500+00:00""#,
            r#""2016-08-15T17:13:32""#,
            r#""Mon, 15 Aug 2016 17:13:32 +0000""#,
        ])
        .prop_map(|date| Json::Scalar(date.to_owned())),
    ];
    let status = prop::sample::select(vec!["CHALLENGED", "AUTHENTICATED", "статус"]);
    let fields = (option::of(date), option::of(json()), option::of(json()));
    (status, fields, json(), json()).prop_map(|(status, fields, unknown, root)| {
        let mut job = vec![
            ("guid".to_owned(), Json::Scalar(r#""JOB-1""#.to_owned())),
            (
                "status_name".to_owned(),
                Json::Scalar(format!("\"{status}\"")),
            ),
            ("unknown".to_owned(), unknown),
        ];
        let names = ["updated_at", "error_message", "member_id"];
        let fields = names.into_iter().zip([fields.0, fields.1, fields.2]);
        job.extend(fields.filter_map(|(name, value)| Some((name.to_owned(), value?))));
        Json::Object(vec![
            ("job".to_owned(), Json::Object(job)),
            ("root".to_owned(), root),
        ])
    })
}

impl Json {
    /// Writes the text with its entries in any order and with optional white space.
    fn laid_out(&self, random: &mut fastrand::Rng) -> String {
        let mut pause = || ["", "", " ", "\r\n", "\t  "][random.usize(..5)];
        let [before, after] = [pause(), pause()];
        let text = match self {
            Self::Scalar(text) => text.clone(),
            Self::Array(values) => {
                let values: Vec<_> = values.iter().map(|value| value.laid_out(random)).collect();
                format!("[{before}{}]", values.join(","))
            }
            Self::Object(entries) => {
                let mut entries: Vec<_> = entries
                    .iter()
                    .map(|(key, value)| {
                        format!("{before}\"{key}\"{after}:{}", value.laid_out(random))
                    })
                    .collect();
                random.shuffle(&mut entries);
                format!("{{{}{after}}}", entries.join(","))
            }
        };
        format!("{before}{text}{after}")
    }

    /// Changes one value.
    fn change(&mut self, random: &mut fastrand::Rng) {
        let nested: Vec<&mut Self> = match self {
            Self::Scalar(_) => Vec::new(),
            Self::Array(values) => values.iter_mut().collect(),
            Self::Object(entries) => entries.iter_mut().map(|(_, value)| value).collect(),
        };
        if !nested.is_empty() && random.u8(..4) > 0 {
            let index = random.usize(..nested.len());
            if let Some(value) = nested.into_iter().nth(index) {
                return value.change(random);
            }
        }
        match self {
            Self::Scalar(text) => {
                *text = match random.u8(..3) {
                    0 if text != "null" => "null".to_owned(),
                    // Another number and another text.
                    1 if text.ends_with(|digit: char| digit.is_ascii_digit()) => format!("{text}1"),
                    _ => format!("\"{} changed\"", text.replace(['"', '\\'], "")),
                };
            }
            Self::Array(values) => match values.as_mut_slice() {
                [first, .., last] if first != last && random.bool() => std::mem::swap(first, last),
                _ => values.push(Self::Scalar("0".to_owned())),
            },
            Self::Object(entries) => {
                if random.bool() || entries.pop().is_none() {
                    entries.push(("added".to_owned(), Self::Array(Vec::new())));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_layout_of_a_body_has_the_same_name(webhook in webhook(), seed: u64) {
        let random = &mut fastrand::Rng::with_seed(seed);
        let [one, other] = [(); 2].map(|()| webhook.laid_out(random));
        let [one_name, other_name] =
            [&one, &other].map(|body| EventName::of(&JobEvent::decode(body.clone()).unwrap()));
        prop_assert_eq!(&one_name, &other_name, "{}\n{}", one, other);
        prop_assert_eq!(one_name.to_string(), other_name.to_string());
        prop_assert_eq!(one_name.ordering_time(), other_name.ordering_time());
    }

    #[test]
    fn two_different_bodies_have_two_names_unless_their_dates_are_equal(
        webhook in webhook(), seed: u64,
    ) {
        let random = &mut fastrand::Rng::with_seed(seed);
        let mut changed = webhook.clone();
        changed.change(random);
        let [one, other] = [&webhook, &changed].map(|webhook| webhook.laid_out(random));
        let one_event = JobEvent::decode(one.clone()).unwrap();
        let Ok(other_event) = JobEvent::decode(other.clone()) else {
            return Ok(()); // The change removed the guid, the status or the job.
        };
        let [one_name, other_name] = [&one_event, &other_event].map(EventName::of);
        let dated = one_event.updated_at.is_some() && one_event.updated_at == other_event.updated_at;
        let same = dated
            && one_event.guid == other_event.guid
            && one_event.status == other_event.status;
        prop_assert_eq!(one_name == other_name, same, "{}\n{}", one, other);
        prop_assert_eq!(one_name.to_string() == other_name.to_string(), same);
    }
}
