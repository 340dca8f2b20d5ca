//! Records the events of a run and checks its promises.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mx_job_webhook::job::JobGuid;
use mx_job_webhook::ledger::{EventName, MemoryLedger};
use mx_job_webhook::watch::{GivenUp, Heard, MemoryWatchStore, WatchStore as _};
use mx_job_webhook::{Error, ErrorKind, JobEvent, Receipt, Status};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::broken::Broken;
use super::mx;
use super::plan::{Plan, halted};
use super::replica::{Life, Replica};

/// What a call to the store takes at most.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// A little less than the watch looks back.
const LOOK_BACK: Duration = Duration::from_secs(590);

/// A run and its checks.
#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<State>>);

struct State {
    plan: Plan,
    random: fastrand::Rng,
    broken: Option<Broken>,
    store: MemoryWatchStore,
    ledger: MemoryLedger,
    /// `None` is dead.
    replicas: Vec<Option<Replica>>,
    kills_left: u8,
    jobs: Vec<Job>,
    clients: Vec<JoinHandle<()>>,
    effects: HashMap<EventName, u32>,
    started: Instant,
    /// Since when there are no further faults.
    calm: Option<Instant>,
    wrong: Option<String>,
    trace: Vec<String>,
}

struct Job {
    /// How many events have happened at MX.
    happened: usize,
    is_halted: bool,
    /// How many challenges were answered.
    resumed: watch::Sender<usize>,
    /// Events that were acknowledged as heard, and when.
    acknowledged: Vec<(EventName, Instant)>,
    /// Since when it is expected in the current round.
    expected: Option<Instant>,
    was_expected: bool,
    given_up: Option<Instant>,
    is_abandoned: bool,
    has_ended: bool,
    reads: usize,
}

/// A read under way.
pub(crate) struct Reading {
    world: World,
    job: usize,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.world.state().jobs[self.job].reads -= 1;
    }
}

impl World {
    pub(crate) fn new(plan: Plan, random: fastrand::Rng, broken: Option<Broken>) -> Self {
        let job = |_: &_| Job {
            happened: 0,
            is_halted: false,
            resumed: watch::Sender::new(0),
            acknowledged: Vec::new(),
            expected: None,
            was_expected: false,
            given_up: None,
            is_abandoned: false,
            has_ended: false,
            reads: 0,
        };
        Self(Arc::new(Mutex::new(State {
            jobs: plan.jobs.iter().map(job).collect(),
            replicas: vec![None; plan.replicas],
            kills_left: plan.kills,
            plan,
            random,
            broken,
            store: MemoryWatchStore::new(),
            ledger: MemoryLedger::new(),
            clients: Vec::new(),
            effects: HashMap::new(),
            started: Instant::now(),
            calm: None,
            wrong: None,
            trace: Vec::new(),
        })))
    }

    /// Runs to the end and checks the promises.
    pub(crate) async fn run(self) -> Result<(), String> {
        let plan = self.plan();
        self.state().started = Instant::now();
        for replica in 0..plan.replicas {
            self.restart(replica);
        }
        let jobs: Vec<_> = (0..plan.jobs.len())
            .map(|job| tokio::spawn(mx::run_job(self.clone(), job)))
            .collect();
        sleep(plan.chaos).await;
        self.calm_down();
        let end = plan.limit + Duration::from_secs(2_400);
        for job in jobs {
            let _ = timeout(end, job).await;
        }
        self.check_the_clients(end).await;
        self.check_what_is_due(end).await;
        self.check_the_jobs();
        // Deliveries that are still on their way.
        sleep(Duration::from_secs(450)).await;
        self.check_the_remainder().await;
        self.state().wrong.take().map_or(Ok(()), Err)
    }

    fn calm_down(&self) {
        let dead: Vec<_> = {
            let mut state = self.state();
            state.trace("calm");
            state.calm = Some(Instant::now());
            let dead = state.replicas.iter().enumerate();
            dead.filter(|(_, it)| it.is_none()).map(|it| it.0).collect()
        };
        for replica in dead {
            self.restart(replica);
        }
    }

    /// Everyone who waits hears of their job, or that it was given up.
    async fn check_the_clients(&self, end: Duration) {
        let clients = std::mem::take(&mut self.state().clients);
        for client in clients {
            if timeout(end, client).await.is_err() {
                self.fail("a job that a client waits for was neither heard nor given up");
            }
        }
    }

