//! A ledger as a user would write it: it conforms, and the suite finds each of its faults.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use mx_job_webhook::event::FencingToken;
use mx_job_webhook::job::{JobGuid, Timestamp};
use mx_job_webhook::ledger::{Claim, Commit, EventName, Ledger, MemoryLedger};
use mx_job_webhook::testing::check_ledger;
use tokio::task::yield_now;
use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    GrantsWhatIsInFlight,
    GrantsWhatIsSettled,
    ForgetsWhatIsInFlightOnceALaterOneIsSettled,
    SaysStaleBeforeSettled,
    NeverSaysStale,
    SaysStaleOfTheSameTime,
    SaysStaleOfOtherJobs,
    SaysStaleAlthoughTheLaterOneIsInFlight,
    EndsNoLease,
    EndsLeasesAtOnce,
    GivesTheSameToken,
    GivesTheSameTokenAfterALease,
    CommitsTwiceWithAnyToken,
    CommitsTwiceWithALaterToken,
    CommitsOnlyOnce,
    CommitsOnlyInTime,
    ForgetsTheSuccessOfTheOvertaken,
    ForgetsTheSuccessOnceItsOvertakerHasFailed,
    ForgetsASuccessItKnowsNothingOf,
    LetsTheOvertakerReleaseWhatIsSettled,
    ReleasesWithAnyToken,
    ReleasesWhatIsSettled,
    ReleasesNothing,
    NamesEventsByTheirJob,
    CutsNamesShort,
    TakesTimesAsFloats,
    TakesTimesAsSeconds,
    RefusesLongLeases,
    GrantsInTwoSteps,
    OrdersByTimesInTheFuture,
    SaysStaleOfEventsWithoutATime,
    ShortensTheSecondLease,
    KeepsADroppedClaimForEver,
    ForgetsASuccessAfterItsRelease,
    ForgetsALateSuccessOfAStaleEvent,
    /// This is none: a claim without a lease may hold for a moment, by the ledger's own clock.
    KeepsADroppedClaimForASecond,
}

#[derive(Default)]
struct OwnLedger {
    fault: Option<Fault>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    events: HashMap<String, Entry>,
    released: Vec<(String, FencingToken)>,
    last_token: u64,
}

struct Entry {
    job: JobGuid,
    at: Option<Timestamp>,
    token: FencingToken,
    until: Option<Instant>,
    settled: bool,
}

impl OwnLedger {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn name(&self, event: &EventName) -> String {
        let name = event.to_string();
        match self.fault {
            Some(Fault::NamesEventsByTheirJob) => event.guid().to_string(),
            Some(Fault::CutsNamesShort) => name.chars().take(255).collect(),
            _ => name,
        }
    }

    fn time(&self, event: &EventName) -> Option<Timestamp> {
        match self.fault {
            Some(Fault::OrdersByTimesInTheFuture) => event.ordering_time().or_else(|| {
                let seconds = event.to_string().rsplit(' ').next()?.parse().ok()?;
                Some(Timestamp::from_unix_seconds(seconds))
            }),
            _ => event.ordering_time(),
        }
    }

