//! The mounts on axum, served on sockets. The tests with HTTP/2, in the package of the peers, use them too.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use mx_job_webhook::{JobEvent, JobRouter, JobWebhook, Receipt};
use tokio::net::TcpListener;

use super::{PATH, credentials};

/// Returns an application with each mount, by name.
pub(super) fn apps() -> Vec<(&'static str, Router)> {
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
                .with_state(JobWebhook::new(credentials(), jobs()).boxed()),
        ),
        (
            "extractor, no limit",
            Router::new()
                .route(PATH, post(webhook))
                .layer(DefaultBodyLimit::disable())
                .with_state(
                    JobWebhook::new(credentials(), jobs())
                        .with_body_limit(usize::MAX)
                        .boxed(),
                ),
        ),
    ]
}

/// Serves an application on a free port, and returns its address.
pub(super) async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}
