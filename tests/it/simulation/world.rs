//! Records the events of a run and checks its guarantees.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mx_job_webhook::ledger::{Claim, EventName, Ledger as _};
use mx_job_webhook::{JobEvent, Status};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::broken::{Broken, DELAY};
use super::plan::{LONG, Plan, Planned};
use super::receiver::Receiver;
use super::sender::{deliver, deliver_until_acknowledged};

/// A run and its checks.
#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<State>>);

struct State {
    plan: Plan,
    /// The plan's events, with the crate's names.
    names: Vec<EventName>,
    random: fastrand::Rng,
    broken: Option<Broken>,
    receiver: Option<Receiver>,
    events: Vec<Event>,
    /// The events that this ledger has settled, oldest first.
    committed: Vec<(usize, Instant)>,
    ledger_erred: bool,
    /// The end of a run, without further faults.
    calm: bool,
    wrong: Option<String>,
    trace: Vec<String>,
}

#[derive(Clone, Default)]
struct Event {
    /// Whether a callback or the dead-letter hook succeeded in any life of the receiver.
    succeeded: bool,
    /// Start time of a running callback in this life of the receiver.
    running: Option<Instant>,
    /// Time of a success within its lease in this life of the receiver.
    succeeded_in_time: Option<Instant>,
    /// Whether the ledger has failed for this event since the last success in time, of which it may not know.
    ledger_erred: bool,
}

/// A running callback, until it reports its end.
pub(crate) struct Running {
    world: World,
    event: usize,
    since: Instant,
    life: Arc<watch::Sender<bool>>,
    finished: bool,
}

impl Running {
    /// Returns whether the lease still held.
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
            let name = &state.names[self.event];
            let wrong = format!("the callback of {name} was cancelled");
            state.fail(wrong);
        }
    }
}

