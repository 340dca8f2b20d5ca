//! The testing kit: samples, and a stand-in for MX that behaves as MX says it does.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use mx_job_webhook::ledger::MemoryLedger;
use mx_job_webhook::testing::{Answer, Mx, Sample, Transcript};
use mx_job_webhook::{
    Credentials, DedupeLayer, ErrorKind, JobEvent, JobRouter, JobWebhook, Status,
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

/// What was sent, as `STATUS@seconds`.
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
fn numbered_samples_are_of_jobs_members_and_users_that_differ() {
    let [one, two] = [1, 2].map(|number| Sample::completed().numbered(number).event().unwrap());
    assert_ne!(one.guid, two.guid);
    assert_ne!(one.member_guid, two.member_guid);
    assert_ne!(one.user_guid, two.user_guid);
    assert_ne!(one.user_id, two.user_id);
}

#[tokio::test]
async fn a_request_is_the_one_that_mx_sends() {
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
fn nothing_that_it_prints_shows_credentials_or_a_user() {
    let sample = Sample::completed();
    let printed = format!("{:?} {sample:?}", mx().with_bearer("a-token"));
    for secret in ["bXg6", "secret", "a-token", "USR-", "7834372140"] {
        assert!(!printed.contains(secret), "{secret}: {printed}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_never_acknowledged_is_sent_thirteen_times_within_a_day() {
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
async fn it_stops_at_the_first_2xx_and_tells_why_others_were_none() {
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
    assert!(transcript.all_acknowledged());
    let printed = transcript.to_string();
    assert!(
        printed.contains("attempt 2: no answer in time\n"),
        "{printed}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_never_ready_is_waited_for_as_long_as_an_answer() {
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
async fn duplicates_come_when_all_were_sent_and_dedupe_ends_them() {
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
async fn one_seed_is_one_order_and_loses_nothing() {
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
    assert_ne!(order[..20], order[20..], "each round has its own");
    for round in order.chunks(20) {
        let mut guids = round.to_vec();
        guids.sort();
        guids.dedup();
        assert_eq!(guids.len(), 20, "each sample once a round");
    }
}

/// The wait of the first retry, in which the answer to the second event falls.
#[tokio::test(start_paused = true)]
async fn deliveries_overlap_as_they_would_from_mx() {
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
async fn it_delivers_to_whatever_is_a_service() {
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
    // And from a task of its own.
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
#[should_panic(expected = "is not a URI")]
fn an_address_that_is_not_a_uri_panics() {
    let _ = Mx::new("a b");
}
