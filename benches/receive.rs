//! What decoding a webhook and receiving a delivery cost, beside what one would write by hand.
//!
//! `cargo bench`; the ratio within a group, read off one run, is what means something.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "criterion's macros, and a panic is how a benchmark fails"
)]

use std::hint::black_box;
use std::time::Duration;

use axum::body::Body;
use axum::routing::{get, post};
use axum::{Json, Router};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{Request, Response, StatusCode};
use mx_job_webhook::{
    Claim, Credentials, DedupeLayer, EventName, Job, JobRouter, JobWebhookLayer, Ledger as _,
    MemoryLedger, Status, Timestamp,
};
use serde::de::IgnoredAny;
use tokio::runtime::{Builder, Runtime};
use tower::{Layer as _, Service, ServiceExt as _};

const PATH: &str = "/admin/webhooks";

/// The documented sample, without the white space that only the page has.
fn sample() -> Vec<u8> {
    let sample = include_str!("../tests/fixtures/completed.json");
    let value: serde_json::Value = serde_json::from_str(sample).unwrap();
    serde_json::to_vec(&value).unwrap()
}

/// What one writes by hand.
mod by_hand {
    use super::{Json, StatusCode};

    #[derive(serde::Deserialize)]
    pub(super) struct Webhook {
        pub(super) job: Job,
    }

    #[derive(serde::Deserialize)]
    #[expect(dead_code, reason = "decoding them is what is measured")]
    pub(super) struct Job {
        guid: String,
        status: i64,
        pub(super) status_name: String,
        created_at: i64,
        started_at: Option<i64>,
        finished_at: Option<i64>,
        updated_at: i64,
        error_message: Option<String>,
        institution_guid: Option<String>,
        is_authenticated: bool,
        member_guid: String,
        member_id: Option<String>,
        user_guid: String,
        user_id: Option<String>,
    }

    pub(super) async fn handler(Json(webhook): Json<Webhook>) -> StatusCode {
        match webhook.job.status_name.as_str() {
            "COMPLETED" | "CHALLENGED" => StatusCode::NO_CONTENT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

fn decode(criterion: &mut Criterion) {
    let sample = sample();
    let mut group = criterion.benchmark_group("decode");
    group.bench_function("Job::decode", |bencher| {
        bencher.iter(|| Job::decode(black_box(&sample)).unwrap());
    });
    group.bench_function("a struct of Strings", |bencher| {
        bencher.iter(|| serde_json::from_slice::<by_hand::Webhook>(black_box(&sample)).unwrap());
    });
    group.bench_function("IgnoredAny", |bencher| {
        bencher.iter(|| serde_json::from_slice::<IgnoredAny>(black_box(&sample)).unwrap());
    });
}

fn deliver(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let jobs = JobRouter::new()
        .on_completed(|_| async {})
        .on_challenged(|_| async {});
    let layer = layer_around(jobs);
    let own = || Router::new().route("/accounts", get(|| async { "accounts" }));
    let by_hand = own().route(PATH, post(by_hand::handler));

    let mut group = criterion.benchmark_group("deliver");
    let mut bench = |name, service: &mut dyn FnMut(Request<Body>) -> StatusCode| {
        let sample = sample();
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || request(&sample),
                |request| assert_eq!(service(request), StatusCode::NO_CONTENT),
                BatchSize::SmallInput,
            );
        });
    };
    let mut around = layer.layer(own());
    bench("the layer around the router", &mut |request| {
        answer(&runtime, &mut around, request)
    });
    let mut within: Router = own().layer(layer);
    bench("Router::layer", &mut |request| {
        answer(&runtime, &mut within, request)
    });
    let deduped =
        DedupeLayer::new(MemoryLedger::new()).layer(JobRouter::new().on_completed(|_| async {}));
    let mut deduped = layer_around(deduped).layer(own());
    bench("a duplicate that the memory ledger knows", &mut |request| {
        answer(&runtime, &mut deduped, request)
    });
    let mut by_hand = by_hand;
    bench(
        "a Json handler that checks no credentials",
        &mut |request| answer(&runtime, &mut by_hand, request),
    );
}

/// An event is claimed and settled, among so many that are remembered.
fn ledger(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().build().unwrap();
    let mut group = criterion.benchmark_group("claim and commit in the memory ledger");
    for remembered in [1_000, 100_000] {
        let ledger = MemoryLedger::new().with_capacity(remembered);
        let mut number = 0;
        let mut settle = || {
            number += 1;
            let mut job = Job::new("JOB-1".parse().unwrap(), Status::Completed);
            job.updated_at = Some(Timestamp::from_unix_seconds(number));
            let event = EventName::of(&job);
            runtime.block_on(async {
                match ledger.claim(&event, Duration::from_secs(60)).await {
                    Ok(Claim::Granted(token)) => ledger.commit(&event, token).await,
                    _ => unreachable!("each is newer than all before"),
                }
            })
        };
        for _ in 0..remembered {
            settle().unwrap();
        }
        group.bench_function(remembered.to_string(), |bencher| bencher.iter(&mut settle));
    }
}

fn layer_around<J>(jobs: J) -> JobWebhookLayer<J> {
    JobWebhookLayer::new(PATH, Credentials::basic("mx", "secret").unwrap(), jobs)
}

fn request(body: &[u8]) -> Request<Body> {
    Request::post(PATH)
        .header("authorization", "Basic bXg6c2VjcmV0")
        .header("content-type", "application/json; charset=utf-8")
        .body(Body::from(body.to_vec()))
        .unwrap()
}

fn answer<S>(runtime: &Runtime, service: &mut S, request: Request<Body>) -> StatusCode
where
    S: Service<Request<Body>, Response = Response<Body>, Error = std::convert::Infallible>,
{
    runtime.block_on(async {
        let service = service.ready().await.unwrap();
        service.call(request).await.unwrap().status()
    })
}

criterion_group!(benches, decode, deliver, ledger);
criterion_main!(benches);
