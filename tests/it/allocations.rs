//! The exact number of heap allocations that the documentation states.

use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures_now::now;
use http::Request;
use mx_job_webhook::job::Timestamp;
use mx_job_webhook::ledger::{Claim, EventName, Ledger as _, MemoryLedger};
use mx_job_webhook::{DedupeLayer, Job, JobEvent, JobRouter, JobWebhook, Status};
use tower::{Layer as _, Service};

use crate::support::{PATH, SAMPLE, credentials, delivery};

/// Polls futures that are ready at once, without a runtime.
mod futures_now {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    pub(crate) fn now<F: Future>(future: F) -> F::Output {
        let context = &mut Context::from_waker(Waker::noop());
        match pin!(future).poll(context) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("the future is pending"),
        }
    }
}

/// Metrics allocate labels, a list for each delivery, and one for each boxed callback.
const COUNTED: u64 = if cfg!(feature = "metrics") { 1 } else { 0 };
const TIMED: u64 = 2 * COUNTED;

/// The receipt in the response's extensions: their map, its table and the boxed value.
const RECEIPT: u64 = 3;

fn own_routes() -> Router {
    Router::new().route("/accounts", get(|| async { "accounts" }))
}

/// The allocations of a service for a request, after one warm-up request.
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
fn decoding_the_sample_makes_no_allocation_in_any_field_order() {
    let mut fields: Vec<&str> = SAMPLE.lines().filter(|line| line.contains("_")).collect();
    fields.reverse();
    let fields: Vec<&str> = fields
        .iter()
        .map(|it| it.trim().trim_end_matches(','))
        .collect();
    let reversed = format!(r#"{{"job":{{"guid":"JOB-1",{}}}}}"#, fields.join(","));
    for sample in [SAMPLE, &reversed] {
        let info = measure(|| {
            let job = Job::decode(sample.as_bytes()).unwrap();
            assert_eq!(job.status, Status::Completed);
        });
        assert_eq!(info.count_total, 0, "{sample}");
    }
}

#[test]
fn a_delivery_allocates_two_futures_and_its_receipt_and_another_request_nothing() {
    let jobs = JobRouter::new().on_completed(|_| async {});
    let layer = JobWebhook::new(credentials(), jobs).at(PATH);
    let service = layer.layer(tower::service_fn(|_: Request<Body>| async {
        Ok::<_, std::convert::Infallible>(http::Response::new(Body::empty()))
    }));
    // The callback's future, and that of the `Service<JobEvent>` around it.
    let info = taken(service.clone(), || delivery(SAMPLE), 204);
    assert_eq!(info.count_total, 2 + RECEIPT + COUNTED + TIMED);
    let not_ours = || Request::get("/accounts").body(Body::empty()).unwrap();
    assert_eq!(taken(service, not_ours, 200).count_total, 0);

    let jobs = JobRouter::new().on_completed(|_| async {});
    let around = JobWebhook::new(credentials(), jobs)
        .at(PATH)
        .layer(own_routes());
    let info = taken(around, || delivery(SAMPLE), 204);
    assert_eq!(info.count_total, 2 + RECEIPT + COUNTED + TIMED);
}

#[cfg(feature = "axum")]
#[test]
fn the_other_allocations_of_a_routed_delivery_are_axums() {
    use axum::extract::State;
    use axum::response::IntoResponse;
    use axum::routing::post;
    use mx_job_webhook::{JobEvent, JobWebhook};
    use tower::layer::util::Identity;

    async fn handler(State(webhooks): State<JobWebhook>, event: JobEvent) -> impl IntoResponse {
        webhooks.run(event).await
    }

    let jobs = || JobRouter::new().on_completed(|_| async {});
    let layered = || own_routes().layer(JobWebhook::new(credentials(), jobs()).at(PATH));
    let endpoint = JobWebhook::new(credentials(), jobs());
    let app = JobWebhook::new(credentials(), jobs()).boxed();
    let endpoint = Router::new().route_service(PATH, endpoint);
    let extractor = Router::new().route(PATH, post(handler)).with_state(app);
    let deliver = |app: Router| taken(app, || delivery(SAMPLE), 204).count_total;
    for (name, app) in [("Router::layer", layered()), ("route_service", endpoint)] {
        let count = deliver(app);
        assert!(count <= 10 + RECEIPT + COUNTED + TIMED, "{name}: {count}");
    }
    // axum makes 11 allocations for a handler that reads nothing, and two more for the body.
    let no_content = |_: axum::body::Bytes| async { http::StatusCode::NO_CONTENT };
    let axums_own = Router::new().route(PATH, post(no_content));
    let expected = deliver(axums_own) + RECEIPT + COUNTED + TIMED;
    // Four more are the box of `JobWebhook::boxed`, the event, and the future that `JobWebhook::run` can
    // move to the runtime, with its box.
    assert_eq!(deliver(extractor), expected + 4);
    let not_ours = || Request::get("/accounts").body(Body::empty()).unwrap();
    let nothing = taken(own_routes().layer(Identity::new()), not_ours, 200).count_total;
    let ours = taken(layered(), not_ours, 200).count_total;
    assert!(ours <= nothing + 1, "{ours} beside {nothing}");
}

#[test]
fn a_stored_job_takes_less_than_a_kilobyte() {
    let info = measure(|| {
        let jobs: Vec<_> = (0..100)
            .map(|_| JobEvent::decode(SAMPLE).unwrap().into_job())
            .collect();
        std::mem::forget(jobs);
    });
    assert!(info.bytes_current <= 100 * 1024, "{}", info.bytes_current);
}

#[test]
fn a_known_duplicate_allocates_as_little_as_a_delivery() {
    let jobs =
        DedupeLayer::new(MemoryLedger::new()).layer(JobRouter::new().on_completed(|_| async {}));
    let around = JobWebhook::new(credentials(), jobs)
        .at(PATH)
        .layer(own_routes());
    let info = taken(around, || delivery(SAMPLE), 204);
    assert_eq!(info.count_total, 2 + RECEIPT + COUNTED);
}

#[test]
fn a_hundred_thousand_events_take_less_than_twenty_megabytes() {
    let ledger = MemoryLedger::new();
    let info = measure(|| {
        for number in 0..100_000 {
            let guid = format!("JOB-a177e002-e5b8-0680-3427-{number:012}");
            let mut job = Job::new(guid.parse().unwrap(), Status::Completed);
            job.updated_at = Some(Timestamp::from_unix_seconds(number));
            let event = EventName::of(&job.into());
            let Ok(Claim::Granted(token)) = now(ledger.claim(&event, Duration::from_secs(60)))
            else {
                panic!("the event is new");
            };
            let _ = now(ledger.commit(&event, token));
        }
    });
    assert_eq!(ledger.settled(), 100_000);
    let per_event = info.bytes_current / 100_000;
    assert!((120..=140).contains(&per_event), "{per_event} bytes");
    // While a table grows, the old one exists as well.
    assert!(
        info.bytes_max < 20_000_000,
        "{} at the peak",
        info.bytes_max
    );
}

/// Ten thousand handlers wait, each for its own job, each in a task of its own.
#[cfg(feature = "tokio")]
#[test]
fn ten_thousand_waiters_take_less_than_twenty_megabytes() {
    use mx_job_webhook::watch::{JobWatch, MemoryWatchStore};

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let watch = JobWatch::new(MemoryWatchStore::new());
    let mut expected = Vec::new();
    for number in 0..10_000 {
        let guid = format!("JOB-{number:08}-e5b8-0680-3427-39556fa93c6e");
        expected.push(now(watch.expect(&guid.parse().unwrap())).unwrap());
    }
    let info = measure(|| {
        runtime.block_on(async {
            for expected in expected {
                tokio::spawn(async move { expected.within(Duration::from_secs(60)).await });
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
    });
    assert!(format!("{watch:?}").contains("waiting: 10000"), "{watch:?}");
    let bytes = info.bytes_current;
    assert!((1_000_000..20_000_000).contains(&bytes), "{bytes}");
}
