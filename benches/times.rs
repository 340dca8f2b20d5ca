//! Times, with the code written by hand in the same group.
//!
//! `cargo bench -p mx-job-webhook-benches --bench times`; times vary on shared machines, so compare
//! only ratios within a group of one run.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "criterion's macros, and a panic fails the benchmark"
)]

mod subjects;

use std::convert::Infallible;
use std::hint::black_box;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, criterion_group, criterion_main};
use http::{Request, Response};
use mx_job_webhook::job::Timestamp;
use mx_job_webhook::ledger::{Claim, EventName, Ledger as _, MemoryLedger};
use mx_job_webhook::{Job, Status};
use serde::de::IgnoredAny;
use subjects::mounts::{answer, delivery, not_ours, now, own_routes};
use subjects::{by_hand, mounts, reversed, sample};
use tower::Service;

fn decode(criterion: &mut Criterion) {
    for (order, body) in [
        ("decode", sample()),
        ("decode, fields reversed", reversed()),
    ] {
        let mut group = criterion.benchmark_group(order);
        group.bench_function("Job::decode", |bencher| {
            bencher.iter(|| Job::decode(black_box(&body)).unwrap());
        });
        group.bench_function("a struct of Strings", |bencher| {
            bencher.iter(|| serde_json::from_slice::<by_hand::Webhook>(black_box(&body)).unwrap());
        });
        group.bench_function("axum::Json", |bencher| {
            let request = || by_hand::json(body.clone());
            bencher.iter_batched(request, |decode| decode(), BatchSize::SmallInput);
        });
        group.bench_function("IgnoredAny", |bencher| {
            bencher.iter(|| serde_json::from_slice::<IgnoredAny>(black_box(&body)).unwrap());
        });
    }
}

fn bench<S>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    mut service: S,
    request: fn() -> Request<Body>,
    status: u16,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    group.bench_function(name, |bencher| {
        let answer = |request| assert_eq!(answer(&mut service, request).as_u16(), status);
        bencher.iter_batched(request, answer, BatchSize::SmallInput);
    });
}

fn deliver(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("deliver");
    let group = &mut group;
    let request = || delivery(sample());
    bench(
        group,
        "layer around the router",
        mounts::around_the_router(),
        request,
        204,
    );
    bench(
        group,
        "a duplicate, memory ledger",
        mounts::with_the_memory_ledger(),
        request,
        204,
    );
    bench(group, "Router::layer", mounts::router_layer(), request, 204);
    bench(
        group,
        "route_service",
        mounts::route_service(),
        request,
        204,
    );
    bench(group, "extractor", mounts::extractor(), request, 204);
    bench(group, "axum::Json and match", by_hand::app(), request, 204);
}

fn pass_through(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("not ours");
    let group = &mut group;
    let around = mounts::around_the_router();
    bench(group, "layer around the router", around, not_ours, 200);
    let bare: Router = own_routes();
    bench(group, "bare router", bare, not_ours, 200);
    bench(
        group,
        "Router::layer",
        mounts::router_layer(),
        not_ours,
        200,
    );
    let nothing = mounts::router_with_a_layer_that_does_nothing();
    bench(group, "a layer that does nothing", nothing, not_ours, 200);
}

/// Claims and settles an event, in ledgers that remember different numbers of events.
fn ledger(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("claim and commit in the memory ledger");
    for remembered in [1_000, 100_000] {
        let ledger = MemoryLedger::new().with_capacity(remembered);
        let mut number = 0;
        let mut settle = || {
            number += 1;
            let mut job = Job::new("JOB-1".parse().unwrap(), Status::Completed);
            job.updated_at = Some(Timestamp::from_unix_seconds(number));
            let event = EventName::of(&job.into());
            match now(ledger.claim(&event, Duration::from_secs(60))) {
                Ok(Claim::Granted(token)) => now(ledger.commit(&event, token)),
                _ => unreachable!("each is newer than all before"),
            }
        };
        for _ in 0..remembered {
            settle().unwrap();
        }
        group.bench_function(remembered.to_string(), |bencher| bencher.iter(&mut settle));
    }
}

criterion_group!(benches, decode, deliver, pass_through, ledger);
criterion_main!(benches);
