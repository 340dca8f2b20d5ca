//! What happened, and what must not.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mx_job_webhook::{Claim, EventName, Job, JobEvent, Ledger as _, Status, Timestamp};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::broken::Broken;
use super::receiver::Receiver;
use super::sender::{deliver, deliver_until_acknowledged};

/// Longer than any callback takes, and any lease that a run has.
const LONG: Duration = Duration::from_secs(2 * 3600);

/// What is decided before a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    jobs: Vec<Job>,
    restarts: u8,
    /// In a thousand calls of the ledger.
    ledger_errors: u32,
    pub(crate) answer_deadline: Option<Duration>,
    pub(crate) window: Duration,
    pub(crate) capacity: usize,
    pub(crate) lease: Duration,
}

impl Plan {
    pub(crate) fn draw(random: &mut fastrand::Rng) -> Self {
        let mut jobs = Vec::new();
        for number in 0..random.usize(1..=3) {
            let mut updated_at = 1_471_281_212;
            for step in 0..random.usize(1..=4) {
                // The ends of two steps can fall in one second; what is then the same event is
                // told apart by its status.
                let status = if step % 2 == 0 {
                    Status::Challenged
                } else {
                    Status::Completed
                };
                updated_at += random.i64(if step % 2 == 0 { 1..3 } else { 0..3 });
                // Now and then one that no callback is registered for.
                let status = if random.u8(..8) == 0 {
                    Status::Halted
                } else {
                    status
                };
                let mut job = Job::new(format!("JOB-{number}").parse().unwrap(), status);
                if random.u8(..8) > 0 {
                    job.updated_at = Some(Timestamp::from_unix_seconds(updated_at));
                }
                job.error_message = Some(format!("step {step}"));
                let name = EventName::of(&job);
                if jobs.iter().all(|other| EventName::of(other) != name) {
                    jobs.push(job);
                }
            }
        }
        Self {
            jobs,
            restarts: random.u8(..10).saturating_sub(7),
            ledger_errors: [0, 0, 50, 200][random.usize(..4)],
            answer_deadline: random.bool().then_some(Duration::from_secs(4)),
            window: Duration::from_secs([172_800, 172_800, 300][random.usize(..3)]),
            capacity: [1000, 1000, 3][random.usize(..3)],
            lease: [LONG, LONG, Duration::from_secs(60)][random.usize(..3)],
        }
    }
}

/// A run, and the judge of it.
#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<State>>);

struct State {
    plan: Plan,
    random: fastrand::Rng,
    broken: Option<Broken>,
    receiver: Option<Receiver>,
    events: Vec<Event>,
    /// The settled events of this life of the receiver, oldest first.
    committed: Vec<(usize, Instant)>,
    ledger_erred: bool,
    /// The end of a run, in which nothing goes wrong any more.
    calm: bool,
    wrong: Option<String>,
    trace: Vec<String>,
}

#[derive(Clone, Default)]
struct Event {
    /// Whether a callback of it succeeded, or its dead letter was taken, in whichever life.
    succeeded: bool,
    /// Since when a callback of it runs, in this life of the receiver.
    running: Option<Instant>,
    /// When one succeeded within its lease, in this life of the receiver.
    succeeded_in_time: Option<Instant>,
    /// Whether the ledger erred over it, and so may not know of a success.
    ledger_erred: bool,
}

/// A callback that runs, until it says that it has finished.
pub(crate) struct Running {
    world: World,
    event: usize,
    since: Instant,
    life: Arc<watch::Sender<bool>>,
    finished: bool,
}

impl Running {
    /// Says whether the lease still held.
    pub(crate) fn finish(mut self) -> bool {
        self.finished = true;
        self.since.elapsed() < self.world.plan().lease
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !*self.life.borrow() {
            return;
        }
        let mut state = self.world.state();
        state.events[self.event].running = None;
        if !self.finished {
            let name = EventName::of(&state.plan.jobs[self.event]);
            state.fail(format!("the callback of {name} was cut short"));
        }
    }
}

