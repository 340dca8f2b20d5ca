//! Attacks on the way of an event outside of a mount, on stored events, and on what is claimed of the repository.

use std::fs;
use std::future::{pending, ready};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use mx_job_webhook::acknowledge_first::AcknowledgeFirstLayer;
use mx_job_webhook::event::FencingToken;
use mx_job_webhook::ledger::{Claim, Commit, EventName, Ledger, MemoryLedger};
use mx_job_webhook::{
    Background, BoxJobService, Credentials, DedupeLayer, Error, ErrorKind, Job, JobEvent,
    JobRouter, JobWebhook, Receipt, Status,
};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt as _};

use crate::support::{SAMPLE, delivery};

fn event(guid: &str) -> JobEvent {
    Job::new(guid.parse().unwrap(), Status::Completed).into()
}

/// tower's `concurrency_limit` gives the next permit to the first future in its queue. A run that is not polled must not
/// stand in that queue, because it would keep the permit.
#[tokio::test]
async fn a_run_that_is_not_polled_yet_holds_up_no_other_event() {
    let background = Background::new();
    let jobs = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(JobRouter::new().on_completed(|_| sleep(Duration::from_millis(10))));
    let first = background.run(jobs.clone(), event("JOB-1"));
    let later = background.run(jobs.clone(), event("JOB-2"));
    let third = background.run(jobs.clone(), event("JOB-3"));
    assert_eq!(first.await.unwrap(), Receipt::Handled);
    let third = timeout(Duration::from_secs(2), third).await;
    assert!(
        third.is_ok(),
        "the third waits for a permit that the second has and does not use"
    );
    assert_eq!(later.await.unwrap(), Receipt::Handled);
}

/// The same, seen from a mount: MX's deliveries hang while a future of the application is not polled.
#[tokio::test]
async fn a_run_that_is_not_polled_yet_holds_up_no_delivery() {
    let background = Background::new();
    let jobs = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(JobRouter::new().on_completed(|_| sleep(Duration::from_millis(10))));
    let webhooks = JobWebhook::new(Credentials::unauthenticated(), jobs.clone());
    let polled = background.run(jobs.clone(), event("JOB-1"));
    let _kept_for_later = background.run(jobs, event("JOB-2"));
    polled.await.unwrap();
    let answer = timeout(Duration::from_secs(2), webhooks.oneshot(delivery(SAMPLE))).await;
    assert_eq!(answer.expect("it is answered").unwrap().status(), 204);
}

/// `block_on(background.run(…))` calls `run` before it enters the runtime, so the service must be called when the future is
/// polled: tower's `timeout` panics without a timer.
#[test]
fn a_run_that_is_blocked_on_calls_its_service_within_the_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let jobs = ServiceBuilder::new()
        .timeout(Duration::from_secs(1))
        .service(JobRouter::new().on_completed(|_| async {}));
    let outcome = runtime.block_on(Background::new().run(jobs, event("JOB-1")));
    assert_eq!(outcome.map_err(|error| error.kind()), Ok(Receipt::Handled));
}

/// The same for a callback that spawns in its synchronous part.
#[test]
fn a_run_that_is_blocked_on_calls_its_callback_within_the_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let jobs = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(JobRouter::new().on_completed(|_| tokio::spawn(async {})));
    let outcome = runtime.block_on(Background::new().run(jobs, event("JOB-1")));
    assert_eq!(outcome.map_err(|error| error.kind()), Ok(Receipt::Handled));
}

/// Delivers MX's sample to a mount with this `Background`, and returns the event that its callback got.
async fn event_of_a_mount(background: &Background) -> JobEvent {
    let (sender, mut events) = mpsc::unbounded_channel();
    let jobs = JobRouter::new().on_completed(move |event| {
        let sender = sender.clone();
        async move { sender.send(event).map_err(|_| "closed") }
    });
    let webhooks =
        JobWebhook::new(Credentials::unauthenticated(), jobs).with_background(background.clone());
    let answer = webhooks.oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(answer.status(), 204);
    events.recv().await.unwrap()
}

/// An event that an application stores and later hands to a service directly has no `Background` of the mount any more.
#[tokio::test]
async fn an_event_does_not_keep_the_background_of_a_delivery_that_is_over() {
    let of_the_mount = Background::new();
    let event = event_of_a_mount(&of_the_mount).await;
    assert_eq!(of_the_mount.drain(pending::<()>()).await, 0);

    let jobs = ServiceBuilder::new()
        .layer(AcknowledgeFirstLayer::new(|_| {}))
        .service(JobRouter::new().on_completed(|_| async {}));
    let outcome = jobs.oneshot(event).await;
    assert_eq!(outcome.map_err(|error| error.kind()), Ok(Receipt::Accepted));
}

/// A ledger whose first commits fail.
#[derive(Clone)]
struct FailsAtFirst {
    ledger: MemoryLedger,
    failures: Arc<AtomicUsize>,
}

