//! Spans, events and metrics of deliveries, with every feature enabled.

mod callbacks;
pub(crate) mod capture;
mod mounted;
mod outcomes;
#[cfg(feature = "queue")]
mod queued;
mod tower_http;
#[cfg(feature = "test-util")]
mod watched;

use std::task::{Context, Waker};

use axum::body::Body;
use http::Request;
use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
use tower::ServiceExt as _;

use crate::support::{Jobs, credentials, jobs};
use capture::{Capture, DELIVERY};

type Endpoint = JobWebhook<Jobs>;

fn endpoint(router: JobRouter) -> Endpoint {
    JobWebhook::new(credentials(), jobs(router))
}

fn open(router: JobRouter) -> Endpoint {
    JobWebhook::new(Credentials::unauthenticated(), jobs(router))
}

async fn answer(endpoint: &Endpoint, request: Request<Body>) -> u16 {
    let response = endpoint.clone().oneshot(request).await.unwrap();
    response.status().as_u16()
}

/// Starts a delivery and hangs up when it can proceed no further at once.
fn hang_up(endpoint: &Endpoint, request: Request<Body>) {
    let mut response = Box::pin(endpoint.clone().oneshot(request));
    let mut context = Context::from_waker(Waker::noop());
    assert!(response.as_mut().poll(&mut context).is_pending());
}

/// Lets every task run until it must wait.
async fn settle() {
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
}
