//! The receiver: a process that answers deliveries until it is killed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mx_job_webhook::{
    Background, Credentials, Dedupe, DedupeLayer, Error, JobEvent, JobRouter, JobWebhookEndpoint,
    MemoryLedger, Permanent, Receipt,
};
use tokio::sync::watch;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer as _, ServiceExt as _};

use super::broken::Unreliable;
use super::world::World;

/// The callbacks, with middleware around them.
type Callbacks = BoxCloneSyncService<JobEvent, Receipt, Error>;

/// One life of the receiver.
#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) endpoint: JobWebhookEndpoint<Dedupe<Callbacks, Unreliable>>,
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
        .with_lease(plan.lease)
        .with_background(background.clone());
        let endpoint = JobWebhookEndpoint::new(
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
    let running = world.started(&event);
    if matches!(course, Course::PanicAtOnce) {
        running.finish();
        panic_quietly();
    }
    let world = world.clone();
    async move {
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
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
        }
    }
}
