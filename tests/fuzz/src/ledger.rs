//! The ledger in memory does what the contract of `Ledger` says, after any sequence of calls.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use mx_job_webhook::event::FencingToken;
use mx_job_webhook::job::Timestamp;
use mx_job_webhook::ledger::{Claim, Commit, EventName, Ledger as _, MemoryLedger};
use mx_job_webhook::{Job, Status};
use tokio::runtime::{Builder, Runtime};

/// The input is the ledger's capacity, and then two bytes for each call: what is done, and to which event.
///
/// Each result is that of a model, and so are the numbers of events that are settled and in flight. Each granted
/// token is larger than all earlier ones of its event.
pub(crate) fn check(input: &[u8]) {
    let Some((capacity, calls)) = input.split_first() else {
        return;
    };
    let capacity = usize::from(*capacity % 8);
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let ledger = MemoryLedger::new()
                .with_capacity(capacity)
                .with_window(WINDOW);
            let mut model = Model {
                capacity,
                ..Model::default()
            };
            for call in calls.chunks_exact(2) {
                run(
                    &ledger,
                    &mut model,
                    call[0],
                    usize::from(call[1]) % EVENTS.len(),
                )
                .await;
                assert_eq!((ledger.settled(), ledger.in_flight()), model.counts());
            }
        });
    });
}

thread_local! {
    /// A runtime with a clock that moves only when it is told to.
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
}

const WINDOW: Duration = Duration::from_secs(48 * 60 * 60);

/// Two jobs, each with events at no time, at three times, and at a time in the future, which orders nothing.
static EVENTS: LazyLock<Vec<EventName>> = LazyLock::new(|| {
    let mut events = Vec::new();
    for guid in ["JOB-1", "JOB-2"] {
        for (status, updated_at) in [
            (Status::Challenged, Some(1_471_281_212)),
            (Status::Completed, Some(1_471_281_212)),
            (Status::Challenged, Some(1_471_281_213)),
            (Status::from("NEW"), Some(-5)),
            (Status::Completed, Some(1_471_281_212_000)),
            (Status::Denied, None),
        ] {
            let mut job = Job::new(guid.parse().expect("a guid"), status);
            job.updated_at = updated_at.map(Timestamp::from_unix_seconds);
            events.push(EventName::of(&job.into()));
        }
    }
    events
});

/// Makes one call to the ledger and to the model. The highest bits of `what` choose the token.
async fn run(ledger: &MemoryLedger, model: &mut Model, what: u8, event: usize) {
    let name = &EVENTS[event];
    let tokens = model.tokens.get(&event).map_or(&[][..], Vec::as_slice);
    let token = match tokens.len().checked_sub(1 + usize::from(what >> 5)) {
        Some(index) => tokens[index],
        // A token that this ledger has lost, as after a restore from a backup.
        None => FencingToken::new(model.largest.map_or(1, FencingToken::get) + 1000),
    };
    match what % 8 {
        0 | 1 => {
            let lease = [Duration::ZERO, Duration::from_millis(5), Duration::MAX]
                [usize::from(what >> 3) % 3];
            let Ok(claim) = ledger.claim(name, lease).await;
            model.check_claim(event, lease, claim);
        }
        2 | 3 => {
            let Ok(commit) = ledger.commit(name, token).await;
            assert_eq!(commit, model.commit(event, token));
        }
        4 => {
            let Ok(()) = ledger.release(name, token).await;
            model.release(event, token);
        }
        5 | 6 => {
            let time = Duration::from_millis(u64::from(what >> 3 & 7));
            tokio::time::advance(time).await;
            model.now += time;
        }
        _ => {
            // Some settled events are now older than the window, and some may be a little younger.
            let time = WINDOW - Duration::from_millis(u64::from(what >> 3 & 7));
            tokio::time::advance(time).await;
            model.now += time;
            let Ok(claim) = ledger.claim(name, Duration::ZERO).await;
            model.check_claim(event, Duration::ZERO, claim);
        }
    }
}

