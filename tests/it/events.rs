//! What a callback is given.

use axum::extract::ConnectInfo;
use mx_job_webhook::{Job, JobEvent, JobRouter, Status};

use crate::support::{Log, SAMPLE, Settings, delivery, jobs, mounts, send};

#[tokio::test]
async fn the_job_the_raw_body_the_headers_and_the_extensions() {
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
            "a credential came through"
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

#[test]
fn printing_an_event_shows_neither_people_nor_the_body() {
    let event = JobEvent::decode(SAMPLE).unwrap();
    let printed = format!("{event:?} {:#?}", event.job());
    assert!(printed.contains("JOB-a177e002"), "{printed}");
    for private in ["USR-", "7834372140", "created_at\":"] {
        assert!(!printed.contains(private), "{printed}");
    }
}

#[test]
fn an_event_of_a_job_that_was_stored_carries_the_webhook_that_would_have_brought_it() {
    let job = Job::decode(SAMPLE.as_bytes()).unwrap();
    let event = JobEvent::from(job.clone());
    assert_eq!(Job::decode(event.body()).unwrap(), job);
    assert!(event.headers().is_empty());

    let bare = JobEvent::from(Job::new("J".parse().unwrap(), Status::from(42)));
    assert_eq!(Job::decode(bare.body()).unwrap(), *bare.job());
}

#[test]
fn a_job_that_is_kept_does_not_keep_the_body() {
    let body = axum::body::Bytes::from(SAMPLE.as_bytes().to_vec());
    let event = JobEvent::decode(body.clone()).unwrap();
    assert!(!body.is_unique());
    let job = event.into_job();
    assert!(body.is_unique());
    assert_eq!(job.status, Status::Completed);
}
