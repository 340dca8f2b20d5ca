//! Counts instructions, which repeat to the digit whatever the load of the machine.
//!
//! `cargo bench -p mx-job-webhook-benches --bench instructions`, with valgrind and gungraun's runner installed. Each
//! service answers one request before the one that is counted.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "gungraun's macros, and a panic fails the benchmark"
)]

mod subjects;

use std::convert::Infallible;
use std::hint::black_box;

use axum::body::Body;
use gungraun::{library_benchmark, library_benchmark_group, main};
use http::{Request, Response, StatusCode};
use mx_job_webhook::Job;
use serde::de::IgnoredAny;
use subjects::mounts::{answer, delivery, not_ours, own_routes};
use subjects::{by_hand, mounts, reversed, sample};
use tower::Service;

type Measured<T> = Box<dyn FnOnce() -> T>;

#[library_benchmark]
#[bench::sample(sample())]
#[bench::reversed(reversed())]
fn decode(body: Vec<u8>) -> Job {
    Job::decode(black_box(&body)).unwrap()
}

#[library_benchmark]
#[bench::sample(sample())]
#[bench::reversed(reversed())]
fn decode_by_hand(body: Vec<u8>) -> by_hand::Webhook {
    serde_json::from_slice(black_box(&body)).unwrap()
}

#[library_benchmark]
#[bench::sample(Box::new(by_hand::json(sample())))]
#[bench::reversed(Box::new(by_hand::json(reversed())))]
fn decode_with_axum_json(decode: Measured<by_hand::Webhook>) -> by_hand::Webhook {
    decode()
}

#[library_benchmark]
#[bench::sample(sample())]
fn decode_nothing(body: Vec<u8>) -> IgnoredAny {
    serde_json::from_slice(black_box(&body)).unwrap()
}

/// Prepares a service's second request.
fn second<S>(mut service: S, requests: [fn() -> Request<Body>; 2]) -> Measured<StatusCode>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + 'static,
{
    let [first, second] = requests;
    assert!(answer(&mut service, first()).is_success());
    let request = second();
    Box::new(move || {
        let status = answer(&mut service, request);
        // Dropping the service is not part of a request.
        std::mem::forget(service);
        status
    })
}

/// An earlier event of the same job, so that the ledger takes the next sample as a new event.
fn earlier() -> Vec<u8> {
    let sample = String::from_utf8(sample()).unwrap();
    sample.replace("1471281218", "1471281217").into_bytes()
}

const OURS: [fn() -> Request<Body>; 2] = [|| delivery(earlier()), || delivery(sample())];
const TWICE: [fn() -> Request<Body>; 2] = [|| delivery(sample()), || delivery(sample())];
const NOT_OURS: [fn() -> Request<Body>; 2] = [not_ours, not_ours];

#[library_benchmark]
#[bench::around_the_router(second(mounts::around_the_router(), OURS))]
#[bench::with_the_memory_ledger(second(mounts::with_the_memory_ledger(), OURS))]
#[bench::a_duplicate(second(mounts::with_the_memory_ledger(), TWICE))]
#[bench::with_a_watch(second(mounts::with_a_watch(), OURS))]
#[bench::router_layer(second(mounts::router_layer(), OURS))]
#[bench::route_service(second(mounts::route_service(), OURS))]
#[bench::extractor(second(mounts::extractor(), OURS))]
#[bench::by_hand(second(by_hand::app(), OURS))]
fn deliver(request: Measured<StatusCode>) -> StatusCode {
    request()
}

#[library_benchmark]
#[bench::around_the_router(second(mounts::around_the_router(), NOT_OURS))]
#[bench::bare_router(second(own_routes(), NOT_OURS))]
#[bench::router_layer(second(mounts::router_layer(), NOT_OURS))]
#[bench::layer_that_does_nothing(second(
    mounts::router_with_a_layer_that_does_nothing(),
    NOT_OURS
))]
fn pass_through(request: Measured<StatusCode>) -> StatusCode {
    request()
}

library_benchmark_group!(
    name = receive,
    benchmarks = [
        decode,
        decode_by_hand,
        decode_with_axum_json,
        decode_nothing,
        deliver,
        pass_through
    ]
);

main!(library_benchmark_groups = receive);
