//! Deliveries whose ledger hangs or panics.

use crate::support::within;
use mx_job_webhook::Background;
use tokio::time::{Instant, timeout};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

/// The fault of a ledger's call.
#[derive(Clone, Copy)]
enum Fault {
    Hangs,
    Panics,
}

/// A ledger in which the first calls of each kind fail.
#[derive(Clone)]
struct Faulty {
    ledger: MemoryLedger,
    fault: Fault,
    faults: &'static [(&'static str, usize)],
    calls: Log,
}

impl Faulty {
    fn new(fault: Fault, faults: &'static [(&'static str, usize)]) -> Self {
        Self {
            ledger: MemoryLedger::new(),
            fault,
            faults,
            calls: Log::default(),
        }
    }

    async fn reach(&self, call: &str) {
        self.calls.push(call);
        let times = self.calls.entries().iter().filter(|it| *it == call).count();
        if self.faults.iter().any(|(of, n)| *of == call && times <= *n) {
            match self.fault {
                Fault::Hangs => std::future::pending().await,
                Fault::Panics => std::panic::resume_unwind(Box::new(())),
            }
        }
    }
}

impl Ledger for Faulty {
    type Error = Infallible;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, Infallible> {
        self.reach("claim").await;
        self.ledger.claim(event, lease).await
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, Infallible> {
        self.reach("commit").await;
        self.ledger.commit(event, token).await
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), Infallible> {
        self.reach("release").await;
        self.ledger.release(event, token).await
    }
}

/// Completed succeeds, challenged fails, and halted stalls.
fn router() -> JobRouter {
    JobRouter::new()
        .on_completed(|_| async {})
        .on_challenged(|_| async { Err("no answer") })
        .on_halted(|_| std::future::pending::<()>())
}

/// The numbers of settled events and of events in flight.
fn remembered(ledger: &MemoryLedger) -> (usize, usize) {
    (ledger.settled(), ledger.in_flight())
}

/// Returns the future's output within a day, and the seconds it took.
async fn timed<F: Future>(future: F) -> (F::Output, u64) {
    let start = Instant::now();
    let output = timeout(DAY, future).await.expect("the future hangs");
    (output, start.elapsed().as_secs())
}

type Outcome = Result<Receipt, ErrorKind>;

/// Returns the outcome of an event of this status in a layer around this ledger, and the
/// seconds it took.
async fn outcome(ledger: &Faulty, status: Status) -> (Outcome, u64) {
    let jobs = DedupeLayer::new(ledger.clone()).layer(router());
    let delivery = jobs.oneshot(job("JOB-1", status, 1).into());
    let (outcome, seconds) = timed(delivery).await;
    (outcome.map_err(|error| error.kind()), seconds)
}

#[tokio::test(start_paused = true)]
async fn a_hanging_ledger_times_out() {
    use ErrorKind::{CallbackFailed, LedgerUnavailable};
    let (succeeds, fails) = (Status::Completed, Status::Challenged);
    let cases: [(&[_], _, _, _, &[_], _); 5] = [
        // The hanging calls, the callback's behaviour; outcome, seconds, calls, remembered events.
        (
            &[("claim", 1)],
            &succeeds,
            Err(LedgerUnavailable),
            5,
            &["claim"],
            (0, 0),
        ),
        (
            &[("commit", 1)],
            &succeeds,
            Err(LedgerUnavailable),
            5,
            // These hang after the answer.
            &["claim", "commit", "commit"],
            (1, 0),
        ),
        (
            &[("commit", 2)],
            &succeeds,
            Err(LedgerUnavailable),
            5,
            &["claim", "commit", "commit"],
            (0, 1),
        ),
        (
            &[("release", 1)],
            &fails,
            Err(CallbackFailed),
            5,
            &["claim", "release", "release"],
            (0, 0),
        ),
        (
            &[("release", 2)],
            &fails,
            Err(CallbackFailed),
            5,
            &["claim", "release", "release"],
            (0, 1),
        ),
    ];
    for (faults, status, expected, seconds, calls, left) in cases {
        let ledger = Faulty::new(Fault::Hangs, faults);
        let outcome = outcome(&ledger, status.clone()).await;
        assert_eq!(outcome, (expected, seconds), "{faults:?}");
        assert_eq!(ledger.calls.entries(), calls, "{faults:?}");
        assert_eq!(remembered(&ledger.ledger), left, "{faults:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panicking_ledger_is_unavailable() {
    use ErrorKind::{CallbackFailed, LedgerUnavailable};
    let (succeeds, fails) = (Status::Completed, Status::Challenged);
    let cases: [(&[_], _, _, _); 5] = [
        (&[("claim", 1)], &succeeds, Err(LedgerUnavailable), (0, 0)),
        (&[("commit", 1)], &succeeds, Ok(Receipt::Handled), (1, 0)),
        // The third commit, after the answer, succeeds.
        (&[("commit", 2)], &succeeds, Err(LedgerUnavailable), (1, 0)),
        (&[("release", 1)], &fails, Err(CallbackFailed), (0, 0)),
        (&[("release", 2)], &fails, Err(CallbackFailed), (0, 1)),
    ];
    for (faults, status, expected, left) in cases {
        let ledger = Faulty::new(Fault::Panics, faults);
        let outcome = outcome(&ledger, status.clone()).await;
        assert_eq!(outcome, (expected, 0), "{faults:?}");
        assert_eq!(remembered(&ledger.ledger), left, "{faults:?}");
    }
}

/// A delivery dropped at any await delays a drain by at most one call's timeout; a success delays it until the
/// ledger has recorded it.
#[tokio::test(start_paused = true)]
async fn a_drain_ends_even_if_the_ledger_hangs() {
    use Status::{Challenged, Completed, Halted};
    let cases: [(&str, &[_], _, u64, &[_]); 4] = [
        ("claim", &[("claim", 1)], Completed, 0, &["claim"]),
        (
            "callback",
            &[("release", 9)],
            Halted,
            5,
            &["claim", "release"],
        ),
        (
            "commit",
            &[("commit", 3)],
            Completed,
            10,
            &["claim", "commit", "commit", "commit", "commit"],
        ),
        (
            "release",
            &[("release", 9)],
            Challenged,
            5,
            &["claim", "release", "release"],
        ),
    ];
    for (dropped_in, faults, status, seconds, calls) in cases {
        let ledger = Faulty::new(Fault::Hangs, faults);
        let background = Background::new();
        let jobs = DedupeLayer::new(ledger.clone()).layer(router());
        let event = job("JOB-1", status, 1).into();
        let mut delivery = Box::pin(within(&background, jobs.oneshot(event)));
        let context = &mut Context::from_waker(Waker::noop());
        assert!(delivery.as_mut().poll(context).is_pending());
        drop(delivery);
        let drained = timed(background.drain(std::future::pending::<()>())).await;
        assert_eq!(drained, (0, seconds), "{dropped_in}");
        assert_eq!(ledger.calls.entries(), calls, "{dropped_in}");
    }
}

/// The runtime has no timers: creating one would panic.
#[test]
fn a_ledger_that_answers_at_once_needs_no_timer() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let ledger = MemoryLedger::new();
        let jobs = DedupeLayer::new(ledger.clone()).layer(router());
        let receipt = jobs.clone().oneshot(completed(1)).await;
        assert_eq!(receipt.unwrap(), Receipt::Handled);
        let fails = job("JOB-1", Status::Challenged, 2);
        assert!(jobs.oneshot(fails.into()).await.is_err());
        assert_eq!(remembered(&ledger), (1, 0));
    });
}

