//! Who is told of what went wrong.

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
async fn on_error_hears_of_every_stage_once() {
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
            "it panics",
            delivery(sample_with_status(8, "DENIED")),
            "CallbackPanicked DENIED",
        ),
        (
            "it fails for good",
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
async fn on_error_hears_of_refusals_for_lack_of_room_and_at_shutdown() {
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
async fn on_error_hears_of_what_failed_when_nobody_waited_any_more() {
    use std::time::Duration;

    let log = Log::default();
    let jobs = JobRouter::new().on_completed(|_| async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        Err("too late to tell anybody else")
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
async fn a_hook_that_panics_changes_nothing() {
    let jobs = JobRouter::new().on_completed(|_| async { Err("no") });
    let endpoint = JobWebhook::new(Credentials::unauthenticated(), jobs)
        .on_error(|_| std::panic::resume_unwind(Box::new(())));
    let answer = endpoint.oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(answer.status(), 500);
}

fn event() -> JobEvent {
    JobEvent::decode(SAMPLE).unwrap()
}

/// An error of the application's own, which wraps what it is about.
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
async fn a_dead_letter_has_the_event_and_what_the_callback_said() {
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
async fn only_what_is_permanent_is_a_dead_letter() {
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
async fn with_state_the_dead_letter_hook_takes_it_too() {
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