impl Ledger for FailsAtFirst {
    type Error = &'static str;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, Self::Error> {
        self.ledger.claim(event, lease).await.map_err(|_| "never")
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, Self::Error> {
        let left = self.failures.load(Ordering::SeqCst);
        if left > 0 {
            self.failures.store(left - 1, Ordering::SeqCst);
            return Err("down");
        }
        self.ledger.commit(event, token).await.map_err(|_| "never")
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), Self::Error> {
        self.ledger.release(event, token).await.map_err(|_| "never")
    }
}

/// The commits that remain must not go to the `Background` of a delivery that has ended, whose executor may be gone.
#[tokio::test(start_paused = true)]
async fn a_commit_does_not_go_to_the_background_of_a_delivery_that_is_over() {
    let of_the_mount = Background::new().with_spawn(drop);
    let event = event_of_a_mount(&of_the_mount).await;
    let ledger = FailsAtFirst {
        ledger: MemoryLedger::new(),
        failures: Arc::new(AtomicUsize::new(200)),
    };
    let jobs = DedupeLayer::new(ledger.clone()).layer(JobRouter::new().on_completed(|_| async {}));
    let error = jobs.oneshot(event).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LedgerUnavailable);
    sleep(Duration::from_secs(300)).await;
    assert_eq!(ledger.ledger.settled(), 1, "the callback has succeeded");
}

/// A service whose clones are counted.
struct Counted(Arc<()>);

impl Clone for Counted {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Service<JobEvent> for Counted {
    type Response = Receipt;
    type Error = Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Receipt, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: JobEvent) -> Self::Future {
        Box::pin(async {
            pending::<()>().await;
            Ok(Receipt::Handled)
        })
    }
}

/// The called clone is dropped before its future is awaited, because it may hold what the callback waits for.
#[tokio::test]
async fn acknowledge_first_drops_the_service_before_the_callback_runs() {
    let count = Arc::new(());
    let inner = Counted(count.clone());
    let jobs = AcknowledgeFirstLayer::new(|_| {}).layer(inner);
    let before = Arc::strong_count(&count);
    assert_eq!(
        jobs.clone().oneshot(event("JOB-1")).await.unwrap(),
        Receipt::Accepted
    );
    tokio::task::yield_now().await;
    assert_eq!(Arc::strong_count(&count), before);
}

/// A case that lacks a dependency shows an unresolved import, and nothing that the crate says.
#[test]
fn the_compile_fail_cases_fail_because_of_the_mistake_that_they_show() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui");
    let mut wrong = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_none_or(|extension| extension != "stderr")
        {
            continue;
        }
        let expected = fs::read_to_string(&path).unwrap();
        if expected.contains("E0432") || expected.contains("E0433") {
            wrong.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    wrong.sort();
    assert!(
        wrong.is_empty(),
        "an import is missing, and nothing else is shown, in {wrong:?}"
    );
}

/// The guides name the tests behind each promise.
#[test]
fn every_path_that_the_documentation_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md")];
    let guides = fs::read_dir(root.join("src/docs")).unwrap();
    let guides = guides.map(|entry| entry.unwrap().path());
    pages.extend(guides.filter(|path| path.is_file()));
    let mut missing = Vec::new();
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for name in text.split('`').filter(|name| {
            ["tests/", "examples/", "benches/"]
                .iter()
                .any(|folder| name.starts_with(folder))
                && !name.contains(char::is_whitespace)
        }) {
            if !root.join(name).exists() {
                missing.push(format!("{name} in {}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

// From here on: what was tried and holds.

#[tokio::test]
async fn a_boxed_service_reserves_per_clone_and_gives_its_reservation_back() {
    let jobs = BoxJobService::new(
        ServiceBuilder::new()
            .concurrency_limit(1)
            .service(JobRouter::new().on_completed(|_| ready(()))),
    );
    let mut reserved = jobs.clone();
    assert!(reserved.ready().await.is_ok());
    let mut waits = jobs.clone();
    assert!(
        timeout(Duration::from_millis(20), waits.ready())
            .await
            .is_err()
    );
    drop(reserved);
    assert!(
        timeout(Duration::from_millis(200), waits.ready())
            .await
            .is_ok()
    );
    assert_eq!(waits.call(event("JOB-1")).await.unwrap(), Receipt::Handled);
}

/// A service that panics when it is cloned, made ready, called or dropped.
struct Panics(&'static str);

impl Clone for Panics {
    fn clone(&self) -> Self {
        assert!(self.0 != "clone", "cloned");
        Self(self.0)
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        assert!(self.0 != "drop" || std::thread::panicking(), "dropped");
    }
}

impl Service<JobEvent> for Panics {
    type Response = Receipt;
    type Error = Error;
    type Future = std::future::Ready<Result<Receipt, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        assert!(self.0 != "ready", "readied");
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: JobEvent) -> Self::Future {
        assert!(self.0 != "call", "called");
        ready(Ok(Receipt::Handled))
    }
}

#[tokio::test]
async fn a_panic_of_a_boxed_service_ends_one_delivery() {
    for (at, status) in [("clone", 500), ("ready", 500), ("call", 500), ("drop", 204)] {
        let jobs = BoxJobService::new(Panics(at));
        let webhooks = JobWebhook::new(Credentials::unauthenticated(), jobs);
        let answer = webhooks.clone().oneshot(delivery(SAMPLE)).await.unwrap();
        assert_eq!(answer.status(), status, "{at}");
        let background = Background::new();
        if at != "clone" {
            let outcome = background
                .run(BoxJobService::new(Panics(at)), event("JOB-1"))
                .await;
            assert_eq!(outcome.is_ok(), status == 204, "{at}");
        }
        assert_eq!(background.running(), 0, "{at}");
    }
}

#[tokio::test]
async fn registering_twice_with_the_builder_panics_at_the_callers_line() {
    use std::sync::Mutex;
    let seen = Arc::new(Mutex::new(None));
    let hook = std::panic::take_hook();
    let writer = seen.clone();
    std::panic::set_hook(Box::new(move |info| {
        *writer.lock().unwrap() = info.location().map(|location| location.file().to_owned());
    }));
    let outcome = std::panic::catch_unwind(|| {
        JobRouter::with_state(())
            .on_status(Status::from("AUTHENTICATED"), |(), _| async {})
            .on_status(Status::from("authenticated "), |(), _| async {})
            .build()
    });
    std::panic::set_hook(hook);
    assert!(outcome.is_err());
    assert!(
        seen.lock()
            .unwrap()
            .as_deref()
            .is_some_and(|file| file.ends_with("house.rs"))
    );
}

#[tokio::test]
async fn a_run_that_is_polled_after_it_was_ready_says_so() {
    let mut run = Box::pin(
        Background::new().run(JobRouter::new().on_completed(|_| async {}), event("JOB-1")),
    );
    assert_eq!(run.as_mut().await.unwrap(), Receipt::Handled);
    let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = run
            .as_mut()
            .poll(&mut Context::from_waker(std::task::Waker::noop()));
    }));
    assert!(again.is_err());
}

/// A service that is never ready, because it has failed.
#[derive(Clone)]
struct NeverReady;

impl Service<JobEvent> for NeverReady {
    type Response = Receipt;
    type Error = Error;
    type Future = std::future::Ready<Result<Receipt, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Err(JobEvent::decode("{}").unwrap_err()))
    }

    fn call(&mut self, _: JobEvent) -> Self::Future {
        ready(Ok(Receipt::Handled))
    }
}

