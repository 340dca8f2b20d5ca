//! Every outcome of a delivery, in its span, its event and its counter.

use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use mx_job_webhook::acknowledge_first::AcknowledgeFirstLayer;
use mx_job_webhook::event::FencingToken;
use mx_job_webhook::ledger::{Claim, Commit, EventName, Ledger, MemoryLedger};
use mx_job_webhook::{
    Background, Credentials, DedupeLayer, JobRouter, JobWebhook, Permanent, Receipt,
};
use tower::timeout::TimeoutLayer;
use tower::{BoxError, Layer as _, ServiceExt as _, service_fn};
use tracing::Level;

use super::{Capture, DELIVERY, Endpoint, answer, endpoint, hang_up, open, settle};
use crate::support::{
    BASIC, Frames, PATH, SAMPLE, Settings, credentials, delivery, jobs, panic_quietly, webhooks,
};

/// Another webhook of MX.
const BALANCE: &str = r#"{"type": "BALANCE", "user_guid": "USR-secret"}"#;

type Run = Pin<Box<dyn Future<Output = ()>>>;

/// An outcome: how it is reported, and the delivery that produces it.
struct Case {
    outcome: &'static str,
    status: &'static str,
    level: Level,
    message: &'static str,
    run: fn() -> Run,
}

macro_rules! cases {
    ($($outcome:literal, $status:literal, $level:ident, $message:literal, $run:expr;)+) => {
        [$(Case {
            outcome: $outcome,
            status: $status,
            level: Level::$level,
            message: $message,
            run: || Box::pin($run),
        }),+]
    };
}