    async fn check_what_is_due(&self, end: Duration) {
        let store = self.store();
        let end = Instant::now() + end;
        while store.count().await.unwrap().outstanding > 0 && Instant::now() < end {
            sleep(Duration::from_secs(10)).await;
        }
        if store.count().await.unwrap().outstanding > 0 {
            self.fail("a job was neither heard nor given up, and is due for ever");
        }
    }

    fn check_the_jobs(&self) {
        let mut state = self.state();
        for index in 0..state.jobs.len() {
            let job = &state.jobs[index];
            if !job.was_expected || job.given_up.is_some() || job.is_abandoned {
                continue;
            }
            let plan = &state.plan.jobs[index];
            let took_effect = |event: &JobEvent| state.effects.contains_key(&EventName::of(event));
            let heard = plan.events.iter().any(|it| took_effect(&it.event));
            let halted = job.is_halted && took_effect(&halted(&plan.guid).event);
            let last = took_effect(&plan.events.last().unwrap().event);
            // A job of which a client has not heard the end may rest at a challenge.
            let is_fulfilled = match job.has_ended {
                true => last || halted,
                false => heard || halted,
            };
            if !is_fulfilled {
                let wrong = format!("{} was neither heard nor given up", plan.guid);
                state.fail(wrong);
            }
        }
    }

    /// Nothing leaks: no waiters, no entries, no tasks.
    async fn check_the_remainder(&self) {
        let plan = self.plan();
        for index in 0..plan.replicas {
            let replica = self.state().replicas[index].clone();
            let Some(replica) = replica else { continue };
            if !format!("{:?}", replica.watch).contains("waiting: 0,") {
                self.fail(format!("{:?} is left waiting", replica.watch));
            }
            drop(replica);
            self.kill(index);
        }
        sleep(Duration::from_secs(3_700)).await;
        let tasks = tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks();
        if tasks > 0 {
            self.fail(format!("{tasks} tasks are left"));
        }
        let store = self.store();
        for job in &plan.jobs {
            let loaded = store.load(&[job.guid.parse().unwrap()]).await.unwrap();
            if !loaded.is_empty() {
                self.fail(format!("an entry of {} is left", job.guid));
            }
        }
        let in_flight = self.ledger().in_flight();
        if in_flight > 0 && plan.kills == 0 {
            self.fail(format!("{in_flight} events stayed in flight"));
        }
    }

    fn kill(&self, replica: usize) {
        let killed = self.state().replicas[replica].take();
        if let Some(killed) = killed {
            killed.life.end();
        }
    }

    fn restart(&self, index: usize) {
        let replica = Replica::start(self, index);
        let mut state = self.state();
        state.replicas[index] = Some(replica);
        state.trace(format!("replica {index} starts"));
    }

    /// Returns whether the process dies at this step. It is started again later.
    pub(crate) fn dies(&self, index: usize, life: &Life, deadly: u32) -> bool {
        let later = {
            let mut state = self.state();
            if life.is_over() || state.calm.is_some() || state.kills_left == 0 {
                return false;
            }
            if state.random.u32(..deadly) > 0 {
                return false;
            }
            state.kills_left -= 1;
            state.trace(format!("replica {index} dies"));
            Duration::from_millis(state.random.u64(..60_000))
        };
        self.kill(index);
        let world = self.clone();
        tokio::spawn(async move {
            sleep(later).await;
            let is_dead = world.state().replicas[index].is_none();
            if is_dead {
                world.restart(index);
            }
        });
        true
    }

    /// Whether a call to the store fails, and then whether it hangs.
    pub(crate) fn store_errs(&self) -> Option<bool> {
        let mut state = self.state();
        let errors = state.plan.store_errors;
        let errs = state.calm.is_none() && state.random.u32(..1_000) < errors;
        errs.then(|| state.random.u8(..3) == 0)
    }

    pub(crate) fn happened(&self, job: usize, step: usize) {
        let mut state = self.state();
        state.jobs[job].happened = step + 1;
        state.trace(format!("event {step} of {job} happens"));
    }

    pub(crate) fn halted(&self, job: usize) {
        let mut state = self.state();
        state.jobs[job].is_halted = true;
        state.trace(format!("{job} is halted"));
    }

    pub(crate) fn resumed(&self, job: usize) -> watch::Receiver<usize> {
        self.state().jobs[job].resumed.subscribe()
    }