impl World {
    pub(crate) fn new(plan: Plan, random: fastrand::Rng, broken: Option<Broken>) -> Self {
        let events = vec![Event::default(); plan.jobs.len()];
        Self(Arc::new(Mutex::new(State {
            plan,
            random,
            broken,
            receiver: None,
            events,
            committed: Vec::new(),
            ledger_erred: false,
            calm: false,
            wrong: None,
            trace: Vec::new(),
        })))
    }

    /// Runs it to its end, and judges it.
    pub(crate) async fn run(self) -> Result<(), String> {
        self.restart();
        let (events, restarts) = {
            let state = self.state();
            (state.events.len(), state.plan.restarts)
        };
        let senders: Vec<_> = (0..events)
            .map(|event| tokio::spawn(deliver_until_acknowledged(self.clone(), event)))
            .collect();
        for _ in 0..restarts {
            let later = self.draw(|random| random.u64(..120_000));
            sleep(Duration::from_millis(later)).await;
            self.receiver().kill();
            self.restart();
        }
        for sender in senders {
            sender.await.map_err(|error| error.to_string())?;
        }
        self.judge_the_calm().await;
        self.judge_what_is_left().await;
        let wrong = self.state().wrong.take();
        // The receiver holds the world, and the world the receiver.
        self.state().receiver = None;
        wrong.map_or(Ok(()), Err)
    }

    /// Once every lease is over and nothing goes wrong any more, each event is acknowledged, and
    /// then known.
    async fn judge_the_calm(&self) {
        sleep(LONG).await;
        self.state().calm = true;
        let events = self.state().events.len();
        for event in 0..events {
            for _ in 0..2 {
                let acknowledged = deliver(self.clone(), event).await;
                self.must(acknowledged, || {
                    format!("{event} was refused without a reason")
                });
            }
        }
    }

    /// Nothing is left running or in flight when nobody delivers any more.
    async fn judge_what_is_left(&self) {
        let receiver = self.receiver();
        let left = receiver.background.drain(sleep(LONG)).await;
        self.must(left == 0, || format!("{left} callbacks never ended"));
        let in_flight = receiver.ledger.in_flight();
        let excused = self.state().ledger_erred;
        self.must(in_flight == 0 || excused, || {
            format!("{in_flight} events stayed in flight")
        });
        // Where the ledger could not be told, the lease has to do it.
        sleep(LONG).await;
        let jobs = self.state().plan.jobs.clone();
        for job in &jobs {
            let Ok(claim) = receiver.ledger.claim(&EventName::of(job), LONG).await;
            self.must(claim != Claim::InFlight, || {
                format!("{} stayed in flight past its lease", EventName::of(job))
            });
        }
    }

    fn restart(&self) {
        let receiver = Receiver::start(self);
        let mut state = self.state();
        state.receiver = Some(receiver);
        state.committed.clear();
        for event in &mut state.events {
            event.running = None;
            event.succeeded_in_time = None;
        }
        state.trace("restart");
    }

    /// A callback starts: it must not be a second one, nor that of a stale event. Once started,
    /// nothing but the end of the process may keep it from its own end.
    pub(crate) fn started(&self, event: &JobEvent) -> Running {
        let index = self.index(&EventName::of(event));
        let mut state = self.state();
        state.trace(format!("started {index}"));
        let name = EventName::of(event);
        for (settled, _) in state.remembered() {
            let other = &state.plan.jobs[settled];
            if settled == index {
                state.fail(format!(
                    "{name} was settled, and its callback started again"
                ));
            } else if other.guid == event.guid
                && other.updated_at > event.updated_at
                && event.updated_at.is_some()
            {
                state.fail(format!("{name} was stale, and its callback started"));
            }
        }
        let before = state.events[index].running.replace(Instant::now());
        if before.is_some_and(|since| since.elapsed() < state.plan.lease) {
            state.fail(format!("two callbacks of {name} ran at once"));
        }
        drop(state);
        Running {
            world: self.clone(),
            event: index,
            since: Instant::now(),
            life: self.receiver().alive,
            finished: false,
        }
    }

