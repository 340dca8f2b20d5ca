//! How do I receive an event in a handler of my own, beside axum's other extractors?
//!
//! Run it with `cargo run --example axum_extractor`, and deliver something, twice:
//!
//! ```text
//! curl -i -u mx:secret -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json http://127.0.0.1:3000/admin/webhooks/acme
//! ```
//!
//! The credentials and limits come from the `JobWebhook` in the state, so a router without credentials
//! does not compile. The second delivery is answered 204 too, and its callback does not run.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the example prints what happens"
)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

use std::env;
use std::error::Error;

use axum::Router;
use axum::debug_handler;
use axum::extract::{FromRef, Path, State};
use axum::routing::post;
use mx_job_webhook::ledger::MemoryLedger;
use mx_job_webhook::{Credentials, DedupeLayer, JobEvent, JobRouter, JobWebhook, Receipt};
use tokio::net::TcpListener;
use tower::Layer as _;

#[derive(Clone, FromRef)]
struct App {
    webhooks: JobWebhook,
}

/// The event is the last argument, because it reads the body. With `debug_handler`, the compiler
/// names an argument that is wrong.
#[debug_handler(state = App)]
async fn webhook(
    Path(tenant): Path<String>,
    State(webhooks): State<JobWebhook>,
    event: JobEvent,
) -> Result<Receipt, mx_job_webhook::Error> {
    println!("{} {} for {tenant}", event.status, event.guid);
    // If the sender hangs up, the callback continues in the background.
    webhooks.run(event).await
}

/// The application.
fn app(credentials: Credentials, jobs: JobRouter) -> Router {
    let jobs = DedupeLayer::new(MemoryLedger::new()).layer(jobs);
    let webhooks = JobWebhook::new(credentials, jobs)
        .on_error(|failure| eprintln!("not acknowledged: {:#}", failure.error()));
    Router::new()
        .route("/admin/webhooks/{tenant}", post(webhook))
        .with_state(App {
            webhooks: webhooks.boxed(),
        })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let jobs =
        JobRouter::new().on_completed(|event| async move { println!("completed {}", event.guid) });
    Ok(axum::serve(listener, app(Credentials::basic("mx", "secret")?, jobs)).await?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::body::Body;
    use http::{Request, StatusCode};
    use tower::ServiceExt as _;

    use super::*;

    async fn deliver(app: Router, password: &str) -> StatusCode {
        let delivery = Request::post("/admin/webhooks/acme")
            .header("authorization", format!("Bearer {password}"))
            .header("content-type", "application/json")
            .body(Body::from(include_str!(
                "../../tests/fixtures/completed.json"
            )))
            .unwrap();
        app.oneshot(delivery).await.unwrap().status()
    }

    #[tokio::test]
    async fn the_same_event_is_acknowledged_twice_and_handled_once() {
        let handled = Arc::new(AtomicU32::new(0));
        let count = handled.clone();
        let jobs = JobRouter::new().on_completed(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            async {}
        });
        let app = app(Credentials::bearer("token").unwrap(), jobs);
        for _ in 0..2 {
            assert_eq!(deliver(app.clone(), "token").await, StatusCode::NO_CONTENT);
        }
        assert_eq!(handled.load(Ordering::Relaxed), 1);
        assert_eq!(deliver(app, "guess").await, StatusCode::UNAUTHORIZED);
    }
}
