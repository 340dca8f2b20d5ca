//! HTTP/2, where deliveries share a connection with others.

#[path = "../../it/attacks/callbacks/mounts.rs"]
mod mounts;

use std::time::Duration;

use axum::body::Body;
use http::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use mx_job_webhook::Credentials;

use crate::{PATH, SAMPLE};
use mounts::{apps, serve};

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