    /// A callback succeeded, while its lease held or later; a second time only if the ledger may
    /// have forgotten the first.
    pub(crate) fn succeeded(&self, event: &JobEvent, in_time: bool) {
        let name = EventName::of(event);
        let index = self.index(&name);
        let mut state = self.state();
        state.trace(format!("succeeded {index}"));
        state.events[index].succeeded = true;
        if !in_time {
            return;
        }
        let before = state.events[index]
            .succeeded_in_time
            .replace(Instant::now());
        let remembered = before.is_some_and(|at| {
            let settled_since = state.committed.iter().filter(|(_, then)| *then >= at);
            at.elapsed() < state.plan.window && settled_since.count() <= state.plan.capacity
        });
        if remembered && !state.events[index].ledger_erred {
            state.fail(format!(
                "{name} was to be settled, and its callback succeeded again"
            ));
        }
    }

    /// The hook took it, which is as good as a callback that succeeded.
    pub(crate) fn dead_lettered(&self, event: &JobEvent) {
        let index = self.index(&EventName::of(event));
        self.state().events[index].succeeded = true;
    }

    pub(crate) fn committed(&self, event: &EventName) {
        let index = self.index(event);
        let mut state = self.state();
        state.trace(format!("committed {index}"));
        // Committed again, because the answer to the first was lost, it is no younger.
        if state.remembered().iter().any(|(known, _)| *known == index) {
            return;
        }
        state.committed.push((index, Instant::now()));
    }

    /// A delivery was answered; gives whether by 2xx, and then it must have been earned.
    pub(crate) fn answered(&self, index: usize, status: u16) -> bool {
        let mut state = self.state();
        state.trace(format!("answered {index} {status}"));
        let acknowledged = (200..300).contains(&status);
        let wanted = state.plan.jobs[index].status != Status::Halted;
        let earned = state.events[index].succeeded || state.is_stale(index);
        if acknowledged && wanted && !earned {
            let name = EventName::of(&state.plan.jobs[index]);
            state.fail(format!(
                "{name} was acknowledged, and no callback of it had succeeded"
            ));
        }
        if !acknowledged && !matches!(status, 500 | 503) {
            state.fail(format!("answered {status}"));
        }
        acknowledged
    }

    pub(crate) fn ledger_errs(&self, event: &EventName) -> bool {
        let index = self.index(event);
        let mut state = self.state();
        let errors = state.plan.ledger_errors;
        let errs = !state.calm && state.random.u32(..1000) < errors;
        state.ledger_erred |= errs;
        state.events[index].ledger_erred |= errs;
        errs
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.state().calm
    }

    pub(crate) fn draw<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.state().random)
    }

    pub(crate) fn body(&self, index: usize) -> String {
        let job = serde_json::to_string(&self.state().plan.jobs[index]).unwrap();
        format!("{{\"job\":{job}}}")
    }

    pub(crate) fn plan(&self) -> Plan {
        self.state().plan.clone()
    }

    pub(crate) fn broken(&self) -> Option<Broken> {
        self.state().broken
    }

    pub(crate) fn receiver(&self) -> Receiver {
        self.state().receiver.clone().unwrap()
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.state().trace.clone()
    }

    fn must(&self, holds: bool, wrong: impl FnOnce() -> String) {
        if !holds {
            self.state().fail(wrong());
        }
    }

    fn index(&self, name: &EventName) -> usize {
        let state = self.state();
        let mut jobs = state.plan.jobs.iter();
        jobs.position(|job| EventName::of(job) == *name).unwrap()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    /// What the ledger has to remember now: the window and the capacity allow it to forget.
    fn remembered(&self) -> Vec<(usize, Instant)> {
        let oldest = self.committed.len().saturating_sub(self.plan.capacity);
        let now = Instant::now();
        self.committed[oldest..]
            .iter()
            .filter(|(_, at)| now.duration_since(*at) < self.plan.window)
            .copied()
            .collect()
    }

    fn is_stale(&self, index: usize) -> bool {
        let job = &self.plan.jobs[index];
        self.committed.iter().any(|&(settled, _)| {
            let other = &self.plan.jobs[settled];
            self.events[settled].succeeded
                && other.guid == job.guid
                && other.updated_at > job.updated_at
                && job.updated_at.is_some()
        })
    }

    fn fail(&mut self, wrong: String) {
        self.trace(wrong.clone());
        self.wrong.get_or_insert(wrong);
    }

    fn trace(&mut self, what: impl Into<String>) {
        self.trace.push(what.into());
    }
}
