//! The conformance suite of ledgers.

mod cases;
mod check;

use std::panic::resume_unwind;
use std::sync::Arc;

use tokio::task::{JoinError, JoinSet};

use crate::ledger::Ledger;
use check::Check;

/// Checks that a ledger keeps the contract of [`Ledger`].
///
/// Call it in a test of a ledger that you wrote, with the store of the application or one like it.
/// It uses jobs with random names, and leaves them in the store. It takes about five seconds,
/// because it waits until leases expire. If tokio's clock is paused and the ledger uses it, it
/// takes no time. The ledgers of this crate pass it.
///
/// It cannot check whether an entry survives a crash of the store, how long the ledger remembers,
/// and what happens when the store does not answer.
///
/// # Panics
///
/// If the ledger breaks the contract or fails. The message names the case.
///
/// # Example
///
/// ```
/// use mx_job_webhook::ledger::MemoryLedger;
/// use mx_job_webhook::testing::check_ledger;
///
/// #[tokio::main(flavor = "current_thread", start_paused = true)]
/// async fn main() {
///     let ledger = MemoryLedger::new();
///     check_ledger(ledger.clone()).await;
///     assert!(ledger.settled() > 0);
/// }
/// ```
pub async fn check_ledger<L: Ledger>(ledger: L) {
    let ledger = Arc::new(ledger);
    let check = |case: &'static str| Check::new(ledger.clone(), case);
    check("an event is claimed, settled and then remembered")
        .settles_once()
        .await;
    check("a released event can be claimed again at once")
        .releases_claims()
        .await;
    check("a release does not change a settled event")
        .keeps_settled_events()
        .await;
    check("a commit can be repeated with its token")
        .repeats_commits()
        .await;
    check("an older event of the same job is stale")
        .finds_stale_events()
        .await;
    check("an event that is settled or in flight is not stale")
        .finds_settled_and_in_flight_before_stale()
        .await;
    check("times are ordered exactly")
        .orders_times_exactly()
        .await;
    check("a time in the future makes no event stale")
        .ignores_times_in_the_future()
        .await;
    check("an event without a time is not ordered")
        .ignores_missing_times()
        .await;
    check("a commit is recorded even if its claim is lost")
        .commits_lost_claims()
        .await;
    check("a commit is recorded even after a release of its claim")
        .commits_released_claims()
        .await;
    check("different names are different events")
        .keeps_names_apart()
        .await;
    check("one of many concurrent claims is granted")
        .grants_one_of_many()
        .await;
    check("a lease of any length is accepted")
        .accepts_the_longest_lease()
        .await;
    // These cases wait until leases expire, so they run at the same time.
    let mut concurrent = JoinSet::new();
    concurrent.spawn(check("a lease expires").expires_leases());
    concurrent.spawn(
        check("a commit is recorded even if its claim was overtaken").commits_overtaken_claims(),
    );
    concurrent.spawn(
        check("a commit is recorded even after its lease has expired").commits_after_the_lease(),
    );
    concurrent.spawn(
        check("an event whose lease has expired can be stale").finds_stale_events_after_the_lease(),
    );
    while let Some(checked) = concurrent.join_next().await {
        if let Err(Ok(panic)) = checked.map_err(JoinError::try_into_panic) {
            resume_unwind(panic);
        }
    }
    check("a dropped call does no harm")
        .survives_dropped_calls()
        .await;
}
