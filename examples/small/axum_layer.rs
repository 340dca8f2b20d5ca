//! How do I add the webhooks to the router that I have, and why must the layer come last?
//!
//! Run it with `cargo run --example axum_layer`, and deliver something:
//!
//! ```text
//! curl -i -u mx:secret -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json http://127.0.0.1:3000/admin/webhooks
//! ```
//!
//! A layer of axum applies to the routes, fallbacks and layers that were added before it. So the last
//! layer sees each request first, and no route, fallback or login of the application can answer a
//! delivery. The tests show this.

#![allow(clippy::print_stdout, reason = "the example prints what happens")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

use std::env;
use std::error::Error;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::StatusCode;
use mx_job_webhook::mount::JobWebhookLayer;
use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
use tokio::net::TcpListener;

/// The application: routes, a fallback and a login, and the layer last.
fn app(credentials: Credentials) -> Router {
    routes().layer(webhooks(credentials))
}

fn webhooks(credentials: Credentials) -> JobWebhookLayer<JobRouter> {
    let jobs = JobRouter::new()
        .on_completed(|event| async move { println!("completed {}", event.guid) })
        .on_unhandled(|unhandled| async move { println!("{} unhandled", unhandled.status) });
    JobWebhook::new(credentials, jobs).at("/admin/webhooks")
}

fn routes() -> Router {
    Router::new()
        .route(
            "/admin/{page}",
            get(|| async { "a page for administrators\n" }),
        )
        .fallback(|| async { "the application's front page\n" })
        .layer(from_fn(login))
}

/// MX has no session and needs none, because deliveries do not reach this middleware.
async fn login(request: Request, next: Next) -> Response {
    if request.headers().contains_key("cookie") {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, "log in first\n").into_response()
    }
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
    use tower::ServiceExt as _;

    use super::*;

    async fn deliver(app: Router) -> StatusCode {
        let delivery = Request::post("/admin/webhooks")
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
    async fn the_last_layer_receives_deliveries_before_routes_and_login() {
        assert_eq!(deliver(app(credentials())).await, StatusCode::NO_CONTENT);
        let page = Request::get("/admin/webhooks").header("cookie", "session=1");
        let page = page.body(Body::empty()).unwrap();
        let answer = app(credentials()).oneshot(page).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn a_login_that_is_added_after_the_layer_refuses_deliveries() {
        let then_a_login = Router::new()
            .layer(webhooks(credentials()))
            .layer(from_fn(login));
        assert_eq!(deliver(then_a_login).await, StatusCode::FORBIDDEN);
    }

    /// The worst case: MX takes the 200 for a receipt, although no callback has run.
    #[tokio::test]
    async fn a_fallback_that_is_added_after_the_layer_acknowledges_deliveries() {
        let then_a_fallback = Router::new()
            .layer(webhooks(credentials()))
            .fallback(|| async { "the application's front page\n" });
        assert_eq!(deliver(then_a_fallback).await, StatusCode::OK);
    }
}
