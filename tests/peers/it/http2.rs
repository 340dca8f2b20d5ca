//! HTTP/2, where deliveries share a connection with others.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use http::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use mx_job_webhook::{Credentials, JobEvent, JobRouter, JobWebhook, Receipt};
use tokio::net::TcpListener;

use crate::{PATH, SAMPLE};

fn credentials() -> Credentials {
    Credentials::basic("mx", "secret").unwrap()
}

/// Unauthenticated streams on an HTTP/2 connection do not affect a delivery on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unauthenticated_http_2_streams_do_not_affect_a_delivery() {
    for (mount, app) in apps() {
        let address = serve(app).await;
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http::<Body>();
        let uri = format!("http://{address}{PATH}");
        let strangers = (0..40).map(|number| {
            let (client, uri) = (client.clone(), uri.clone());
            tokio::spawn(async move {
                let size = if number % 2 == 0 { 3_000_000 } else { 200_000 };
                let mut request = Request::post(uri);
                if number % 4 < 2 {
                    request = request.header("expect", "100-continue");
                }
                let request = request.body(Body::from(vec![b'x'; size])).unwrap();
                client.request(request).await.map(|answer| {
                    (
                        answer.status().as_u16(),
                        answer.headers().contains_key("connection"),
                    )
                })
            })
        });
        for stranger in strangers.collect::<Vec<_>>() {
            if let Ok(answer) = stranger.await.unwrap() {
                assert_eq!(answer, (401, false), "{mount}");
            }
        }
        for _ in 0..10 {
            let request = Request::post(&uri)
                .header("authorization", "Basic bXg6c2VjcmV0")
                .header("content-type", "application/json; charset=utf-8")
                .body(Body::from(SAMPLE))
                .unwrap();
            let answer =
                tokio::time::timeout(Duration::from_secs(3), client.request(request)).await;
            assert_eq!(answer.unwrap().unwrap().status(), 204, "{mount}");
        }
    }
}

fn apps() -> Vec<(&'static str, Router)> {
    let jobs = || JobRouter::new().on_completed(|_| async {});
    async fn webhook(_: JobEvent) -> Receipt {
        Receipt::Handled
    }
    vec![
        (
            "layer",
            Router::new().layer(JobWebhook::new(credentials(), jobs()).at(PATH)),
        ),
        (
            "endpoint",
            Router::new().route_service(PATH, JobWebhook::new(credentials(), jobs())),
        ),
        (
            "extractor",
            Router::new()
                .route(PATH, post(webhook))
                .with_state(credentials()),
        ),
        (
            "extractor, no limit",
            Router::new()
                .route(PATH, post(webhook))
                .layer(DefaultBodyLimit::disable())
                .with_state(credentials()),
        ),
    ]
}

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}
