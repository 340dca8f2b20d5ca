//! What every ledger has to do: the conformance suite.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tower::BoxError;

use crate::{Claim, Commit, EventName, FencingToken, Job, Ledger, Status, Timestamp};

/// Long enough that nothing here takes as long, with a ledger across a network.
const LEASE: Duration = Duration::from_secs(2);

/// Past the end of a lease, also for a clock that is read a little late.
const PAST_THE_LEASE: Duration = Duration::from_millis(2_500);

/// How long a lease is in the cases that do not wait for its end.
const LONG: Duration = Duration::from_secs(600);

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
/// use mx_job_webhook::{MemoryLedger, testing::check_ledger};
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
    let check = |case: &'static str| Check {
        ledger: ledger.clone(),
        case,
        run: format!("{:016x}", RandomState::new().build_hasher().finish()),
    };
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
    check("without a time there is no before")
        .has_no_before_without_a_time()
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
    waiting.spawn(check("who was overtaken changes nothing").ignores_who_was_overtaken());
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

struct Check<L> {
    ledger: Arc<L>,
    case: &'static str,
    run: String,
}

impl<L: Ledger> Check<L> {
    async fn settles_once(self) {
        let event = self.event("1", Status::Completed, 10);
        let token = self.granted(&event).await;
        self.expect(&event, Claim::InFlight).await;
        self.settles(&event, token).await;
        self.expect(&event, Claim::Settled).await;
        self.expect(&event, Claim::Settled).await;
        // Another time, another status, another job: another event.
        self.granted(&self.event("1", Status::Completed, 11)).await;
        self.granted(&self.event("1", Status::Challenged, 10)).await;
        self.granted(&self.event("2", Status::Completed, 10)).await;
    }

    async fn gives_back(self) {
        let event = self.event("1", Status::Completed, 10);
        let mut last = self.granted(&event).await;
        for _ in 0..3 {
            self.release(&event, last).await;
            // Twice does no harm.
            self.release(&event, last).await;
            let next = self.granted(&event).await;
            self.assert(last < next, "tokens have to grow");
            last = next;
        }
        self.expect(&event, Claim::InFlight).await;
    }

    async fn keeps_what_is_settled(self) {
        let event = self.event("1", Status::Completed, 10);
        let token = self.granted(&event).await;
        self.settles(&event, token).await;
        self.release(&event, token).await;
        self.expect(&event, Claim::Settled).await;
    }

    async fn commits_twice(self) {
        let event = self.event("1", Status::Completed, 10);
        let token = self.granted(&event).await;
        self.settles(&event, token).await;
        self.settles(&event, token).await;
        let other = FencingToken::new(token.get() + 1);
        let commit = self.commit(&event, other).await;
        self.assert(commit == Commit::Overtaken, "with another token");
        self.expect(&event, Claim::Settled).await;
    }

    async fn knows_what_is_stale(self) {
        let last = self.event("1", Status::Completed, 20);
        // In flight, it makes nothing stale.
        let token = self.granted(&last).await;
        let overlapping = self.event("1", Status::Challenged, 18);
        let overlaps = self.granted(&overlapping).await;
        self.settles(&last, token).await;
        self.expect(&self.event("1", Status::Challenged, 19), Claim::Stale)
            .await;
        self.expect(&self.event("1", Status::Completed, 10), Claim::Stale)
            .await;
        // What was under way may still succeed, and makes the last no earlier.
        self.settles(&overlapping, overlaps).await;
        self.expect(&self.event("1", Status::Challenged, 19), Claim::Stale)
            .await;
        self.granted(&self.event("1", Status::Challenged, 20)).await;
        self.granted(&self.event("1", Status::Challenged, 21)).await;
        self.granted(&self.event("2", Status::Challenged, 1)).await;
    }

    async fn puts_stale_last(self) {
        let settled = self.event("1", Status::Challenged, 10);
        let in_flight = self.event("1", Status::Challenged, 11);
        let token = self.granted(&settled).await;
        self.settles(&settled, token).await;
        self.granted(&in_flight).await;
        let later = self.event("1", Status::Completed, 20);
        let token = self.granted(&later).await;
        self.settles(&later, token).await;
        self.expect(&settled, Claim::Settled).await;
        self.expect(&in_flight, Claim::InFlight).await;
    }

