//! How do I shut down without cutting a callback short?
//!
//! Run it with `cargo run --example graceful_shutdown`, deliver something, and stop the program with
//! Ctrl-C or SIGTERM while the callback works (`WORK_SECONDS`, defaults to 5):
//!
//! ```text
//! curl -i -m 1 -u mx:secret -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json http://127.0.0.1:3000/admin/webhooks
//! ```
//!
//! curl hangs up after a second. The program ends when the callback has finished, at the latest 25
//! seconds after the signal, even if senders are still connected.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the example prints what happens"
)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

use std::env;
use std::error::Error;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use mx_job_webhook::{Background, Credentials, JobEvent, JobRouter, JobWebhook};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::sleep;

/// The time limit of a shutdown. Container platforms kill after about 30 seconds.
const PATIENCE: Duration = Duration::from_secs(25);

/// The application. The caller keeps a clone of `background`, and waits for the callbacks with it.
fn app(credentials: Credentials, background: Background, work: Duration) -> Router {
    let jobs = JobRouter::with_state(work).on_completed(completed).build();
    Router::new().layer(
        JobWebhook::new(credentials, jobs)
            .with_background(background)
            .at("/admin/webhooks"),
    )
}

async fn completed(work: Duration, event: JobEvent) {
    println!("started {}", event.guid);
    sleep(work).await;
    println!("finished {}", event.guid);
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("graceful_shutdown: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let work = match env::var("WORK_SECONDS") {
        Ok(seconds) => seconds
            .parse()
            .map_err(|_| "WORK_SECONDS must be a number")?,
        Err(_) => 5,
    };
    let background = Background::new();
    let app = app(
        Credentials::basic("mx", "secret")?,
        background.clone(),
        Duration::from_secs(work),
    );
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}");
    println!(
        "curl -i -m 1 -u mx:secret -H 'content-type: application/json' \
         --data @tests/fixtures/completed.json http://{address}/admin/webhooks"
    );

    let stopping = Arc::new(Notify::new());
    let stopped = stopping.clone();
    let mut deadline = pin!(async {
        stopping.notified().await;
        sleep(PATIENCE).await;
    });
    // First the server: it accepts no more connections, and answers the open requests. The deadline
    // limits this, because a sender could keep its connection open forever.
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        stop_signal().await;
        stopped.notify_one();
    });
    let left = tokio::select! {
        served = server => {
            served?;
            // Then the callbacks that continue after their senders hung up.
            println!("draining {}", background.running());
            background.drain(deadline).await
        }
        () = &mut deadline => background.running(),
    };
    match left {
        0 => Ok(()),
        left => Err(format!("{left} callbacks were cut short").into()),
    }
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
    use http::Request;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_callback_outlives_its_sender_and_is_drained() {
        let background = Background::new();
        let work = Duration::from_secs(5);
        let app = app(Credentials::unauthenticated(), background.clone(), work);
        let delivery = Request::post("/admin/webhooks")
            .header("content-type", "application/json")
            .body(Body::from(include_str!(
                "../../tests/fixtures/completed.json"
            )))
            .unwrap();
        let hangs_up = tokio::time::timeout(Duration::from_secs(1), app.oneshot(delivery));
        assert!(hangs_up.await.is_err());
        assert_eq!(background.running(), 1);
        assert_eq!(background.drain(sleep(Duration::from_secs(30))).await, 0);
    }
}
