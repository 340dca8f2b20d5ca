//! The hooks that report failures.

use std::future::ready;

use http::Request;
use mx_job_webhook::callback::Failure;
use mx_job_webhook::router::DeadLetter;
use mx_job_webhook::{
    Background, Credentials, ErrorKind, JobEvent, JobRouter, JobWebhook, Permanent, Receipt,
};
use tower::{BoxError, ServiceExt as _};

use crate::support::{Log, SAMPLE, delivery, panic_quietly, run, sample_with_status};

fn failures(log: &Log) -> impl Fn(Failure<'_>) + Send + Sync + use<> {
    let log = log.clone();
    move |failure| {
        let status = failure.job().map(|job| job.status.to_string());
        log.push(format!(
            "{:?} {}",
            failure.error().kind(),
            status.as_deref().unwrap_or("-")
        ));
    }
}

#[tokio::test]
async fn on_error_runs_once_for_an_error_of_any_stage() {
    let cases: [(&str, Request<axum::body::Body>, &str); 9] = [
        (
            "another method",
            Request::get("/").body("".into()).unwrap(),
            "MethodNotAllowed -",
        ),
        (
            "no credentials",
            Request::post("/").body("".into()).unwrap(),
            "Unauthorized -",
        ),
        ("too large", delivery("x".repeat(70_000)), "BodyTooLarge -"),
        ("not JSON", delivery("{"), "NotJson -"),
        (
            "the hook for the undecodable fails",
            delivery("[]"),
            "CallbackFailed -",
        ),
        (
            "the callback fails",
            delivery(sample_with_status(9, "HALTED")),
            "CallbackFailed HALTED",
        ),
        (
            "the callback panics",
            delivery(sample_with_status(8, "DENIED")),
            "CallbackPanicked DENIED",
        ),
        (
            "the callback fails permanently",
            delivery(sample_with_status(7, "PREVENTED")),
            "CallbackFailed PREVENTED",
        ),
        ("it succeeds", delivery(SAMPLE), ""),
    ];
    for (name, request, expected) in cases {
        let log = Log::default();
        let jobs = JobRouter::new()
            .on_completed(|_| async {})
            .on_halted(|_| async { Err("no") })
            .on_prevented(|_| async { Err(Permanent::new("gone")) })
            .on_denied(|_| async { panic_quietly() });
        let mut endpoint =
            JobWebhook::new(crate::support::credentials(), jobs).on_error(failures(&log));
        if name.starts_with("the hook") {
            endpoint = endpoint.on_undecodable(|_| async { Err("full") });
        }
        endpoint.oneshot(request).await.unwrap();
        let expected: Vec<&str> = [expected].into_iter().filter(|it| !it.is_empty()).collect();
        assert_eq!(log.entries(), expected, "{name}");
    }
}

#[tokio::test]
async fn on_error_reports_refusals_past_the_bound_and_during_shutdown() {
    let log = Log::default();
    let background = Background::new();
    let endpoint = JobWebhook::new(Credentials::unauthenticated(), JobRouter::new())
        .with_background(background.clone())
        .on_error(failures(&log));
    let full = endpoint
        .clone()
        .with_background(Background::new().with_capacity(0));
    full.oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(background.drain(ready(())).await, 0);
    endpoint.oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(
        log.entries(),
        ["Overloaded COMPLETED", "ShuttingDown COMPLETED"]
    );
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn on_error_reports_a_failure_after_the_sender_hung_up() {
    use std::time::Duration;

    let log = Log::default();
    let jobs = JobRouter::new().on_completed(|_| async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        Err("the sender has hung up")
    });
    let endpoint = JobWebhook::new(Credentials::unauthenticated(), jobs)
        .with_answer_deadline(Duration::from_secs(1))
        .on_error(failures(&log));
    let answer = endpoint.oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(answer.status(), 503);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(
        log.entries(),
        ["AnswerDeadline COMPLETED", "CallbackFailed COMPLETED"]
    );
}