    pub(crate) fn resume(&self, job: usize, challenge: &EventName) {
        let mut state = self.state();
        let mut events = state.plan.jobs[job].events.iter();
        let step = events.position(|it| EventName::of(&it.event) == *challenge);
        state.trace(format!("{job} is resumed after {step:?}"));
        let resumed = step.map_or(0, |step| step + 1);
        let sender = &state.jobs[job].resumed;
        sender.send_if_modified(|before| {
            let is_later = resumed > *before;
            *before = resumed.max(*before);
            is_later
        });
    }

    /// What MX answers now.
    pub(crate) fn state_of(&self, guid: &JobGuid) -> JobEvent {
        let job = self.named(guid);
        let state = self.state();
        let plan = &state.plan.jobs[job];
        match state.jobs[job].is_halted {
            true => halted(&plan.guid).event,
            false => plan.state(state.jobs[job].happened),
        }
    }

    pub(crate) fn is_unreadable(&self, guid: &JobGuid) -> bool {
        let job = self.named(guid);
        self.state().plan.jobs[job].is_unreadable
    }

    pub(crate) fn older_state(&self, guid: &JobGuid) -> JobEvent {
        let job = self.named(guid);
        let mut state = self.state();
        let happened = state.jobs[job].happened;
        let older = state.random.usize(..=happened);
        state.plan.jobs[job].state(older)
    }

    /// A read starts: nobody else may read the job.
    pub(crate) fn reading(&self, guid: &JobGuid) -> Reading {
        let job = self.named(guid);
        let mut state = self.state();
        state.trace(format!("{job} is read"));
        state.jobs[job].reads += 1;
        if state.jobs[job].reads > 1 {
            state.fail(format!("{guid} is read twice at once"));
        }
        Reading {
            world: self.clone(),
            job,
        }
    }

    /// A callback succeeds: once for each event.
    pub(crate) fn took_effect(&self, event: &JobEvent) {
        let name = EventName::of(event);
        let mut state = self.state();
        state.trace(format!("effect of {name}"));
        let times = state.effects.entry(name.clone()).or_default();
        *times += 1;
        if *times > 1 {
            state.fail(format!("{name} took effect twice"));
        }
    }

    /// An event without a callback.
    pub(crate) fn ignored(&self, event: &JobEvent) {
        let name = EventName::of(event);
        self.state().effects.insert(name, 1);
    }

    /// A delivery succeeds, or a read of the failsafe that is handled like one.
    pub(crate) fn acknowledged(&self, event: &JobEvent, receipt: Receipt) {
        let job = self.named(&event.guid);
        let name = EventName::of(event);
        let mut state = self.state();
        state.trace(format!("{name} is acknowledged: {receipt:?}"));
        if receipt == Receipt::Stale {
            return;
        }
        state.must_have_taken_effect(&name);
        state.jobs[job].acknowledged.push((name, Instant::now()));
    }

    pub(crate) fn expects_anew(&self, job: usize) {
        self.state().jobs[job].expected = None;
    }

    /// The job is recorded as expected.
    pub(crate) fn expected(&self, job: usize) {
        let mut state = self.state();
        state.trace(format!("{job} is expected"));
        let job = &mut state.jobs[job];
        job.was_expected = true;
        job.expected.get_or_insert_with(Instant::now);
    }

    /// A client hears of an event: its callback has succeeded, and it is news to the client.
    pub(crate) fn heard(
        &self,
        job: usize,
        replica: usize,
        heard: &Heard,
        seen: Option<&EventName>,
    ) {
        let mut state = self.state();
        let name = heard.name();
        state.trace(format!("{job} is heard of on {replica}: {name}"));
        state.must_have_taken_effect(name);
        let Some(seen) = seen.filter(|_| heard.status == Status::Challenged) else {
            return;
        };
        let [time, seen_time] = [name, seen].map(EventName::ordering_time);
        let is_older = matches!((time, seen_time), (Some(time), Some(seen)) if time < seen);
        if name == seen || is_older {
            state.fail(format!("{name} was heard of after {seen}"));
        }
    }

