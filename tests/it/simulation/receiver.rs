//! The receiver: a process that answers deliveries until it is killed.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mx_job_webhook::dedupe::Dedupe;
use mx_job_webhook::ledger::MemoryLedger;
use mx_job_webhook::{
    Background, Credentials, DedupeLayer, Error, JobEvent, JobRouter, JobWebhook, Permanent,
    Receipt,
};
use tokio::sync::watch;
use tokio::task::coop::{consume_budget, unconstrained};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer as _, ServiceExt as _};

use super::broken::Unreliable;
use super::world::World;

/// The callbacks, with middleware around them.
type Callbacks = BoxCloneSyncService<JobEvent, Receipt, Error>;

/// One life of the receiver.
#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) endpoint: JobWebhook<Dedupe<Callbacks, Unreliable>>,
    pub(crate) ledger: MemoryLedger,
    pub(crate) background: Background,
    /// Whether it lives.
    pub(crate) alive: Arc<watch::Sender<bool>>,
}

impl Receiver {
    pub(crate) fn start(world: &World) -> Self {
        let alive = Arc::new(watch::Sender::new(true));
        let plan = world.plan();
        let ledger = MemoryLedger::new()
            .with_window(plan.window)
            .with_capacity(plan.capacity);
        // What runs on dies with the process, as everything else does.
        let life = alive.clone();
        let background = Background::new().with_spawn(move |task| {
            let mut life = life.subscribe();
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    _ = life.wait_for(|alive| !alive) => {}
                    () = task => {}
                }
            });
        });
        let dedupe = DedupeLayer::new(Unreliable {
            ledger: ledger.clone(),
            world: world.clone(),
            broken: world.broken(),
            alive: alive.clone(),
            granted: Mutex::default(),
        })
        .with_lease(plan.lease);
        let endpoint = JobWebhook::new(
            Credentials::unauthenticated(),
            dedupe.layer(callbacks(world)),
        )
        .with_background(background.clone())
        .with_answer_deadline(plan.answer_deadline);
        Self {
            endpoint,
            ledger,
            background,
            alive,
        }
    }

    pub(crate) fn kill(&self) {
        self.alive.send_replace(false);
    }
}

fn callbacks(world: &World) -> Callbacks {
    let (handling, letters) = (world.clone(), world.clone());
    let router = JobRouter::new()
        .on_completed({
            let world = handling.clone();
            move |event| handle(&world, event)
        })
        .on_challenged(move |event| handle(&handling, event))
        .on_dead_letter(move |letter| {
            let taken = letters.draw(fastrand::Rng::bool);
            if taken {
                letters.dead_lettered(letter.event());
            }
            async move {
                if taken {
                    Ok(())
                } else {
                    Err("nowhere to put it")
                }
            }
        });
    // A panic of the router's callbacks never gets out of it; one of middleware does.
    let world = world.clone();
    Callbacks::new(router.map_request(move |event| {
        if !world.is_calm() && world.draw(|random| random.u8(..50)) == 0 {
            panic_quietly();
        }
        event
    }))
}

/// What a callback may do.
enum Course {
    Succeed,
    Fail,
    FailForGood,
    Panic,
    PanicAtOnce,
    /// It returns success, and what it held panics when it is dropped.
    PanicWhenDropped,
}

/// A callback's future, with what is dropped after it.
struct Callback<F> {
    future: Pin<Box<F>>,
    _guard: Option<Guard>,
}

impl<F: Future> Future for Callback<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.future.as_mut().poll(context)
    }
}

/// Panics when it is dropped; in the unwinding of another panic that would end the process.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic_quietly();
        }
    }
}

/// Sleeps, and uses up the task's budget each time it is polled: a timer that went by the budget
/// would then never fire.
async fn sleep_hungrily(duration: Duration) {
    let mut sleep = pin!(unconstrained(tokio::time::sleep(duration)));
    poll_fn(|context| {
        let mut eating = pin!(async {
            loop {
                consume_budget().await;
            }
        });
        // Nobody is woken, or the clock would never move.
        let _: Poll<()> = eating
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        sleep.as_mut().poll(context)
    })
    .await;
}

/// A panic that no hook prints ten thousand times.
fn panic_quietly() -> ! {
    std::panic::resume_unwind(Box::new(()))
}

fn draw_course(world: &World) -> (Course, u64) {
    world.draw(|random| {
        let course = match random.u8(..20) {
            0..11 => Course::Succeed,
            11..15 => Course::Fail,
            15 => Course::FailForGood,
            16 => Course::PanicAtOnce,
            17 => Course::PanicWhenDropped,
            _ => Course::Panic,
        };
        let delay = match random.u8(..20) {
            0..4 => 0,
            4..18 => random.u64(..8_000),
            // Past a lease that is short, and not past all the retries.
            18 => random.u64(30_000..400_000),
            // It stalls, for less than the lease.
            _ => 3_600_000,
        };
        (course, delay)
    })
}

fn handle(
    world: &World,
    event: JobEvent,
) -> impl Future<Output = Result<(), BoxError>> + Send + use<> {
    let (course, delay) = if world.is_calm() {
        (Course::Succeed, 0)
    } else {
        draw_course(world)
    };
    let hungry = world.draw(|random| random.u8(..4)) == 0;
    let running = world.started(&event);
    if matches!(course, Course::PanicAtOnce) {
        running.finish();
        panic_quietly();
    }
    let world = world.clone();
    let guard = matches!(course, Course::PanicWhenDropped).then(|| Guard);
    let future = async move {
        match Duration::from_millis(delay) {
            Duration::ZERO => {}
            delay if hungry => sleep_hungrily(delay).await,
            delay => tokio::time::sleep(delay).await,
        }
        let in_time = running.finish();
        match course {
            Course::Succeed => {
                world.succeeded(&event, in_time);
                Ok(())
            }
            Course::Fail => Err("it failed".into()),
            Course::FailForGood => Err(Permanent::new("it failed for good").into()),
            Course::Panic | Course::PanicAtOnce => panic_quietly(),
            Course::PanicWhenDropped => Ok(()),
        }
    };
    Callback {
        future: Box::pin(future),
        _guard: guard,
    }
}
