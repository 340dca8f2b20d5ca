//! A replica of the application: its callbacks, its watch and its failsafe, until it is killed.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mx_job_webhook::job::JobGuid;
use mx_job_webhook::watch::{Failsafe, JobWatch};
use mx_job_webhook::{
    Background, Credentials, DedupeLayer, Error, JobEvent, JobRouter, JobWebhook, Permanent,
    Receipt,
};
use tokio::sync::Notify;
use tokio::time::sleep;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer as _, ServiceExt as _, service_fn};

use super::broken::{Broken, Unreliable};
use super::world::World;
use crate::support::panic_quietly;

type Jobs = BoxCloneSyncService<JobEvent, Receipt, Error>;

/// How long a claim of the ledger holds. Callbacks are shorter.
const LEASE: Duration = Duration::from_secs(120);

/// One life of a replica.
#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) watch: JobWatch,
    pub(crate) endpoint: JobWebhook<Jobs>,
    pub(crate) life: Arc<Life>,
}

impl Replica {
    pub(crate) fn start(world: &World, index: usize) -> Self {
        let life = Arc::<Life>::default();
        let plan = world.plan();
        let store = Unreliable {
            store: world.store(),
            world: world.clone(),
            replica: index,
            life: life.clone(),
        };
        let watch = JobWatch::new(store).with_patience(plan.patience);
        let dedupe = DedupeLayer::new(world.ledger()).with_lease(LEASE);
        let inner = Jobs::new(dedupe.layer(callbacks(world)));
        let inner = match world.broken() {
            Some(Broken::HearsBeforeSuccess) => pretending(inner),
            _ => inner,
        };
        let jobs = observed(world, Jobs::new(watch.layer().layer(inner)));
        // What runs on in the background ends with the process too.
        let spawning = life.clone();
        let background = Background::new().with_spawn(move |task| {
            tokio::spawn(while_alive(spawning.clone(), task));
        });
        let (reading, hook) = (world.clone(), world.clone());
        let failsafe = Failsafe::new(&watch, jobs.clone(), move |job| read(reading.clone(), job))
            .with_background(background.clone())
            .with_limit(plan.limit)
            .with_pauses(Duration::from_secs(5), Duration::from_secs(60))
            .on_given_up(move |given_up| {
                let world = hook.clone();
                async move {
                    if world.calm_or(1, |random| random.u8(..4)) == 0 {
                        return Err("nobody to tell");
                    }
                    world.told(&given_up);
                    Ok(())
                }
            });
        let run = failsafe.run_until(std::future::pending::<()>());
        tokio::spawn(while_alive(life.clone(), run));
        Self {
            watch,
            endpoint: JobWebhook::new(Credentials::unauthenticated(), jobs)
                .with_background(background),
            life,
        }
    }
}

/// Whether a process is alive. Those who wait for its end hear of it in order, unlike with tokio's
/// `watch`, so that a seed always gives the same run.
#[derive(Default)]
pub(crate) struct Life {
    has_ended: AtomicBool,
    end: Notify,
}

impl Life {
    pub(crate) fn is_over(&self) -> bool {
        self.has_ended.load(Ordering::SeqCst)
    }

    pub(crate) fn end(&self) {
        self.has_ended.store(true, Ordering::SeqCst);
        self.end.notify_waiters();
    }
}

/// Runs until the process is killed. Then the future is dropped.
pub(crate) async fn while_alive<T>(life: Arc<Life>, future: impl Future<Output = T>) -> Option<T> {
    let mut end = pin!(life.end.notified());
    end.as_mut().enable();
    if life.is_over() {
        return None;
    }
    tokio::select! {
        biased;
        () = end => None,
        output = future => Some(output),
    }
}

/// Tells the world what is acknowledged.
fn observed(world: &World, jobs: Jobs) -> Jobs {
    let world = world.clone();
    Jobs::new(service_fn(move |event: JobEvent| {
        let world = world.clone();
        let call = jobs.clone().oneshot(event.clone());
        async move {
            let receipt = call.await?;
            world.acknowledged(&event, receipt);
            Ok(receipt)
        }
    }))
}

/// Says at once that the callback has succeeded.
fn pretending(inner: Jobs) -> Jobs {
    Jobs::new(service_fn(move |event| {
        tokio::spawn(inner.clone().oneshot(event));
        async { Ok::<_, Error>(Receipt::Handled) }
    }))
}

fn callbacks(world: &World) -> JobRouter {
    let callback = |world: &World| {
        let world = world.clone();
        move |event| handle(world.clone(), event)
    };
    let (letters, others) = (world.clone(), world.clone());
    JobRouter::new()
        .on_completed(callback(world))
        .on_challenged(callback(world))
        .on_denied(callback(world))
        .on_prevented(callback(world))
        .on_dead_letter(move |letter| {
            let world = letters.clone();
            async move { world.took_effect(letter.event()) }
        })
        // HALTED has no callback.
        .on_unhandled(move |unhandled| {
            let world = others.clone();
            async move { world.ignored(unhandled.event()) }
        })
}

async fn handle(world: World, event: JobEvent) -> Result<(), BoxError> {
    let course = world.calm_or(0, |random| random.u8(..16));
    let delay = world.calm_or(0, |random| match random.u8(..20) {
        0..8 => 0,
        8..18 => random.u64(..8_000),
        _ => random.u64(..60_000),
    });
    if delay > 0 {
        sleep(Duration::from_millis(delay)).await;
    }
    match course {
        12 | 13 => return Err("it failed".into()),
        14 => return Err(Permanent::new("it never succeeds").into()),
        15 => panic_quietly(),
        _ => {}
    }
    // As in one transaction with the ledger: it is committed before anything else happens.
    world.took_effect(&event);
    Ok(())
}

async fn read(world: World, job: JobGuid) -> Result<JobEvent, &'static str> {
    let _reading = world.reading(&job);
    let delay = world.calm_or(0, |random| random.u64(..5_000));
    if delay > 0 {
        sleep(Duration::from_millis(delay)).await;
    }
    if world.is_unreadable(&job) {
        return Err("the API fails for this job");
    }
    match world.calm_or(9, |random| random.u8(..12)) {
        0 => Err("the API is down"),
        1 => std::future::pending().await,
        2 => {
            panic_quietly();
            Err("it panicked")
        }
        3 => Ok(world.older_state(&job)),
        _ => Ok(world.state_of(&job)),
    }
}
