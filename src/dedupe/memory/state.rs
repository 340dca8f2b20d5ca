//! What is remembered, in three tables that fit each other.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::time::{Duration, SystemTime};

use super::{Claim, Commit, EventName, FencingToken};
use crate::Timestamp;
use crate::deadline::Instant;

pub(super) struct State {
    events: HashMap<EventKey, Event, Hashed>,
    /// Those jobs of which an event is settled.
    jobs: HashMap<JobKey, SettledJob, Hashed>,
    /// Oldest first.
    settled: VecDeque<Settled>,
    last_token: u64,
    hasher: RandomState,
}

/// Stands for a job: a hash of its guid. It is keyed with what nobody else knows, so that nobody
/// can make two collide; by chance, two of 100,000 jobs do once in three billion processes. A
/// third of the memory that the names themselves would take.
#[derive(Clone, Copy, PartialEq, Eq)]
struct JobKey(u64);

/// Stands for an event: its job, and a hash of what tells it from the others of that job.
#[derive(Clone, Copy, PartialEq, Eq)]
struct EventKey {
    job: JobKey,
    event: u64,
}

/// Takes a key, which is a hash already, for its hash.
type Hashed = BuildHasherDefault<Taken>;

#[derive(Default)]
struct Taken(u64);

impl Hasher for Taken {
    fn write(&mut self, _: &[u8]) {
        unreachable!("a key is written as one number");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Hash for JobKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

impl Hash for EventKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.job.0 ^ self.event);
    }
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
    event: EventKey,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            events: HashMap::default(),
            jobs: HashMap::default(),
            settled: VecDeque::new(),
            last_token: first_token(),
            hasher: RandomState::new(),
        }
    }

    pub(super) fn settled(&self) -> usize {
        self.settled.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.events.len() - self.settled.len()
    }

    pub(super) fn claim(&mut self, event: &EventName, now: Instant, lease: Duration) -> Claim {
        let key = self.key(event);
        match self.events.get(&key) {
            Some(Event::Settled { .. }) => return Claim::Settled,
            Some(Event::InFlight { until, .. }) if now < *until => return Claim::InFlight,
            _ => {}
        }
        let job = self.jobs.get(&key.job);
        let last = job.and_then(|job| job.last);
        // Without a time, on either side, there is no before: `None` is less than any `Some`.
        if event.updated_at().is_some_and(|this| Some(this) < last) {
            self.events.remove(&key);
            return Claim::Stale;
        }
        self.last_token += 1;
        let token = FencingToken::new(self.last_token);
        // A lease beyond what the clock can tell ends never, or in this case in a year.
        let until = now
            .checked_add(lease)
            .unwrap_or(now + Duration::from_secs(31_536_000));
        self.events.insert(key, Event::InFlight { token, until });
        Claim::Granted(token)
    }

    pub(super) fn commit(
        &mut self,
        event: &EventName,
        token: FencingToken,
        now: Instant,
    ) -> Commit {
        let key = self.key(event);
        match self.events.get_mut(&key) {
            Some(Event::Settled { by }) if *by == token => return Commit::Settled,
            Some(event) if event.is_held_by(token) => *event = Event::Settled { by: token },
            _ => return Commit::Overtaken,
        }
        let job = self.jobs.entry(key.job).or_insert(SettledJob {
            last: None,
            events: 0,
        });
        job.last = job.last.max(event.updated_at());
        job.events += 1;
        self.settled.push_back(Settled {
            at: now,
            event: key,
        });
        Commit::Settled
    }

    pub(super) fn release(&mut self, event: &EventName, token: FencingToken) {
        let key = self.key(event);
        let held = self.events.get(&key);
        if held.is_some_and(|event| event.is_held_by(token)) {
            self.events.remove(&key);
        }
    }

    /// Drops settled events that are too old or too many, the oldest first.
    pub(super) fn forget(&mut self, now: Instant, window: Duration, capacity: usize) {
        while let Some(oldest) = self.settled.front() {
            let too_old = now.saturating_duration_since(oldest.at) >= window;
            if !too_old && self.settled.len() <= capacity {
                return;
            }
            let event = oldest.event;
            self.settled.pop_front();
            self.events.remove(&event);
            if let Some(settled) = self.jobs.get_mut(&event.job) {
                settled.events -= 1;
                if settled.events == 0 {
                    self.jobs.remove(&event.job);
                }
            }
        }
    }

    fn key(&self, name: &EventName) -> EventKey {
        let mut hasher = self.hasher.build_hasher();
        name.guid().as_str().hash(&mut hasher);
        let job = JobKey(hasher.finish());
        name.within_its_job().hash(&mut hasher);
        let event = hasher.finish();
        EventKey { job, event }
    }
}

/// The microseconds since 1970: more tokens than that no process gives in the time between two
/// starts, so they go on growing over a restart.
fn first_token() -> u64 {
    let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or_default()
}
