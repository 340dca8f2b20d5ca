//! The ledgers that several replicas share, on real servers.
//!
//! They find the servers by `MX_TEST_POSTGRES_URL` and `MX_TEST_REDIS_URL`, and are ignored
//! unless asked for.

mod outages;
mod own;
mod postgres;
mod proxy;
mod redis;

use mx_job_webhook::testing::check_ledger;
use mx_job_webhook::{EventName, Job, JobEvent, MemoryLedger, Status, Timestamp};

/// Longer than any test.
const LEASE: std::time::Duration = std::time::Duration::from_secs(600);

#[tokio::test(start_paused = true)]
async fn memory_conforms() {
    check_ledger(MemoryLedger::new()).await;
}

/// The servers are shared: each test has jobs of its own.
fn one_of_a_kind() -> String {
    format!("{:016x}", fastrand::u64(..))
}

fn completed(guid: &str, updated_at: i64) -> JobEvent {
    let mut job = Job::new(guid.parse().unwrap(), Status::Completed);
    job.updated_at = Some(Timestamp::from_unix_seconds(updated_at));
    job.into()
}

fn name(guid: &str, updated_at: i64) -> EventName {
    EventName::of(&completed(guid, updated_at))
}