    /// A client was told that nothing was heard.
    pub(crate) fn not_heard(&self, job: usize, seen: Option<&EventName>, started: Instant) {
        let mut state = self.state();
        state.trace(format!("{job} is not heard of"));
        let latest = Instant::now() - STORE_TIMEOUT - Duration::from_millis(100);
        let missed = state.jobs[job].acknowledged.iter().find(|(name, at)| {
            let counts = seen.is_none() || *name.status() != Status::Challenged;
            counts && *at < latest && started.saturating_duration_since(*at) < LOOK_BACK
        });
        if let Some((name, _)) = missed {
            let wrong = format!("{job} was not heard of, although {name} was acknowledged");
            state.fail(wrong);
        }
    }

    /// The watch reported that its store is down.
    pub(crate) fn store_failed(&self, job: usize, error: &Error) {
        let mut state = self.state();
        state.trace(format!("{job}: {error:#}"));
        let is_calm = state
            .calm
            .is_some_and(|at| at.elapsed() > 3 * STORE_TIMEOUT);
        if is_calm || error.kind() != ErrorKind::WatchUnavailable {
            state.fail(format!("{error:#}, without a reason"));
        }
    }

    /// A hook was told that a job was given up.
    pub(crate) fn told(&self, given_up: &GivenUp) {
        let job = self.named(given_up.job());
        let mut state = self.state();
        state.trace(format!("{job} is given up"));
        state.jobs[job].given_up = Some(Instant::now());
        let ended = state.jobs[job].acknowledged.iter().find(|(name, at)| {
            let ended = *name.status() != Status::Challenged;
            let recently = at.elapsed() < LOOK_BACK;
            ended && recently && at.elapsed() > 2 * STORE_TIMEOUT
        });
        if let Some((name, _)) = ended {
            let wrong = format!("{job} was given up, although {name} was acknowledged");
            state.fail(wrong);
        }
        if given_up.expected_for() < state.plan.limit || given_up.reads() == 0 {
            state.fail(format!("{job} was given up too early"));
        }
    }

    pub(crate) fn is_given_up(&self, job: usize) -> bool {
        let job = &self.state().jobs[job];
        matches!((job.given_up, job.expected), (Some(at), Some(expected)) if at >= expected)
    }

    pub(crate) fn abandoned(&self, job: usize) {
        self.state().jobs[job].is_abandoned = true;
    }

    pub(crate) fn ended(&self, job: usize) {
        self.state().jobs[job].has_ended = true;
    }

    pub(crate) fn start_client(&self, client: JoinHandle<()>) {
        self.state().clients.push(client);
    }

    /// Returns a replica that is alive, or none if the load balancer has not noticed yet.
    pub(crate) fn any_replica(&self) -> Option<(usize, Replica)> {
        let mut state = self.state();
        let count = state.replicas.len();
        let index = state.random.usize(..count);
        Some((index, state.replicas[index].clone()?))
    }

    pub(crate) fn draw<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.state().random)
    }

    /// Draws, unless there are no further faults.
    pub(crate) fn calm_or<T>(&self, calm: T, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        let mut state = self.state();
        match state.calm {
            Some(_) => calm,
            None => draw(&mut state.random),
        }
    }

    pub(crate) fn plan(&self) -> Plan {
        self.state().plan.clone()
    }

    pub(crate) fn broken(&self) -> Option<Broken> {
        self.state().broken
    }

    pub(crate) fn store(&self) -> MemoryWatchStore {
        self.state().store.clone()
    }

    pub(crate) fn ledger(&self) -> MemoryLedger {
        self.state().ledger.clone()
    }

    pub(crate) fn take_trace(&self) -> Vec<String> {
        std::mem::take(&mut self.state().trace)
    }

    /// The replicas and the world hold references to each other.
    pub(crate) fn forget_the_replicas(&self) {
        let replicas = std::mem::take(&mut self.state().replicas);
        drop(replicas);
    }

    fn named(&self, guid: &JobGuid) -> usize {
        let state = self.state();
        let mut jobs = state.plan.jobs.iter();
        jobs.position(|job| job.guid == guid.as_str()).unwrap()
    }

    fn fail(&self, wrong: impl Into<String>) {
        self.state().fail(wrong.into());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    fn must_have_taken_effect(&mut self, name: &EventName) {
        if !self.effects.contains_key(name) {
            self.fail(format!("{name} was heard of before its callback succeeded"));
        }
    }

    fn fail(&mut self, wrong: String) {
        self.trace(wrong.clone());
        self.wrong.get_or_insert(wrong);
    }

    fn trace(&mut self, what: impl Into<String>) {
        let at = self.started.elapsed().as_millis();
        self.trace.push(format!("{at}: {}", what.into()));
    }
}
