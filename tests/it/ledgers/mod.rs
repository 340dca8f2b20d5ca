//! The ledgers that several replicas share, on real servers.
//!
//! They find the servers by `MX_TEST_POSTGRES_URL` and `MX_TEST_REDIS_URL`; without, they are
//! ignored.

mod own;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;

use mx_job_webhook::MemoryLedger;
use mx_job_webhook::testing::check_ledger;

#[tokio::test(start_paused = true)]
async fn memory_conforms() {
    check_ledger(MemoryLedger::new()).await;
}
