//! The conformance suite of stores of expected jobs.

mod cases;
mod check;

use std::sync::Arc;

use crate::watch::WatchStore;
use check::Check;

/// Checks that a store of expected jobs keeps the contract of [`WatchStore`].
///
/// Call it in a test of a store that you wrote. The store must be empty and have no other user,
/// because the suite claims whatever is due. It takes about ten seconds, because it waits until
/// leases and entries expire. If tokio's clock is paused and the store uses it, it takes no time.
/// The stores of this crate pass it.
///
/// It cannot check whether an entry survives a crash of the store, and what happens when the store
/// does not answer.
///
/// # Panics
///
/// If the store breaks the contract or fails. The message names the case.
///
/// # Example
///
/// ```
/// use mx_job_webhook::testing::check_watch_store;
/// use mx_job_webhook::watch::MemoryWatchStore;
///
/// #[tokio::main(flavor = "current_thread", start_paused = true)]
/// async fn main() {
///     check_watch_store(MemoryWatchStore::new()).await;
/// }
/// ```
pub async fn check_watch_store<S: WatchStore>(store: S) {
    let store = Arc::new(store);
    let check = |case: &'static str| Check::new(store.clone(), case);
    check("an entry is loaded as it was stored")
        .keeps_entries()
        .await;
    check("an entry that others have changed is not replaced")
        .refuses_outdated_revisions()
        .await;
    check("of several callers that replace an entry, one does")
        .replaces_atomically()
        .await;
    check("an entry that has expired is the same as none")
        .forgets_expired_entries()
        .await;
    check("an entry is claimed when it is due, and not before")
        .claims_what_is_due()
        .await;
    check("entries that have been due for longest are claimed first")
        .claims_in_order()
        .await;
    check("an entry is claimed again once the lease has expired")
        .claims_again()
        .await;
    check("each entry is claimed by one caller")
        .claims_once()
        .await;
    check("entries that are due are counted").counts().await;
    check("any guid is a job of its own")
        .keeps_every_guid()
        .await;
    check("what was heard through another watch is heard at once")
        .wakes_others()
        .await;
    check("what was heard before a job was expected counts")
        .looks_back()
        .await;
}
