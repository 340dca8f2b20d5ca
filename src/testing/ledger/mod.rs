//! What every ledger has to do: the conformance suite.

mod cases;
mod check;

use std::panic::resume_unwind;
use std::sync::Arc;

use tokio::task::{JoinError, JoinSet};

use crate::ledger::Ledger;
use check::Check;

/// Checks that a ledger does what [`Ledger`] asks of it.
///
/// For whoever writes a ledger; the ones of this crate pass it. Call it in a test, with the
/// store in which the application will keep its events, or one like it. It uses jobs of names
/// that nobody else has, leaves them there, and takes some five seconds, because leases have
/// to end by themselves. With a clock that is paused, and a ledger that goes by it, none.
///
/// What it cannot see: whether an entry outlives a crash of the store, how long the ledger
/// remembers, and what happens when the store does not answer.
///
/// # Panics
///
/// If the ledger does something else, or fails; the message names the case.
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
    check("an event is claimed, settled, and then known")
        .settles_once()
        .await;
    check("a claim that is given back is free at once")
        .gives_back()
        .await;
    check("a settled event is not given back")
        .keeps_what_is_settled()
        .await;
    check("a commit may be made again, with its token")
        .commits_twice()
        .await;
    check("an older event of the job is stale")
        .knows_what_is_stale()
        .await;
    check("what is settled or in flight is that first")
        .puts_stale_last()
        .await;
    check("the order of times is that of the numbers")
        .orders_all_times()
        .await;
    check("a time in the future orders nothing")
        .orders_nothing_by_the_future()
        .await;
    check("without a time there is no before")
        .has_no_before_without_a_time()
        .await;
    check("a success is recorded whatever became of its claim")
        .records_a_success_it_knows_nothing_of()
        .await;
    check("a success counts although its claim was given back")
        .records_a_success_after_its_release()
        .await;
    check("names are told apart, however strange")
        .tells_names_apart()
        .await;
    check("of many at once, one is granted")
        .grants_one_of_many()
        .await;
    check("a lease may be longer than any clock")
        .takes_the_longest_lease()
        .await;
    // These wait for leases to end, and so do it at one time.
    let mut waiting = JoinSet::new();
    waiting.spawn(check("a lease ends by itself").ends_a_lease());
    waiting.spawn(
        check("a success of who was overtaken is recorded").records_the_success_of_the_overtaken(),
    );
    waiting.spawn(check("a lease that is over costs nothing where nobody came").commits_late());
    waiting.spawn(check("what is claimed no more can be stale").can_be_stale_after_a_lease());
    while let Some(checked) = waiting.join_next().await {
        if let Err(Ok(panic)) = checked.map_err(JoinError::try_into_panic) {
            resume_unwind(panic);
        }
    }
    check("a call that is dropped does no harm")
        .survives_dropped_calls()
        .await;
}