    async fn orders_all_times(self) {
        let times = [i64::MIN, -10, -9, 0, 9, 10, i64::MAX - 1, i64::MAX];
        for pair in times.windows(2) {
            let job = format!("{}", pair[1]);
            let later = self.event(&job, Status::Completed, pair[1]);
            let token = self.granted(&later).await;
            self.settles(&later, token).await;
            self.expect(&self.event(&job, Status::Challenged, pair[0]), Claim::Stale)
                .await;
        }
    }

    async fn has_no_before_without_a_time(self) {
        let dated = self.event("1", Status::Completed, 20);
        let undated = self.event("1", Status::Completed, None);
        for event in [&dated, &undated] {
            let token = self.granted(event).await;
            self.settles(event, token).await;
        }
        self.expect(&undated, Claim::Settled).await;
        self.granted(&self.event("1", Status::Challenged, None))
            .await;
        // An event without a time does not hide how late the job was.
        self.expect(&self.event("1", Status::Challenged, 19), Claim::Stale)
            .await;
    }

    async fn tells_names_apart(self) {
        let long = "x".repeat(60_000);
        let statuses = ["FAILED", "failed now", "", "{}", "a\"b\\", "статус", &long];
        for status in statuses {
            self.claims_and_settles(&self.event("1", Status::from(status), 1))
                .await;
        }
        let longer = format!("{long}x");
        let jobs = [
            "a", "a b", "a\0b", "a\0c", "a'b", "{a}", "a}b{", "%s", "\\0", "é", "\n", "🏦", &long,
            &longer,
        ];
        for job in jobs {
            self.claims_and_settles(&self.event(job, Status::Completed, 1))
                .await;
        }
        self.expect(&self.event("1", Status::from("Failed"), 1), Claim::Settled)
            .await;
    }

    async fn grants_one_of_many(self) {
        let event = self.event("1", Status::Completed, 10);
        for _ in 0..8 {
            let mut claims = JoinSet::new();
            for _ in 0..16 {
                let (ledger, event) = (self.ledger.clone(), event.clone());
                claims.spawn(async move { failed(ledger.claim(&event, LONG).await) });
            }
            let mut granted = Vec::new();
            while let Some(claim) = claims.join_next().await {
                match claim {
                    Ok(Ok(Claim::Granted(token))) => granted.push(token),
                    Ok(Ok(Claim::InFlight)) => {}
                    other => self.fail(&format!("{other:?}")),
                }
            }
            self.assert(
                granted.len() == 1,
                &format!("{} were granted", granted.len()),
            );
            self.release(&event, granted[0]).await;
        }
    }

    async fn survives_dropped_calls(self) {
        let event = self.event("1", Status::Completed, 10);
        for wait in [0, 50, 200, 500, 1_000] {
            let claim = self.ledger.claim(&event, Duration::ZERO);
            let _ = timeout(Duration::from_micros(wait), claim).await;
        }
        // Whatever each of them came to, their leases are over.
        let token = self.granted(&event).await;
        let _ = timeout(Duration::ZERO, self.ledger.commit(&event, token)).await;
        self.settles(&event, token).await;
        self.expect(&event, Claim::Settled).await;
    }

    async fn takes_the_longest_lease(self) {
        let event = self.event("1", Status::Completed, 10);
        let claim = self.claim(&event, Duration::MAX).await;
        let Claim::Granted(token) = claim else {
            self.fail(&format!("{claim:?}"));
        };
        self.expect(&event, Claim::InFlight).await;
        self.settles(&event, token).await;
    }

    async fn ends_a_lease(self) {
        let event = self.event("1", Status::Completed, 10);
        let first = self.granted_for(&event, LEASE).await;
        self.expect(&event, Claim::InFlight).await;
        sleep(PAST_THE_LEASE).await;
        let second = self.granted_for(&event, LONG).await;
        self.assert(first < second, "tokens have to grow");
        // The second lease is as long as it was asked to be.
        sleep(PAST_THE_LEASE).await;
        self.expect(&event, Claim::InFlight).await;
    }

