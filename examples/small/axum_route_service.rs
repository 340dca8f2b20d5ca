//! How do I give the webhooks routes of their own, one for each of MX's environments?
//!
//! Run it with `cargo run --example axum_route_service`, and deliver something:
//!
//! ```text
//! curl -i -u mx:secret -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json http://127.0.0.1:3000/webhooks/production
//! ```
//!
//! Each route has its credentials and its callbacks. What is no `POST` is answered 405: the
//! route is the terminal service's alone.

#![allow(clippy::print_stdout, reason = "it talks to whoever ran it")]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        reason = "a test that panics is a test that fails"
    )
)]

use std::env;
use std::error::Error;

use axum::Router;
use axum::routing::get;
use mx_job_webhook::{Credentials, JobEvent, JobRouter, JobWebhook};
use tokio::net::TcpListener;

/// The application: what is delivered as a test moves no production data.
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
    async fn one_environments_password_opens_no_other() {
        let production = status("POST", "/webhooks/production").await;
        assert_eq!(production, StatusCode::NO_CONTENT);
        let integration = status("POST", "/webhooks/integration").await;
        assert_eq!(integration, StatusCode::UNAUTHORIZED);
    }

    #[tokio::test]
    async fn what_is_no_post_is_answered_405() {
        let page = status("GET", "/webhooks/production").await;
        assert_eq!(page, StatusCode::METHOD_NOT_ALLOWED);
    }
}