/// What the ledger has to know, as its documentation says.
#[derive(Default)]
struct Model {
    capacity: usize,
    /// The time since the start.
    now: Duration,
    /// The claims, each with its token and the end of its lease.
    claims: BTreeMap<usize, (FencingToken, Duration)>,
    /// The settled events, oldest first, each with the token that settled it and the time.
    settled: Vec<(usize, FencingToken, Duration)>,
    /// The settled events that were forgotten while others of their job were not.
    forgotten: Vec<usize>,
    /// All tokens that were granted or that settled an event.
    tokens: BTreeMap<usize, Vec<FencingToken>>,
    largest: Option<FencingToken>,
}

impl Model {
    fn check_claim(&mut self, event: usize, lease: Duration, claim: Claim) {
        // A claim forgets what is as old as the window.
        let is_old = |at: Duration| at + WINDOW <= self.now;
        let old = self.settled.iter().take_while(|(_, _, at)| is_old(*at));
        let old = old.count();
        self.forget_settled(old);
        let leased = self
            .claims
            .get(&event)
            .is_some_and(|(_, until)| self.now < *until);
        let mut settled = self.settled.iter().map(|(settled, ..)| *settled);
        if settled.clone().any(|settled| settled == event) {
            return assert_eq!(claim, Claim::Settled);
        }
        if leased {
            return assert_eq!(claim, Claim::InFlight);
        }
        self.claims.remove(&event);
        if settled.any(|settled| is_later(settled, event)) {
            return assert_eq!(claim, Claim::Stale);
        }
        match claim {
            Claim::Granted(token) => {
                let earlier = self.tokens.entry(event).or_default();
                assert!(
                    earlier.iter().all(|earlier| *earlier < token),
                    "{token:?} {earlier:?}"
                );
                self.know(event, token);
                self.claims
                    .insert(event, (token, self.now.saturating_add(lease)));
            }
            // The ledger may remember the latest time of a job for longer than the event.
            claim => {
                let is_later = self
                    .forgotten
                    .iter()
                    .any(|forgotten| is_later(*forgotten, event));
                assert!(claim == Claim::Stale && is_later, "{claim:?}");
            }
        }
    }

    fn commit(&mut self, event: usize, token: FencingToken) -> Commit {
        if let Some((_, by, _)) = self.settled.iter().find(|(settled, ..)| *settled == event) {
            return if *by == token {
                Commit::Settled
            } else {
                Commit::Overtaken
            };
        }
        self.claims.remove(&event);
        self.settled.push((event, token, self.now));
        self.know(event, token);
        self.forget_settled(self.settled.len().saturating_sub(self.capacity));
        Commit::Settled
    }

    fn release(&mut self, event: usize, token: FencingToken) {
        if self
            .claims
            .get(&event)
            .is_some_and(|(holder, _)| *holder == token)
        {
            self.claims.remove(&event);
        }
    }

    fn forget_settled(&mut self, count: usize) {
        self.forgotten
            .extend(self.settled.drain(..count).map(|(event, ..)| event));
        let remembered = |event: usize| {
            self.settled
                .iter()
                .any(|(settled, ..)| is_same_job(*settled, event))
        };
        self.forgotten.retain(|event| remembered(*event));
    }

    fn know(&mut self, event: usize, token: FencingToken) {
        self.tokens.entry(event).or_default().push(token);
        self.largest = self.largest.max(Some(token));
    }

    fn counts(&self) -> (usize, usize) {
        (self.settled.len(), self.claims.len())
    }
}

fn is_same_job(one: usize, other: usize) -> bool {
    EVENTS[one].guid() == EVENTS[other].guid()
}

/// Returns whether an event makes another of its job stale.
fn is_later(one: usize, other: usize) -> bool {
    let times = EVENTS[one]
        .ordering_time()
        .zip(EVENTS[other].ordering_time());
    is_same_job(one, other) && times.is_some_and(|(one, other)| one > other)
}
