//! How do I receive the webhooks before axum routes a request?
//!
//! Run it with `cargo run --example axum_around`, and deliver something:
//!
//! ```text
//! curl -i -u mx:secret -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json http://127.0.0.1:3000/admin/webhooks
//! ```
//!
//! The layer goes around the whole router, so it sees every request first, whatever is added to the
//! router. Use this if the router is built elsewhere, or by several people.

#![allow(clippy::print_stdout, reason = "the example prints what happens")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

use std::env;
use std::error::Error;

use axum::Router;
use axum::routing::any;
use mx_job_webhook::mount::JobWebhookService;
use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
use tokio::net::TcpListener;
use tower::Layer as _;
use tower::make::Shared;

/// Puts the layer around the router. The result is a service, no longer a `Router`.
fn app(credentials: Credentials, router: Router) -> JobWebhookService<Router, JobRouter> {
    let jobs = JobRouter::new()
        .on_completed(|event| async move { println!("completed {}", event.guid) })
        .on_unhandled(|unhandled| async move { println!("{} unhandled", unhandled.status) });
    JobWebhook::new(credentials, jobs)
        .at("/admin/webhooks")
        .layer(router)
}

/// A router that is built elsewhere and matches every path.
fn router() -> Router {
    Router::new().route("/{*path}", any(|| async { "the page of this path\n" }))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let app = app(Credentials::basic("mx", "secret")?, router());
    // `serve` needs a service per connection. `axum::ServiceExt::into_make_service` does the same.
    Ok(axum::serve(listener, Shared::new(app)).await?)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::{Request, StatusCode};
    use tower::ServiceExt as _;

    use super::*;

    async fn status(request: Request<Body>) -> StatusCode {
        let app = app(Credentials::basic("mx", "secret").unwrap(), router());
        app.oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn the_layer_sees_requests_before_the_router() {
        let delivery = Request::post("/admin/webhooks")
            .header("authorization", "Basic bXg6c2VjcmV0")
            .header("content-type", "application/json")
            .body(Body::from(include_str!(
                "../../tests/fixtures/completed.json"
            )))
            .unwrap();
        assert_eq!(status(delivery).await, StatusCode::NO_CONTENT);

        for others in [
            Request::get("/admin/webhooks"),
            Request::post("/admin/other"),
        ] {
            let other = others.body(Body::empty()).unwrap();
            assert_eq!(status(other).await, StatusCode::OK);
        }
    }
}
