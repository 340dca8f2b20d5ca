//! How do I see the outcomes of my deliveries in Prometheus and Grafana?
//!
//! Run it with `cargo run -p observability`, deliver something, and look:
//!
//! ```text
//! curl -i -u mx:secret -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json http://127.0.0.1:3000/admin/webhooks
//! curl http://127.0.0.1:3000/metrics
//! ```
//!
//! Import `dashboard.json`, in this package, into Grafana: *Dashboards*, *New*, *Import*.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the example prints what happens"
)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use mx_job_webhook::callback::JobService;
use mx_job_webhook::ledger::MemoryLedger;
use mx_job_webhook::watch::{JobWatch, MemoryWatchStore};
use mx_job_webhook::{Credentials, DedupeLayer, JobRouter, JobWebhook};
use tokio::net::TcpListener;
use tower::ServiceBuilder;

/// Buckets in seconds: OpenTelemetry's for HTTP, and two for callbacks that take longer.
const BUCKETS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0,
];

/// Without buckets the exporter makes a summary, which queries cannot add up over replicas.
fn prometheus() -> Result<PrometheusBuilder, BuildError> {
    let durations = Matcher::Suffix("_duration_seconds".to_owned());
    PrometheusBuilder::new().set_buckets_for_metric(durations, &BUCKETS)
}

/// The callbacks, within the layers that deduplicate and that hear of expected jobs.
fn jobs_of(watch: &JobWatch, jobs: JobRouter) -> impl JobService {
    ServiceBuilder::new()
        .layer(watch.layer())
        .layer(DedupeLayer::new(MemoryLedger::new()))
        .service(jobs)
}

/// The application. In production, serve `/metrics` on a port that the internet does not reach.
fn app(credentials: Credentials, jobs: impl JobService, prometheus: PrometheusHandle) -> Router {
    Router::new()
        .route("/metrics", get(move || async move { prometheus.render() }))
        .layer(JobWebhook::new(credentials, jobs).at("/admin/webhooks"))
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("observability: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let handle = prometheus()?.install_recorder()?;
    mx_job_webhook::observe::describe_metrics();
    let jobs = JobRouter::new().on_completed(|event| async move {
        println!("read the accounts of {:?}", event.member_guid);
    });
    let watch = JobWatch::new(MemoryWatchStore::new());
    let app = app(
        Credentials::basic("mx", "secret")?,
        jobs_of(&watch, jobs),
        handle.clone(),
    );
    // The exporter needs this call if its own server does not run: it drains the measurements.
    tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_secs(5));
        loop {
            every.tick().await;
            handle.run_upkeep();
        }
    });
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}

#[cfg(test)]
mod tests;