/// A delivery keeps its permit until `on_error` has returned, so that a drain waits for the report.
#[tokio::test]
async fn a_delivery_has_its_permit_until_its_failure_is_reported() {
    let background = Background::new();
    let (seen, running) = (Arc::new(AtomicUsize::new(9)), background.clone());
    let writer = seen.clone();
    let webhooks = JobWebhook::new(Credentials::unauthenticated(), NeverReady)
        .with_background(background.clone())
        .on_error(move |_| writer.store(running.running(), Ordering::SeqCst));
    let answer = webhooks.oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

/// A stored event must not keep alive what the spawn function of its mount owns, such as a runtime.
#[tokio::test]
async fn a_stored_event_does_not_keep_what_the_mount_spawns_on() {
    let runtime = Arc::new(());
    let of_the_spawn_function = runtime.clone();
    let background = Background::new().with_spawn(move |task| {
        let _runtime = &of_the_spawn_function;
        drop(task);
    });
    let stored = event_of_a_mount(&background).await;
    drop(background);
    assert_eq!(Arc::strong_count(&runtime), 1, "{stored:?} keeps it");
}

/// The hook for stale events stores them as a callback does.
#[tokio::test]
async fn a_stored_stale_event_does_not_keep_what_the_mount_spawns_on() {
    let runtime = Arc::new(());
    let of_the_spawn_function = runtime.clone();
    let background = Background::new().with_spawn(move |task| {
        let _runtime = &of_the_spawn_function;
        drop(task);
    });
    let (sender, mut events) = mpsc::unbounded_channel();
    let jobs = DedupeLayer::new(MemoryLedger::new())
        .on_stale(move |event| {
            let sender = sender.clone();
            async move { sender.send(event).map_err(|_| "closed") }
        })
        .layer(JobRouter::new().on_completed(|_| async {}));
    for updated_at in [20, 10] {
        let body = format!(
            r#"{{"job": {{"guid": "JOB-1", "status_name": "COMPLETED", "updated_at": {updated_at}}}}}"#
        );
        let event = JobEvent::decode(body).unwrap();
        background.run(jobs.clone(), event).await.unwrap();
    }
    let stored = events.recv().await.unwrap();
    drop((background, jobs));
    assert_eq!(Arc::strong_count(&runtime), 1, "{stored:?} keeps it");
}

/// Holds: `Arc` and a box forward to the ledger, within `DedupeLayer` and its timeouts.
#[cfg(feature = "test-util")]
#[tokio::test(start_paused = true)]
async fn a_ledger_in_an_arc_or_a_box_conforms() {
    use mx_job_webhook::ledger::BoxLedger;
    use mx_job_webhook::testing::check_ledger;
    check_ledger(Arc::new(MemoryLedger::new())).await;
    check_ledger(BoxLedger::new(Arc::new(
        BoxLedger::new(MemoryLedger::new()),
    )))
    .await;
}
