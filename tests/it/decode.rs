//! The payloads that decode, those that do not, and their errors.

use mx_job_webhook::job::Timestamp;
use mx_job_webhook::{ErrorKind, Job, Status};
use serde_json::{Value, json};

use crate::support::SAMPLE;

fn sample_object() -> serde_json::Map<String, Value> {
    let sample: Value = serde_json::from_str(SAMPLE).unwrap();
    sample["job"].as_object().unwrap().clone()
}

/// The sample with one field changed or removed.
fn sample_with(field: &str, value: Option<Value>) -> Vec<u8> {
    let mut job = sample_object();
    job.remove(field);
    if let Some(value) = value {
        job.insert(field.to_owned(), value);
    }
    serde_json::to_vec(&json!({ "job": job })).unwrap()
}

fn decode(json: impl AsRef<[u8]>) -> Job {
    Job::decode(json.as_ref()).unwrap()
}

#[test]
fn the_sample_is_read_field_by_field() {
    let job = decode(SAMPLE);
    assert_eq!(job.guid, "JOB-a177e002-e5b8-0680-3427-39556fa93c6e");
    assert_eq!(job.status, Status::Completed);
    assert_eq!(job.status_code, Some(6));
    let dates = [
        job.created_at,
        job.started_at,
        job.finished_at,
        job.updated_at,
    ];
    let expected = [1_471_281_212, 1_471_281_213, 1_471_281_215, 1_471_281_218];
    assert_eq!(dates.map(|date| date.unwrap().unix_seconds()), expected);
    assert_eq!(job.error_message, None);
    assert_eq!(
        job.institution_guid.unwrap(),
        "INS-3aeb38da-26e4-3818-e0fa-673315ab7754"
    );
    assert_eq!(job.is_authenticated, Some(true));
    assert_eq!(
        job.member_guid.unwrap(),
        "MBR-48d9a481-f2a2-7e13-2685-62869cf0d33a"
    );
    assert_eq!(job.member_id, None);
    assert_eq!(
        job.user_guid.unwrap(),
        "USR-eaf4ac68-d17d-5e9b-7b46-959a5b315a9e"
    );
    assert_eq!(job.user_id.unwrap(), "7834372140");
}

#[test]
fn a_job_is_written_as_it_was_read() {
    let sample: Value = serde_json::from_str(SAMPLE).unwrap();
    assert_eq!(serde_json::to_value(decode(SAMPLE)).unwrap(), sample["job"]);
}

#[test]
fn the_order_of_fields_makes_no_difference() {
    let expected = decode(SAMPLE);
    let fields: Vec<(String, Value)> = sample_object().into_iter().collect();
    assert_eq!(fields.len(), 14);
    for rotation in 0..fields.len() {
        let mut rotated = fields.clone();
        rotated.rotate_left(rotation);
        for reversed in [false, true] {
            if reversed {
                rotated.reverse();
            }
            // The JSON is written by hand because serde_json's map would sort the fields again.
            let fields: Vec<String> = rotated
                .iter()
                .map(|(name, value)| format!("\"{name}\":{value}"))
                .collect();
            let json = format!("{{\"job\":{{{}}}}}", fields.join(","));
            assert_eq!(
                decode(json),
                expected,
                "rotation {rotation}, reversed {reversed}"
            );
        }
    }
}

#[test]
fn every_field_but_the_guid_may_be_null_or_absent_or_of_another_type() {
    let whole = serde_json::to_value(decode(SAMPLE)).unwrap();
    for field in sample_object().keys().filter(|field| *field != "guid") {
        let strange = [
            json!(null),
            json!([1, {"a": [2]}]),
            json!({"a": {"b": 1}}),
            json!(""),
        ];
        let strange = strange.into_iter().map(Some).chain([None]);
        for value in strange {
            let job = decode(sample_with(field, value.clone()));
            let mut written = serde_json::to_value(&job).unwrap();
            // The other fields are unchanged; in this one, only an empty text is a value.
            let left = if field == "error_message" && value == Some(json!("")) {
                json!("")
            } else if field == "status_name" {
                json!("COMPLETED") // from the integer
            } else {
                json!(null)
            };
            assert_eq!(written[field], left, "{field}: {value:?}");
            written[field] = whole[field].clone();
            assert_eq!(written, whole, "{field}: {value:?}");
        }
    }
}

