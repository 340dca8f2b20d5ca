//! How do I put work that takes minutes into a durable queue, and see what has failed?
//!
//! Run it with `DATABASE_URL=postgres://… ADMIN_PASSWORD=secret cargo run -p durable_queue`, and deliver
//! something with the command that it prints. It receives on `ADDR`, works, and shows what has failed on
//! <http://127.0.0.1:3001/dead-letters>, to the user `ops`. With `-- receive`, `-- work` or `-- admin` it
//! does one of the three, in as many processes as you like; kill any of them.
//!
//! A callback takes `WORK_SECONDS` (5), and fails in the first `FAILING_TRIES` (0) of its five tries. The pause after
//! the first failure is `BACKOFF_SECONDS` (1). A worker that is silent for `DEAD_AFTER_SECONDS` (30) counts as dead.
//! The guide `durable_work` says more.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the example prints what happens"
)]

mod admin;
mod settings;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use mx_job_webhook::ledger::EventName;
use mx_job_webhook::queue::{JobQueue, Try};
use mx_job_webhook::{Credentials, JobEvent, JobRouter, JobWebhook, Permanent};
use sqlx::PgPool;
use tokio::time::sleep;
use tower::BoxError;

use crate::settings::{Stop, number, only_if, seconds};

/// The state of the callbacks.
#[derive(Clone)]
struct App {
    pool: PgPool,
    queue: JobQueue,
    work_time: Duration,
    failing_tries: u32,
}

/// Stands for work that takes minutes. Its effect and the end of the event are committed together.
async fn completed(app: App, event: JobEvent) -> Result<(), BoxError> {
    if event.member_guid.is_none() {
        return Err(Permanent::new("the job names no member").into());
    }
    println!("started {}", event.guid);
    sleep(app.work_time).await;
    if Try::of(&event).is_some_and(|this| this.number() <= app.failing_tries) {
        return Err("the bank did not answer".into());
    }
    let mut transaction = app.pool.begin().await?;
    sqlx::query("INSERT INTO accounts_read (event) VALUES ($1)")
        .bind(EventName::of(&event).to_string())
        .execute(&mut *transaction)
        .await?;
    app.queue.commit_in(&mut transaction, &event).await?;
    transaction.commit().await?;
    println!("finished {}", event.guid);
    Ok(())
}

async fn receive(queue: &JobQueue, stop: Stop) -> Result<(), Box<dyn Error>> {
    let webhooks = JobWebhook::new(Credentials::basic("mx", "secret")?, queue.enqueue())
        .on_undecodable(queue.keep_undecodable())
        .on_other_webhook(queue.keep_other_webhooks());
    let app = Router::new().layer(webhooks.at("/admin/webhooks"));
    let listener = settings::listen("ADDR", "127.0.0.1:3000").await?;
    let url = format!("http://{}/admin/webhooks", listener.local_addr()?);
    println!("listening on {url}");
    println!("cargo run -p trigger -- {url} --user mx --password secret");
    let serve = axum::serve(listener, app).with_graceful_shutdown(stop.stopped());
    Ok(serve.await?)
}

async fn work(app: App, stop: Stop) -> Result<(), Box<dyn Error>> {
    let queue = app.queue.clone();
    println!("working");
    let worker = queue
        .worker(JobRouter::with_state(app).on_completed(completed).build())
        .with_concurrency(4)
        .with_tries(5)
        .with_backoff(seconds("BACKOFF_SECONDS", 1.0)?, Duration::from_secs(60))
        .with_dead_after(seconds("DEAD_AFTER_SECONDS", 30.0)?);
    let pruning = tokio::spawn(settings::prune_hourly(queue));
    let ended = worker.run_until(stop.stopped()).await;
    pruning.abort();
    Ok(ended?)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let roles = settings::roles()?;
    let (work_time, failing_tries) = (seconds("WORK_SECONDS", 5.0)?, number("FAILING_TRIES", 0)?);
    let pool = settings::database(10).await?;
    let queue = JobQueue::postgres(pool.clone()).named("mx-jobs");
    settings::migrate(&pool, &queue).await?;
    let stop = Stop::on_signal();
    let app = App {
        pool,
        queue: queue.clone(),
        work_time,
        failing_tries,
    };
    tokio::try_join!(
        only_if(roles.receives, receive(&queue, stop.clone())),
        only_if(roles.works, work(app, stop.clone())),
        only_if(roles.shows, admin::run(queue.clone(), stop.stopped())),
    )?;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    settings::report(run().await)
}
