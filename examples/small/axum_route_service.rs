//! How do I mount the webhooks on routes, one for each of MX's environments?
//!
//! Run it with `cargo run --example axum_route_service`, and deliver something:
//!
//! ```text
//! curl -i -u mx:secret -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json http://127.0.0.1:3000/webhooks/production
//! ```
//!
//! Each route has its own credentials and callbacks. Only the terminal service answers on the route,
//! so other methods than `POST` are answered 405.

#![allow(clippy::print_stdout, reason = "the example prints what happens")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

use std::env;
use std::error::Error;

use axum::Router;
use axum::routing::get;
use mx_job_webhook::{Credentials, JobEvent, JobRouter, JobWebhook};
use tokio::net::TcpListener;

/// The application. Deliveries to the route for tests do not change production data.
fn app(production: Credentials, integration: Credentials) -> Router {
    Router::new()
        .route("/", get(|| async { "an application of its own\n" }))
        .route_service("/webhooks/production", endpoint("production", production))
        .route_service(
            "/webhooks/integration",
            endpoint("integration", integration),
        )
}

fn endpoint(environment: &'static str, credentials: Credentials) -> JobWebhook<JobRouter> {
    let jobs = JobRouter::with_state(environment)
        .on_completed(completed)
        .build();
    JobWebhook::new(credentials, jobs)
}

async fn completed(environment: &'static str, event: JobEvent) {
    println!("completed {} in {environment}", event.guid);
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let production = Credentials::basic("mx", "secret")?;
    let integration = Credentials::basic("mx", "for tests")?;
    Ok(axum::serve(listener, app(production, integration)).await?)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::{Request, StatusCode};
    use tower::ServiceExt as _;

    use super::*;

    async fn status(method: &str, path: &str) -> StatusCode {
        let production = Credentials::basic("mx", "secret").unwrap();
        let integration = Credentials::basic("mx", "for tests").unwrap();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", "Basic bXg6c2VjcmV0")
            .header("content-type", "application/json")
            .body(Body::from(include_str!(
                "../../tests/fixtures/completed.json"
            )))
            .unwrap();
        let answer = app(production, integration).oneshot(request).await;
        answer.unwrap().status()
    }

    #[tokio::test]
    async fn each_environment_has_its_own_password() {
        let production = status("POST", "/webhooks/production").await;
        assert_eq!(production, StatusCode::NO_CONTENT);
        let integration = status("POST", "/webhooks/integration").await;
        assert_eq!(integration, StatusCode::UNAUTHORIZED);
    }

    #[tokio::test]
    async fn other_methods_are_answered_405() {
        let page = status("GET", "/webhooks/production").await;
        assert_eq!(page, StatusCode::METHOD_NOT_ALLOWED);
    }
}
