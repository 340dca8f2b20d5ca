//! How do I run it in production?
//!
//! Run it with `cargo run --example production`, deliver something, and stop the program with Ctrl-C or
//! SIGTERM while the callback works (`WORK_SECONDS`, defaults to 1):
//!
//! ```text
//! curl -i -u mx:secret -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json http://127.0.0.1:3000/admin/webhooks
//! ```
//!
//! Everything from `connect` to `stop` is the README's. A handler waits for its job, each event is
//! handled once, and a shutdown waits for callbacks, for less than Kubernetes does.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the example prints what happens"
)]
#![allow(clippy::expect_used, reason = "the README's program has them too")]

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use mx_job_webhook::{Background, Credentials, DedupeLayer, Error, JobRouter, JobWebhook, Status};
use mx_job_webhook::{
    job::JobGuid,
    ledger::MemoryLedger,
    watch::{Failsafe, JobWatch, MemoryWatchStore},
};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tower::ServiceBuilder;

/// A client of MX's API would start a job here.
async fn start_job() -> JobGuid {
    "JOB-1".parse().expect("it is not blank")
}

/// A client of MX's API would read the job here.
async fn read_job(job: JobGuid) -> Result<Vec<u8>, std::io::Error> {
    Ok(format!(r#"{{"job": {{"guid": "{job}", "status_name": "COMPLETED"}}}}"#).into())
}

async fn connect(watch: State<JobWatch>) -> Result<(StatusCode, String), Error> {
    wait(watch, Path(start_job().await)).await
}

// Check that the job is the user's own: each guid that is expected is read from MX.
async fn wait(
    State(watch): State<JobWatch>,
    Path(job): Path<JobGuid>,
) -> Result<(StatusCode, String), Error> {
    let expected = watch.expect(&job).await?; // from here on the job is never forgotten
    let status = match expected.within(Duration::from_secs(20)).await? {
        Some(job) if job.status == Status::Completed => StatusCode::OK, // the callback has succeeded
        Some(job) if job.status == Status::Challenged => StatusCode::CONFLICT, // ask the user, then `expect_after(job.name())`
        Some(_) => StatusCode::BAD_GATEWAY,
        None => StatusCode::ACCEPTED, // not yet: the failsafe goes on for an hour, and the client asks again with the guid
    };
    Ok((status, job.to_string()))
}

async fn serve(
    listener: tokio::net::TcpListener,
    jobs: JobRouter,
) -> Result<(), Box<dyn std::error::Error>> {
    let watch = JobWatch::new(MemoryWatchStore::new()).with_patience(Duration::from_secs(10)); // less than `within`
    let background = Background::new();
    let once = DedupeLayer::new(MemoryLedger::new()).with_ledger_timeout(Duration::from_secs(2));
    let jobs = ServiceBuilder::new()
        .layer(watch.layer())
        .layer(once)
        .service(jobs);
    let failsafe = Failsafe::new(&watch, jobs.clone(), read_job) // runs the same callbacks
        .on_given_up(|job| async move { eprintln!("a person has to look at {}", job.job()) })
        .on_error(|job, error| eprintln!("{job} is read again later: {error:#}"))
        .with_background(background.clone());
    let failsafe = tokio::spawn(failsafe.run_until(stop()));
    let webhooks = JobWebhook::new(Credentials::basic("mx", "secret")?, jobs)
        .with_background(background.clone())
        .with_answer_deadline(Duration::from_secs(5)) // past it 503, and the callback continues
        .on_error(|failure| eprintln!("not acknowledged: {:#}", failure.error()));
    let app = Router::new()
        .route("/connect", post(connect))
        .route("/connect/{job}", get(wait));
    let app = app.with_state(watch).layer(webhooks.at("/admin/webhooks"));
    let served = async {
        axum::serve(listener, app)
            .with_graceful_shutdown(stop())
            .await?;
        failsafe.await?;
        Ok::<_, Box<dyn std::error::Error>>(background.drain(std::future::pending::<()>()).await)
    };
    let left = tokio::select! {
        left = served => left?,
        () = async { stop().await; tokio::time::sleep(Duration::from_secs(25)).await } => background.running(),
    };
    println!("{left} callbacks did not finish");
    Ok(())
}

async fn stop() {
    // on Ctrl-C, or SIGTERM: Kubernetes kills 30 s after it
    let mut terminate = signal(SignalKind::terminate()).expect("the runtime takes signals");
    tokio::select! { _ = tokio::signal::ctrl_c() => {}, _ = terminate.recv() => {} }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let work = std::env::var("WORK_SECONDS").unwrap_or_else(|_| "1".to_owned());
    let work = Duration::from_secs(work.parse()?);
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}");
    println!(
        "curl -i -m 1 -u mx:secret -H 'content-type: application/json' \
         --data @tests/fixtures/completed.json http://{address}/admin/webhooks"
    );
    let jobs = JobRouter::new().on_completed(move |event| async move {
        println!("started {}", event.guid);
        tokio::time::sleep(work).await;
        println!("finished {}", event.guid);
    });
    serve(listener, jobs).await
}