#[tokio::test(start_paused = true)]
async fn a_ledger_calls_timeout_can_be_set_and_disabled() {
    let layer = DedupeLayer::new(Faulty::new(Fault::Hangs, &[("claim", 2)]));
    let strict = layer.clone().with_ledger_timeout(Duration::from_secs(20));
    let delivery = strict.layer(router()).oneshot(completed(1));
    let (outcome, seconds) = timed(delivery).await;
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::LedgerUnavailable);
    assert_eq!(seconds, 20);
    let patient = layer.with_ledger_timeout(None);
    let delivery = patient.layer(router()).oneshot(completed(1));
    assert!(timeout(DAY, delivery).await.is_err());
}

/// A ledger whose commits fail for this long, like those of a restarting server.
#[derive(Clone)]
struct FailsOver {
    ledger: MemoryLedger,
    back: Instant,
    commits: Log,
}

impl FailsOver {
    fn after(outage: Duration) -> Self {
        Self {
            ledger: MemoryLedger::new(),
            back: Instant::now() + outage,
            commits: Log::default(),
        }
    }
}

impl Ledger for FailsOver {
    type Error = &'static str;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, Self::Error> {
        let Ok(claim) = self.ledger.claim(event, lease).await;
        Ok(claim)
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, Self::Error> {
        self.commits.push("commit");
        if Instant::now() < self.back {
            return Err("READONLY You can't write against a read only replica.");
        }
        let Ok(commit) = self.ledger.commit(event, token).await;
        Ok(commit)
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), Self::Error> {
        let Ok(()) = self.ledger.release(event, token).await;
        Ok(())
    }
}