#[rustfmt::skip]
fn cases() -> [Case; 31] {
    cases![
        "handled", "completed", DEBUG, "delivery acknowledged", answered(endpoint(succeeding()), delivery(SAMPLE), 204);
        "unhandled", "completed", DEBUG, "delivery acknowledged", answered(endpoint(JobRouter::new()), delivery(SAMPLE), 204);
        "undecodable", "no_job", DEBUG, "delivery acknowledged", answered(endpoint(succeeding()).on_undecodable(|_| async {}), delivery("{}"), 204);
        "other_webhook", "other_webhook", DEBUG, "delivery acknowledged", answered(endpoint(succeeding()).on_other_webhook(|_| async {}), delivery(BALANCE), 204);
        "passed_on", "other_webhook", DEBUG, "delivery passed on", passed_on();
        "dead_lettered", "completed", DEBUG, "delivery acknowledged", answered(endpoint(dead_lettering()), delivery(SAMPLE), 204);
        "duplicate", "completed", DEBUG, "delivery acknowledged", duplicate();
        "stale", "challenged", DEBUG, "delivery acknowledged", stale();
        "accepted", "completed", DEBUG, "delivery acknowledged", accepted();
        "queued", "completed", DEBUG, "delivery acknowledged", queued();
        "method_not_allowed", "none", WARN, "delivery refused: method not allowed", answered(endpoint(succeeding()), get(), 405);
        "unauthorized", "none", WARN, "delivery refused: unauthorized", answered(endpoint(succeeding()), with_wrong_credentials(), 401);
        "authentication_unavailable", "none", WARN, "delivery refused: the credentials could not be checked", answered(unable_to_verify(), delivery(SAMPLE), 503);
        "unsupported_media_type", "none", WARN, "delivery refused: the content type is not JSON", answered(open(succeeding()), as_text(), 415);
        "body_too_large", "none", WARN, "delivery refused: the body is too large", answered(endpoint(succeeding()).with_body_limit(9), delivery(SAMPLE), 413);
        "body_interrupted", "none", WARN, "delivery refused: the body broke off", answered(endpoint(succeeding()), delivery(broken_off()), 400);
        "read_timeout", "none", WARN, "delivery refused: the body came too slowly", answered(endpoint(succeeding()), delivery(endless()), 408);
        "not_json", "not_json", WARN, "delivery refused: not JSON: syntax error at line 1 column 2", answered(endpoint(succeeding()), delivery("{USR-secret"), 422);
        "unexpected_webhook", "other_webhook", WARN, "delivery refused: another kind of MX webhook", answered(endpoint(succeeding()), delivery(BALANCE), 422);
        "no_job", "no_job", WARN, "delivery refused: not a job webhook: the root has no `job`", answered(endpoint(succeeding()), delivery(r#"{"user": "USR-secret"}"#), 422);
        "invalid_job", "invalid_job", WARN, "delivery refused: invalid job: `guid` is missing", answered(endpoint(succeeding()), delivery(r#"{"job": {"status": 6, "user_guid": "USR-secret"}}"#), 422);
        "callback_failed", "completed", ERROR, "delivery failed: the callback failed: the bank is closed", answered(endpoint(failing()), delivery(SAMPLE), 500);
        "callback_panicked", "completed", ERROR, "delivery failed: the callback panicked", answered(endpoint(panicking()), delivery(SAMPLE), 500);
        "callback_cancelled", "completed", ERROR, "delivery failed: the callback was cut short", async { hang_up(&endpoint(hanging()), delivery(SAMPLE)) };
        "overloaded", "completed", WARN, "delivery refused: overloaded", answered(endpoint(succeeding()).with_background(Background::new().with_capacity(0)), delivery(SAMPLE), 503);
        "timed_out", "completed", WARN, "delivery refused: the callback timed out: request timed out", timed_out();
        "answer_deadline", "completed", WARN, "delivery refused: the answer deadline passed", answered(endpoint(slow()).with_answer_deadline(Duration::from_secs(1)), delivery(SAMPLE), 503);
        "in_flight", "completed", WARN, "delivery refused: an earlier delivery of the event is still under way", in_flight();
        "ledger_unavailable", "completed", WARN, "delivery refused: the ledger is unavailable: it is down", ledger_unavailable();
        "shutting_down", "completed", WARN, "delivery refused: shutting down", shutting_down();
        "abandoned", "none", WARN, "delivery abandoned by its sender", async { hang_up(&endpoint(succeeding()), delivery(endless())) };
    ]
}

#[test]
fn each_outcome_is_in_one_span_one_event_and_one_count() {
    for Case {
        outcome,
        status,
        level,
        message,
        run,
    } in cases()
    {
        let capture = Capture::default();
        capture.run(run());
        let metrics = capture.metrics();

        let spans = capture.deliveries();
        let told = |outcome: &str| {
            let mut spans = spans.iter();
            spans
                .find(|span| span.fields.named("outcome") == Some(outcome))
                .cloned()
        };
        let span = told(outcome).unwrap_or_else(|| panic!("{outcome}: {spans:?}"));
        assert!(spans.iter().all(|span| span.closed), "{outcome}");
        assert_eq!(
            (span.target, span.level),
            ("mx_job_webhook", Level::INFO),
            "{outcome}"
        );
        let duration: f64 = span.fields.named("duration").unwrap().parse().unwrap();
        let expected = match outcome {
            "read_timeout" => 10.0,
            "answer_deadline" | "timed_out" => 1.0,
            _ => 0.0,
        };
        assert!((duration - expected).abs() < 0.1, "{outcome}: {duration} s");
        let is_job = matches!(status, "completed" | "challenged");
        let decoded = is_job.then(|| status.to_uppercase());
        let has_problem = !is_job && status != "none";
        let problem = span.fields.named("body.problem");
        assert_eq!(problem.is_some(), has_problem, "{outcome}");
        assert_eq!(
            span.fields.named("job.status").map(str::to_owned),
            decoded,
            "{outcome}"
        );
        assert_eq!(
            span.fields.named("job.guid").is_some(),
            decoded.is_some(),
            "{outcome}"
        );
        let reason = message.split_once(": ").map(|(_, reason)| reason);
        assert_eq!(
            span.fields.named("error.type"),
            reason.map(|_| outcome),
            "{outcome}"
        );
        assert_eq!(span.fields.named("error.message"), reason, "{outcome}");

        let events = capture.own_events();
        let of_outcome: Vec<_> = events
            .iter()
            .filter(|event| event.message() == message && event.level == level)
            .collect();
        assert!(!of_outcome.is_empty(), "{outcome}: {events:?}");
        assert!(
            of_outcome.iter().all(|event| event.within == [DELIVERY]),
            "{outcome}"
        );
        let answers = events
            .iter()
            .filter(|event| event.message().starts_with("delivery"));
        assert_eq!(answers.count(), spans.len(), "{outcome}");

        let counted = |metric: &str| metrics.get(metric).copied();
        let count = format!(
            "mx_job_webhook_deliveries_total{{status={status},outcome={outcome},source=webhook}}"
        );
        assert_eq!(counted(&count), Some(1.0), "{outcome}: {metrics:?}");
        let all = metrics
            .iter()
            .filter(|(name, _)| name.starts_with("mx_job_webhook_deliveries_total"));
        assert_eq!(all.count(), spans.len(), "{outcome}: {metrics:?}");
        assert_eq!(
            counted("mx_job_webhook_deliveries_in_flight{}"),
            Some(0.0),
            "{outcome}"
        );
        assert!(
            matches!(
                counted("mx_job_webhook_callbacks_in_flight{}"),
                None | Some(0.0)
            ),
            "{outcome}"
        );
    }
}

#[test]
fn telemetry_contains_no_user_body_or_credential() {
    for Case { outcome, run, .. } in cases() {
        let capture = Capture::default();
        capture.run(run());
        let text = capture.text();
        for secret in [
            "USR-",
            "7834372140",
            "user",
            "MBR-",
            "INS-",
            BASIC,
            "bXg6",
            "secret",
            "database",
        ] {
            assert!(!text.contains(secret), "{outcome}: {secret} in {text}");
        }
    }
}

#[test]
fn the_table_has_every_name_of_the_api() {
    let told: Vec<&str> = cases().map(|case| case.outcome).to_vec();
    // The number of names in the tests of `ErrorKind::name` and `Receipt::name`, and `passed_on` and
    // `abandoned`.
    assert_eq!(told.len(), 20 + 9 + 2);
    let unique: std::collections::BTreeSet<&str> = told.iter().copied().collect();
    assert_eq!(unique.len(), told.len());
}

async fn answered(endpoint: Endpoint, request: Request<Body>, status: u16) {
    assert_eq!(answer(&endpoint, request).await, status);
}

fn succeeding() -> JobRouter {
    JobRouter::new()
        .on_completed(|_| async {})
        .on_challenged(|_| async {})
}

fn failing() -> JobRouter {
    JobRouter::new().on_completed(|_| async { Err("the bank is closed") })
}

fn dead_lettering() -> JobRouter {
    JobRouter::new()
        .on_completed(|_| async { Err(Permanent::new("no")) })
        .on_dead_letter(|_| async {})
}

fn panicking() -> JobRouter {
    JobRouter::new().on_completed(|_| async { panic_quietly() })
}

fn hanging() -> JobRouter {
    JobRouter::new().on_completed(|_| pending::<()>())
}

fn slow() -> JobRouter {
    JobRouter::new().on_completed(|_| tokio::time::sleep(Duration::from_secs(2)))
}

fn get() -> Request<Body> {
    Request::get("/").body(Body::empty()).unwrap()
}

fn with_wrong_credentials() -> Request<Body> {
    let mut request = delivery(SAMPLE);
    let wrong = "Basic bXg6d3Jvbmctc2VjcmV0".parse().unwrap();
    request.headers_mut().insert("authorization", wrong);
    request
}

fn as_text() -> Request<Body> {
    Request::post("/").body(SAMPLE.into()).unwrap()
}

fn broken_off() -> Frames {
    Frames::new([Err(BoxError::from("USR-secret"))])
}

fn endless() -> Frames {
    Frames::of_data([&b"{"[..]]).then_pending()
}

fn unable_to_verify() -> Endpoint {
    let verify = Credentials::verify(|_| async { Err("the issuer is down") });
    JobWebhook::new(verify, jobs(succeeding()))
}

fn deduplicating(router: JobRouter) -> Endpoint {
    let jobs_once = DedupeLayer::new(MemoryLedger::new()).layer(router);
    JobWebhook::new(credentials(), jobs(jobs_once))
}

async fn duplicate() {
    let endpoint = deduplicating(succeeding());
    assert_eq!(answer(&endpoint, delivery(SAMPLE)).await, 204);
    assert_eq!(answer(&endpoint, delivery(SAMPLE)).await, 204);
}

async fn stale() {
    let endpoint = deduplicating(succeeding());
    let job = |status: &str, updated_at: u32| {
        format!(
            r#"{{"job": {{"guid": "JOB-1", "status_name": "{status}", "updated_at": {updated_at}}}}}"#
        )
    };
    assert_eq!(answer(&endpoint, delivery(job("COMPLETED", 2))).await, 204);
    assert_eq!(answer(&endpoint, delivery(job("CHALLENGED", 1))).await, 204);
}

async fn in_flight() {
    let endpoint = deduplicating(slow());
    hang_up(&endpoint, delivery(SAMPLE));
    assert_eq!(answer(&endpoint, delivery(SAMPLE)).await, 503);
    tokio::time::sleep(Duration::from_secs(3)).await;
}

async fn accepted() {
    let first = AcknowledgeFirstLayer::new(|_| {}).layer(succeeding());
    let endpoint = JobWebhook::new(credentials(), jobs(first));
    assert_eq!(answer(&endpoint, delivery(SAMPLE)).await, 204);
    settle().await;
}

/// The receipt of a `JobQueue`.
async fn queued() {
    let queue = service_fn(|_| async { Ok::<_, BoxError>(Receipt::Queued) });
    let endpoint = JobWebhook::new(credentials(), jobs(queue));
    assert_eq!(answer(&endpoint, delivery(SAMPLE)).await, 204);
}

async fn passed_on() {
    let mount = webhooks(&Settings::new(jobs(succeeding())));
    let app = mount
        .at(PATH)
        .pass_on_other_webhooks()
        .layer(axum::Router::new().route(PATH, axum::routing::post(|| async { "taken" })));
    let answer = app.oneshot(delivery(BALANCE)).await.unwrap();
    assert_eq!(answer.status(), 200);
}

async fn timed_out() {
    let bounded = TimeoutLayer::new(Duration::from_secs(1)).layer(hanging());
    let endpoint = JobWebhook::new(credentials(), jobs(bounded));
    assert_eq!(answer(&endpoint, delivery(SAMPLE)).await, 503);
}

async fn shutting_down() {
    let background = Background::new();
    assert_eq!(background.drain(pending::<()>()).await, 0);
    let endpoint = endpoint(succeeding()).with_background(background);
    assert_eq!(answer(&endpoint, delivery(SAMPLE)).await, 503);
}

async fn ledger_unavailable() {
    let once = DedupeLayer::new(Down).layer(succeeding());
    let endpoint = JobWebhook::new(credentials(), jobs(once));
    assert_eq!(answer(&endpoint, delivery(SAMPLE)).await, 503);
}

struct Down;

impl Ledger for Down {
    type Error = &'static str;

    async fn claim(&self, _: &EventName, _: Duration) -> Result<Claim, &'static str> {
        Err("it is down")
    }

    async fn commit(&self, _: &EventName, _: FencingToken) -> Result<Commit, &'static str> {
        Err("it is down")
    }

    async fn release(&self, _: &EventName, _: FencingToken) -> Result<(), &'static str> {
        Err("it is down")
    }
}
