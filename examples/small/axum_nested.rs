//! How do I mount the webhooks in a router that is nested under a prefix?
//!
//! Run it with `cargo run --example axum_nested`, and deliver something:
//!
//! ```text
//! curl -i -u mx:secret -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json http://127.0.0.1:3000/admin/webhooks
//! ```
//!
//! Mount the terminal service on a route. The layer does not work in a nested router: axum calls its
//! layers only for that router's routes, and removes the prefix from the path.

#![allow(clippy::print_stdout, reason = "the example prints what happens")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

use std::env;
use std::error::Error;

use axum::Router;
use axum::routing::get;
use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
use tokio::net::TcpListener;

/// The application. It does not have to know that its administration receives webhooks.
fn app(credentials: Credentials) -> Router {
    Router::new()
        .route("/", get(|| async { "an application of its own\n" }))
        .nest("/admin", admin(credentials))
}

/// The administration: its own paths, with a route for MX among them.
fn admin(credentials: Credentials) -> Router {
    let jobs = JobRouter::new()
        .on_completed(|event| async move { println!("completed {}", event.guid) })
        .on_unhandled(|unhandled| async move { println!("{} unhandled", unhandled.status) });
    Router::new()
        .route("/users", get(|| async { "no users yet\n" }))
        .route_service("/webhooks", JobWebhook::new(credentials, jobs))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app(Credentials::basic("mx", "secret")?)).await?)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::{Request, StatusCode};
    use mx_job_webhook::JobWebhook;
    use tower::ServiceExt as _;

    use super::*;

    async fn deliver(app: Router, path: &str) -> StatusCode {
        let delivery = Request::post(path)
            .header("authorization", "Basic bXg6c2VjcmV0")
            .header("content-type", "application/json")
            .body(Body::from(include_str!(
                "../../tests/fixtures/completed.json"
            )))
            .unwrap();
        app.oneshot(delivery).await.unwrap().status()
    }

    fn credentials() -> Credentials {
        Credentials::basic("mx", "secret").unwrap()
    }

    #[tokio::test]
    async fn the_route_is_only_under_the_prefix() {
        let app = app(credentials());
        let status = deliver(app.clone(), "/admin/webhooks").await;
        assert_eq!(status, StatusCode::NO_CONTENT);
        assert_eq!(deliver(app, "/webhooks").await, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn a_layer_of_the_nested_router_sees_no_delivery() {
        let layer = JobWebhook::new(credentials(), JobRouter::new()).at("/admin/webhooks");
        let users = Router::new().route("/users", get(|| async {}));
        let app = Router::new().nest("/admin", users.layer(layer));
        let status = deliver(app, "/admin/webhooks").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }
}
