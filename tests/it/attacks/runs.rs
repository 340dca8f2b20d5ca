//! Attacks on runs outside of a mount, on stored and rebuilt events, and on their reports.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mx_job_webhook::acknowledge_first::AcknowledgeFirstLayer;
use mx_job_webhook::event::FencingToken;
use mx_job_webhook::ledger::{Claim, Commit, EventName, Ledger, MemoryLedger};
use mx_job_webhook::{
    Background, BoxJobService, Credentials, DedupeLayer, ErrorKind, Job, JobEvent, JobRouter,
    JobWebhook, Receipt, Status,
};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tower::{Layer as _, Service as _, ServiceBuilder, ServiceExt as _, service_fn};

use crate::observability::capture::Capture;
use crate::support::{SAMPLE, delivery};

fn event(guid: &str) -> JobEvent {
    Job::new(guid.parse().unwrap(), Status::Completed).into()
}

const SECOND: Duration = Duration::from_secs(1);

// Permits.

/// `with_capacity` "sets how many callbacks may run at once", and `running` "returns how many callbacks are running".
#[tokio::test(start_paused = true)]
async fn a_callback_that_fans_out_stays_within_the_capacity() {
    let background = Background::new().with_capacity(4);
    let at_once = Arc::new(AtomicUsize::new(0));
    let counter = at_once.clone();
    let inner = JobRouter::new().on_completed(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        sleep(SECOND)
    });
    let tracker = background.clone();
    let outer = JobRouter::new().on_halted(move |_| {
        for _ in 0..100 {
            tokio::spawn(tracker.run(inner.clone(), event("JOB-1")));
        }
        async {}
    });
    let halted: JobEvent = Job::new("JOB-0".parse().unwrap(), Status::Halted).into();
    background.run(outer, halted).await.unwrap();
    sleep(SECOND / 2).await;
    let running = background.running();
    let at_once = at_once.load(Ordering::SeqCst);
    assert!(
        at_once <= 4,
        "{at_once} callbacks run at once with 4 permits, and `running()` says {running}"
    );
}

/// `drain` "returns how many callbacks were still running at the deadline".
#[tokio::test(start_paused = true)]
async fn a_drain_counts_the_callbacks_that_a_callback_left_running() {
    let background = Background::new();
    let tracker = background.clone();
    let inner = JobRouter::new().on_completed(|_| pending::<()>());
    let outer = JobRouter::new().on_halted(move |_| {
        for _ in 0..3 {
            tokio::spawn(tracker.run(inner.clone(), event("JOB-1")));
        }
        async {}
    });
    let halted: JobEvent = Job::new("JOB-0".parse().unwrap(), Status::Halted).into();
    background.run(outer, halted).await.unwrap();
    assert_eq!(background.drain(sleep(SECOND)).await, 3);
}