    fn is_later(&self, entry: &Entry, event: &EventName) -> bool {
        let name = event.to_string();
        let is_in_seconds = name.rsplit(' ').next().unwrap().parse::<i64>().is_ok();
        let has_date = event.ordering_time().is_some() || is_in_seconds;
        if self.has(Fault::SaysStaleOfEventsWithoutATime) && !has_date {
            return entry.at.is_some();
        }
        let (Some(this), Some(other)) = (self.time(event), entry.at) else {
            return false;
        };
        match self.fault {
            Some(Fault::NeverSaysStale) => false,
            Some(Fault::SaysStaleOfTheSameTime) => other >= this,
            #[allow(
                clippy::cast_precision_loss,
                reason = "this loss of precision is the fault"
            )]
            Some(Fault::TakesTimesAsFloats) => {
                other.unix_seconds() as f64 > this.unix_seconds() as f64
            }
            Some(Fault::TakesTimesAsSeconds) => other.unix_seconds() > this.unix_seconds(),
            _ => other > this,
        }
    }

    fn claim_at_once(&self, event: &EventName, lease: Duration) -> Result<Claim, &'static str> {
        let mut state = self.state.lock().unwrap();
        let now = Instant::now();
        let is_stale = state.events.values().any(|entry| {
            (entry.settled || self.has(Fault::SaysStaleAlthoughTheLaterOneIsInFlight))
                && (entry.job == *event.guid() || self.has(Fault::SaysStaleOfOtherJobs))
                && self.is_later(entry, event)
        });
        if is_stale && self.has(Fault::SaysStaleBeforeSettled) {
            return Ok(Claim::Stale);
        }
        if let Some(entry) = state.events.get(&self.name(event)) {
            let leased =
                entry.until.is_none_or(|until| now < until) || self.has(Fault::EndsNoLease);
            let forgets = self.has(Fault::ForgetsWhatIsInFlightOnceALaterOneIsSettled) && is_stale;
            if entry.settled && !self.has(Fault::GrantsWhatIsSettled) {
                return Ok(Claim::Settled);
            }
            if !entry.settled && leased && !forgets && !self.has(Fault::GrantsWhatIsInFlight) {
                return Ok(Claim::InFlight);
            }
        }
        if is_stale {
            return Ok(Claim::Stale);
        }
        if self.has(Fault::RefusesLongLeases) && lease > Duration::from_secs(31_536_000) {
            return Err("out of range");
        }
        state.last_token += u64::from(!self.has(Fault::GivesTheSameToken));
        let known = state.events.get(&self.name(event));
        let is_known = known.is_some();
        let token = match known {
            Some(known) if self.has(Fault::GivesTheSameTokenAfterALease) => known.token,
            _ => FencingToken::new(state.last_token),
        };
        let lease = match self.fault {
            Some(Fault::EndsLeasesAtOnce) => Duration::ZERO,
            Some(Fault::ShortensTheSecondLease) if is_known => lease.min(Duration::from_secs(2)),
            Some(Fault::KeepsADroppedClaimForEver) if lease.is_zero() => Duration::MAX,
            Some(Fault::KeepsADroppedClaimForASecond) => lease.max(Duration::from_secs(1)),
            _ => lease,
        };
        let entry = Entry {
            job: event.guid().clone(),
            at: self.time(event),
            token,
            until: now.checked_add(lease),
            settled: false,
        };
        state.events.insert(self.name(event), entry);
        Ok(Claim::Granted(token))
    }
}

