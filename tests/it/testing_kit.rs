//! The testing kit: samples, and a stand-in for MX that behaves as MX documents.

#[cfg(feature = "axum")]
mod mount;
mod receipts;
mod sockets;

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use mx_job_webhook::ledger::{EventName, MemoryLedger};
use mx_job_webhook::testing::{Answer, Mx, Sample, Transcript};
use mx_job_webhook::{
    Credentials, DedupeLayer, ErrorKind, Job, JobEvent, JobRouter, JobWebhook, Status,
};
use tower::util::BoxCloneService;
use tower::{Layer as _, service_fn};

use crate::support::{BASIC, Log, PATH, SAMPLE, credentials};

const NAMES: [&str; 10] = [
    "INITIATED",
    "REQUESTED",
    "CHALLENGED",
    "RECEIVED",
    "TRANSFERRED",
    "PROCESSED",
    "COMPLETED",
    "PREVENTED",
    "DENIED",
    "HALTED",
];

fn mx() -> Mx {
    Mx::new(PATH).with_basic("mx", "secret")
}

fn endpoint(jobs: JobRouter) -> JobWebhook<JobRouter> {
    JobWebhook::new(credentials(), jobs)
}

/// The deliveries as `STATUS@seconds`.
fn sent(transcript: &Transcript) -> Vec<String> {
    let attempts = transcript.attempts().iter();
    attempts
        .map(|attempt| {
            let status = attempt.sample().event().unwrap().status.to_string();
            format!("{status}@{}", attempt.sent_at().as_secs())
        })
        .collect()
}

#[test]
fn the_sample_of_a_completed_job_is_the_documented_one() {
    let documented: serde_json::Value = serde_json::from_str(SAMPLE).unwrap();
    let sample: serde_json::Value = serde_json::from_slice(&Sample::completed().body()).unwrap();
    assert_eq!(sample, documented);
}

#[test]
fn every_status_has_a_sample_with_all_fields_that_decodes_to_it() {
    let mut dates = Vec::new();
    for name in NAMES {
        let event = Sample::new(Status::from(name)).event().unwrap();
        assert_eq!(event.status.name(), Some(name));
        assert_eq!(event.status_code, event.status.code(), "{name}");
        let fields: serde_json::Value = serde_json::from_slice(event.body()).unwrap();
        assert_eq!(fields["job"].as_object().unwrap().len(), 14, "{name}");
        dates.push(event.updated_at);
    }
    assert!(dates.is_sorted(), "later statuses are dated later");
    for status in [Status::from("THROTTLED"), Status::from(42)] {
        let event = Sample::new(status.clone()).event().unwrap();
        assert_eq!(event.status, status);
    }
}

#[test]
fn numbered_samples_have_different_jobs_members_and_users() {
    let [one, two] = [1, 2].map(|number| Sample::completed().numbered(number).event().unwrap());
    assert_ne!(one.guid, two.guid);
    assert_ne!(one.member_guid, two.member_guid);
    assert_ne!(one.user_guid, two.user_guid);
    assert_ne!(one.user_id, two.user_id);
}

#[tokio::test]
async fn a_request_equals_the_one_that_mx_sends() {
    let request = mx().with_header("x-proxy", "1").request(&Sample::denied());
    let (head, body) = request.into_parts();
    assert_eq!((head.method.as_str(), head.uri.path()), ("POST", PATH));
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!(body, Sample::denied().body());
    let length = body.len().to_string();
    let expected = [
        ("content-type", "application/json; charset=utf-8"),
        ("accept", "application/json"),
        ("authorization", BASIC),
        ("content-length", &length),
        ("x-proxy", "1"),
    ];
    for (name, value) in expected {
        assert_eq!(head.headers[name], value);
    }
    assert_eq!(head.headers.len(), expected.len());
    assert!(!format!("{:?}", head.headers).contains("bXg6"), "it prints");
}

