//! How do I put work that takes minutes into a durable queue?
//!
//! The queue is a table of [apalis-postgres](https://docs.rs/apalis-postgres), and `queue.rs` is all of
//! its code. A delivery is answered 204 once its webhook is stored. Workers run the `JobRouter` that
//! would otherwise be mounted. Nothing else changes on the HTTP side.
//!
//! Run it with `DATABASE_URL=postgres://… cargo run -p durable_queue`, and deliver something:
//!
//! ```text
//! curl -i -u mx:secret -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json http://127.0.0.1:3000/admin/webhooks
//! ```
//!
//! It receives and works. With `-- receive` or `-- work` it does one of the two, in as many processes
//! as you like; kill any of them. It listens on `ADDR`. A callback takes `WORK_SECONDS` (5). The first
//! `FAILING_TRIES` (0) tries of each event fail. A worker without a heartbeat for
//! `DEAD_AFTER_SECONDS` (30, at least 3) counts as dead, and other workers take over its events.
//!
//! A callback runs at least once for an event, and again if its worker was killed before it could
//! store the result. So its effect has to be idempotent: see the guide `guarantees`.
//!
//! The example deletes old workers, but no events. Schedule a `DELETE FROM apalis.jobs`, or apalis'
//! own vacuum. A trigger lets both of them delete only those events of this queue that were handled
//! more than 48 hours ago. It keeps the others silently. MX delivers an event for about 24 hours, and the row
//! identifies a duplicate. The trigger does not see `TRUNCATE`, and leaves other queues alone.
//!
//! An event that failed permanently, or too often, stays with its error. It runs again once you set
//! its `status` to `Pending` and its `attempts` to 0; set its `status` to `Done` to have it deleted:
//!
//! ```text
//! SELECT idempotency_key, convert_from(job, 'UTF8'), attempts, last_result FROM apalis.jobs
//!     WHERE status = 'Killed' OR (status = 'Failed' AND attempts >= max_attempts)
//! ```

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the example prints what happens"
)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

mod queue;

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use axum::Router;
use mx_job_webhook::ledger::EventName;
use mx_job_webhook::{Credentials, JobEvent, JobRouter, JobWebhook, Permanent};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tower::{BoxError, service_fn};

use crate::queue::Tries;

/// The time limit of a shutdown. Container platforms kill after about 30 seconds.
const PATIENCE: Duration = Duration::from_secs(25);

/// The state of the callbacks.
#[derive(Clone)]
struct App {
    pool: PgPool,
    work: Duration,
    failing_tries: usize,
}

/// The callbacks, which the workers run. If they were quick, they could be mounted without a queue.
fn jobs(app: App) -> JobRouter {
    JobRouter::with_state(app).on_completed(completed).build()
}

/// Stands for work that takes minutes, and inserts a row each time that it is done.
async fn completed(app: App, event: JobEvent) -> Result<(), BoxError> {
    if event.member_guid.is_none() {
        return Err(Permanent::new("the job names no member").into());
    }
    println!("started {}", event.guid);
    sleep(app.work).await;
    let tries = event.extensions().get::<Tries>();
    if tries.is_some_and(|tries| tries.0 <= app.failing_tries) {
        return Err("the bank did not answer".into());
    }
    sqlx::query("INSERT INTO accounts_read (event) VALUES ($1)")
        .bind(EventName::of(&event).to_string())
        .execute(&app.pool)
        .await?;
    println!("finished {}", event.guid);
    Ok(())
}