impl Ledger for OwnLedger {
    type Error = &'static str;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, Self::Error> {
        let is_known = self
            .state
            .lock()
            .unwrap()
            .events
            .contains_key(&self.name(event));
        if self.has(Fault::GrantsInTwoSteps) && !is_known {
            yield_now().await;
            self.state.lock().unwrap().events.remove(&self.name(event));
        }
        let claim = self.claim_at_once(event, lease)?;
        let keeps = [
            Fault::KeepsADroppedClaimForEver,
            Fault::KeepsADroppedClaimForASecond,
        ];
        if keeps.map(|fault| self.has(fault)).contains(&true) && lease.is_zero() {
            yield_now().await;
        }
        Ok(claim)
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, Self::Error> {
        let mut state = self.state.lock().unwrap();
        let name = self.name(event);
        let known = state.events.get(&name);
        let is_stale = || {
            let of_job = |it: &&Entry| it.settled && it.job == *event.guid();
            let mut later = state.events.values().filter(of_job);
            later.any(|entry| self.is_later(entry, event))
        };
        let forgets = match known {
            None => {
                // A released claim is no longer there.
                let faults = [
                    Fault::ForgetsASuccessItKnowsNothingOf,
                    Fault::ForgetsTheSuccessOnceItsOvertakerHasFailed,
                ];
                faults.map(|fault| self.has(fault)).contains(&true)
            }
            Some(entry) if entry.settled && entry.token == token => {
                self.has(Fault::CommitsOnlyOnce)
            }
            Some(entry) if entry.settled => {
                let is_later = entry.token < token;
                !(self.has(Fault::CommitsTwiceWithAnyToken)
                    || self.has(Fault::CommitsTwiceWithALaterToken) && is_later)
            }
            Some(entry) if entry.token != token => self.has(Fault::ForgetsTheSuccessOfTheOvertaken),
            Some(entry) => {
                let late = entry.until.is_some_and(|until| until < Instant::now());
                late && (self.has(Fault::CommitsOnlyInTime)
                    || self.has(Fault::ForgetsALateSuccessOfAStaleEvent) && is_stale())
            }
        };
        let was_released = state.released.contains(&(name.clone(), token));
        if forgets || was_released && self.has(Fault::ForgetsASuccessAfterItsRelease) {
            return Ok(Commit::Overtaken);
        }
        let entry = Entry {
            job: event.guid().clone(),
            at: self.time(event),
            token: match known {
                Some(entry) if self.has(Fault::LetsTheOvertakerReleaseWhatIsSettled) => entry.token,
                _ => token,
            },
            until: None,
            settled: true,
        };
        state.events.insert(name, entry);
        Ok(Commit::Settled)
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), Self::Error> {
        let mut state = self.state.lock().unwrap();
        let name = self.name(event);
        state.released.push((name.clone(), token));
        let Some(entry) = state.events.get(&name) else {
            return Ok(());
        };
        if (entry.token == token || self.has(Fault::ReleasesWithAnyToken))
            && (!entry.settled
                || self.has(Fault::ReleasesWhatIsSettled)
                || self.has(Fault::LetsTheOvertakerReleaseWhatIsSettled))
            && !self.has(Fault::ReleasesNothing)
        {
            state.events.remove(&name);
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn the_memory_ledger_conforms() {
    check_ledger(MemoryLedger::new()).await;
}

#[tokio::test(start_paused = true)]
async fn the_users_ledger_conforms() {
    check_ledger(OwnLedger::default()).await;
    check_ledger(OwnLedger {
        fault: Some(Fault::KeepsADroppedClaimForASecond),
        ..OwnLedger::default()
    })
    .await;
}

/// Returns the suite's complaint about a ledger with this fault.
async fn said(fault: Fault) -> Option<String> {
    let own = OwnLedger {
        fault: Some(fault),
        ..OwnLedger::default()
    };
    let panic = tokio::spawn(check_ledger(own)).await.err()?.into_panic();
    Some(panic.downcast_ref::<String>().unwrap().clone())
}

#[tokio::test(start_paused = true)]
async fn the_suite_finds_every_fault_in_its_case() {
    use Fault::*;

    let once = "an event is claimed, settled and then remembered: ";
    let stale = "an older event of the same job is stale: ";
    let first = "an event that is settled or in flight is not stale: ";
    let released = "a released event can be claimed again at once: ";
    let overtaken = "a commit is recorded even if its claim was overtaken: ";
    let unknown = "a commit is recorded even if its claim is lost: ";
    let order = "times are ordered exactly: ";
    let cases = [
        (GrantsWhatIsInFlight, once),
        (GrantsWhatIsSettled, once),
        (NamesEventsByTheirJob, once),
        (EndsLeasesAtOnce, once),
        (ReleasesNothing, released),
        (GivesTheSameToken, released),
        (
            ReleasesWhatIsSettled,
            "a release does not change a settled event: ",
        ),
        (
            CommitsTwiceWithAnyToken,
            "a commit can be repeated with its token: ",
        ),
        (
            CommitsTwiceWithALaterToken,
            "a commit can be repeated with its token: ",
        ),
        (CommitsOnlyOnce, "a commit can be repeated with its token: "),
        (NeverSaysStale, stale),
        (SaysStaleOfTheSameTime, once),
        (SaysStaleAlthoughTheLaterOneIsInFlight, once),
        (SaysStaleOfOtherJobs, stale),
        (SaysStaleBeforeSettled, first),
        (ForgetsWhatIsInFlightOnceALaterOneIsSettled, first),
        (TakesTimesAsFloats, order),
        (TakesTimesAsSeconds, order),
        (ForgetsTheSuccessOfTheOvertaken, unknown),
        (ForgetsASuccessItKnowsNothingOf, unknown),
        (ForgetsTheSuccessOnceItsOvertakerHasFailed, unknown),
        (
            LetsTheOvertakerReleaseWhatIsSettled,
            "a release does not change a settled event: ",
        ),
        (CutsNamesShort, "different names are different events: "),
        (RefusesLongLeases, "a lease of any length is accepted: "),
        (
            ForgetsASuccessAfterItsRelease,
            "a commit is recorded even after a release of its claim: ",
        ),
        (
            ForgetsALateSuccessOfAStaleEvent,
            "an event whose lease has expired can be stale: ",
        ),
        (
            GrantsInTwoSteps,
            "one of many concurrent claims is granted: ",
        ),
        (
            OrdersByTimesInTheFuture,
            "a time in the future makes no event stale: ",
        ),
        (
            SaysStaleOfEventsWithoutATime,
            "an event without a time is not ordered: ",
        ),
        (ShortensTheSecondLease, "a lease expires: "),
        (GivesTheSameTokenAfterALease, "a lease expires: "),
        (KeepsADroppedClaimForEver, "a dropped call does no harm: "),
        (EndsNoLease, ": expected a granted claim, found InFlight"),
        (ReleasesWithAnyToken, overtaken),
        (
            CommitsOnlyInTime,
            "a commit is recorded even after its lease has expired: ",
        ),
    ];
    for (fault, case) in cases {
        let said = said(fault).await.unwrap_or_default();
        assert!(said.contains(case), "{fault:?}: {said:?}");
    }
}
