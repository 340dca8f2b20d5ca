//! Sends deliveries in MX's place.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::time::{sleep, timeout};

use crate::{BASIC, PATH, SAMPLE};

/// Returns MX's sample with the guid of another job.
pub(super) fn body(event: usize) -> String {
    SAMPLE.replace("JOB-a177e002", &format!("JOB-{event:08x}"))
}

/// Delivers once, and returns the status if there was an answer.
pub(super) async fn deliver(address: SocketAddr, body: &str) -> Option<StatusCode> {
    let request = Request::post(format!("http://{address}{PATH}"))
        .header("authorization", BASIC)
        .header("content-type", "application/json")
        .body(Body::from(body.to_owned()))
        .unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = timeout(Duration::from_secs(5), client.request(request)).await;
    Some(answer.ok()?.ok()?.status())
}

/// Delivers one event at some time within ten seconds, to either receiver, and sometimes again.
pub(super) async fn deliver_until_acknowledged(
    receivers: Arc<Mutex<[SocketAddr; 2]>>,
    body: String,
    mut random: fastrand::Rng,
) {
    sleep(Duration::from_secs_f64(random.f64() * 10.0)).await;
    let mut wanted = if random.u8(..) < 25 { 2 } else { 1 };
    while wanted > 0 {
        let address = receivers.lock().unwrap()[random.usize(..2)];
        if deliver(address, &body).await == Some(StatusCode::NO_CONTENT) {
            wanted -= 1;
        } else {
            sleep(Duration::from_millis(random.u64(50..300))).await;
        }
    }
}