/// The HTTP side: the layer takes the queue in place of the callbacks.
fn app(credentials: Credentials, pool: PgPool) -> Router {
    let queue = service_fn(move |event| queue::store(pool.clone(), event));
    Router::new().layer(JobWebhook::new(credentials, queue).at("/admin/webhooks"))
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("durable_queue: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let (receives, works) = match env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => (true, true),
        [role] if role == "receive" => (true, false),
        [role] if role == "work" => (false, true),
        _ => return Err("the only argument is receive or work; without, it does both".into()),
    };
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let work = Duration::try_from_secs_f64(number("WORK_SECONDS", 5.0)?)?;
    let dead_after = Duration::from_secs(number("DEAD_AFTER_SECONDS", 30)?.max(3));
    let failing_tries = number("FAILING_TRIES", 0)?;
    let pool = database(dead_after).await?;

    let (stopping, stop) = watch::channel(false);
    tokio::spawn(async move {
        stop_signal().await;
        stopping.send_replace(true);
    });
    let receiving = async {
        if receives {
            let credentials = Credentials::basic("mx", "secret")?;
            receive(&address, app(credentials, pool.clone()), stop.clone()).await?;
        }
        Ok(())
    };
    let working = async {
        if works {
            let jobs = jobs(App {
                pool: pool.clone(),
                work,
                failing_tries,
            });
            queue::work(&pool, jobs, dead_after, stop.clone()).await;
        }
        Ok(())
    };
    let deadline = async {
        stopped(stop.clone()).await;
        sleep(PATIENCE).await;
    };
    tokio::select! {
        ended = async { tokio::try_join!(receiving, working) } => ended.map(|_| ()),
        () = deadline => Err("another worker takes over the events that did not finish".into()),
    }
}

async fn receive(
    address: &str,
    app: Router,
    stop: watch::Receiver<bool>,
) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}");
    println!(
        "curl -i -u mx:secret -H 'content-type: application/json' \
         --data @tests/fixtures/completed.json http://{address}/admin/webhooks"
    );
    Ok(axum::serve(listener, app)
        .with_graceful_shutdown(stopped(stop))
        .await?)
}

/// Connects, and creates missing tables.
async fn database(dead_after: Duration) -> Result<PgPool, Box<dyn Error>> {
    let options: PgConnectOptions = env::var("DATABASE_URL")
        .ok()
        .and_then(|url| url.parse().ok())
        .ok_or("DATABASE_URL must name a database, such as postgres://user@host/database")?;
    let mut first = timeout(PATIENCE, PgConnection::connect_with(&options))
        .await
        .map_err(|_| "the database does not answer")?
        .map_err(|error| format!("cannot reach the database: {error}"))?;
    // If a worker freezes in mid-transaction, the server ends that transaction and releases its locks.
    let silent = (
        "idle_in_transaction_session_timeout",
        dead_after.as_millis(),
    );
    let options = options.options([silent]);
    // A delivery does not wait long for a connection.
    let pool = PgPoolOptions::new()
        .acquire_timeout(Duration::from_secs(3))
        .connect_lazy_with(options);
    // If several processes start at once, one creates the tables. The application and the ledgers share
    // the advisory locks of this database, so the number has to be unique: it spells `mxjobque`.
    const LOCK: i64 = 0x6d78_6a6f_6271_7565;
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(LOCK)
        .execute(&mut first)
        .await?;
    queue::set_up(&pool).await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS accounts_read (event text NOT NULL)")
        .execute(&pool)
        .await?;
    first.close().await?;
    Ok(pool)
}

fn number<N: FromStr>(variable: &str, default: N) -> Result<N, String> {
    match env::var(variable) {
        Ok(value) => value
            .parse()
            .map_err(|_| format!("{variable} must be a number")),
        Err(_) => Ok(default),
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    _ = stop.wait_for(|set| *set).await;
}

/// Waits for Ctrl-C, or for the SIGTERM that container platforms send.
async fn stop_signal() {
    let ctrl_c = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    #[cfg(unix)]
    let terminate = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => _ = terminate.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        () = ctrl_c => {}
        () = terminate => {}
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::{Request, StatusCode};
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn an_event_that_cannot_be_stored_is_not_acknowledged() {
        // The port of the service `discard`, which does not run here.
        let nowhere = "postgres://nobody@127.0.0.1:9/none".parse().unwrap();
        let pool = PgPoolOptions::new()
            .acquire_timeout(Duration::from_millis(100))
            .connect_lazy_with(nowhere);
        let delivery = Request::post("/admin/webhooks")
            .header("content-type", "application/json")
            .body(Body::from(include_str!(
                "../../../tests/fixtures/completed.json"
            )))
            .unwrap();
        let app = app(Credentials::unauthenticated(), pool);
        let response = app.oneshot(delivery).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
