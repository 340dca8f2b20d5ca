//! How do I receive the webhooks on the port that serves gRPC with tonic?
//!
//! Run it with `cargo run -p tonic_grpc`, and deliver something:
//!
//! ```text
//! curl -i -u mx:secret -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json http://127.0.0.1:3000/admin/webhooks
//! ```
//!
//! tonic's routes are an axum router. Add the layer to it last. gRPC uses HTTP/2, and a sender of
//! webhooks HTTP/1.1; `axum::serve` detects the version of each connection. tonic's own server takes
//! the layer too: `Server::builder().accept_http1(true).layer(…).add_routes(…)`, with routes that have
//! the same fallback as here.

#![allow(clippy::print_stdout, reason = "the example prints what happens")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

use std::env;
use std::error::Error;

use axum::Router;
use http::StatusCode;
use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
use tokio::net::TcpListener;
use tonic::service::Routes;

/// The application: a gRPC service, and the webhooks.
fn app(credentials: Credentials) -> Router {
    let jobs = JobRouter::new()
        .on_completed(|event| async move { println!("completed {}", event.guid) })
        .on_unhandled(|unhandled| async move { println!("{} unhandled", unhandled.status) });
    // A service without a `.proto` file of its own: the health check for load balancers.
    let (_, health) = tonic_health::server::health_reporter();
    Routes::new(health)
        .into_axum_router()
        // tonic's own fallback answers an unknown path *200*, with the error in a gRPC header. If MX
        // had a wrong path, it would take that for a receipt.
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(JobWebhook::new(credentials, jobs).at("/admin/webhooks"))
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
    use http::{Request, Version};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    use tower::ServiceExt as _;

    use super::*;

    fn delivery(uri: String) -> Request<Body> {
        Request::post(uri)
            .header("authorization", "Basic bXg6c2VjcmV0")
            .header("content-type", "application/json")
            .body(Body::from(include_str!(
                "../../../tests/fixtures/completed.json"
            )))
            .unwrap()
    }

    #[tokio::test]
    async fn one_port_serves_grpc_over_http_2_and_webhooks_over_http_1() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let app = app(Credentials::basic("mx", "secret").unwrap());
        tokio::spawn(async { axum::serve(listener, app).await });

        let http2 = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http();
        let mut grpc = HealthClient::with_origin(http2, origin.parse().unwrap());
        let health = grpc.check(HealthCheckRequest::default()).await.unwrap();
        assert_eq!(health.into_inner().status(), ServingStatus::Serving);

        let http1 = Client::builder(TokioExecutor::new()).build_http();
        let delivery = delivery(format!("{origin}/admin/webhooks"));
        let answer = http1.request(delivery).await.unwrap();
        assert_eq!(answer.version(), Version::HTTP_11);
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    }

    #[tokio::test]
    async fn a_delivery_to_another_path_is_answered_404() {
        let elsewhere = || delivery("/admin/webhook".to_owned());
        let app = app(Credentials::basic("mx", "secret").unwrap());
        let answer = app.oneshot(elsewhere()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);

        let tonic_alone = Routes::default().into_axum_router();
        let answer = tonic_alone.oneshot(elsewhere()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }
}
