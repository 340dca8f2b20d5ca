//! Running a scenario under many schedules, and what several scenarios need.

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Poll;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use mx_job_webhook_concurrency::{Background, Job, JobEvent, Status, fault};
use shuttle::future::{block_on, spawn, yield_now};
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, Runner};

/// The seed of each test's schedules.
const SEED: u64 = 18;

/// How often PCT changes the order of priorities within a schedule. Few changes find most faults.
const CHANGES: usize = 3;

/// The most schedules of a test that runs all of them.
const MOST: usize = 200_000;

/// Runs a scenario under random schedules, and as many of PCT, which prefers long runs of one thread.
pub(crate) fn check(scenario: fn()) {
    let schedules = std::env::var("MX_SCHEDULES").map_or(500, |number| number.parse().unwrap());
    assert!(schedules > 0, "MX_SCHEDULES is 0");
    run(RandomScheduler::new_from_seed(SEED, schedules), scenario);
    run(
        PctScheduler::new_from_seed(SEED, CHANGES, schedules),
        scenario,
    );
}

/// Runs a small scenario under each of its schedules. It must not use random numbers.
pub(crate) fn check_all(scenario: impl Fn() + Send + Sync + 'static) {
    let schedules = run(DfsScheduler::new(Some(MOST), false), scenario);
    assert!(schedules < MOST, "there are more schedules");
    println!("all {schedules} schedules");
}

/// Checks that the test fails in one of these ways if this fault is there.
pub(crate) fn notices(fault: &'static str, failures: &[&str], test: fn()) {
    let faulty = std::thread::spawn(move || {
        fault::turn_on(fault);
        let _count = PrintCount(fault);
        test();
    });
    let Err(panic) = faulty.join() else {
        panic!("{fault:?} is not noticed");
    };
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    let text = text.expect("shuttle panics with a text");
    let is_expected = failures.iter().any(|failure| text.contains(failure));
    assert!(is_expected, "{fault:?} fails otherwise: {text}");
}

fn run(scheduler: impl Scheduler + 'static, scenario: impl Fn() + Send + Sync + 'static) -> usize {
    let mut config = Config::new();
    config.stack_size = 256 * 1024;
    config.failure_persistence = FailurePersistence::Print;
    // It warns of atomics that are not sequentially consistent: see `src/lib.rs`.
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(move || {
        SCHEDULES.set(SCHEDULES.get() + 1);
        scenario();
    })
}

thread_local! {
    /// How many schedules this thread has run.
    static SCHEDULES: Cell<usize> = const { Cell::new(0) };
}

/// Prints in which schedule a fault was noticed. `--show-output` shows it.
struct PrintCount(&'static str);

impl Drop for PrintCount {
    fn drop(&mut self) {
        println!("{:?}: schedule {}", self.0, SCHEDULES.get());
    }
}

/// Counts callbacks. Its counters are not shuttle's, so counting adds no schedules.
#[derive(Clone, Default)]
pub(crate) struct Tally(Arc<Counters>);

#[derive(Default)]
struct Counters {
    started: AtomicUsize,
    finished: AtomicUsize,
    reported: AtomicUsize,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Tally {
    /// The body of a callback.
    pub(crate) async fn callback(self) {
        let Counters {
            started,
            finished,
            running,
            most,
            ..
        } = &*self.0;
        started.fetch_add(1, SeqCst);
        let running = Running::start(running, most);
        yield_now().await;
        drop(running);
        finished.fetch_add(1, SeqCst);
    }

    pub(crate) fn report(&self) {
        self.0.reported.fetch_add(1, SeqCst);
    }

    pub(crate) fn started(&self) -> usize {
        self.0.started.load(SeqCst)
    }

    pub(crate) fn finished(&self) -> usize {
        self.0.finished.load(SeqCst)
    }

    pub(crate) fn reported(&self) -> usize {
        self.0.reported.load(SeqCst)
    }

    pub(crate) fn running(&self) -> usize {
        self.0.running.load(SeqCst)
    }

    /// Returns how many ran at once at most.
    pub(crate) fn most(&self) -> usize {
        self.0.most.load(SeqCst)
    }
}

/// A callback between its start and its end, or the drop of its future.
struct Running<'a>(&'a AtomicUsize);

impl<'a> Running<'a> {
    fn start(running: &'a AtomicUsize, most: &AtomicUsize) -> Self {
        let now = running.fetch_add(1, SeqCst) + 1;
        most.fetch_max(now, SeqCst);
        Self(running)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

pub(crate) fn event(status: Status) -> JobEvent {
    Job::new("JOB-1".parse().unwrap(), status).into()
}

pub(crate) fn delivery(authorization: &str) -> Request<Full<Bytes>> {
    Request::post("/")
        .header("authorization", authorization)
        .header("content-type", "application/json")
        .body(Full::from(r#"{"job": {"guid": "JOB-1", "status": 6}}"#))
        .unwrap()
}

/// Callbacks whose sender hangs up continue as shuttle's tasks.
pub(crate) fn background() -> Background {
    Background::new().with_spawn(|task| drop(spawn(task)))
}

/// Drains without a deadline. If a permit is lost, shuttle reports a deadlock.
pub(crate) fn drain(background: &Background) {
    assert_eq!(block_on(background.drain(pending::<()>())), 0);
    assert_eq!(background.running(), 0, "a permit was returned twice");
}

/// Polls a future, and drops it after so many polls, as a web server does when the sender hangs up.
pub(crate) async fn hang_up_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut left = polls;
    let output = poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    // Others may run before the future is dropped.
    shuttle::thread::yield_now();
    output
}

/// Returns a random number up to this one, which shuttle replays with the schedule.
pub(crate) fn up_to(most: usize) -> usize {
    use shuttle::rand::Rng as _;
    shuttle::rand::thread_rng().gen_range(0..=most)
}
