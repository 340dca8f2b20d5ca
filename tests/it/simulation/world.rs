//! What happened, and what must not.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mx_job_webhook::{Claim, EventName, Job, JobEvent, Ledger as _, Status, Timestamp};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::broken::Broken;
use super::receiver::Receiver;
use super::sender::deliver_until_acknowledged;

/// Longer than any callback takes.
pub(crate) const LEASE: Duration = Duration::from_secs(2 * 3600);

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
                let mut job = Job::new(format!("JOB-{number}").parse().unwrap(), status);
                if random.u8(..8) > 0 {
                    job.updated_at = Some(Timestamp::from_unix_seconds(updated_at));
                }
                job.error_message = Some(format!("step {step}"));
                jobs.push(job);
            }
        }
        Self {
            jobs,
            restarts: random.u8(..10).saturating_sub(7),
            ledger_errors: [0, 0, 50, 200][random.usize(..4)],
            answer_deadline: random.bool().then_some(Duration::from_secs(4)),
            window: Duration::from_secs([172_800, 172_800, 300][random.usize(..3)]),
            capacity: [1000, 1000, 3][random.usize(..3)],
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
    wrong: Option<String>,
    trace: Vec<String>,
}

#[derive(Clone, Default)]
struct Event {
    /// Whether a callback of it succeeded, or its dead letter was taken, in whichever life.
    succeeded: bool,
    /// Whether a callback of it runs, in this life of the receiver.
    running: bool,
}

/// A callback that runs, until it says that it has finished.
pub(crate) struct Running {
    world: World,
    event: usize,
    life: Arc<watch::Sender<bool>>,
    finished: bool,
}

impl Running {
    pub(crate) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !*self.life.borrow() {
            return;
        }
        let mut state = self.world.state();
        state.events[self.event].running = false;
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
        self.judge_what_is_left().await;
        let wrong = self.state().wrong.take();
        // The receiver holds the world, and the world the receiver.
        self.state().receiver = None;
        wrong.map_or(Ok(()), Err)
    }

    /// Nothing is left running or in flight when nobody delivers any more.
    async fn judge_what_is_left(&self) {
        let receiver = self.receiver();
        let left = receiver.background.drain(sleep(LEASE)).await;
        self.must(left == 0, || format!("{left} callbacks never ended"));
        let in_flight = receiver.ledger.in_flight();
        let excused = self.state().ledger_erred;
        self.must(in_flight == 0 || excused, || {
            format!("{in_flight} events stayed in flight")
        });
        // Where the ledger could not be told, the lease has to do it.
        sleep(LEASE).await;
        let jobs = self.state().plan.jobs.clone();
        for job in &jobs {
            let Ok(claim) = receiver.ledger.claim(&EventName::of(job), LEASE).await;
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
        state
            .events
            .iter_mut()
            .for_each(|event| event.running = false);
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
        if std::mem::replace(&mut state.events[index].running, true) {
            state.fail(format!("two callbacks of {name} ran at once"));
        }
        drop(state);
        Running {
            world: self.clone(),
            event: index,
            life: self.receiver().alive,
            finished: false,
        }
    }

    pub(crate) fn succeeded(&self, event: &JobEvent) {
        let index = self.index(&EventName::of(event));
        let mut state = self.state();
        state.trace(format!("succeeded {index}"));
        state.events[index].succeeded = true;
    }

    pub(crate) fn committed(&self, event: &EventName) {
        let index = self.index(event);
        let mut state = self.state();
        state.trace(format!("committed {index}"));
        state.committed.push((index, Instant::now()));
    }

    /// A delivery was answered; gives whether by 2xx, and then it must have been earned.
    pub(crate) fn answered(&self, index: usize, status: u16) -> bool {
        let mut state = self.state();
        state.trace(format!("answered {index} {status}"));
        let acknowledged = (200..300).contains(&status);
        if acknowledged && !state.events[index].succeeded && !state.is_stale(index) {
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

    pub(crate) fn ledger_errs(&self) -> bool {
        let mut state = self.state();
        let errors = state.plan.ledger_errors;
        let errs = state.random.u32(..1000) < errors;
        state.ledger_erred |= errs;
        errs
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
            other.guid == job.guid && other.updated_at > job.updated_at && job.updated_at.is_some()
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