impl World {
    pub(crate) fn new(plan: Plan, random: fastrand::Rng, broken: Option<Broken>) -> Self {
        let events = vec![Event::default(); plan.events.len()];
        let names = plan.events.iter().map(Planned::name).collect();
        Self(Arc::new(Mutex::new(State {
            plan,
            names,
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

    /// Runs to the end and checks the guarantees.
    pub(crate) async fn run(self) -> Result<(), String> {
        self.check_the_names();
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
        self.check_the_calm().await;
        self.check_the_remainder().await;
        let wrong = self.state().wrong.take();
        // The receiver and the world hold references to each other.
        self.state().receiver = None;
        wrong.map_or(Ok(()), Err)
    }

    /// Different events have different names: otherwise the second would be taken for a duplicate.
    fn check_the_names(&self) {
        let names = self.state().names.clone();
        for (index, name) in names.iter().enumerate() {
            self.must(!names[..index].contains(name), || {
                format!("two events have the name {name}")
            });
        }
    }

    /// Once every lease has expired and no faults occur, each event is acknowledged and
    /// recorded.
    async fn check_the_calm(&self) {
        // A call to the ledger can be delayed, so a lease can begin after the last sender has left. If the
        // answer to the claim is lost, only the lease's end frees the event.
        sleep(LONG + DELAY).await;
        let events = {
            let mut state = self.state();
            state.trace("calm");
            state.calm = true;
            state.events.len()
        };
        for event in 0..events {
            for _ in 0..2 {
                let acknowledged = deliver(self.clone(), event).await;
                self.must(acknowledged, || {
                    format!("{event} was refused without a reason")
                });
            }
        }
    }

    /// Once deliveries stop, no callback runs and no event is in flight.
    async fn check_the_remainder(&self) {
        let receiver = self.receiver();
        let left = receiver.background.drain(sleep(LONG)).await;
        self.must(left == 0, || format!("{left} callbacks never ended"));
        let in_flight = receiver.ledger.in_flight();
        let excused = self.state().ledger_erred;
        self.must(in_flight == 0 || excused, || {
            format!("{in_flight} events stayed in flight")
        });
        // If the ledger missed the outcome, the claim has to expire with its lease.
        sleep(LONG).await;
        let names = self.state().names.clone();
        for name in &names {
            let Ok(claim) = receiver.ledger.claim(name, LONG).await;
            self.must(claim != Claim::InFlight, || {
                format!("{name} stayed in flight past its lease")
            });
        }
    }

    fn restart(&self) {
        let before = self.state().receiver.take();
        let kept = before.filter(|_| self.plan().keeps_ledger);
        let is_new = kept.is_none();
        let receiver = Receiver::start(self, kept.map(|receiver| receiver.ledger));
        let mut state = self.state();
        state.receiver = Some(receiver);
        if is_new {
            state.committed.clear();
        }
        for event in &mut state.events {
            event.running = None;
            event.succeeded_in_time = None;
        }
        state.trace("restart");
    }

    /// A callback starts: none may be running, and the event may not be stale. After its start,
    /// only the end of the process may cancel it.
    pub(crate) fn started(&self, event: &JobEvent) -> Running {
        let index = self.sent(event);
        let mut state = self.state();
        state.trace(format!("started {index}"));
        let name = state.names[index].clone();
        for (settled, _) in state.remembered() {
            let [this, other] = [index, settled].map(|index| &state.plan.events[index]);
            if settled == index {
                state.fail(format!(
                    "{name} was settled, and its callback started again"
                ));
            } else if other.makes_stale(this) {
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

    /// A callback succeeded, within its lease or later; within the lease, a second success is allowed only
    /// if the ledger may have forgotten the first.
    pub(crate) fn succeeded(&self, event: &JobEvent, in_time: bool) {
        let index = self.sent(event);
        let mut state = self.state();
        let name = state.names[index].clone();
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
                "{name} should have been settled, and its callback succeeded again"
            ));
        }
        state.events[index].ledger_erred = false;
    }

    /// The dead-letter hook succeeded, which counts as a callback's success.
    pub(crate) fn dead_lettered(&self, event: &JobEvent) {
        let index = self.sent(event);
        self.state().events[index].succeeded = true;
    }

    /// The ledger reports that another success was recorded first: then there is one.
    pub(crate) fn overtaken(&self, event: &EventName) {
        let index = self.named(event);
        let mut state = self.state();
        state.trace(format!("overtaken {index}"));
        let mut recorded = state.committed.iter().rev();
        let Some((_, at)) = recorded.find(|(known, _)| *known == index).copied() else {
            return state.fail(format!("a success of {event} was not recorded"));
        };
        // The window starts at the first success; this one does not extend it. One after its lease sets no time,
        // because yet another callback may run within its own.
        if let Some(in_time) = &mut state.events[index].succeeded_in_time {
            *in_time = at;
        }
    }

    pub(crate) fn claimed(&self, event: &EventName) {
        let index = self.named(event);
        self.state().trace(format!("claimed {index}"));
    }

    pub(crate) fn committed(&self, event: &EventName) {
        let index = self.named(event);
        let mut state = self.state();
        state.trace(format!("committed {index}"));
        // A commit repeated because its answer was lost does not extend the window.
        if state.remembered().iter().any(|(known, _)| *known == index) {
            return;
        }
        state.committed.push((index, Instant::now()));
    }

    /// The sender of a delivery did not wait for its answer.
    pub(crate) fn left(&self, index: usize) {
        self.state().trace(format!("left {index}"));
    }

    /// A delivery was answered. Returns whether by 2xx, which requires a success.
    pub(crate) fn answered(&self, index: usize, status: u16) -> bool {
        let mut state = self.state();
        state.trace(format!("answered {index} {status}"));
        let acknowledged = (200..300).contains(&status);
        let wanted = state.plan.events[index].status != Status::Halted;
        let earned = state.events[index].succeeded || state.is_stale(index);
        if acknowledged && wanted && !earned {
            let name = &state.names[index];
            let wrong = format!("{name} was acknowledged before a callback of it had succeeded");
            state.fail(wrong);
        }
        if !acknowledged && !matches!(status, 500 | 503) {
            state.fail(format!("answered {status}"));
        }
        acknowledged
    }

    pub(crate) fn ledger_errs(&self, event: &EventName) -> bool {
        let index = self.named(event);
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
        let event = self.state().plan.events[index].clone();
        self.draw(|random| event.body(random))
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
        std::mem::take(&mut self.state().trace)
    }

    fn must(&self, holds: bool, wrong: impl FnOnce() -> String) {
        if !holds {
            self.state().fail(wrong());
        }
    }

    /// Checks that the sent event has its name in every layout.
    fn sent(&self, event: &JobEvent) -> usize {
        let mut state = self.state();
        let mut events = state.plan.events.iter();
        let index = events.position(|planned| planned.is_in(event)).unwrap();
        let name = EventName::of(event);
        if state.names[index] != name {
            let wrong = format!("{} was given the name {name}", state.names[index]);
            state.fail(wrong);
        }
        index
    }

    fn named(&self, name: &EventName) -> usize {
        let mut state = self.state();
        match state.names.iter().position(|known| known == name) {
            Some(index) => index,
            None => {
                state.fail(format!("no event has the name {name}"));
                0
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    /// The events that the ledger must remember now: the window and the capacity let it forget others.
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
        let this = &self.plan.events[index];
        self.committed.iter().any(|&(settled, _)| {
            let other = &self.plan.events[settled];
            self.events[settled].succeeded && other.makes_stale(this)
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
