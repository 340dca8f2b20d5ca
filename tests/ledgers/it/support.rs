//! Shared test code: events, deliveries, and a log of their callbacks.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use mx_job_webhook::event::FencingToken;
use mx_job_webhook::job::Timestamp;
use mx_job_webhook::ledger::{Claim, EventName};
use mx_job_webhook::{Job, JobEvent, Status};
use tokio::sync::Notify;

pub(crate) const SAMPLE: &str = include_str!("../../fixtures/completed.json");

/// Longer than any test.
pub(crate) const LEASE: Duration = Duration::from_secs(600);

/// A unique id: the servers are shared, so each test has its own jobs.
pub(crate) fn unique_id() -> String {
    format!("{:016x}", fastrand::u64(..))
}

pub(crate) fn completed(guid: &str, updated_at: i64) -> JobEvent {
    let mut job = Job::new(guid.parse().unwrap(), Status::Completed);
    job.updated_at = Some(Timestamp::from_unix_seconds(updated_at));
    job.into()
}

pub(crate) fn name(guid: &str, updated_at: i64) -> EventName {
    EventName::of(&completed(guid, updated_at))
}

pub(crate) fn granted(claim: Claim) -> FencingToken {
    match claim {
        Claim::Granted(token) => token,
        other => panic!("{other:?}"),
    }
}

/// Waits for a callback's notification. A callback that fails before would otherwise stop all tests.
pub(crate) async fn notified(by: &Notify) {
    let notified = tokio::time::timeout(Duration::from_secs(60), by.notified());
    notified.await.expect("a callback notifies the test");
}

/// The request that MX sends, with this body.
pub(crate) fn delivery(body: String) -> Request<Full<Bytes>> {
    Request::post("/admin/webhooks")
        .header("content-type", "application/json; charset=utf-8")
        .header("accept", "application/json")
        .body(Full::new(body.into()))
        .unwrap()
}

/// The actions of callbacks, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn push(&self, entry: impl Into<String>) {
        self.0.lock().unwrap().push(entry.into());
    }

    pub(crate) fn entries(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}
