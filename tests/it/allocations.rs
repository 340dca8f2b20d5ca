//! What is taken from the heap, to the allocation: the numbers that the documentation states.

use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures_now::now;
use http::Request;
use mx_job_webhook::{
    Claim, DedupeLayer, EventName, Job, JobRouter, JobWebhookLayer, Ledger as _, MemoryLedger,
    Status, Timestamp,
};
use tower::{Layer as _, Service};

use crate::support::{PATH, SAMPLE, credentials, delivery};

/// Futures that never wait, polled to their end without a runtime.
mod futures_now {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    pub(crate) fn now<F: Future>(future: F) -> F::Output {
        let context = &mut Context::from_waker(Waker::noop());
        match pin!(future).poll(context) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("it waits"),
        }
    }
}

fn own_routes() -> Router {
    Router::new().route("/accounts", get(|| async { "accounts" }))
}

/// What a service takes for a request, after one to warm up.
fn taken<S>(mut service: S, request: impl Fn() -> Request<Body>, status: u16) -> AllocationInfo
where
    S: Service<Request<Body>, Response = http::Response<Body>>,
    S::Error: std::fmt::Debug,
{
    let mut answer = |request| {
        now(std::future::poll_fn(|context| service.poll_ready(context))).unwrap();
        let response = now(service.call(request)).unwrap();
        assert_eq!(response.status().as_u16(), status);
    };
    answer(request());
    let request = request();
    measure(|| answer(request))
}

#[test]
fn decoding_the_sample_takes_nothing() {
    let info = measure(|| {
        let job = Job::decode(SAMPLE.as_bytes()).unwrap();
        assert_eq!(job.status, Status::Completed);
    });
    assert_eq!(info.count_total, 0);
}

#[test]
fn a_delivery_takes_its_two_futures_and_what_is_not_ours_nothing() {
    let jobs = JobRouter::new().on_completed(|_| async {});
    let layer = JobWebhookLayer::new(PATH, credentials(), jobs);
    let service = layer.layer(tower::service_fn(|_: Request<Body>| async {
        Ok::<_, std::convert::Infallible>(http::Response::new(Body::empty()))
    }));
    // The callback's, and that of the `Service<JobEvent>` around it.
    let info = taken(service.clone(), || delivery(SAMPLE), 204);
    assert_eq!(info.count_total, 2);
    let not_ours = || Request::get("/accounts").body(Body::empty()).unwrap();
    assert_eq!(taken(service, not_ours, 200).count_total, 0);

    let jobs = JobRouter::new().on_completed(|_| async {});
    let around = JobWebhookLayer::new(PATH, credentials(), jobs).layer(own_routes());
    assert_eq!(taken(around, || delivery(SAMPLE), 204).count_total, 2);
}

#[test]
fn a_duplicate_that_the_ledger_knows_takes_two() {
    let jobs =
        DedupeLayer::new(MemoryLedger::new()).layer(JobRouter::new().on_completed(|_| async {}));
    let around = JobWebhookLayer::new(PATH, credentials(), jobs).layer(own_routes());
    let info = taken(around, || delivery(SAMPLE), 204);
    assert_eq!(info.count_total, 2);
}

#[test]
fn a_hundred_thousand_events_take_less_than_twenty_megabytes() {
    let ledger = MemoryLedger::new();
    let info = measure(|| {
        for number in 0..100_000 {
            let guid = format!("JOB-a177e002-e5b8-0680-3427-{number:012}");
            let mut job = Job::new(guid.parse().unwrap(), Status::Completed);
            job.updated_at = Some(Timestamp::from_unix_seconds(number));
            let event = EventName::of(&job);
            let Ok(Claim::Granted(token)) = now(ledger.claim(&event, Duration::from_secs(60)))
            else {
                panic!("it was never seen before");
            };
            let _ = now(ledger.commit(&event, token));
        }
    });
    assert_eq!(ledger.settled(), 100_000);
    let per_event = info.bytes_current / 100_000;
    assert!((120..=140).contains(&per_event), "{per_event} bytes");
    // While a table grows, the old one is there too.
    assert!(
        info.bytes_max < 20_000_000,
        "{} at the peak",
        info.bytes_max
    );
}