/// A started callback finishes, with the events that it runs one after another.
#[tokio::test(start_paused = true)]
async fn a_callback_may_run_further_events_after_a_drain_has_begun() {
    let background = Background::new().with_capacity(1);
    let tracker = background.clone();
    let ended = Arc::new(AtomicUsize::new(0));
    let count = ended.clone();
    let inner = JobRouter::new().on_completed(move |_| {
        let count = count.clone();
        async move {
            sleep(SECOND).await;
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let outer = JobRouter::new().on_halted(move |_| {
        let (tracker, inner) = (tracker.clone(), inner.clone());
        async move {
            for _ in 0..3 {
                tracker.run(inner.clone(), event("JOB-1")).await?;
            }
            Ok::<_, mx_job_webhook::Error>(())
        }
    });
    let halted: JobEvent = Job::new("JOB-0".parse().unwrap(), Status::Halted).into();
    let outer = tokio::spawn(background.run(outer, halted));
    sleep(SECOND / 2).await;
    assert_eq!(background.drain(sleep(10 * SECOND)).await, 0);
    assert_eq!(ended.load(Ordering::SeqCst), 3);
    assert_eq!(outer.await.unwrap().unwrap(), Receipt::Handled);
}

// Events that are stored by a service of events which is not a `JobRouter`.

/// Delivers a sample to a mount whose jobs are `service_fn`, and returns the stored event.
async fn event_of_a_service_fn(background: &Background) -> JobEvent {
    let (sender, mut events) = mpsc::unbounded_channel();
    let jobs = service_fn(move |event: JobEvent| {
        let sender = sender.clone();
        async move { sender.send(event).map_err(|_| "closed") }
    });
    let webhooks =
        JobWebhook::new(Credentials::unauthenticated(), jobs).with_background(background.clone());
    let answer = webhooks.oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(answer.status(), 204);
    events.recv().await.unwrap()
}

#[tokio::test]
async fn an_event_stored_by_a_service_fn_does_not_keep_what_the_mount_spawns_on() {
    let runtime = Arc::new(());
    let of_the_spawn_function = runtime.clone();
    let background = Background::new().with_spawn(move |task| {
        let _runtime = &of_the_spawn_function;
        drop(task);
    });
    let stored = event_of_a_service_fn(&background).await;
    drop(background);
    assert_eq!(Arc::strong_count(&runtime), 1, "{stored:?} keeps it");
}

#[tokio::test]
async fn an_event_stored_by_a_service_fn_is_accepted_after_the_mount_was_drained() {
    let of_the_mount = Background::new();
    let stored = event_of_a_service_fn(&of_the_mount).await;
    assert_eq!(of_the_mount.drain(pending::<()>()).await, 0);
    let jobs = ServiceBuilder::new()
        .layer(AcknowledgeFirstLayer::new(|_| {}))
        .service(JobRouter::new().on_completed(|_| async {}));
    let outcome = jobs.oneshot(stored).await;
    assert_eq!(outcome.map_err(|error| error.kind()), Ok(Receipt::Accepted));
}

/// A ledger whose first commits fail.
#[derive(Clone)]
struct FailsAtFirst(MemoryLedger, Arc<AtomicUsize>);

impl Ledger for FailsAtFirst {
    type Error = &'static str;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, Self::Error> {
        self.0.claim(event, lease).await.map_err(|_| "never")
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, Self::Error> {
        let left = self.1.load(Ordering::SeqCst);
        if left > 0 {
            self.1.store(left - 1, Ordering::SeqCst);
            return Err("down");
        }
        self.0.commit(event, token).await.map_err(|_| "never")
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), Self::Error> {
        self.0.release(event, token).await.map_err(|_| "never")
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_of_an_event_stored_by_a_service_fn_does_not_go_to_the_mount_that_is_over() {
    let of_the_mount = Background::new().with_spawn(drop);
    let stored = event_of_a_service_fn(&of_the_mount).await;
    let ledger = FailsAtFirst(MemoryLedger::new(), Arc::new(AtomicUsize::new(200)));
    let jobs = DedupeLayer::new(ledger.clone()).layer(JobRouter::new().on_completed(|_| async {}));
    let error = jobs.oneshot(stored).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LedgerUnavailable);
    sleep(Duration::from_secs(300)).await;
    assert_eq!(ledger.0.settled(), 1, "the callback has succeeded");
}

// Middleware that makes a new event.

/// "The `Background` of the mount … bounds and drains the callbacks." Before, the layer took it as its argument.
#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_an_acknowledged_event_that_middleware_has_rebuilt() {
    let background = Background::new();
    let ended = Arc::new(AtomicUsize::new(0));
    let count = ended.clone();
    let jobs = ServiceBuilder::new()
        .map_request(|event: JobEvent| JobEvent::decode(event.body().clone()).unwrap())
        .layer(AcknowledgeFirstLayer::new(|_| {}))
        .service(JobRouter::new().on_completed(move |_| {
            let count = count.clone();
            async move {
                sleep(SECOND).await;
                count.fetch_add(1, Ordering::SeqCst);
            }
        }));
    let webhooks =
        JobWebhook::new(Credentials::unauthenticated(), jobs).with_background(background.clone());
    let answer = webhooks.oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(answer.status(), 204);
    assert_eq!(background.drain(pending::<()>()).await, 0);
    assert_eq!(
        ended.load(Ordering::SeqCst),
        1,
        "the drain ended before the callback"
    );
}

/// The same with an event that a callback forwards to further services by `Service::call` (`oneshot`).
#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_an_acknowledged_event_that_a_router_forwards() {
    let background = Background::new();
    let ended = Arc::new(AtomicUsize::new(0));
    let count = ended.clone();
    let slow = BoxJobService::new(
        ServiceBuilder::new()
            .layer(AcknowledgeFirstLayer::new(|_| {}))
            .service(JobRouter::new().on_completed(move |_| {
                let count = count.clone();
                async move {
                    sleep(SECOND).await;
                    count.fetch_add(1, Ordering::SeqCst);
                }
            })),
    );
    let jobs = JobRouter::new().on_completed(move |event| {
        let slow = slow.clone();
        async move { slow.oneshot(event).await.map(|_| ()) }
    });
    let webhooks =
        JobWebhook::new(Credentials::unauthenticated(), jobs).with_background(background.clone());
    let answer = webhooks.oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(answer.status(), 204);
    assert_eq!(background.drain(pending::<()>()).await, 0);
    assert_eq!(ended.load(Ordering::SeqCst), 1);
}

// Reports.

/// An event that a callback has stored is run later, and fails. "Nothing is recorded twice", but this run is not recorded once.
#[test]
fn a_failed_run_of_a_stored_event_is_logged() {
    let capture = Capture::default();
    capture.run(async {
        let (sender, mut events) = mpsc::unbounded_channel();
        let store = JobRouter::new().on_completed(move |event| {
            let sender = sender.clone();
            async move { sender.send(event).map_err(|_| "closed") }
        });
        let webhooks = JobWebhook::new(Credentials::unauthenticated(), store);
        let answer = webhooks.oneshot(delivery(SAMPLE)).await.unwrap();
        assert_eq!(answer.status(), 204);
        let stored: JobEvent = events.recv().await.unwrap();
        let jobs = JobRouter::new().on_completed(|_| async { Err("the bank is down") });
        Background::new().run(jobs, stored).await.unwrap_err();
    });
    let own = capture.own_events();
    assert_eq!(own.len(), 2, "{}", capture.text());
}

/// "A callback that is cut short is reported." A run of a stored event has no hook, so the log is the only place.
#[test]
fn a_run_of_a_stored_event_that_is_cut_short_is_reported() {
    let capture = Capture::default();
    capture.run(async {
        let (sender, mut events) = mpsc::unbounded_channel();
        let store = JobRouter::new().on_completed(move |event| {
            let sender = sender.clone();
            async move { sender.send(event).map_err(|_| "closed") }
        });
        let webhooks = JobWebhook::new(Credentials::unauthenticated(), store);
        webhooks.oneshot(delivery(SAMPLE)).await.unwrap();
        let stored: JobEvent = events.recv().await.unwrap();
        let jobs = JobRouter::new().on_completed(|_| pending::<()>());
        let background = Background::new().with_spawn(drop);
        let mut run = Box::pin(background.run(jobs, stored));
        assert!(futures_poll(run.as_mut()).is_pending());
        drop(run); // The spawn function drops the task: the callback is cut short.
        assert_eq!(background.running(), 0);
    });
    let own = capture.own_events();
    assert_eq!(own.len(), 2, "{}", capture.text());
}

fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

/// "The permit is acquired when `run` is called; all else happens when the future is polled."
#[test]
fn a_run_that_is_never_polled_reports_nothing() {
    for capacity in [0, 1] {
        let capture = Capture::default();
        capture.run(async {
            let background = Background::new().with_capacity(capacity);
            drop(background.run(JobRouter::new(), event("JOB-1")));
        });
        let own = capture.own_events();
        assert!(
            own.is_empty() && capture.metrics().values().all(|value| *value == 0.0),
            "capacity {capacity}: {:?} {}",
            capture.metrics(),
            capture.text()
        );
    }
}

// What was tried and holds.

#[tokio::test(start_paused = true)]
async fn a_boxed_run_survives_being_dropped_in_each_mount_and_is_drained() {
    let background = Background::new();
    let ended = Arc::new(AtomicUsize::new(0));
    let count = ended.clone();
    let jobs = BoxJobService::new(
        ServiceBuilder::new()
            .concurrency_limit(1)
            .layer(DedupeLayer::new(Arc::new(MemoryLedger::new())))
            .service(JobRouter::new().on_completed(move |_| {
                let count = count.clone();
                async move {
                    sleep(SECOND).await;
                    count.fetch_add(1, Ordering::SeqCst);
                }
            })),
    );
    let mut first = Box::pin(background.run(jobs.clone(), event("JOB-1")));
    let mut waiting = Box::pin(background.run(jobs.clone(), event("JOB-2")));
    assert!(futures_poll(first.as_mut()).is_pending());
    assert!(futures_poll(waiting.as_mut()).is_pending());
    assert_eq!(background.running(), 2);
    drop(waiting); // The service was not ready: the event is dropped with it.
    assert_eq!(background.running(), 1);
    drop(first);
    assert_eq!(background.running(), 1);
    assert_eq!(background.drain(pending::<()>()).await, 0);
    assert_eq!(ended.load(Ordering::SeqCst), 1);
    let late = jobs.clone().call(event("JOB-3"));
    drop(late);
}

/// A runtime that shuts down releases the permits of what it drops.
#[test]
fn a_runtime_that_shuts_down_returns_the_permits() {
    let background = Background::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let jobs = ServiceBuilder::new()
        .layer(DedupeLayer::new(MemoryLedger::new()))
        .service(JobRouter::new().on_completed(|_| pending::<()>()));
    for number in 0..20 {
        let run = background.run(jobs.clone(), event(&format!("JOB-{number}")));
        runtime.spawn(run);
    }
    let deadline = std::time::Instant::now() + Duration::from_millis(200);
    while std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    runtime.shutdown_timeout(SECOND);
    assert_eq!(background.running(), 0);
}

/// Four ways to abuse a spawn function, none of which may leak a permit or accept an event that is lost unreported.
#[tokio::test]
async fn spawn_functions_that_misbehave_leak_no_permit() {
    type Spawn = fn(mx_job_webhook::background::BackgroundTask);
    let spawns: [(&str, Spawn); 3] = [
        ("drops", drop),
        ("panics", |_| panic!("spawn")),
        ("polls once, then drops", |mut task| {
            let _ = futures_poll(std::pin::Pin::new(&mut task));
        }),
    ];
    for (name, spawn) in spawns {
        let reported = Arc::new(AtomicUsize::new(0));
        let count = reported.clone();
        let background = Background::new().with_spawn(spawn);
        let jobs = ServiceBuilder::new()
            .layer(AcknowledgeFirstLayer::new(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
            }))
            .service(JobRouter::new().on_completed(|_| pending::<()>()));
        let outcome = background.run(jobs, event("JOB-1")).await;
        assert_eq!(background.running(), 0, "{name}");
        let lost = outcome.is_ok() && reported.load(Ordering::SeqCst) == 0;
        assert!(!lost, "{name}: accepted, lost, and not reported");
        assert_eq!(background.drain(pending::<()>()).await, 0, "{name}");
    }
}

/// Events that the hooks of a router store keep nothing of the mount.
#[tokio::test]
async fn an_event_stored_by_the_hooks_of_a_router_keeps_nothing_of_the_mount() {
    let runtime = Arc::new(());
    let of_the_spawn_function = runtime.clone();
    let background = Background::new().with_spawn(move |task| {
        let _runtime = &of_the_spawn_function;
        drop(task);
    });
    let (sender, mut events) = mpsc::unbounded_channel();
    let (unhandled, letters) = (sender.clone(), sender);
    let jobs = JobRouter::new()
        .on_completed(|_| async { Err(mx_job_webhook::Permanent::new("never")) })
        .on_unhandled(move |event| {
            let sender = unhandled.clone();
            async move { sender.send(event.into_event()).map_err(|_| "closed") }
        })
        .on_dead_letter(move |letter| {
            let sender = letters.clone();
            async move { sender.send(letter.into_event()).map_err(|_| "closed") }
        });
    let halted: JobEvent = Job::new("JOB-0".parse().unwrap(), Status::Halted).into();
    for event in [event("JOB-1"), halted] {
        background
            .run(BoxJobService::new(jobs.clone()), event)
            .await
            .unwrap();
    }
    let stored = [events.recv().await.unwrap(), events.recv().await.unwrap()];
    drop(background);
    assert_eq!(Arc::strong_count(&runtime), 1, "{stored:?}");
}
