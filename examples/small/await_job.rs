//! How does a handler wait for a job, and what if its webhook never arrives?
//!
//! Run it with `cargo run --example await_job`, and connect a user:
//!
//! ```text
//! curl -i -X POST http://127.0.0.1:3000/connect
//! ```
//!
//! The application starts a job at a stand-in for MX's API, which completes it after two seconds and
//! delivers the webhook. curl gets its answer then. With `WEBHOOKS=lost cargo run --example await_job`
//! no webhook arrives. The failsafe reads the job when it is five seconds overdue, runs the same
//! callback, and curl gets the same answer a little later. The example reads `ADDR` too.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the example prints what happens"
)]

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::post;
use http::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use mx_job_webhook::job::JobGuid;
use mx_job_webhook::ledger::MemoryLedger;
use mx_job_webhook::watch::{Failsafe, JobWatch, MemoryWatchStore};
use mx_job_webhook::{Credentials, DedupeLayer, JobEvent, JobRouter, JobWebhook, Status};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tower::{BoxError, ServiceBuilder};

#[derive(Clone)]
struct App {
    watch: JobWatch,
    nexus: Nexus,
}

/// The application's own route: it answers its client when the job is done.
async fn connect(
    State(app): State<App>,
) -> Result<(StatusCode, &'static str), mx_job_webhook::Error> {
    let guid = app.nexus.start_job();
    let expected = app.watch.expect(&guid).await?; // from here on the job is never forgotten
    let heard = expected.within(Duration::from_secs(20)).await?;
    Ok(match heard.map(|job| job.status.clone()) {
        Some(Status::Completed) => (StatusCode::OK, "connected\n"),
        Some(Status::Challenged) => (StatusCode::CONFLICT, "answer the bank's question\n"),
        Some(_) => (StatusCode::BAD_GATEWAY, "the bank refuses\n"),
        None => (StatusCode::ACCEPTED, "not yet: ask again later\n"),
    })
}

async fn completed(event: JobEvent) {
    println!("{:?}: read the accounts of {}", event.source(), event.guid);
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("await_job: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let address = listener.local_addr()?;
    let nexus = Nexus {
        webhooks: format!("http://{address}/admin/webhooks"),
        lost: env::var("WEBHOOKS").is_ok_and(|webhooks| webhooks == "lost"),
        jobs: Arc::default(),
    };

    let watch = JobWatch::new(MemoryWatchStore::new()).with_patience(Duration::from_secs(5));
    let jobs = ServiceBuilder::new()
        .layer(watch.layer())
        .layer(DedupeLayer::new(MemoryLedger::new()))
        .service(JobRouter::new().on_completed(completed));

    let mx = nexus.clone();
    let read = move |guid: JobGuid| std::future::ready(mx.read_job(&guid));
    let failsafe = Failsafe::new(&watch, jobs.clone(), read)
        .on_given_up(|job| async move { eprintln!("nothing was heard of {}", job.job()) });
    let stop = || async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    let failsafe = tokio::spawn(failsafe.run_until(stop()));

    let webhooks = JobWebhook::new(Credentials::basic("mx", "secret")?, jobs);
    let app = Router::new()
        .route("/connect", post(connect))
        .with_state(App { watch, nexus })
        .layer(webhooks.at("/admin/webhooks"));
    println!("listening on http://{address}, webhooks at /admin/webhooks");
    println!("curl -i -X POST http://{address}/connect");
    axum::serve(listener, app)
        .with_graceful_shutdown(stop())
        .await?;
    Ok(failsafe.await?)
}

/// Stands in for MX's API and for MX's deliveries.
#[derive(Clone)]
struct Nexus {
    webhooks: String,
    lost: bool,
    /// When each job was started.
    jobs: Arc<Mutex<HashMap<JobGuid, Instant>>>,
}

const WORK: Duration = Duration::from_secs(2);

impl Nexus {
    fn start_job(&self) -> JobGuid {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let guid = format!("JOB-{}", jobs.len() + 1);
        let guid: JobGuid = guid.parse().unwrap_or_else(|_| unreachable!("not blank"));
        jobs.insert(guid.clone(), Instant::now());
        if !self.lost {
            tokio::spawn(self.clone().deliver(guid.clone()));
        }
        guid
    }

    /// Returns what `GET /jobs/{guid}` would answer.
    fn read_job(&self, guid: &JobGuid) -> Result<String, BoxError> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let started = jobs.get(guid).ok_or("no such job")?;
        let status = if started.elapsed() < WORK {
            "RECEIVED"
        } else {
            "COMPLETED"
        };
        Ok(format!(
            r#"{{"job": {{"guid": "{guid}", "status_name": "{status}", "updated_at": "2022-06-16T18:42:43Z"}}}}"#
        ))
    }

    async fn deliver(self, guid: JobGuid) {
        sleep(WORK).await;
        let Ok(body) = self.read_job(&guid) else {
            return;
        };
        let request = Request::post(&self.webhooks)
            .header("authorization", "Basic bXg6c2VjcmV0")
            .header("content-type", "application/json; charset=utf-8")
            .body(Body::from(body));
        let client = Client::builder(TokioExecutor::new()).build_http();
        if let Ok(request) = request {
            let answer = client.request(request).await;
            println!(
                "delivered {guid}: {:?}",
                answer.map(|answer| answer.status())
            );
        }
    }
}