#[tokio::test]
async fn a_panicking_hook_does_not_change_the_answer() {
    let jobs = JobRouter::new().on_completed(|_| async { Err("no") });
    let endpoint = JobWebhook::new(Credentials::unauthenticated(), jobs)
        .on_error(|_| std::panic::resume_unwind(Box::new(())));
    let answer = endpoint.oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(answer.status(), 500);
}

fn event() -> JobEvent {
    JobEvent::decode(SAMPLE).unwrap()
}

/// An application's error that wraps its cause.
#[derive(Debug)]
struct Wrapping(Permanent);

impl std::fmt::Display for Wrapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("wrapped")
    }
}

impl std::error::Error for Wrapping {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[tokio::test]
async fn a_dead_letter_has_the_event_and_the_callbacks_error() {
    let log = Log::default();
    let seen = log.clone();
    let jobs = JobRouter::new()
        .on_completed(|_| async { Err(Wrapping(Permanent::new("the member was deleted"))) })
        .on_dead_letter(move |letter: DeadLetter| {
            let mut said = vec![letter.event().guid.to_string()];
            let mut error: &dyn std::error::Error = letter.error();
            while let Some(source) = error.source() {
                said.push(source.to_string());
                error = source;
            }
            seen.push(said.join(", "));
            async {}
        });
    assert_eq!(run(&jobs, event()).await.unwrap(), Receipt::DeadLettered);
    assert_eq!(
        log.entries(),
        [
            "JOB-a177e002-e5b8-0680-3427-39556fa93c6e, wrapped, a permanent error, no retry will help, \
          the member was deleted"
        ]
    );
}

#[tokio::test]
async fn only_a_permanent_failure_is_a_dead_letter() {
    let jobs = |outcome: fn() -> Result<(), BoxError>| {
        JobRouter::new()
            .on_completed(move |_| ready(outcome()))
            .on_unhandled(move |_| ready(outcome()))
            .on_dead_letter(|_| async {})
    };
    let permanent = jobs(|| Err(Permanent::new("gone").into()));
    let passing = jobs(|| Err("try again".into()));
    let fine = jobs(|| Ok(()));
    let by_anyhow = jobs(|| Err(anyhow::Error::from(Permanent::new("gone")).into()));
    assert_eq!(
        run(&by_anyhow, event()).await.unwrap(),
        Receipt::DeadLettered
    );
    let unhandled = || JobEvent::decode(sample_with_status(9, "HALTED")).unwrap();
    assert_eq!(
        run(&permanent, event()).await.unwrap(),
        Receipt::DeadLettered
    );
    assert_eq!(
        run(&permanent, unhandled()).await.unwrap(),
        Receipt::DeadLettered
    );
    let error = run(&passing, event()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::CallbackFailed && !error.is_permanent());
    assert_eq!(run(&fine, event()).await.unwrap(), Receipt::Handled);
    assert_eq!(run(&fine, unhandled()).await.unwrap(), Receipt::Unhandled);
}

#[tokio::test]
async fn the_dead_letter_hook_receives_the_state() {
    async fn keep(log: Log, letter: DeadLetter) {
        log.push(letter.into_event().guid.as_str());
    }
    let log = Log::default();
    let jobs = JobRouter::with_state(log.clone())
        .on_completed(|_, _| async { Err(Permanent::new("gone")) })
        .on_dead_letter(keep)
        .build();
    assert!(run(&jobs, event()).await.is_ok());
    assert_eq!(log.entries().len(), 1);
}

#[tokio::test]
async fn on_error_gets_the_error_and_the_job_of_a_failed_callback() {
    let log = Log::default();
    let seen = log.clone();
    let jobs = JobRouter::new().on_completed(|_| async { Err("the database is down") });
    let endpoint = JobWebhook::new(crate::support::credentials(), jobs).on_error(move |failure| {
        let cause = std::error::Error::source(failure.error()).unwrap();
        let guid = failure.job().map(|job| job.guid.to_string());
        seen.push(format!("{cause} {}", guid.unwrap()));
    });
    endpoint.oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(
        log.entries(),
        ["the database is down JOB-a177e002-e5b8-0680-3427-39556fa93c6e"]
    );
}

#[tokio::test]
async fn on_undecodable_gets_the_error_the_body_the_headers_and_the_extensions() {
    let cases = [
        (r#"{"balance": 12}"#, ErrorKind::NoJob, None),
        (
            r#"{"job": {"guid": "JOB-1"}}"#,
            ErrorKind::InvalidJob,
            Some("status"),
        ),
        ("not JSON", ErrorKind::NotJson, None),
    ];
    for (body, kind, field) in cases {
        let endpoint = JobWebhook::new(crate::support::credentials(), JobRouter::new())
            .on_undecodable(move |undecodable| async move {
                assert_eq!(undecodable.error().kind(), kind);
                assert_eq!(undecodable.error().field(), field);
                assert_eq!(undecodable.body(), body.as_bytes());
                assert_eq!(undecodable.headers()["user-agent"], "MX");
                assert!(!undecodable.headers().contains_key("authorization"));
                assert_eq!(undecodable.extensions().get::<u8>(), Some(&7));
                assert_eq!(undecodable.extensions().get::<String>(), None);
            });
        let mut request = delivery(body);
        let agent = "MX".parse().unwrap();
        request.headers_mut().insert("user-agent", agent);
        request.extensions_mut().insert(7_u8);
        // A failed assertion in the hook is a panic, which is answered 500.
        let answer = endpoint.oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 204, "{body}");
    }
}

#[tokio::test]
async fn an_error_of_the_hook_for_undecodable_bodies_is_answered_500() {
    let endpoint = JobWebhook::new(crate::support::credentials(), JobRouter::new()).on_undecodable(
        |undecodable| async move {
            let id = undecodable.extensions().get::<String>();
            id.map(drop).ok_or("no request id")
        },
    );
    let answer = endpoint.oneshot(delivery("not JSON")).await.unwrap();
    assert_eq!(answer.status(), 500);
}

#[tokio::test]
async fn a_callback_can_fail_permanently_or_for_now() {
    async fn completed(event: JobEvent) -> Result<(), BoxError> {
        let member = event
            .member_guid
            .as_ref()
            .ok_or_else(|| Permanent::new("a job without a member"))?;
        std::fs::write("/nonexistent/accounts", member.as_str())?;
        Ok(())
    }

    let jobs = JobRouter::new().on_completed(completed);
    let error = run(&jobs, event()).await.unwrap_err();
    assert!(!error.is_permanent(), "{error}");
    let memberless = r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#;
    let error = run(&jobs, JobEvent::decode(memberless).unwrap())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CallbackFailed);
    assert!(error.is_permanent(), "{error}");
}

#[test]
fn an_error_is_permanent_if_it_contains_permanent() {
    use mx_job_webhook::Error;

    let permanent = Error::from(BoxError::from(Permanent::new("the member was deleted")));
    let passing = Error::from(BoxError::from("the database is down"));
    assert!(permanent.is_permanent() && !passing.is_permanent());
}

#[tokio::test]
async fn a_dead_letter_keeps_the_whole_event_and_the_error() {
    let jobs = JobRouter::new()
        .on_completed(|_| async { Err(Permanent::new("the member was deleted")) })
        .on_dead_letter(|letter: DeadLetter| async move {
            assert!(letter.error().is_permanent());
            assert_eq!(letter.error().kind(), ErrorKind::CallbackFailed);
            assert_eq!(letter.event().body(), SAMPLE.as_bytes());
            assert_eq!(letter.into_event().into_job(), event().into_job());
        });
    assert_eq!(run(&jobs, event()).await.unwrap(), Receipt::DeadLettered);
}
