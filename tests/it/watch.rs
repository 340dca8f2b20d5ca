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
