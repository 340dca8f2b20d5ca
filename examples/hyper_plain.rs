//! How do I mount the webhooks on hyper, without a framework?
//!
//! Run it with `cargo run --example hyper_plain`, and deliver something:
//!
//! ```text
//! curl -i -u mx:secret -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json http://127.0.0.1:3000/admin/webhooks
//! ```
//!
//! The crate then needs no axum: `--no-default-features --features tokio` is enough.

#![allow(clippy::print_stdout, reason = "it talks to whoever ran it")]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        reason = "a test that panics is a test that fails"
    )
)]

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use mx_job_webhook::{Credentials, JobRouter, JobWebhookLayer};
use tokio::net::TcpListener;
use tokio::time::sleep;
use tower::{Service, ServiceBuilder};

/// The application, for whichever body of requests: hyper's own is `Incoming`.
fn app<B>(
    credentials: Credentials,
) -> impl Service<Request<B>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send>
+ Clone
+ Send
where
    B: Body<Data: Send, Error: Error + Send + Sync> + Send + 'static,
{
    let jobs = JobRouter::new()
        .on_completed(|event| async move { println!("completed {}", event.guid) })
        .on_unhandled(|unhandled| async move { println!("{} unhandled", unhandled.status) });
    ServiceBuilder::new()
        .layer(JobWebhookLayer::new("/admin/webhooks", credentials, jobs))
        .service_fn(answer)
}

/// Everything that is not a delivery.
async fn answer<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match request.uri().path() {
        "/" => (StatusCode::OK, "an application of its own\n"),
        _ => (StatusCode::NOT_FOUND, "nothing here\n"),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    Ok(response)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let app = app(Credentials::basic("mx", "secret")?);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Too many open files, for one; it passes.
            sleep(Duration::from_secs(1)).await;
            continue;
        };
        let service = TowerToHyperService::new(app.clone());
        tokio::spawn(async move {
            // With a timer, hyper gives up a sender that is slow with its headers.
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                println!("a connection broke: {error}");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::*;

    async fn status(request: http::request::Builder) -> StatusCode {
        let app = app(Credentials::basic("mx", "secret").unwrap());
        let body = Full::<Bytes>::from(include_str!("../tests/fixtures/completed.json"));
        let answer = app.oneshot(request.body(body).unwrap()).await;
        answer.unwrap().status()
    }

    #[tokio::test]
    async fn deliveries_are_taken_and_the_rest_is_answered_as_before() {
        let delivery =
            || Request::post("/admin/webhooks").header("content-type", "application/json");
        let from_mx = delivery().header("authorization", "Basic bXg6c2VjcmV0");
        assert_eq!(status(from_mx).await, StatusCode::NO_CONTENT);
        assert_eq!(status(delivery()).await, StatusCode::UNAUTHORIZED);
        assert_eq!(status(Request::get("/")).await, StatusCode::OK);
        let page = Request::get("/admin/webhooks");
        assert_eq!(status(page).await, StatusCode::NOT_FOUND);
    }
}
