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

#![allow(clippy::print_stdout, reason = "the example prints what happens")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use mx_job_webhook::{Background, Credentials, JobRouter, JobWebhook};
use tokio::net::TcpListener;
use tokio::signal::ctrl_c;
use tokio::time::{sleep, timeout};
use tower::{Service, ServiceBuilder};

/// The time limit of each step of a shutdown. Container platforms kill after about 30 seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// The application, for any body of requests. hyper's is `Incoming`.
fn app<B>(
    credentials: Credentials,
    background: Background,
) -> impl Service<Request<B>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send>
+ Clone
+ Send
where
    B: Body<Data: Send, Error: Error + Send + Sync> + Send + 'static,
{
    let jobs = JobRouter::new()
        .on_completed(|event| async move { println!("completed {}", event.guid) })
        .on_unhandled(|unhandled| async move { println!("{} unhandled", unhandled.status) });
    let webhooks = JobWebhook::new(credentials, jobs).with_background(background);
    ServiceBuilder::new()
        .layer(webhooks.at("/admin/webhooks"))
        .service_fn(answer)
}

/// Answers every request that is not a delivery.
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
    let background = Background::new();
    let app = app(Credentials::basic("mx", "secret")?, background.clone());
    let stop = async { ctrl_c().await.unwrap_or_default() };
    serve(listener, app, stop).await;
    // The callbacks that continue after their senders hung up.
    let left = background.drain(sleep(PATIENCE)).await;
    println!("{left} callbacks were cut short");
    Ok(())
}

/// Serves until `stop`, and then answers the open requests within `PATIENCE`.
async fn serve<S>(listener: TcpListener, app: S, stop: impl Future<Output = ()>)
where
    S: Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    let connections = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let Ok((stream, _)) = accepted else {
            // Too many open files, for example. The error is temporary.
            sleep(Duration::from_secs(1)).await;
            continue;
        };
        // With a timer, hyper drops a sender whose headers come too slowly.
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app.clone()));
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                println!("a connection broke: {error}");
            }
        });
    }
    drop(listener);
    let _ = timeout(PATIENCE, connections.shutdown()).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::Notify;
    use tower::ServiceExt as _;

    use super::*;

    async fn status(request: http::request::Builder) -> StatusCode {
        let credentials = Credentials::basic("mx", "secret").unwrap();
        let app = app(credentials, Background::new());
        let body = Full::<Bytes>::from(include_str!("../../tests/fixtures/completed.json"));
        let answer = app.oneshot(request.body(body).unwrap()).await;
        answer.unwrap().status()
    }

    #[tokio::test]
    async fn deliveries_are_acknowledged_and_other_requests_pass_through() {
        let delivery =
            || Request::post("/admin/webhooks").header("content-type", "application/json");
        let from_mx = delivery().header("authorization", "Basic bXg6c2VjcmV0");
        assert_eq!(status(from_mx).await, StatusCode::NO_CONTENT);
        assert_eq!(status(delivery()).await, StatusCode::UNAUTHORIZED);
        assert_eq!(status(Request::get("/")).await, StatusCode::OK);
        let page = Request::get("/admin/webhooks");
        assert_eq!(status(page).await, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn a_delivery_that_has_begun_is_answered_while_the_server_stops() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = app(Credentials::unauthenticated(), Background::new());
        let stop = Arc::new(Notify::new());
        let stopped = stop.clone();
        let server = tokio::spawn(async move {
            serve(listener, app, stopped.notified()).await;
        });

        let body = include_str!("../../tests/fixtures/completed.json");
        let mut mx = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /admin/webhooks HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        mx.write_all(head.as_bytes()).await.unwrap();
        // `100 Continue` shows that the delivery has begun.
        let mut continued = [0; 25];
        mx.read_exact(&mut continued).await.unwrap();
        stop.notify_one();
        while TcpStream::connect(address).await.is_ok() {}
        assert!(!server.is_finished());

        mx.write_all(body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        mx.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
        server.await.unwrap();
    }
}