    async fn ignores_who_was_overtaken(self) {
        let event = self.event("1", Status::Completed, 10);
        let slow = self.granted_for(&event, LEASE).await;
        sleep(PAST_THE_LEASE).await;
        let fast = self.granted(&event).await;
        let commit = self.commit(&event, slow).await;
        self.assert(commit == Commit::Overtaken, "its commit");
        self.release(&event, slow).await;
        self.expect(&event, Claim::InFlight).await;
        self.settles(&event, fast).await;
        let commit = self.commit(&event, slow).await;
        self.assert(commit == Commit::Overtaken, "its commit, later");
        self.expect(&event, Claim::Settled).await;
    }

    async fn commits_late(self) {
        let event = self.event("1", Status::Completed, 10);
        let token = self.granted_for(&event, LEASE).await;
        sleep(PAST_THE_LEASE).await;
        self.settles(&event, token).await;
        self.expect(&event, Claim::Settled).await;
    }

    async fn can_be_stale_after_a_lease(self) {
        let event = self.event("1", Status::Challenged, 10);
        self.granted_for(&event, LEASE).await;
        self.claims_and_settles(&self.event("1", Status::Completed, 20))
            .await;
        self.expect(&event, Claim::InFlight).await;
        sleep(PAST_THE_LEASE).await;
        self.expect(&event, Claim::Stale).await;
        self.expect(&event, Claim::Stale).await;
    }

    async fn claims_and_settles(&self, event: &EventName) {
        let token = self.granted(event).await;
        self.expect(event, Claim::InFlight).await;
        self.settles(event, token).await;
        self.expect(event, Claim::Settled).await;
    }

    /// An event of a job of this run.
    fn event(&self, job: &str, status: Status, updated_at: impl Into<Option<i64>>) -> EventName {
        let name = format!("JOB-{}-{}-{job}", self.run, self.case);
        let Ok(guid) = name.parse() else {
            self.fail("its guid is blank");
        };
        let mut job = Job::new(guid, status);
        job.updated_at = updated_at.into().map(Timestamp::from_unix_seconds);
        EventName::of(&job)
    }

    async fn granted(&self, event: &EventName) -> FencingToken {
        self.granted_for(event, LONG).await
    }

    async fn granted_for(&self, event: &EventName, lease: Duration) -> FencingToken {
        match self.claim(event, lease).await {
            Claim::Granted(token) => token,
            other => self.fail(&format!("{other:?} instead of a claim that is granted")),
        }
    }

    async fn expect(&self, event: &EventName, expected: Claim) {
        let claim = self.claim(event, LONG).await;
        self.assert(
            claim == expected,
            &format!("{claim:?} instead of {expected:?}"),
        );
    }

    async fn settles(&self, event: &EventName, token: FencingToken) {
        let commit = self.commit(event, token).await;
        self.assert(commit == Commit::Settled, &format!("{commit:?}"));
    }

    async fn claim(&self, event: &EventName, lease: Duration) -> Claim {
        self.done(self.ledger.claim(event, lease).await)
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Commit {
        self.done(self.ledger.commit(event, token).await)
    }

    async fn release(&self, event: &EventName, token: FencingToken) {
        self.done(self.ledger.release(event, token).await);
    }

    fn done<T>(&self, outcome: Result<T, L::Error>) -> T {
        match failed(outcome) {
            Ok(done) => done,
            Err(error) => self.fail(&format!("the ledger failed: {error}")),
        }
    }

    #[track_caller]
    fn assert(&self, holds: bool, what: &str) {
        if !holds {
            self.fail(what);
        }
    }

    #[track_caller]
    fn fail(&self, what: &str) -> ! {
        panic!("{}: {what}", self.case);
    }
}

fn failed<T, E: Into<BoxError>>(outcome: Result<T, E>) -> Result<T, BoxError> {
    outcome.map_err(Into::into)
}
