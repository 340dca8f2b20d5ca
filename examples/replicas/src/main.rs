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
//!
//! Wait for a job on any replica, whichever of them receives the webhook:
//!
//! ```text
//! curl -i -X POST 'http://127.0.0.1:3000/connect/JOB-1?wait=20'
//! ```
//!
//! It is answered 200 with the job once its callback has succeeded, 202 if that takes longer than
//! `wait` seconds, and 503 if the store is down. After a challenge, resume the job at MX, and send
//! the answer back as the body of the next request, to wait for what follows.
//!
//! If `MX_API` is set, each replica runs a failsafe: a job that is expected, and of which nothing was
//! heard for `PATIENCE_MILLISECONDS` (defaults to 30,000), is read from `$MX_API/jobs/{guid}`, at
//! first every `PAUSE_MILLISECONDS` (defaults to 15,000).

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the example prints what happens"
)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

mod connect;
mod mx;

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use mx_job_webhook::ledger::{EventName, Ledger, PostgresLedger, RedisLedger};
use mx_job_webhook::watch::{Failsafe, JobWatch, PostgresWatchStore, RedisWatchStore, WatchStore};
use mx_job_webhook::{Background, Credentials, DedupeLayer, JobEvent, JobRouter, JobWebhook};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tower::{BoxError, ServiceBuilder};

struct App {
    router: Router,
    background: Background,
    /// It ends after [`stop`].
    failsafe: Option<JoinHandle<()>>,
}

/// The application. Only the two stores and the lease are specific to replicas.
fn app(
    ledger: impl Ledger,
    store: impl WatchStore,
    jobs: JobRouter,
    settings: &Settings,
) -> Result<App, BoxError> {
    let watch = JobWatch::new(store).with_patience(settings.patience);
    let once = DedupeLayer::new(ledger)
        .with_lease(settings.lease)
        .on_stale(|event| async move { println!("stale {}", EventName::of(&event)) });
    let jobs = ServiceBuilder::new()
        .layer(watch.layer())
        .layer(once)
        .service(jobs);
    let background = Background::new();
    let failsafe = settings.mx_api.as_ref().map(|mx_api| {
        Failsafe::new(&watch, jobs.clone(), mx::read_job(mx_api.clone()))
            .with_background(background.clone())
            .with_lease(settings.lease.min(Duration::from_secs(60)))
            .with_pauses(settings.pause, settings.pause * 20)
            .with_read_timeout(Duration::from_secs(10))
            .on_given_up(|job| async move { println!("given up {}", job.job()) })
    });
    let webhooks = JobWebhook::new(Credentials::basic("mx", "secret")?, jobs)
        .with_background(background.clone())
        .with_answer_deadline(Duration::from_secs(5))
        .at("/admin/webhooks");
    Ok(App {
        router: Router::new()
            .route("/health", get(|| async { "here" }))
            .merge(connect::routes(watch))
            .layer(webhooks),
        background,
        failsafe: failsafe.map(|failsafe| tokio::spawn(failsafe.run_until(stop()))),
    })
}

/// Waits until the process is told to stop.
async fn stop() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return; // Without signals, the replica could not be stopped.
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
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

fn on_redis(url: &str, settings: &Settings) -> Result<App, BoxError> {
    let client = redis::Client::open(url)?;
    let jobs = JobRouter::with_state(settings.work)
        .on_completed(print)
        .on_challenged(print)
        .build();
    let store = RedisWatchStore::new(client.clone());
    app(RedisLedger::new(client), store, jobs, settings)
}

async fn on_postgres(url: &str, settings: &Settings) -> Result<App, BoxError> {
    // The connections of the callbacks and of expected jobs; the ledger opens up to three of its own. Set limits on
    // statements for the database's role, because a pooler refuses them here: `ALTER ROLE app SET statement_timeout = '5s'`.
    let pool = PgPoolOptions::new()
        .max_connections(10)
        .connect(url)
        .await?;
    let ledger = PostgresLedger::new(pool.clone());
    ledger.create_table().await?;
    let store = PostgresWatchStore::new(pool.clone());
    store.create_table().await?;
    let table = "CREATE TABLE IF NOT EXISTS handled (event text NOT NULL)";
    // An error means that another replica created the table at the same moment.
    let _ = sqlx::query(table).execute(&pool).await;
    prune_hourly(ledger.clone(), store.clone());
    let database = Database {
        pool,
        ledger: ledger.clone(),
    };
    let work = settings.work;
    let jobs = JobRouter::with_state(database)
        .on_completed(record)
        .on_challenged(move |_, event| print(work, event))
        .build();
    app(ledger, store, jobs, settings)
}

