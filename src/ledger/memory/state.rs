//! The state of the ledger: three tables that are kept consistent.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::time::{Duration, SystemTime};

use super::fingerprint::{BuildIdentityHasher, Fingerprint, JobFingerprint};
use super::{Claim, Commit, EventName};
use crate::event::FencingToken;
use crate::job::Timestamp;
use crate::util::deadline::Instant;
use crate::util::later::later;

pub(super) struct State {
    events: HashMap<Fingerprint, Event, BuildIdentityHasher>,
    /// The jobs that have a settled event.
    jobs: HashMap<JobFingerprint, SettledJob, BuildIdentityHasher>,
    /// The settled events, oldest first.
    settled: VecDeque<Settled>,
    last_token: u64,
}

enum Event {
    InFlight { token: FencingToken, until: Instant },
    Settled { by: FencingToken },
}

impl Event {
    fn is_held_by(&self, holder: FencingToken) -> bool {
        matches!(self, Self::InFlight { token, .. } if *token == holder)
    }
}

struct SettledJob {
    /// The latest time of its settled events.
    latest: Option<Timestamp>,
    /// How many of its events are settled.
    events: u32,
}

struct Settled {
    at: Instant,
    event: Fingerprint,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            events: HashMap::default(),
            jobs: HashMap::default(),
            settled: VecDeque::new(),
            last_token: first_token(),
        }
    }

    pub(super) fn settled(&self) -> usize {
        self.settled.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.events.len() - self.settled.len()
    }

    pub(super) fn claim(&mut self, event: &EventName, now: Instant, lease: Duration) -> Claim {
        let key = Fingerprint::of(event);
        let entry = self.events.entry(key);
        if let Entry::Occupied(known) = &entry {
            match known.get() {
                Event::Settled { .. } => return Claim::Settled,
                Event::InFlight { until, .. } if now < *until => return Claim::InFlight,
                Event::InFlight { .. } => {}
            }
        }
        let job = self.jobs.get(&key.job);
        let latest = job.and_then(|job| job.latest);
        // If either has no time, the event is not stale: `None` is less than any `Some`.
        if event
            .ordering_time()
            .is_some_and(|this| Some(this) < latest)
        {
            if let Entry::Occupied(expired) = entry {
                expired.remove();
            }
            return Claim::Stale;
        }
        self.last_token = self.last_token.saturating_add(1);
        let token = FencingToken::new(self.last_token);
        let until = later(now, lease);
        entry.insert_entry(Event::InFlight { token, until });
        Claim::Granted(token)
    }

    pub(super) fn commit(
        &mut self,
        event: &EventName,
        token: FencingToken,
        now: Instant,
    ) -> Commit {
        let key = Fingerprint::of(event);
        let settled = Event::Settled { by: token };
        match self.events.get_mut(&key) {
            Some(Event::Settled { by }) if *by == token => return Commit::Settled,
            Some(Event::Settled { .. }) => return Commit::Overtaken,
            // The holder has succeeded, even if another delivery has claimed the event.
            Some(in_flight) => *in_flight = settled,
            None => _ = self.events.insert(key, settled),
        }
        self.last_token = self.last_token.max(token.get());
        let job = self.jobs.entry(key.job).or_insert(SettledJob {
            latest: None,
            events: 0,
        });
        job.latest = job.latest.max(event.ordering_time());
        job.events += 1;
        self.settled.push_back(Settled {
            at: now,
            event: key,
        });
        Commit::Settled
    }

    pub(super) fn release(&mut self, event: &EventName, token: FencingToken) {
        if let Entry::Occupied(known) = self.events.entry(Fingerprint::of(event)) {
            if known.get().is_held_by(token) {
                known.remove();
            }
        }
    }

    /// Forgets the settled events that are older than the window.
    pub(super) fn forget_expired(&mut self, now: Instant, window: Duration) {
        // If the clock cannot express the end of the window, the event does not expire.
        let is_expired =
            |settled: &Settled| settled.at.checked_add(window).is_some_and(|end| end <= now);
        while self.settled.front().is_some_and(is_expired) {
            self.forget_oldest();
        }
    }

    /// Forgets the oldest settled events until the capacity is not exceeded.
    pub(super) fn forget_excess(&mut self, capacity: usize) {
        while self.settled.len() > capacity {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(Settled { event, .. }) = self.settled.pop_front() else {
            return;
        };
        self.events.remove(&event);
        if let Some(settled) = self.jobs.get_mut(&event.job) {
            settled.events -= 1;
            if settled.events == 0 {
                self.jobs.remove(&event.job);
            }
        }
    }
}

/// Returns the token before the first one: the microseconds since 1970.
///
/// A process makes less than one token a microsecond, so tokens also grow across restarts.
fn first_token() -> u64 {
    let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or_default()
}