#[test]
fn printing_the_kit_hides_credentials_and_users() {
    let sample = Sample::completed();
    let printed = format!("{:?} {sample:?}", mx().with_bearer("a-token"));
    for secret in ["bXg6", "secret", "a-token", "USR-", "7834372140"] {
        assert!(!printed.contains(secret), "{secret}: {printed}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unacknowledged_delivery_is_sent_thirteen_times_within_a_day() {
    let jobs = JobRouter::new().on_halted(|_| async { Err("the database is down") });
    let transcript = mx().deliver(endpoint(jobs), Sample::halted()).await;
    assert_eq!(transcript.count(500), 13);
    assert!(!transcript.all_acknowledged());
    let at: Vec<_> = transcript.attempts().iter().map(|a| a.sent_at()).collect();
    let waits: Vec<_> = at.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(waits.is_sorted() && waits[0] < waits[11], "{waits:?}");
    let last = at[12].as_secs_f64() / 3_600.0;
    assert!((23.9..24.1).contains(&last), "{last} hours");
    let numbers = transcript.attempts().iter().map(|a| a.number());
    assert!(numbers.eq(1..=13));
}

#[tokio::test(start_paused = true)]
async fn retries_stop_at_the_first_2xx_and_the_transcript_explains_failures() {
    let calls = Arc::new(AtomicU32::new(0));
    let app = service_fn(move |_: Request<Full<Bytes>>| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        async move {
            match call {
                0 => Err("connection reset"),
                1 => pending().await,
                call => {
                    let status = [302, 404, 201][usize::try_from(call).unwrap() - 2];
                    let mut response = Response::new(Empty::<Bytes>::new());
                    *response.status_mut() = StatusCode::from_u16(status).unwrap();
                    Ok(response)
                }
            }
        }
    });
    let transcript = mx().deliver(app, Sample::completed()).await;
    let status = |code| Answer::Status(StatusCode::from_u16(code).unwrap());
    let expected = [
        Answer::Failed("connection reset".to_owned()),
        Answer::TimedOut,
        status(302),
        status(404),
        status(201),
    ];
    assert_eq!(transcript.answers(), expected);
    let printed = transcript.to_string();
    for line in [
        "attempt 2: no answer in time\n",
        "attempt 4: 404 (not answered by mx-job-webhook)\n",
        "attempt 5: 201 (not answered by mx-job-webhook)\n",
    ] {
        assert!(printed.contains(line), "{printed}");
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_for_readiness_has_the_same_limit_as_waiting_for_an_answer() {
    let app = service_fn(|_: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let busy = tower::limit::GlobalConcurrencyLimitLayer::new(0).layer(app);
    let transcript = mx()
        .with_retries(1)
        .with_patience(Duration::from_secs(3))
        .deliver(busy, Sample::completed())
        .await;
    assert_eq!(transcript.answers(), [Answer::TimedOut, Answer::TimedOut]);
    assert_eq!(sent(&transcript), ["COMPLETED@0", "COMPLETED@24"]);
}

#[tokio::test(start_paused = true)]
async fn duplicates_follow_after_all_events_and_dedupe_runs_no_callback_for_them() {
    let log = Log::default();
    let seen = log.clone();
    let handle = move |event: JobEvent| {
        seen.push(event.status.to_string());
        async {}
    };
    let jobs = JobRouter::new()
        .on_challenged(handle.clone())
        .on_completed(handle);
    let once = DedupeLayer::new(MemoryLedger::new()).layer(jobs);
    let app = JobWebhook::new(credentials(), once);
    let story = [Sample::challenged(), Sample::completed()];
    let transcript = mx().with_duplicates(2).deliver(app, story).await;
    let expected = [
        "CHALLENGED@0",
        "COMPLETED@1",
        "CHALLENGED@2",
        "COMPLETED@3",
        "CHALLENGED@4",
        "COMPLETED@5",
    ];
    assert_eq!(sent(&transcript), expected);
    assert_eq!(transcript.count(204), 6);
    assert_eq!(log.entries(), ["CHALLENGED", "COMPLETED"]);
}

#[tokio::test(start_paused = true)]
async fn a_seed_determines_the_order_and_every_event_is_sent() {
    let orders = |seed| async move {
        let mx = mx().with_duplicates(1).with_reordering(seed);
        let samples = (0..20).map(|number| Sample::completed().numbered(number));
        let transcript = mx.deliver(endpoint(JobRouter::new()), samples).await;
        let guids = transcript.attempts().iter();
        guids
            .map(|attempt| attempt.sample().event().unwrap().guid.clone())
            .collect::<Vec<_>>()
    };
    let order = orders(7).await;
    assert_eq!(order, orders(7).await);
    assert_ne!(order, orders(8).await);
    assert!(!order[..20].is_sorted());
    assert_ne!(order[..20], order[20..], "each round has its own order");
    for round in order.chunks(20) {
        let mut guids = round.to_vec();
        guids.sort();
        guids.dedup();
        assert_eq!(guids.len(), 20, "each round sends each sample once");
    }
}

/// The answer to the second event falls into the wait before the first retry.
#[tokio::test(start_paused = true)]
async fn deliveries_overlap_like_those_of_mx() {
    let log = Log::default();
    let seen = log.clone();
    let jobs = JobRouter::new().on_completed(move |event| {
        let seen = seen.clone();
        async move {
            seen.push(format!("start {}", event.guid));
            tokio::time::sleep(Duration::from_secs(5)).await;
            seen.push(format!("end {}", event.guid));
        }
    });
    let samples = ["A", "B"].map(|guid| Sample::completed().with_guid(guid));
    let transcript = mx().deliver(endpoint(jobs), samples).await;
    assert_eq!(transcript.answers(), [204, 204]);
    assert_eq!(log.entries(), ["start A", "start B", "end A", "end B"]);
}

#[tokio::test(start_paused = true)]
async fn the_kit_delivers_to_any_service() {
    let layer = || JobWebhook::new(credentials(), JobRouter::new()).at(PATH);
    let own = || Router::new().route("/", axum::routing::get(|| async {}));
    let deliver = mx().with_retries(0);
    let boxed: BoxCloneService<Request<Body>, Response<Body>, Infallible> =
        BoxCloneService::new(own().layer(layer()));
    let plain = service_fn(|_: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let sample = Sample::completed;
    let transcripts = [
        (
            "a router",
            deliver.deliver(own().layer(layer()), sample()).await,
        ),
        (
            "around",
            deliver.deliver(layer().layer(own()), sample()).await,
        ),
        (
            "a service of axum's body",
            deliver
                .clone()
                .with_body_type::<Body>()
                .deliver(boxed, sample())
                .await,
        ),
        (
            "no framework",
            deliver.deliver(layer().layer(plain), sample()).await,
        ),
    ];
    for (name, transcript) in transcripts {
        assert_eq!(transcript.answers(), [204], "{name}");
    }
    // It also works from a spawned task.
    let task = tokio::spawn(async move { deliver.deliver(own().layer(layer()), sample()).await });
    assert!(task.await.unwrap().all_acknowledged());
}

#[tokio::test]
async fn the_reason_of_a_refusal_is_in_the_transcript() {
    let app = JobWebhook::new(Credentials::basic("mx", "other").unwrap(), JobRouter::new());
    let transcript = mx().with_retries(0).deliver(app, Sample::completed()).await;
    let error = transcript.attempts()[0].error().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(transcript.to_string().ends_with("401 (unauthorized)\n"));
}

#[test]
fn an_address_is_a_path_with_a_slash_or_a_url() {
    for address in [
        "/",
        "/w",
        "/w?key=1",
        "http://127.0.0.1:3000/w",
        "https://a",
    ] {
        let _ = Mx::new(address);
    }
    for (address, expected) in [
        ("a b", "is not a URI"),
        ("", "is not a URI"),
        ("w", "must start with a slash"),
        ("*", "must start with a slash"),
        ("localhost:3000", "must start with a slash"),
    ] {
        let panic = std::panic::catch_unwind(|| Mx::new(address)).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains(expected), "{address}: {message}");
    }
}

#[test]
fn the_samples_follow_the_field_table_of_mx() {
    let event = |sample: Sample| sample.event().unwrap();
    let completed = event(Sample::completed());
    assert_eq!(completed.guid, "JOB-a177e002-e5b8-0680-3427-39556fa93c6e");
    assert_eq!(completed.user_id.as_ref().unwrap(), "7834372140");
    assert!(completed.error_message.is_none());
    let challenged = event(Sample::challenged());
    assert_eq!(challenged.is_authenticated, Some(false));
    assert_eq!(challenged.finished_at, None);
    for failed in [Sample::denied(), Sample::halted(), Sample::prevented()] {
        let failed = event(failed);
        assert!(failed.error_message.is_some(), "{failed:?}");
        assert!(failed.finished_at.is_some(), "{failed:?}");
    }
    let cases = [
        (Sample::completed(), Status::Completed),
        (Sample::challenged(), Status::Challenged),
        (Sample::denied(), Status::Denied),
        (Sample::halted(), Status::Halted),
        (Sample::prevented(), Status::Prevented),
    ];
    for (sample, status) in cases {
        assert_eq!(event(sample.clone()).status, status);
        assert_eq!(sample, Sample::new(status));
    }
    let throttled = event(Sample::new(Status::from("THROTTLED")));
    assert_eq!(throttled.status.name(), Some("THROTTLED"));
    assert_eq!(throttled.status_code, None);
}

#[test]
fn of_each_status_gives_a_separate_job_for_each_status_with_a_webhook() {
    let events = Sample::of_each_status().map(|sample| sample.event().unwrap());
    let names = events.each_ref().map(|event| event.status.to_string());
    assert_eq!(
        names,
        ["CHALLENGED", "COMPLETED", "PREVENTED", "DENIED", "HALTED"]
    );
    let guids: std::collections::HashSet<_> = events.iter().map(|event| &event.guid).collect();
    assert_eq!(guids.len(), 5);
    assert_eq!(events[0].guid, "JOB-00000000-0000-4000-8000-000000000001");
}

#[test]
fn a_sample_can_be_varied_field_by_field() {
    let event = |sample: Sample| sample.event().unwrap();
    let guid = event(Sample::halted().with_guid("JOB-1")).guid.clone();
    assert_eq!(guid, "JOB-1");

    let known = event(Sample::denied().with_field("error_message", "Try again."));
    assert_eq!(known.error_message.as_deref(), Some("Try again."));
    let new = event(Sample::completed().with_field("new_at_mx", true));
    let body = std::str::from_utf8(new.body()).unwrap();
    assert!(body.contains(r#""new_at_mx":true"#), "{body}");
    assert_eq!(new.into_job(), event(Sample::completed()).into_job());

    let unnamed = event(Sample::denied().without_field("status_name"));
    assert_eq!(unnamed.status, Status::Denied, "the integer decides");
    let error = Sample::completed().without_field("guid").event();
    assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidJob);
}

#[test]
fn another_date_makes_a_sample_another_event() {
    use mx_job_webhook::ledger::EventName;

    let name = |sample: Sample| EventName::of(&sample.event().unwrap());
    let later = Sample::challenged().with_updated_at(1_471_281_216);
    assert_ne!(name(Sample::challenged()), name(later.clone()));
    let updated_at = later.event().unwrap().updated_at.unwrap();
    assert_eq!(updated_at.unix_seconds(), 1_471_281_216);
}

#[test]
fn an_answer_equals_its_status_and_only_2xx_is_a_success() {
    let status = |code| Answer::Status(StatusCode::from_u16(code).unwrap());
    let failed = Answer::Failed("connection reset".to_owned());
    let cases = [
        (status(200), Some(200), true, "200"),
        (status(204), Some(204), true, "204"),
        (status(302), Some(302), false, "302"),
        (status(503), Some(503), false, "503"),
        (Answer::TimedOut, None, false, "no answer in time"),
        (failed, None, false, "failed: connection reset"),
    ];
    for (answer, code, is_success, printed) in cases {
        assert_eq!(answer.is_success(), is_success, "{answer}");
        assert_eq!(answer.to_string(), printed);
        for other in [200, 204, 302, 408, 503] {
            assert_eq!(answer == other, code == Some(other), "{answer} {other}");
        }
    }
}

#[tokio::test]
async fn an_attempt_has_its_sample_its_number_its_time_its_answer_and_its_error() {
    let sample = Sample::completed().without_field("guid");
    let app = endpoint(JobRouter::new());
    let transcript = mx().with_retries(0).deliver(app, sample.clone()).await;
    let [attempt] = transcript.attempts() else {
        panic!("{transcript}");
    };
    assert_eq!(attempt.sample(), &sample);
    assert_eq!(attempt.number(), 1);
    assert!(attempt.sent_at() < Duration::from_secs(1));
    assert_eq!(*attempt.answer(), 422);
    let kind = attempt.error().map(|error| error.kind());
    assert_eq!(kind, Some(ErrorKind::InvalidJob));
}

#[tokio::test]
async fn a_failed_attempt_has_the_error_of_the_service() {
    let breaks = service_fn(|_: Request<Full<Bytes>>| async {
        Err::<Response<Empty<Bytes>>, _>("connection reset")
    });
    let transcript = mx().with_retries(0).deliver(breaks, Sample::denied()).await;
    let [attempt] = transcript.attempts() else {
        panic!("{transcript}");
    };
    let expected = Answer::Failed("connection reset".to_owned());
    assert_eq!(*attempt.answer(), expected);
    assert!(attempt.error().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_transcript_counts_the_answers_and_prints_a_line_for_each_attempt() {
    let jobs = JobRouter::new().on_denied(|_| async { Err("the database is down") });
    let samples = Sample::of_each_status();
    let transcript = mx().deliver(endpoint(jobs), samples).await;
    assert_eq!((transcript.count(204), transcript.count(500)), (4, 13));
    assert!(!transcript.all_acknowledged(), "{transcript}");
    assert_eq!(transcript.to_string().lines().count(), 17);

    let sample = Sample::completed().with_guid("JOB-1");
    let transcript = mx().deliver(endpoint(JobRouter::new()), sample).await;
    assert!(transcript.all_acknowledged());
    assert_eq!(
        transcript.to_string(),
        "      0.0 s  JOB-1 COMPLETED, attempt 1: 204 (unhandled)\n"
    );
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_succeeds_on_retry_is_acknowledged() {
    let failed = Arc::new(AtomicU32::new(0));
    let jobs = JobRouter::new().on_halted(move |_| {
        let first = failed.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if first {
                Err("the database is down")
            } else {
                Ok(())
            }
        }
    });
    let transcript = mx().deliver(endpoint(jobs), Sample::halted()).await;
    assert_eq!(transcript.answers(), [500, 204]);
    assert!(transcript.all_acknowledged());
}

#[tokio::test(start_paused = true)]
async fn the_interval_and_the_patience_can_be_set() {
    let samples = [Sample::challenged(), Sample::completed()];
    let transcript = mx()
        .with_interval(Duration::from_secs(60))
        .deliver(endpoint(JobRouter::new()), samples)
        .await;
    assert_eq!(sent(&transcript), ["CHALLENGED@0", "COMPLETED@60"]);

    for seconds in [5, 20] {
        let jobs = JobRouter::new().on_halted(|_| tokio::time::sleep(Duration::from_secs(10)));
        let transcript = mx()
            .with_retries(0)
            .with_patience(Duration::from_secs(seconds))
            .deliver(endpoint(jobs), Sample::halted())
            .await;
        let expected = match seconds {
            5 => Answer::TimedOut,
            _ => Answer::Status(StatusCode::NO_CONTENT),
        };
        assert_eq!(transcript.answers(), [expected]);
    }
}

#[tokio::test]
async fn requests_have_the_configured_credentials_and_body() {
    use tower::ServiceExt as _;

    let bearer = Mx::new(PATH)
        .with_bearer("a-token")
        .request(&Sample::denied());
    assert_eq!(bearer.headers()["authorization"], "Bearer a-token");
    let plain = Mx::new(PATH).request(&Sample::denied());
    assert!(!plain.headers().contains_key("authorization"));

    let wrong = Mx::new(PATH).with_basic("mx", "wrong");
    let other_webhook = mx().request_with_body(r#"{"type": "BALANCE"}"#);
    let cases = [
        (mx().request(&Sample::completed()), 204),
        (wrong.request(&Sample::completed()), 401),
        (other_webhook, 422),
    ];
    for (request, status) in cases {
        let answer = endpoint(JobRouter::new()).oneshot(request).await.unwrap();
        assert_eq!(answer.status(), status);
    }
}

#[test]
fn the_body_type_of_requests_can_be_set() {
    let request: Request<Body> = mx().with_body_type::<Body>().request(&Sample::completed());
    let length = Sample::completed().body().len().to_string();
    assert_eq!(request.headers()["content-length"], length.as_str());
}

#[test]
fn credentials_and_headers_that_cannot_be_sent_panic() {
    let mistakes: [fn() -> Mx; 3] = [
        || mx().with_bearer("a\nb"),
        || mx().with_header("a b", "1"),
        || mx().with_header("x-proxy", "\n"),
    ];
    for mistake in mistakes {
        assert!(std::panic::catch_unwind(mistake).is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_sample_never_arrives_but_the_job_can_be_read() {
    let log = Log::default();
    let seen = log.clone();
    let jobs = JobRouter::new().on_completed(move |event| {
        seen.push(event.guid.to_string());
        async {}
    });
    let samples: Vec<_> = (1..=100)
        .map(|number| Sample::completed().numbered(number))
        .collect();
    let mx = mx().with_losses(0.3, 7);
    let transcript = mx.deliver(endpoint(jobs.clone()), samples.clone()).await;
    let lost = transcript
        .answers()
        .iter()
        .filter(|answer| **answer == Answer::Lost)
        .count();
    assert!((15..45).contains(&lost), "{lost}");
    assert_eq!(transcript.attempts().len(), 100, "nothing is retried");
    assert_eq!(log.entries().len(), 100 - lost);
    assert!(!transcript.all_acknowledged());
    // The same samples are lost again.
    let again = mx.clone().deliver(endpoint(jobs), samples.clone()).await;
    assert_eq!(again.answers(), transcript.answers());
    for sample in &samples {
        let sent = sample.event().unwrap();
        let read = mx.jobs().read(&sent.guid).await.unwrap();
        let read = JobEvent::decode(read).unwrap();
        assert_eq!(EventName::of(&read), EventName::of(&sent), "one event");
        assert_eq!(
            (&read.user_id, &read.member_guid),
            (&None, &sent.member_guid)
        );
    }
    let unknown = mx.jobs().read(&"JOB-0".parse().unwrap()).await;
    assert_eq!(unknown.unwrap_err().to_string(), "there is no such job");
    mx.jobs().set(&Sample::new(Status::Received));
    let read = mx
        .jobs()
        .read(&Sample::completed().event().unwrap().guid)
        .await;
    assert_eq!(
        Job::decode(&read.unwrap()).unwrap().status,
        Status::Received
    );
}

/// `Mx`: "Clones of this `Mx` share them", and one with another type of body keeps them.
#[tokio::test(start_paused = true)]
async fn clones_of_a_sender_share_its_jobs() {
    for is_cloned in [true, false] {
        let mx = Mx::new(PATH).with_basic("mx", "secret");
        let jobs = mx.jobs();
        let app = Router::new().layer(JobWebhook::new(credentials(), JobRouter::new()).at(PATH));
        let sample = Sample::completed().with_guid("JOB-1");
        if is_cloned {
            mx.clone().deliver(app, sample).await;
        } else {
            let mx = mx.with_body_type::<Body>();
            mx.deliver(app, sample).await;
        }
        let read = jobs.read(&"JOB-1".parse().unwrap()).await;
        assert!(read.is_ok(), "{is_cloned}");
    }
}

/// `Transcript`: its attempts are "in the order in which they were sent", so a retry follows a later sample.
#[tokio::test(start_paused = true)]
async fn a_transcript_is_in_the_order_of_sending() {
    let mx = Mx::new(PATH)
        .with_basic("mx", "secret")
        .with_interval(Duration::from_secs(1));
    let has_failed = Arc::new(AtomicBool::new(false));
    let jobs = JobRouter::new().on_completed(move |_| {
        let fails = !has_failed.swap(true, Ordering::Relaxed);
        async move { if fails { Err("once") } else { Ok(()) } }
    });
    let app = Router::new().layer(JobWebhook::new(credentials(), jobs).at(PATH));
    let samples = [1, 2].map(|number| Sample::completed().numbered(number));
    let transcript = mx.deliver(app, samples).await;
    assert_eq!(transcript.answers(), [500, 204, 204]);
}