/// Prunes both tables every hour. Every replica may do so, because a second call finds nothing to delete.
fn prune_hourly(ledger: PostgresLedger, store: PostgresWatchStore) {
    tokio::spawn(async move {
        loop {
            sleep(Duration::from_secs(60 * 60)).await;
            let pruned = ledger.prune(Duration::from_secs(48 * 60 * 60)).await;
            if let Err(error) = pruned.and(store.prune().await) {
                eprintln!("replicas: cannot prune: {error}");
            }
        }
    });
}

struct Settings {
    lease: Duration,
    /// The time for which a callback continues after its effect.
    work: Duration,
    /// The time until the failsafe reads a job of which nothing was heard.
    patience: Duration,
    /// The pause before the failsafe reads it again.
    pause: Duration,
    /// The base URL of MX's API.
    mx_api: Option<String>,
}

impl Settings {
    fn from_environment() -> Result<Self, BoxError> {
        let milliseconds = |variable, default| number(variable, default).map(Duration::from_millis);
        Ok(Self {
            lease: Duration::from_secs(number("LEASE_SECONDS", 600)?),
            work: milliseconds("WORK_MILLISECONDS", 0)?,
            patience: milliseconds("PATIENCE_MILLISECONDS", 30_000)?,
            pause: milliseconds("PAUSE_MILLISECONDS", 15_000)?,
            mx_api: env::var("MX_API").ok(),
        })
    }
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
    let settings = Settings::from_environment()?;
    let url = env::var("LEDGER_URL").map_err(|_| "LEDGER_URL must be redis://… or postgres://…")?;
    let app = match url.split_once("://") {
        Some(("redis", _)) => on_redis(&url, &settings),
        Some(("postgres", _)) => on_postgres(&url, &settings).await,
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
    axum::serve(listener, app.router)
        .with_graceful_shutdown(stop())
        .await?;
    if let Some(failsafe) = app.failsafe {
        failsafe.await?;
    }
    match app.background.drain(sleep(Duration::from_secs(25))).await {
        0 => Ok(()),
        left => Err(format!("{left} callbacks were cut short").into()),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::response::Response;
    use http::{Request, StatusCode};
    use mx_job_webhook::ledger::MemoryLedger;
    use mx_job_webhook::watch::MemoryWatchStore;
    use tower::ServiceExt as _;

    use super::*;

    const SAMPLE: &str = include_str!("../../../tests/fixtures/completed.json");

    /// A replica whose stores are in memory.
    fn replica(ledger: &MemoryLedger, store: &MemoryWatchStore) -> Router {
        let jobs = JobRouter::with_state(Duration::ZERO)
            .on_completed(print)
            .on_challenged(print)
            .build();
        let settings = Settings::from_environment().unwrap();
        let app = app(ledger.clone(), store.clone(), jobs, &settings);
        app.unwrap().router
    }

    async fn deliver(replica: Router, event: &str) -> StatusCode {
        let delivery = Request::post("/admin/webhooks")
            .header("authorization", "Basic bXg6c2VjcmV0")
            .header("content-type", "application/json")
            .body(Body::from(event.to_owned()))
            .unwrap();
        replica.oneshot(delivery).await.unwrap().status()
    }

    async fn connect(replica: Router, seen: Body) -> Response {
        let request = Request::post("/connect/JOB-1?wait=0").body(seen);
        replica.oneshot(request.unwrap()).await.unwrap()
    }

    /// Two replicas share one ledger, here in memory.
    #[tokio::test]
    async fn the_first_replica_handles_an_event() {
        let (ledger, store) = (MemoryLedger::new(), MemoryWatchStore::new());
        for replica in [replica(&ledger, &store), replica(&ledger, &store)] {
            assert_eq!(deliver(replica, SAMPLE).await, 204);
        }
        assert_eq!(ledger.settled(), 1);
    }

    #[tokio::test]
    async fn each_replica_hears_of_a_job() {
        let (ledger, store) = (MemoryLedger::new(), MemoryWatchStore::new());
        let replicas = || replica(&ledger, &store);
        let event = |status, time| {
            format!(
                r#"{{"job": {{"guid": "JOB-1", "status_name": "{status}", "updated_at": {time}}}}}"#
            )
        };
        assert_eq!(connect(replicas(), Body::empty()).await.status(), 202);

        assert_eq!(deliver(replicas(), &event("CHALLENGED", 1)).await, 204);
        let challenge = connect(replicas(), Body::empty()).await;
        assert_eq!(challenge.status(), 200);

        let challenge = challenge.into_body();
        let challenge = axum::body::to_bytes(challenge, 10_000).await.unwrap();
        let resumed = || connect(replicas(), Body::from(challenge.clone()));
        assert_eq!(resumed().await.status(), 202);
        assert_eq!(deliver(replicas(), &event("COMPLETED", 2)).await, 204);
        assert_eq!(resumed().await.status(), 200);
        assert_eq!(connect(replicas(), Body::from("?")).await.status(), 422);
    }
}
