//! This crate in each of its mounts.

use std::convert::Infallible;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use http::{Request, Response, StatusCode};
use mx_job_webhook::dedupe::Dedupe;
use mx_job_webhook::ledger::MemoryLedger;
use mx_job_webhook::mount::{JobWebhookLayer, JobWebhookService};
use mx_job_webhook::watch::{JobWatch, MemoryWatchStore, Watch};
use mx_job_webhook::{Credentials, DedupeLayer, JobEvent, JobRouter, JobWebhook};
use tower::layer::util::Identity;
use tower::{Layer as _, Service};

pub(crate) const PATH: &str = "/admin/webhooks";

pub(crate) fn own_routes() -> Router {
    Router::new().route("/accounts", get(|| async { "accounts" }))
}

fn credentials() -> Credentials {
    Credentials::basic("mx", "secret").unwrap()
}

fn jobs() -> JobRouter {
    JobRouter::new()
        .on_completed(|_| async {})
        .on_challenged(|_| async {})
}

fn layer() -> JobWebhookLayer<JobRouter> {
    JobWebhook::new(credentials(), jobs()).at(PATH)
}

pub(crate) fn around_the_router() -> JobWebhookService<Router, JobRouter> {
    layer().layer(own_routes())
}

/// The layer with a ledger, which remembers the event of the first request.
pub(crate) fn with_the_memory_ledger() -> JobWebhookService<Router, Dedupe<JobRouter, MemoryLedger>>
{
    let jobs = DedupeLayer::new(MemoryLedger::new()).layer(jobs());
    JobWebhook::new(credentials(), jobs)
        .at(PATH)
        .layer(own_routes())
}

/// The layer with a watch that expects a hundred other jobs.
#[allow(dead_code, reason = "only instructions are counted of it")]
pub(crate) fn with_a_watch() -> JobWebhookService<Router, Watch<JobRouter>> {
    let watch = JobWatch::new(MemoryWatchStore::new());
    for number in 0..100 {
        let guid = format!("JOB-{number}-e5b8-0680-3427-39556fa93c6e");
        drop(now(watch.expect(&guid.parse().unwrap())).unwrap());
    }
    let jobs = watch.layer().layer(jobs());
    JobWebhook::new(credentials(), jobs)
        .at(PATH)
        .layer(own_routes())
}

pub(crate) fn router_layer() -> Router {
    own_routes().layer(layer())
}

/// A layer that does nothing, to measure axum's own cost.
pub(crate) fn router_with_a_layer_that_does_nothing() -> Router {
    own_routes().layer(Identity::new())
}

pub(crate) fn route_service() -> Router {
    own_routes().route_service(PATH, JobWebhook::new(credentials(), jobs()))
}

pub(crate) fn extractor() -> Router {
    async fn handler(State(webhooks): State<JobWebhook>, event: JobEvent) -> impl IntoResponse {
        webhooks.run(event).await
    }

    let app = JobWebhook::new(credentials(), jobs()).boxed();
    let route = Router::new().route(PATH, post(handler)).with_state(app);
    own_routes().merge(route)
}

pub(crate) fn delivery(body: Vec<u8>) -> Request<Body> {
    Request::post(PATH)
        .header("authorization", "Basic bXg6c2VjcmV0")
        .header("content-type", "application/json; charset=utf-8")
        .body(Body::from(body))
        .unwrap()
}

pub(crate) fn not_ours() -> Request<Body> {
    Request::get("/accounts").body(Body::empty()).unwrap()
}

/// A service's answer to one request.
pub(crate) fn answer<S>(service: &mut S, request: Request<Body>) -> StatusCode
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    now(std::future::poll_fn(|context| service.poll_ready(context))).unwrap();
    now(service.call(request)).unwrap().status()
}

/// Polls a future to its end without a runtime, so that no runtime is measured. The future never waits.
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    let context = &mut Context::from_waker(Waker::noop());
    match pin!(future).poll(context) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}