/// The callback has succeeded once. A failover of the server must not make it run again.
#[tokio::test(start_paused = true)]
async fn an_outage_during_a_callback_does_not_repeat_it() {
    for (outage, expected, answered_after) in [
        (4, Ok(Receipt::Handled), 4),
        (60, Err(ErrorKind::LedgerUnavailable), 5),
    ] {
        let ledger = FailsOver::after(Duration::from_secs(outage));
        let background = Background::new();
        let runs = Log::default();
        let seen = runs.clone();
        let jobs =
            DedupeLayer::new(ledger.clone()).layer(JobRouter::new().on_completed(move |_| {
                seen.push("ran");
                async {}
            }));
        let (outcome, seconds) = timed(jobs.clone().oneshot(completed(1))).await;
        if let Err(error) = &outcome {
            let why = std::error::Error::source(error).map(ToString::to_string);
            let why = why.unwrap_or_default();
            assert!(why.starts_with("READONLY"), "{why}");
        }
        assert_eq!(
            outcome.map_err(|error| error.kind()),
            expected,
            "{outage} s"
        );
        assert_eq!(seconds, answered_after, "{outage} s");
        // Until the ledger knows of the success, a retry is not acknowledged and runs no callback.
        if expected.is_err() {
            let retry = jobs.clone().oneshot(completed(1)).await.unwrap_err();
            assert_eq!(retry.kind(), ErrorKind::InFlight);
        }
        tokio::time::sleep(Duration::from_secs(outage)).await;
        let retry = jobs.oneshot(completed(1)).await;
        assert_eq!(retry.unwrap(), Receipt::Duplicate, "{outage} s");
        assert_eq!(runs.entries(), ["ran"], "{outage} s");
        assert_eq!(background.running(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn retried_commits_are_spaced_and_end_with_the_lease() {
    let ledger = FailsOver::after(DAY);
    let background = Background::new();
    let jobs = DedupeLayer::new(ledger.clone())
        .with_lease(Duration::from_secs(60))
        .layer(router());
    let delivery = within(&background, jobs.oneshot(completed(1)));
    let error = delivery.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LedgerUnavailable);
    assert_eq!(background.running(), 1);
    let (left, seconds) = timed(background.drain(std::future::pending::<()>())).await;
    assert_eq!((left, seconds), (0, 60));
    let commits = ledger.commits.entries().len();
    assert!((300..400).contains(&commits), "{commits} in 65 s");
}
