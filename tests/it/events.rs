//! The event that a callback receives.

use std::sync::{Arc, Mutex};

use axum::extract::ConnectInfo;
use mx_job_webhook::{Background, Credentials, Job, JobEvent, JobRouter, JobWebhook, Status};
use tower::ServiceExt as _;

use crate::support::{Log, SAMPLE, Settings, delivery, jobs, mounts, send};

#[tokio::test]
async fn a_callback_receives_the_job_the_raw_body_the_headers_and_the_extensions() {
    let log = Log::default();
    let seen = log.clone();
    let router = JobRouter::new().on_completed(move |event| {
        assert_eq!(event.guid, "JOB-a177e002-e5b8-0680-3427-39556fa93c6e");
        assert_eq!(event.job(), &Job::decode(SAMPLE.as_bytes()).unwrap());
        assert_eq!(event.body(), SAMPLE.as_bytes());
        assert_eq!(event.headers()["accept"], "application/json");
        assert_eq!(event.headers()["x-request-id"], "7");
        assert!(
            !event.headers().contains_key("authorization"),
            "the event has a credential"
        );
        assert_eq!(event.extensions().get::<ConnectInfo<u8>>().unwrap().0, 9);
        seen.push(event.into_job().guid.to_string());
        async {}
    });
    for (mount, app) in mounts(&Settings::new(jobs(router))) {
        let mut request = delivery(SAMPLE);
        request
            .headers_mut()
            .insert("x-request-id", "7".parse().unwrap());
        request.extensions_mut().insert(ConnectInfo(9_u8));
        let (head, _) = send(app, request).await;
        assert_eq!(head.status, 204, "{mount}");
    }
    assert!(log.entries().len() >= 3);
}

/// `Source`: an event that the application has stored, and runs again, comes from a call.
#[tokio::test]
async fn an_event_that_the_application_runs_again_comes_from_a_call() {
    let sources = Log::default();
    let stored = Arc::new(Mutex::new(None));
    let (noted, keeping) = (sources.clone(), stored.clone());
    let router = JobRouter::new().on_completed(move |event: JobEvent| {
        noted.push(format!("{:?}", event.source()));
        *keeping.lock().unwrap() = Some(event);
        async {}
    });
    let webhooks = JobWebhook::new(Credentials::unauthenticated(), router.clone());
    let answer = webhooks.oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(answer.status(), 204);
    let event = stored.lock().unwrap().take().unwrap();
    let background = Background::new().with_spawn(|task| drop(tokio::spawn(task)));
    background.run(router, event).await.unwrap();
    assert_eq!(sources.entries(), ["Webhook", "Call"]);
}

#[test]
fn printing_an_event_hides_users_and_the_body() {
    let event = JobEvent::decode(SAMPLE).unwrap();
    let printed = format!("{event:?} {:#?}", event.job());
    assert!(printed.contains("JOB-a177e002"), "{printed}");
    for private in ["USR-", "7834372140", "created_at\":"] {
        assert!(!printed.contains(private), "{printed}");
    }
}

#[test]
fn an_event_of_a_stored_job_has_the_equivalent_webhook_as_its_body() {
    let job = Job::decode(SAMPLE.as_bytes()).unwrap();
    let event = JobEvent::from(job.clone());
    assert_eq!(Job::decode(event.body()).unwrap(), job);
    assert!(event.headers().is_empty());

    let bare = JobEvent::from(Job::new("J".parse().unwrap(), Status::from(42)));
    assert_eq!(Job::decode(bare.body()).unwrap(), *bare.job());
}

#[test]
fn a_stored_job_does_not_retain_the_body() {
    let body = axum::body::Bytes::from(SAMPLE.as_bytes().to_vec());
    let event = JobEvent::decode(body.clone()).unwrap();
    assert!(!body.is_unique());
    let job = event.into_job();
    assert!(body.is_unique());
    assert_eq!(job.status, Status::Completed);
}

#[test]
fn a_decoded_event_has_only_its_body() {
    let webhook = r#"{"job": {"guid": "JOB-1", "status": 9, "error_message_code": "HIT_LIMIT"}}"#;
    let event = JobEvent::decode(webhook).unwrap();
    assert_eq!(event.body(), webhook.as_bytes());
    assert!(event.headers().is_empty());
    assert!(event.extensions().is_empty());
    assert!(event.fencing_token().is_none());
    assert_eq!(event.into_job().guid, "JOB-1");
}

#[tokio::test]
async fn middleware_can_add_an_extension_for_the_callback() {
    use mx_job_webhook::Receipt;
    use tower::{ServiceBuilder, ServiceExt as _};

    #[derive(Clone, PartialEq)]
    struct Attempt(u32);

    let jobs = ServiceBuilder::new()
        .map_request(|mut event: JobEvent| {
            event.extensions_mut().insert(Attempt(2));
            event
        })
        .service(JobRouter::new().on_completed(|event| async move {
            let attempt = event.extensions().get::<Attempt>();
            attempt
                .filter(|&attempt| *attempt == Attempt(2))
                .map(drop)
                .ok_or("missing")
        }));
    let event = JobEvent::decode(SAMPLE).unwrap();
    assert_eq!(jobs.oneshot(event).await.unwrap(), Receipt::Handled);
}

#[test]
fn fencing_tokens_keep_their_number_and_are_ordered_by_it() {
    use mx_job_webhook::event::FencingToken;

    let [first, second] = [1, 2].map(FencingToken::new);
    assert_eq!((first.get(), second.get()), (1, 2));
    assert!(first < second);
    assert_eq!(first, FencingToken::new(1));
    assert_eq!(FencingToken::new(u64::MAX).get(), u64::MAX);
}
