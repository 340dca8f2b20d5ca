//! What is remembered, in three tables that fit each other.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::time::{Duration, SystemTime};

use super::fingerprint::{Fingerprint, Hashed, JobPrint};
use super::{Claim, Commit, EventName};
use crate::event::FencingToken;
use crate::job::Timestamp;
use crate::util::deadline::Instant;

pub(super) struct State {
    events: HashMap<Fingerprint, Event, Hashed>,
    /// Those jobs of which an event is settled.
    jobs: HashMap<JobPrint, SettledJob, Hashed>,
    /// Oldest first.
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
    last: Option<Timestamp>,
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
        let key = event.fingerprint();
        let entry = self.events.entry(key);
        if let Entry::Occupied(known) = &entry {
            match known.get() {
                Event::Settled { .. } => return Claim::Settled,
                Event::InFlight { until, .. } if now < *until => return Claim::InFlight,
                Event::InFlight { .. } => {}
            }
        }
        let job = self.jobs.get(&key.job);
        let last = job.and_then(|job| job.last);
        // Without a time, on either side, there is no before: `None` is less than any `Some`.
        if event.ordering_time().is_some_and(|this| Some(this) < last) {
            if let Entry::Occupied(over) = entry {
                over.remove();
            }
            return Claim::Stale;
        }
        self.last_token = self.last_token.saturating_add(1);
        let token = FencingToken::new(self.last_token);
        // A lease beyond what the clock can tell ends never, or in this case in a year.
        let until = now
            .checked_add(lease)
            .unwrap_or_else(|| now + Duration::from_secs(31_536_000));
        entry.insert_entry(Event::InFlight { token, until });
        Claim::Granted(token)
    }

    pub(super) fn commit(
        &mut self,
        event: &EventName,
        token: FencingToken,
        now: Instant,
    ) -> Commit {
        let key = event.fingerprint();
        let settled = Event::Settled { by: token };
        match self.events.get_mut(&key) {
            Some(Event::Settled { by }) if *by == token => return Commit::Settled,
            Some(Event::Settled { .. }) => return Commit::Overtaken,
            // Whatever became of the claim, its holder has succeeded.
            Some(in_flight) => *in_flight = settled,
            None => _ = self.events.insert(key, settled),
        }
        self.last_token = self.last_token.max(token.get());
        let job = self.jobs.entry(key.job).or_insert(SettledJob {
            last: None,
            events: 0,
        });
        job.last = job.last.max(event.ordering_time());
        job.events += 1;
        self.settled.push_back(Settled {
            at: now,
            event: key,
        });
        Commit::Settled
    }

    pub(super) fn release(&mut self, event: &EventName, token: FencingToken) {
        if let Entry::Occupied(known) = self.events.entry(event.fingerprint()) {
            if known.get().is_held_by(token) {
                known.remove();
            }
        }
    }

    /// Drops settled events that are older than the window.
    pub(super) fn forget_what_is_old(&mut self, now: Instant, window: Duration) {
        // A window whose end no clock can tell is never over.
        let over = |oldest: &Settled| oldest.at.checked_add(window).is_some_and(|end| end <= now);
        while self.settled.front().is_some_and(over) {
            self.forget_the_oldest();
        }
    }

    /// Drops settled events that are more than the capacity.
    pub(super) fn forget_what_is_too_much(&mut self, capacity: usize) {
        while self.settled.len() > capacity {
            self.forget_the_oldest();
        }
    }

    fn forget_the_oldest(&mut self) {
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

/// The microseconds since 1970: more tokens than that no process gives in the time between two
/// starts, so they go on growing over a restart.
fn first_token() -> u64 {
    let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or_default()
}
