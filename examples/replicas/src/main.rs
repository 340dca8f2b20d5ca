//! How do I run several replicas behind one URL?
//!
//! Start as many as you like on one ledger, each with its own `ADDR`, and put a load balancer in
//! front: `LEDGER_URL=redis://127.0.0.1/ cargo run -p replicas`,
//! or with `postgres://…`. Deliver to any of them:
//!
//! ```text
//! curl -i -u mx:secret -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json http://127.0.0.1:3000/admin/webhooks
//! ```
//!
//! The replica that receives an event first handles it. The others answer 503 while the event is in
//! flight, and 204 after that. If a replica dies during a callback, its claim expires after
//! `LEASE_SECONDS` (defaults to 600). With Postgres, the row of a COMPLETED job is in the database
//! once, whichever process dies. The line of a CHALLENGED job can be printed again, as can every effect
//! outside of the ledger's database. `WORK_MILLISECONDS` makes callbacks slower.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the example prints what happens"
)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use mx_job_webhook::ledger::{EventName, Ledger, PostgresLedger, RedisLedger};
use mx_job_webhook::{Background, Credentials, DedupeLayer, JobEvent, JobRouter, JobWebhook};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tower::{BoxError, Layer as _};

/// The application. Only the ledger and the lease are specific to replicas.
fn app(
    ledger: impl Ledger,
    lease: Duration,
    jobs: JobRouter,
    background: Background,
) -> Result<Router, BoxError> {
    let once = DedupeLayer::new(ledger)
        .with_lease(lease)
        .on_stale(|event| async move { println!("stale {}", EventName::of(&event)) })
        .layer(jobs);
    let webhooks = JobWebhook::new(Credentials::basic("mx", "secret")?, once)
        .with_background(background)
        .with_answer_deadline(Duration::from_secs(5))
        .at("/admin/webhooks");
    Ok(Router::new()
        .route("/health", get(|| async { "here" }))
        .layer(webhooks))
}

/// An effect outside of the ledger's database. It may happen twice, so it is idempotent.
async fn print(work: Duration, event: JobEvent) {
    println!("handled {}", EventName::of(&event));
    sleep(work).await;
}

#[derive(Clone)]
struct Database {
    pool: PgPool,
    ledger: PostgresLedger,
}

/// An effect in the ledger's database, in one transaction with the ledger's entry.
async fn record(database: Database, event: JobEvent) -> Result<(), BoxError> {
    let mut transaction = database.pool.begin().await?;
    sqlx::query("INSERT INTO handled (event) VALUES ($1)")
        .bind(EventName::of(&event).to_string())
        .execute(&mut *transaction)
        .await?;
    database.ledger.commit_in(&mut transaction, &event).await?;
    transaction.commit().await?;
    Ok(())
}

fn on_redis(url: &str, times: Times, background: Background) -> Result<Router, BoxError> {
    let ledger = RedisLedger::new(redis::Client::open(url)?);
    let jobs = JobRouter::with_state(times.work)
        .on_completed(print)
        .on_challenged(print)
        .build();
    app(ledger, times.lease, jobs, background)
}

async fn on_postgres(url: &str, times: Times, background: Background) -> Result<Router, BoxError> {
    // The callbacks' connections; the ledger opens up to three of its own. Set limits on statements for the
    // database's role, because a pooler refuses them here: `ALTER ROLE app SET statement_timeout = '5s'`.
    let pool = PgPoolOptions::new()
        .max_connections(10)
        .connect(url)
        .await?;
    let ledger = PostgresLedger::new(pool.clone());
    ledger.create_table().await?;
    let table = "CREATE TABLE IF NOT EXISTS handled (event text NOT NULL)";
    // An error means that another replica created the table at the same moment.
    let _ = sqlx::query(table).execute(&pool).await;
    prune_hourly(ledger.clone());
    let database = Database {
        pool,
        ledger: ledger.clone(),
    };
    let jobs = JobRouter::with_state(database)
        .on_completed(record)
        .on_challenged(move |_, event| print(times.work, event))
        .build();
    app(ledger, times.lease, jobs, background)
}

/// Prunes the ledger every hour. Every replica may do so, because a second call finds nothing to delete.
fn prune_hourly(ledger: PostgresLedger) {
    tokio::spawn(async move {
        loop {
            sleep(Duration::from_secs(60 * 60)).await;
            if let Err(error) = ledger.prune(Duration::from_secs(48 * 60 * 60)).await {
                eprintln!("replicas: cannot prune: {error}");
            }
        }
    });
}

#[derive(Clone, Copy)]
struct Times {
    lease: Duration,
    /// The time for which a callback continues after its effect.
    work: Duration,
}

fn number(variable: &str, default: u64) -> Result<u64, BoxError> {
    match env::var(variable) {
        Ok(number) => Ok(number
            .parse()
            .map_err(|_| format!("{variable} must be a number"))?),
        Err(_) => Ok(default),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("replicas: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), BoxError> {
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let times = Times {
        lease: Duration::from_secs(number("LEASE_SECONDS", 600)?),
        work: Duration::from_millis(number("WORK_MILLISECONDS", 0)?),
    };
    let url = env::var("LEDGER_URL").map_err(|_| "LEDGER_URL must be redis://… or postgres://…")?;
    let background = Background::new();
    let app = match url.split_once("://") {
        Some(("redis", _)) => on_redis(&url, times, background.clone()),
        Some(("postgres", _)) => on_postgres(&url, times, background.clone()).await,
        _ => Err("LEDGER_URL must begin with redis:// or postgres://".into()),
    }?;
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}");
    println!(
        "curl -i -u mx:secret -H 'content-type: application/json' \
         --data @tests/fixtures/completed.json http://{address}/admin/webhooks"
    );
    let mut terminate = signal(SignalKind::terminate())?;
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        })
        .await?;
    match background.drain(sleep(Duration::from_secs(25))).await {
        0 => Ok(()),
        left => Err(format!("{left} callbacks were cut short").into()),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request;
    use mx_job_webhook::ledger::MemoryLedger;
    use tower::ServiceExt as _;

    use super::*;

    /// Two replicas share one ledger, here in memory.
    #[tokio::test]
    async fn the_first_replica_handles_an_event() {
        let ledger = MemoryLedger::new();
        let replica = || {
            let jobs = JobRouter::with_state(Duration::ZERO)
                .on_completed(print)
                .build();
            let lease = Duration::from_secs(600);
            app(ledger.clone(), lease, jobs, Background::new()).unwrap()
        };
        for replica in [replica(), replica()] {
            let delivery = Request::post("/admin/webhooks")
                .header("authorization", "Basic bXg6c2VjcmV0")
                .header("content-type", "application/json")
                .body(Body::from(include_str!(
                    "../../../tests/fixtures/completed.json"
                )))
                .unwrap();
            assert_eq!(replica.oneshot(delivery).await.unwrap().status(), 204);
        }
        assert_eq!(ledger.settled(), 1);
    }
}
