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
    /// Whether it is alive.
    pub(crate) alive: Arc<watch::Sender<bool>>,
}

impl Receiver {
    /// Starts with the ledger of the life before, if there is one.
    pub(crate) fn start(world: &World, ledger: Option<MemoryLedger>) -> Self {
        let alive = Arc::new(watch::Sender::new(true));
        let plan = world.plan();
        let ledger = ledger.unwrap_or_else(|| {
            MemoryLedger::new()
                .with_window(plan.window)
                .with_capacity(plan.capacity)
        });
        // Background callbacks end with the process, like everything else.
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
    // A panic in a router's callback never escapes; a panic in middleware does.
    let world = world.clone();
    Callbacks::new(router.map_request(move |event| {
        if !world.is_calm() && world.draw(|random| random.u8(..50)) == 0 {
            panic_quietly();
        }
        event
    }))
}

/// The possible behaviours of a callback.
enum Behavior {
    Succeed,
    Fail,
    FailForGood,
    Panic,
    PanicAtOnce,
    /// It returns success, and its value panics when dropped.
    PanicWhenDropped,
}

/// A callback's future and a value dropped after it.
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

/// Panics when dropped; during another panic that would abort the process.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic_quietly();
        }
    }
}

/// Sleeps and uses up the task's budget at each poll: a timer that depends on the budget
/// would then never fire.
async fn sleep_hungrily(duration: Duration) {
    let mut sleep = pin!(unconstrained(tokio::time::sleep(duration)));
    poll_fn(|context| {
        let mut eating = pin!(async {
            loop {
                consume_budget().await;
            }
        });
        // No task is woken here, or the clock would not advance.
        let _: Poll<()> = eating
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        sleep.as_mut().poll(context)
    })
    .await;
}

/// Panics without calling the panic hook, which would otherwise print ten thousand times.
fn panic_quietly() -> ! {
    std::panic::resume_unwind(Box::new(()))
}

fn draw_behavior(world: &World) -> (Behavior, u64) {
    world.draw(|random| {
        let course = match random.u8(..20) {
            0..11 => Behavior::Succeed,
            11..15 => Behavior::Fail,
            15 => Behavior::FailForGood,
            16 => Behavior::PanicAtOnce,
            17 => Behavior::PanicWhenDropped,
            _ => Behavior::Panic,
        };
        let delay = match random.u8(..20) {
            0..4 => 0,
            4..18 => random.u64(..8_000),
            // Past a short lease, and not past all the retries.
            18 => random.u64(30_000..400_000),
            // It stalls for less than the lease.
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
        (Behavior::Succeed, 0)
    } else {
        draw_behavior(world)
    };
    let hungry = world.draw(|random| random.u8(..4)) == 0;
    let running = world.started(&event);
    if matches!(course, Behavior::PanicAtOnce) {
        running.finish();
        panic_quietly();
    }
    let world = world.clone();
    let guard = matches!(course, Behavior::PanicWhenDropped).then(|| Guard);
    let future = async move {
        match Duration::from_millis(delay) {
            Duration::ZERO => {}
            delay if hungry => sleep_hungrily(delay).await,
            delay => tokio::time::sleep(delay).await,
        }
        let in_time = running.finish();
        match course {
            Behavior::Succeed => {
                world.succeeded(&event, in_time);
                Ok(())
            }
            Behavior::Fail => Err("it failed".into()),
            Behavior::FailForGood => Err(Permanent::new("it failed permanently").into()),
            Behavior::Panic | Behavior::PanicAtOnce => panic_quietly(),
            Behavior::PanicWhenDropped => Ok(()),
        }
    };
    Callback {
        future: Box::pin(future),
        _guard: guard,
    }
}
