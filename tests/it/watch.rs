//! Expecting jobs, hearing of them, and reading those of which nothing was heard.

mod challenges;
mod expecting;
mod failsafe;
mod given_up;
mod hearing;
mod look_back;
mod own_store;
mod readers;
#[cfg(feature = "metrics")]
mod reported;
pub(crate) mod stand_ins;
mod stored;
mod waiting;

use mx_job_webhook::testing::check_watch_store;
use mx_job_webhook::watch::MemoryWatchStore;

#[tokio::test(start_paused = true)]
async fn the_store_in_memory_keeps_the_contract() {
    check_watch_store(MemoryWatchStore::new()).await;
}

/// The suite leaves entries in the store.
#[tokio::test(start_paused = true)]
async fn the_suite_can_be_run_again_in_the_same_store() {
    let store = MemoryWatchStore::new();
    check_watch_store(store.clone()).await;
    tokio::time::sleep(std::time::Duration::from_secs(3_600)).await;
    check_watch_store(store).await;
}