#[test]
fn unknown_fields_are_ignored_everywhere() {
    let strange = r#"{"deep":[[[{"guid":"X","job":{"guid":"Y"}}]]],"big":1e400,"ünï\u0063ode":"\ud83d\udd11","half\ud83d":"\udd11"}"#;
    let fields = SAMPLE
        .trim()
        .trim_start_matches("{\n  \"job\": {")
        .trim_end_matches("  }\n}");
    let json = format!(
        r#"{{"before":{strange},"job":{{"new":{strange},{fields},"newer":{strange}}},"after":{strange}}}"#
    );
    assert_eq!(decode(json), decode(SAMPLE));
}

#[test]
fn the_name_decides_the_status_and_the_integer_replaces_a_missing_name() {
    let cases = [
        (
            r#""status":2,"status_name":"CHALLENGED""#,
            Status::Challenged,
            Some(2),
        ),
        (
            r#""status":2,"status_name":"DENIED""#,
            Status::Denied,
            Some(2),
        ),
        (
            r#""status":99,"status_name":"HALTED""#,
            Status::Halted,
            Some(99),
        ),
        (r#""status_name":"PREVENTED""#, Status::Prevented, None),
        (
            r#""status":null,"status_name":"PREVENTED""#,
            Status::Prevented,
            None,
        ),
        (
            r#""status":"six","status_name":"completed""#,
            Status::Completed,
            None,
        ),
        (r#""status":9"#, Status::Halted, Some(9)),
        (r#""status":9,"status_name":null"#, Status::Halted, Some(9)),
        (r#""status":9,"status_name":" ""#, Status::Halted, Some(9)),
        (r#""status":9,"status_name":7"#, Status::Halted, Some(9)),
        (r#""status":9.0"#, Status::Halted, Some(9)),
        (
            r#""status":13,"status_name":"AUTHENTICATED""#,
            Status::from("AUTHENTICATED"),
            Some(13),
        ),
        (
            r#""status":6,"status_name":"FAILED""#,
            Status::from("FAILED"),
            Some(6),
        ),
        (r#""status":42"#, Status::from(42), Some(42)),
        (r#""status":-1"#, Status::from(-1), Some(-1)),
        (r#""status_name":"C\u004fMPLETED""#, Status::Completed, None),
    ];
    for (fields, status, code) in cases {
        let job = decode(format!(r#"{{"job":{{"guid":"JOB-1",{fields}}}}}"#));
        assert_eq!((&job.status, job.status_code), (&status, code), "{fields}");
        let again: Job = serde_json::from_value(serde_json::to_value(&job).unwrap()).unwrap();
        assert_eq!(again, job, "{fields}");
    }
}

#[test]
fn both_spellings_of_the_institution_are_read() {
    let cases = [
        (r#""institution_guid":"INS-1""#, Some("INS-1")),
        (r#""insitution_guid":"INS-2""#, Some("INS-2")),
        (
            r#""institution_guid":"INS-1","insitution_guid":"INS-2""#,
            Some("INS-1"),
        ),
        (
            r#""insitution_guid":"INS-2","institution_guid":"INS-1""#,
            Some("INS-1"),
        ),
        (
            r#""institution_guid":null,"insitution_guid":"INS-2""#,
            Some("INS-2"),
        ),
        (r#""institution_guid":null,"insitution_guid":null"#, None),
    ];
    for (fields, expected) in cases {
        let job = decode(format!(
            r#"{{"job":{{"guid":"JOB-1","status":6,{fields}}}}}"#
        ));
        assert_eq!(
            job.institution_guid.as_ref().map(|guid| guid.as_str()),
            expected,
            "{fields}"
        );
    }
}

#[test]
fn dates_are_seconds_or_iso_8601_and_are_exact() {
    let cases = [
        ("1471281212", json!(1_471_281_212)),
        ("1471281212.0", json!(1_471_281_212)),
        ("14712812120e-1", json!(1_471_281_212)),
        (r#""2016-08-15T17:13:32Z""#, json!(1_471_281_212)),
        (r#""2016-08-15T17:13:32.000+00:00""#, json!(1_471_281_212)),
        (
            r#""2016-08-15T11:13:32.250-06:00""#,
            json!("2016-08-15T17:13:32.25Z"),
        ),
        (r#""2016-08-15T22:43:32+05:30""#, json!(1_471_281_212)),
        (r#""2016-08-15T13:43:32-03:30""#, json!(1_471_281_212)),
        ("1471281212.75", json!("2016-08-15T17:13:32.75Z")),
        (
            "1471281212.000000001",
            json!("2016-08-15T17:13:32.000000001Z"),
        ),
        ("-0.5", json!("1969-12-31T23:59:59.5Z")),
        ("1471281212000", json!(1_471_281_212_000_i64)),
        ("0", json!(0)),
        ("-5", json!(-5)),
        // A date that cannot be stored exactly is not read.
        ("1471281212.0000000001", Value::Null),
        ("1471281212000.5", Value::Null),
        ("18446744073709551615", Value::Null),
        ("1e400", Value::Null),
        (r#""2016-12-31T23:59:60Z""#, Value::Null),
        (r#""soon""#, Value::Null),
        (r#""1471281212""#, Value::Null),
        (r#""\ud83d""#, Value::Null),
        ("true", Value::Null),
        (r#"{"seconds":1471281212}"#, Value::Null),
    ];
    for field in ["created_at", "started_at", "finished_at", "updated_at"] {
        for (date, expected) in &cases {
            let job = decode(format!(
                r#"{{"job":{{"guid":"J","status":6,"{field}":{date}}}}}"#
            ));
            let json = serde_json::to_value(&job).unwrap();
            assert_eq!(json[field], *expected, "{field}: {date}");
            let again: Job = serde_json::from_value(json).unwrap();
            assert_eq!(again, job, "{field}: {date}");
        }
    }
}

/// The same object as the Nexus endpoint "read job" returns it.
#[test]
fn a_polled_job_reads_as_a_delivered_one() {
    let mut job = sample_object();
    for (field, date) in [
        ("created_at", "2016-08-15T17:13:32+00:00"),
        ("started_at", "2016-08-15T17:13:33+00:00"),
        ("finished_at", "2016-08-15T17:13:35+00:00"),
        ("updated_at", "2016-08-15T17:13:38+00:00"),
    ] {
        job.insert(field.into(), date.into());
    }
    job.insert("error_message_code".into(), Value::Null);
    assert_eq!(
        serde_json::from_value::<Job>(job.into()).unwrap(),
        decode(SAMPLE)
    );
}

#[test]
fn text_is_kept_unchanged() {
    let cases = [
        (r#""<b>MFA</b> 'x' = \"y\"""#, "<b>MFA</b> 'x' = \"y\""),
        (
            r#""line\nbreak\ttab\\ \/ \u0000""#,
            "line\nbreak\ttab\\ / \0",
        ),
        (r#""é ü 銀行 🏦 \ud83c\udfe6""#, "é ü 銀行 🏦 🏦"),
        (r#""""#, ""),
    ];
    for (json, expected) in cases {
        let json = format!(
            r#"{{"job":{{"guid":{},"status":6,"error_message":{json}}}}}"#,
            r#""J""#
        );
        assert_eq!(decode(json).error_message.as_deref(), Some(expected));
    }
    let job = decode(r#"{"job":{"g\u0075id":"JOB-\u00e9","status":6}}"#);
    assert_eq!(job.guid, "JOB-é");
}

#[test]
fn a_partners_own_ids_may_be_numbers() {
    let job = decode(r#"{"job":{"guid":"J","status":6,"user_id":7834372140,"member_id":-1}}"#);
    assert_eq!(job.user_id.unwrap(), "7834372140");
    assert_eq!(job.member_id.unwrap(), "-1");
}

#[test]
fn a_byte_order_mark_and_surrounding_white_space_are_accepted() {
    for (before, after) in [
        ("\u{feff}", ""),
        ("\u{feff}\r\n\t ", "\n\n"),
        ("  ", " \t\r\n"),
    ] {
        assert_eq!(decode(format!("{before}{SAMPLE}{after}")), decode(SAMPLE));
    }
}

#[test]
fn an_error_names_the_field_and_the_reason() {
    use ErrorKind::{InvalidJob, NoJob, NotJson, UnexpectedWebhook};
    let guid = Some("guid");
    let cases: [(&str, &[u8], ErrorKind, Option<&str>); 40] = [
        ("empty", b"", NotJson, None),
        ("white space", b" \n", NotJson, None),
        ("a byte-order mark alone", b"\xef\xbb\xbf", NotJson, None),
        ("two byte-order marks", b"\xef\xbb\xbf\xef\xbb\xbf{}", NotJson, None),
        ("text", b"hello", NotJson, None),
        ("a form", b"job=1&status=6", NotJson, None),
        ("cut off", br#"{"job":{"guid":"JOB-1","status":6}"#, NotJson, None),
        ("two documents", br#"{"job":{"guid":"J","status":6}}{}"#, NotJson, None),
        ("trailing comma", br#"{"job":{"guid":"J","status":6,}}"#, NotJson, None),
        ("a control character in a string", b"{\"job\":{\"guid\":\"J\n\",\"status\":6}}", NotJson, None),
        ("half a surrogate pair", br#"{"job":{"guid":"\ud83d","status":6}}"#, InvalidJob, guid),
        ("an invalid escape", br#"{"job":{"guid":"J","new":"\x"},"status":6}"#, NotJson, None),
        ("not UTF-8", b"{\"job\":{\"guid\":\"\xff\",\"status\":6}}", NotJson, None),
        ("UTF-16", b"\xff\xfe{\0}\0", NotJson, None),
        ("NaN", br#"{"job":{"guid":"J","status":NaN}}"#, NotJson, None),
        ("null", b"null", NoJob, None),
        ("true", b"true", NoJob, None),
        ("a number", b"7", NoJob, None),
        ("a negative number", b"-7", NoJob, None),
        ("a fraction", b"7.5", NoJob, None),
        ("a string", b"\"job\"", NoJob, None),
        ("an array", br#"[{"job":{"guid":"J","status":6}}]"#, NoJob, None),
        ("an empty object", b"{}", NoJob, None),
        ("a job at the root", br#"{"guid":"JOB-1","status":6}"#, NoJob, None),
        ("job is null", br#"{"job":null}"#, NoJob, None),
        ("job is a string", br#"{"job":"JOB-1"}"#, NoJob, None),
        ("job is an array", br#"{"job":[{"guid":"J","status":6}]}"#, NoJob, None),
        ("the key in another case", br#"{"Job":{"guid":"J","status":6}}"#, NoJob, None),
        ("an aggregation webhook", br#"{"type":"AGGREGATION","action":"member_data_updated"}"#, UnexpectedWebhook, None),
        ("a history webhook", br#"{"type":"initial_data_ready","member_guid":"MBR-1"}"#, UnexpectedWebhook, None),
        ("a microdeposit webhook", br#"{"action":"UPDATED","micro_deposit":{"guid":"MIC-1","status":6,"status_name":"COMPLETED"}}"#, UnexpectedWebhook, None),
        ("two jobs", br#"{"job":{"guid":"J","status":6},"job":{"guid":"K","status":6}}"#, InvalidJob, Some("job")),
        ("no guid", br#"{"job":{"status":6}}"#, InvalidJob, guid),
        ("the guid is null", br#"{"job":{"guid":null,"status":6}}"#, InvalidJob, guid),
        ("the guid is blank", br#"{"job":{"guid":" ","status":6}}"#, InvalidJob, guid),
        ("the guid is a number", br#"{"job":{"guid":7,"status":6}}"#, InvalidJob, guid),
        ("two guids", br#"{"job":{"guid":"J","guid":"J","status":6}}"#, InvalidJob, guid),
        ("two statuses", br#"{"job":{"guid":"J","status":6,"status":null}}"#, InvalidJob, Some("status")),
        ("no status", br#"{"job":{"guid":"JOB-1"}}"#, InvalidJob, Some("status")),
        ("no usable status", br#"{"job":{"guid":"J","status":"6","status_name":""}}"#, InvalidJob, Some("status")),
    ];
    for (name, json, kind, field) in cases {
        let error = Job::decode(json).unwrap_err();
        assert_eq!(
            (error.kind(), error.field()),
            (kind, field),
            "{name}: {error}"
        );
        assert_eq!(kind.is_undecodable(), kind != UnexpectedWebhook, "{name}");
    }
}

/// The outcomes are the same with every feature of `serde_json` that an application can enable:
/// `.ci/run` runs these tests with each.
#[test]
fn hostile_json_affects_one_field_at_most_with_every_serde_json_feature() {
    let status = Some("status");
    // The JSON beside the guid, and the status, the user's id or the field of the error.
    type Outcome<'a> = Result<(i64, Option<&'a str>), Option<&'a str>>;
    let cases: [(&str, Outcome<'_>); 24] = [
        (r#""status":6,"user_id":7"#, Ok((6, Some("7")))),
        (r#""status":1e400"#, Err(status)),
        (r#""status":-1e400"#, Err(status)),
        (r#""status":6,"user_id":1e400"#, Ok((6, None))),
        (r#""status":6,"user_id":1e2"#, Ok((6, Some("100")))),
        (
            r#""status":6,"user_id":18446744073709551616"#,
            Ok((6, None)),
        ),
        (
            r#""status":6,"user_id":9007199254740993.0"#,
            Ok((6, Some("9007199254740993"))),
        ),
        (r#""status":6.0000000000000000000001"#, Err(status)),
        (r#""status":6.0000000000000000000000"#, Ok((6, None))),
        (r#""status":"\ud83d""#, Err(status)),
        (r#""status":6,"user_id":"\ud83d""#, Ok((6, None))),
        (
            r#""status":6,"user_id":"\ud83d\udd11""#,
            Ok((6, Some("🔑"))),
        ),
        (r#""status":6,"\ud83d":1,"user_id":"U""#, Ok((6, Some("U")))),
        (
            r#""status":6,"new":"\udd11","user_id":"U""#,
            Ok((6, Some("U"))),
        ),
        (
            r#""status":{"$serde_json::private::Number":"6"}"#,
            Err(status),
        ),
        (
            r#""status":{"$serde_json::private::Number":6}"#,
            Err(status),
        ),
        (
            r#""status":6,"user_id":{"$serde_json::private::Number":"7"}"#,
            Ok((6, None)),
        ),
        (
            r#""status":6,"user_id":{"$serde_json::private::Number":7}"#,
            Ok((6, None)),
        ),
        (
            r#""status":6,"user_id":{"$serde_json::private::Number":[{}]}"#,
            Ok((6, None)),
        ),
        (
            r#""status":6,"user_id":{"$serde_json::private::RawValue":"7"}"#,
            Ok((6, None)),
        ),
        (
            r#""status":6,"user_id":{"$serde_json::private::RawValue":7}"#,
            Ok((6, None)),
        ),
        (
            r#""status":6,"$serde_json::private::Number":"7""#,
            Ok((6, None)),
        ),
        (
            r#""$serde_json::private::RawValue":"{}","status":6"#,
            Ok((6, None)),
        ),
        (r#""status":6,"user\u005fid":"U""#, Ok((6, Some("U")))),
    ];
    for (fields, expected) in cases {
        let read = Job::decode(format!(r#"{{"job":{{"guid":"J",{fields}}}}}"#).as_bytes());
        let read = match &read {
            Ok(job) => {
                let user = job.user_id.as_ref().map(|id| id.as_str());
                Ok((job.status.code().unwrap(), user))
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::InvalidJob, "{fields}");
                Err(error.field())
            }
        };
        assert_eq!(read, expected, "{fields}");
    }
    let no_job = [
        r#"{"job":1.5}"#,
        r#"{"job":1e400}"#,
        r#"{"job":"\ud83d"}"#,
        r#"{"job":-0}"#,
        r#"{"\ud83d":{}}"#,
        "1e400",
        r#""\ud83d""#,
    ];
    for body in no_job {
        let error = Job::decode(body.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoJob, "{body}");
    }
    // Invalid grammar and its position, which does not depend on the preceding text.
    for (body, position) in [
        (r#"{"job":1.5"#, "column 10"),
        (r#"{"job":{"guid":"J","status":6.}}"#, "column 31"),
        (r#"{"job":1e400}}"#, "column 14"),
    ] {
        let error = Job::decode(body.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotJson, "{body}");
        assert!(error.to_string().contains(position), "{body}: {error}");
    }
}

/// `Deserialize` receives a format's representation of a payload, including `serde_json`'s maps.
#[test]
fn deserialising_a_job_accepts_the_same_values_as_decoding() {
    for value in [
        r#"{"$serde_json::private::Number":"7"}"#,
        r#"{"$serde_json::private::Number":7}"#,
        r#"{"$serde_json::private::Number":{"$serde_json::private::Number":"7"}}"#,
        "[{}]",
    ] {
        for field in ["user_id", "status", "updated_at", "is_authenticated"] {
            let json = format!(r#"{{"guid":"J","status_name":"DENIED","{field}":{value}}}"#);
            let job: Job = serde_json::from_str(&json).unwrap();
            assert_eq!(job.status, Status::Denied, "{json}");
        }
    }
    let json = r#"{"guid":"J","status":8.0,"updated_at":1471281212.25,"user_id":7}"#;
    let job: Job = serde_json::from_str(json).unwrap();
    assert_eq!(
        (job.status, job.user_id.unwrap().as_str()),
        (Status::Denied, "7")
    );
    assert_eq!(job.updated_at.unwrap().subsec_nanos(), 250_000_000);
}

/// A status without a name is only its integer, which is always written.
#[test]
fn an_unknown_integer_is_written_and_read_again() {
    let mut job = Job::new("JOB-1".parse().unwrap(), Status::from(42));
    for code in [None, Some(7)] {
        job.status_code = code;
        let written = serde_json::to_string(&job).unwrap();
        let read: Job = serde_json::from_str(&written).unwrap();
        assert_eq!(read.status, Status::from(42), "{written}");
    }
}

#[test]
fn a_fraction_is_neither_a_status_nor_an_id() {
    let error = Job::decode(br#"{"job":{"guid":"J","status":8.9}}"#).unwrap_err();
    assert_eq!(error.field(), Some("status"));
    let job = Job::decode(br#"{"job":{"guid":"J","status":8.0,"user_id":12345.7,"member_id":7}}"#);
    let job = job.unwrap();
    assert_eq!(job.status, Status::Denied);
    assert_eq!(job.user_id, None);
    assert_eq!(job.member_id.unwrap(), "7");
}

#[test]
fn an_error_does_not_repeat_the_payload() {
    let payloads = [
        r#"{"job":{"guid":["hunter2"],"status":"hunter2"}}"#,
        r#"{"job":{"guid":"J","status":{"hunter2":1}}}"#,
        r#"{"job":{"guid":"J","hunter2":hunter2}}"#,
        r#"{"hunter2":"hunter2"}"#,
        r#"{"job":"hunter2"}"#,
        r#"{"type":"hunter2"}"#,
        "hunter2",
        "\"hunter2\"",
        r#"{"job":{"guid":"hunter2","guid":"hunter2"}}"#,
        "{\"hunter2\u{1}\":1}",
    ];
    for payload in payloads {
        let error = Job::decode(payload.as_bytes()).unwrap_err();
        let printed = format!("{error} {error:?} {error:#?}");
        assert!(!printed.contains("hunter"), "{printed}");
        if let Ok(json) = serde_json::from_str::<Value>(payload) {
            if let Err(error) = serde_json::from_value::<Job>(json["job"].clone()) {
                assert!(!error.to_string().contains("hunter"), "{error}");
            }
        }
    }
}

#[test]
fn deep_or_long_json_is_an_error_or_ignored_and_does_not_crash() {
    let depth = 500_000;
    let bomb = |open: &str, close: &str| open.repeat(depth) + &close.repeat(depth);
    let value = bomb("[", "]");
    let object = "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
    for deep in [&value, &object] {
        for json in [
            format!(r#"{{"job":{{"guid":"J","status":6,"unknown":{deep}}}}}"#),
            format!(r#"{{"job":{{"guid":"J","status":6}},"unknown":{deep}}}"#),
        ] {
            assert!(Job::decode(json.as_bytes()).is_ok(), "the value is ignored");
        }
    }
    for json in [
        format!(r#"{{"job":{{"guid":"J","status":6,"member_id":{value}}}}}"#),
        format!(r#"{{"job":{{"guid":"J","status":6,"member_id":{object}}}}}"#),
        format!(r#"{{"job":{value}}}"#),
        format!(r#"{{"job":{object}}}"#),
        value.clone(),
        object,
        "[".repeat(depth),
        "{\"job\":".repeat(depth),
        format!(r#"{{"job":{{"guid":"{}","status":6}}}}"#, "x".repeat(depth)),
        format!(r#"{{"job":{{"guid":"J","status":{}}}}}"#, "9".repeat(depth)),
        format!(
            r#"{{"job":{{"guid":"J","status":0.{}}}}}"#,
            "9".repeat(depth)
        ),
    ] {
        if let Ok(job) = Job::decode(json.as_bytes()) {
            assert!(!job.guid.as_str().is_empty());
        }
    }
}

#[test]
fn timestamps_convert_to_system_time() {
    let moment = decode(SAMPLE).created_at.unwrap().to_system_time().unwrap();
    let since = moment
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    assert_eq!(since.as_secs(), 1_471_281_212);
    assert_eq!(
        decode(SAMPLE).created_at,
        Some(Timestamp::from_unix_seconds(1_471_281_212))
    );
}

#[test]
fn an_error_prints_its_kind_the_field_and_a_reason() {
    let cases = [
        (
            r#"{"job": {"guid": null, "status": 6}}"#,
            "invalid job: `guid` ",
        ),
        (r#"{"job": {"guid": "JOB-1"}}"#, "invalid job: `status` "),
        ("<job/>", "not JSON: "),
        ("[]", "not a job webhook: "),
    ];
    for (webhook, start) in cases {
        let error = Job::decode(webhook.as_bytes()).unwrap_err();
        let printed = error.to_string();
        let reason = printed.strip_prefix(start).unwrap_or_default();
        assert!(reason.len() > 5, "{printed}");
    }
    let other = Job::decode(br#"{"type": "BALANCE"}"#).unwrap_err();
    assert_eq!(other.to_string(), "another kind of MX webhook");
}

#[test]
fn the_undecodable_kinds_are_those_that_decoding_returns() {
    use ErrorKind::*;

    for undecodable in [NotJson, NoJob, InvalidJob] {
        assert!(undecodable.is_undecodable(), "{undecodable:?}");
    }
    let others = [
        MethodNotAllowed,
        Unauthorized,
        AuthenticationUnavailable,
        UnsupportedMediaType,
        UnsupportedContentEncoding,
        BodyTooLarge,
        BodyInterrupted,
        ReadTimeout,
        CallbackFailed,
        CallbackPanicked,
        CallbackCancelled,
        Overloaded,
        TimedOut,
        AnswerDeadline,
        InFlight,
        LedgerUnavailable,
        WatchUnavailable,
        QueueUnavailable,
        ShuttingDown,
    ];
    for other in others {
        assert!(!other.is_undecodable(), "{other:?}");
    }
}

#[test]
fn a_new_job_has_the_integer_of_its_status_and_no_other_field() {
    let job = Job::new("JOB-1".parse().unwrap(), Status::Completed);
    assert_eq!((job.status_code, job.member_guid), (Some(6), None));
    let job = Job::new("JOB-1".parse().unwrap(), Status::from("AUTHENTICATED"));
    assert_eq!((job.status_code, job.updated_at), (None, None));
}

#[test]
fn a_status_outside_of_the_table_has_a_name_or_an_integer() {
    let (named, numbered) = (Status::from("THROTTLED"), Status::from(42));
    assert_eq!((named.name(), named.code()), (Some("THROTTLED"), None));
    assert_eq!((numbered.name(), numbered.code()), (None, Some(42)));
    for (status, printed) in [(named, "THROTTLED"), (numbered, "42")] {
        let Status::Other(other) = &status else {
            panic!("{status} is known");
        };
        assert_eq!(other.to_string(), printed);
        assert!(!status.is_actionable());
    }
}

#[test]
fn the_duration_of_a_job_follows_from_its_dates() {
    let job = decode(
        r#"{"job": {"guid": "JOB-1", "status": 6, "started_at": 100, "finished_at": 103.5}}"#,
    );
    let [start, end] =
        [job.started_at, job.finished_at].map(|date| date.unwrap().to_system_time().unwrap());
    let duration = end.duration_since(start).unwrap();
    assert_eq!(duration, std::time::Duration::from_millis(3_500));
}

#[test]
fn timestamps_are_compared_by_their_seconds_in_constants_too() {
    const EPOCH: Timestamp = Timestamp::from_unix_seconds(0);
    assert!(Timestamp::from_unix_seconds(1_471_281_212) > EPOCH);
    assert_eq!((EPOCH.unix_seconds(), EPOCH.subsec_nanos()), (0, 0));
    let before: Timestamp = "1969-12-31T23:59:58.500Z".parse().unwrap();
    assert_eq!(
        (before.unix_seconds(), before.subsec_nanos()),
        (-2, 500_000_000)
    );
    let error = "2016-08-15T17:13:35".parse::<Timestamp>().unwrap_err();
    assert!(!error.to_string().is_empty());
}

/// `Job::decode`: a documented field that appears twice is refused, whatever the first or the second one is.
#[test]
fn a_field_that_is_repeated_beside_a_null_is_refused() {
    for body in [
        r#"{"job":null,"job":{"guid":"JOB-1","status":6}}"#,
        r#"{"job":{"guid":"JOB-1","status":6},"job":null}"#,
        r#"{"job":{"guid":null,"guid":"JOB-1","status":6}}"#,
        r#"{"job":{"guid":"JOB-1","status":6,"updated_at":1471281212,"updated_at":null}}"#,
        r#"{"job":{"guid":"JOB-1","status":6,"updated_at":null,"updated_at":1471281212}}"#,
    ] {
        let decoded = Job::decode(body.as_bytes());
        let kind = decoded.map_err(|error| error.kind());
        assert_eq!(kind.unwrap_err(), ErrorKind::InvalidJob, "{body}");
    }
}
