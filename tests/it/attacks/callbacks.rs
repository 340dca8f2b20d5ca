//! Hostile tests, written from the promises. Each failing test is a fault.

mod mounts;

use std::convert::Infallible;
use std::future::{Future, pending, ready};
use std::io::{Read as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use http::Request;
use mx_job_webhook::acknowledge_first::AcknowledgeFirstLayer;
use mx_job_webhook::background::BackgroundTask;
use mx_job_webhook::event::FencingToken;
use mx_job_webhook::ledger::{Claim, Commit, EventName, Ledger, MemoryLedger};
use mx_job_webhook::{
    Background, Credentials, DedupeLayer, Error, Job, JobEvent, JobRouter, JobWebhook, Permanent,
    Receipt, Status,
};
use tokio::sync::Notify;
use tower::{BoxError, Layer as _, Service, ServiceExt as _, service_fn};

use crate::support::{Frames, Log, PATH, RunIn as _, SAMPLE, credentials, delivery, run, within};
use mounts::{apps, serve};

fn event() -> JobEvent {
    Job::new("JOB-1".parse().unwrap(), Status::Completed).into()
}

fn poll_once<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
}

fn drains_now(background: &Background) -> usize {
    let mut drain = Box::pin(background.drain(ready(())));
    match poll_once(&mut drain) {
        Poll::Ready(left) => left,
        Poll::Pending => usize::MAX,
    }
}

/// Each clone panics when it is dropped.
#[derive(Clone)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::panic::resume_unwind(Box::new(()));
        }
    }
}

/// Only the `n`th clone panics when dropped.
struct Nth(Arc<AtomicUsize>, bool);

impl Clone for Nth {
    fn clone(&self) -> Self {
        Self(self.0.clone(), self.0.fetch_sub(1, Ordering::SeqCst) == 1)
    }
}

impl Drop for Nth {
    fn drop(&mut self) {
        if self.1 && !std::thread::panicking() {
            std::panic::resume_unwind(Box::new(()));
        }
    }
}

// --- 3. permits, and the thread-local --------------------------------------------------------

/// A callback starts a call and stores it for later: the call keeps its permit, and a drain counts it.
#[test]
fn a_stored_call_that_a_callback_started_keeps_its_permit() {
    let background = Background::new();
    let inner = JobRouter::new()
        .on_completed(|_| pending::<()>())
        .run_in(&background);
    type Call = Pin<Box<dyn Future<Output = Result<Receipt, Error>> + Send>>;
    let kept: Arc<Mutex<Option<Call>>> = Arc::default();
    let (keep, router) = (kept.clone(), inner.clone());
    let outer = service_fn(move |event: JobEvent| {
        let (keep, router) = (keep.clone(), router.clone());
        async move {
            let mut call = Box::pin(router.call(event));
            let _ = poll_once(&mut call); // like a `select!` whose timeout won
            *keep.lock().unwrap() = Some(call);
            Ok::<_, BoxError>(Receipt::Handled)
        }
    });
    let mut run = Box::pin(background.run(outer, event()));
    assert!(poll_once(&mut run).is_ready());
    assert!(kept.lock().unwrap().is_some(), "the callback is running");
    assert_eq!(background.running(), 1);
    assert_eq!(drains_now(&background), 1);
}

/// The same on tokio, as an application would write it: a timeout, then `tokio::spawn`.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_spawned_after_a_timeout_keeps_its_permit() {
    let background = Background::new();
    let done = Log::default();
    let log = done.clone();
    let inner = JobRouter::new()
        .on_completed(move |_| {
            let log = log.clone();
            async move {
                tokio::time::sleep(Duration::from_secs(5)).await;
                log.push("done");
            }
        })
        .run_in(&background);
    let outer = service_fn(move |event: JobEvent| {
        let mut call = Box::pin(inner.call(event));
        async move {
            tokio::select! {
                outcome = &mut call => outcome,
                () = tokio::time::sleep(Duration::from_secs(1)) => {
                    // The call moves to a task of the application, which polls it a little later.
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        call.await
                    });
                    Ok(Receipt::Accepted)
                }
            }
        }
    });
    background.run(outer, event()).await.unwrap();
    assert_eq!(background.drain(pending::<()>()).await, 0);
    assert_eq!(done.entries(), ["done"], "the drain missed it");
}

/// The shortest form: a callback that spawns a call and returns.
#[tokio::test]
async fn a_call_that_a_callback_spawns_keeps_its_permit() {
    let background = Background::new();
    let done = Log::default();
    let log = done.clone();
    let inner = JobRouter::new()
        .on_completed(move |_| {
            let log = log.clone();
            async move {
                tokio::task::yield_now().await;
                log.push("done");
            }
        })
        .run_in(&background);
    let counted = background.clone();
    let taken = Log::default();
    let told = taken.clone();
    let outer = service_fn(move |event: JobEvent| {
        tokio::spawn(inner.call(event));
        told.push(counted.running().to_string());
        ready(Ok::<_, BoxError>(Receipt::Accepted))
    });
    background.run(outer, event()).await.unwrap();
    let left = background.running();
    assert_eq!(background.drain(pending::<()>()).await, 0);
    assert_eq!(
        (left, done.entries()),
        (1, vec!["done".to_owned()]),
        "{:?}",
        taken.entries()
    );
}

/// An executor that polls a task once when it is spawned, and then queues it.
fn eager() -> (Background, Arc<Mutex<Vec<BackgroundTask>>>) {
    let queue: Arc<Mutex<Vec<BackgroundTask>>> = Arc::default();
    let tasks = queue.clone();
    let background = Background::new().with_spawn(move |mut task| {
        let context = &mut Context::from_waker(Waker::noop());
        if Pin::new(&mut task).poll(context).is_pending() {
            tasks.lock().unwrap().push(task);
        }
    });
    (background, queue)
}

#[test]
fn an_acknowledged_callback_keeps_its_permit_if_the_executor_polls_it_at_once() {
    let (background, queue) = eager();
    let layer = AcknowledgeFirstLayer::new(|_| {});
    let jobs = layer.layer(JobRouter::new().on_completed(|_| pending::<()>()));
    let endpoint = JobWebhook::new(credentials(), jobs).with_background(background.clone());
    let mut answer = Box::pin(endpoint.oneshot(delivery(SAMPLE)));
    let Poll::Ready(Ok(answer)) = poll_once(&mut answer) else {
        panic!("the delivery waits")
    };
    assert_eq!(answer.status(), 204);
    assert_eq!(queue.lock().unwrap().len(), 1, "the callback is running");
    assert_eq!(background.running(), 1);
    assert_eq!(drains_now(&background), 1);
}

#[test]
fn a_dropped_call_keeps_its_permit_if_the_executor_polls_it_at_once() {
    let (background, queue) = eager();
    let inner = JobRouter::new()
        .on_completed(|_| pending::<()>())
        .run_in(&background);
    let outer = service_fn(move |event: JobEvent| {
        let mut call = Box::pin(inner.call(event));
        async move {
            let _ = poll_once(&mut call);
            drop(call); // a timeout
            Ok::<_, BoxError>(Receipt::Handled)
        }
    });
    let mut run = Box::pin(background.run(outer, event()));
    assert!(poll_once(&mut run).is_ready());
    assert_eq!(queue.lock().unwrap().len(), 1, "the callback is running");
    assert_eq!(background.running(), 1);
}

/// A contains B, which contains A again: the thread-local knows only B.
#[tokio::test]
async fn a_nested_call_reuses_its_permit_through_another_background() {
    let mine = Background::new();
    let innermost = JobRouter::new().on_completed(|_| async {}).run_in(&mine);
    let between = JobRouter::new()
        .on_completed(move |event| {
            let call = innermost.call(event);
            async move { call.await.map(drop) }
        })
        .run_in(&Background::new());
    let gate = Arc::new(Notify::new());
    let open = gate.clone();
    let outer = service_fn(move |event: JobEvent| {
        let (open, between) = (open.clone(), between.clone());
        async move {
            open.notified().await;
            between.call(event).await
        }
    });
    let running = tokio::spawn({
        let mine = mine.clone();
        async move { mine.run(outer, event()).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(mine.drain(ready(())).await, 1); // shutdown during the callback
    gate.notify_one();
    assert_eq!(running.await.unwrap().unwrap(), Receipt::Handled);
}

#[tokio::test]
async fn a_spawned_run_of_a_running_callback_finishes_during_shutdown() {
    let mine = Background::new();
    let router = JobRouter::new().on_completed(|_| async {});
    let gate = Arc::new(Notify::new());
    let (open, background) = (gate.clone(), mine.clone());
    let outer = service_fn(move |event: JobEvent| {
        let (open, background, router) = (open.clone(), background.clone(), router.clone());
        async move {
            open.notified().await;
            // The call is made here and polled elsewhere. A call made elsewhere is a separate delivery.
            tokio::spawn(background.run(router, event)).await.unwrap()
        }
    });
    let running = tokio::spawn({
        let mine = mine.clone();
        async move { mine.run(outer, event()).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(mine.drain(ready(())).await, 1);
    gate.notify_one();
    assert_eq!(running.await.unwrap().unwrap(), Receipt::Handled);
}

/// The documentation's example of `running`, through the documented service around a router.
#[tokio::test]
async fn a_callback_takes_one_permit_while_it_is_called() {
    let background = Background::new();
    let seen = background.clone();
    let log = Log::default();
    let told = log.clone();
    let router = JobRouter::new()
        .on_completed(move |_| {
            told.push(seen.running().to_string());
            ready(())
        })
        .run_in(&background);
    let jobs = service_fn(move |event: JobEvent| router.call(event));
    background.run(jobs, event()).await.unwrap();
    assert_eq!(log.entries(), ["1"]);
    let counted = background.clone();
    let told = log.clone();
    let router = JobRouter::new()
        .on_completed(|_| async {})
        .run_in(&background);
    let jobs = service_fn(move |event: JobEvent| {
        let call = router.call(event);
        told.push(counted.running().to_string());
        call
    });
    background.run(jobs, event()).await.unwrap();
    assert_eq!(log.entries(), ["1", "1"]);
}

/// One delivery fans out beyond the bound of the `Background` that acknowledges.
#[tokio::test]
async fn acknowledge_first_is_bounded_within_a_callback_too() {
    let background = Background::new().with_capacity(2);
    let layer = AcknowledgeFirstLayer::new(|_| {});
    let acknowledged = layer.layer(JobRouter::new().on_completed(|_| pending::<()>()));
    let fan_out = service_fn(move |event: JobEvent| {
        let mut jobs = acknowledged.clone();
        async move {
            for _ in 0..50 {
                let _ = Service::call(&mut jobs, event.clone()).await;
            }
            Ok::<_, BoxError>(Receipt::Handled)
        }
    });
    background.run(fan_out, event()).await.unwrap();
    assert!(background.running() <= 2, "{}", background.running());
}

/// Records how many permits are taken when it is dropped.
struct Recorder(Background, Log);

impl Drop for Recorder {
    fn drop(&mut self) {
        self.1.push(self.0.running().to_string());
    }
}

/// The permit is released last, also when a task is dropped after the hand-over.
#[test]
fn drain_waits_for_destructors_of_a_callback_cancelled_after_the_hand_over() {
    let (executor, tasks) = std::sync::mpsc::channel::<BackgroundTask>();
    let background = Background::new().with_spawn(move |task| {
        let _ = executor.send(task);
    });
    let log = Log::default();
    let (told, counted) = (log.clone(), background.clone());
    let jobs = JobRouter::new()
        .on_completed(move |_| {
            let recorder = Recorder(counted.clone(), told.clone());
            async move {
                let _recorder = recorder;
                pending::<()>().await;
            }
        })
        .run_in(&background);
    let mut call = Box::pin(jobs.call(event()));
    assert!(poll_once(&mut call).is_pending());
    drop(call);
    let mut task = Box::pin(tasks.recv().unwrap());
    assert!(poll_once(&mut task).is_pending());
    drop(task); // the runtime ends
    // Also a task that was never polled there.
    let mut call = Box::pin(jobs.call(event()));
    assert!(poll_once(&mut call).is_pending());
    drop(call);
    drop(tasks.recv().unwrap());
    assert_eq!(log.entries(), ["1", "1"]);
}

// --- 1. deadlines ---------------------------------------------------------------------------

/// A ledger that claims and releases when notified, and commits at once like a ledger in memory.
#[derive(Clone)]
struct Slow {
    ledger: MemoryLedger,
    claims: Arc<Notify>,
    releases: Arc<Notify>,
}

impl Ledger for Slow {
    type Error = Infallible;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, Infallible> {
        self.claims.notified().await;
        self.ledger.claim(event, lease).await
    }
    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, Infallible> {
        self.ledger.commit(event, token).await
    }
    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), Infallible> {
        self.releases.notified().await;
        self.ledger.release(event, token).await
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A second runtime, as in the documentation of `with_spawn`; the first ends with the server.
#[test]
fn the_ledgers_deadline_works_after_a_hand_over_to_another_runtime() {
    let (server, second) = (runtime(), runtime());
    let handle = second.handle().clone();
    let background = Background::new().with_spawn(move |task| drop(handle.spawn(task)));
    let slow = Slow {
        ledger: MemoryLedger::new(),
        claims: Arc::default(),
        releases: Arc::default(),
    };
    let log = Log::default();
    let (ran, failed) = (log.clone(), log.clone());
    let jobs = DedupeLayer::new(slow.clone()).layer(JobRouter::new().on_completed(move |_| {
        ran.push("ran");
        ready(())
    }));
    let endpoint = JobWebhook::new(credentials(), jobs)
        .with_background(background.clone())
        .on_error(move |failure| failed.push(failure.error().kind().name()));
    server.block_on(async {
        tokio::spawn(endpoint.oneshot(delivery(SAMPLE)));
        tokio::time::sleep(Duration::from_millis(10)).await;
    });
    drop(server); // its tasks move to the second runtime
    slow.claims.notify_one();
    assert_eq!(second.block_on(background.drain(pending::<()>())), 0);
    assert_eq!(log.entries(), ["ran"]);
}

/// The same before the ledger answers.
#[test]
fn the_ledgers_deadline_does_not_panic_after_its_runtime_has_ended() {
    let (server, second) = (runtime(), runtime());
    let handle = second.handle().clone();
    let background = Background::new().with_spawn(move |task| drop(handle.spawn(task)));
    let slow = Slow {
        ledger: MemoryLedger::new(),
        claims: Arc::default(),
        releases: Arc::default(),
    };
    let log = Log::default();
    let (ran, failed) = (log.clone(), log.clone());
    let jobs = DedupeLayer::new(slow.clone()).layer(JobRouter::new().on_completed(move |_| {
        ran.push("ran");
        ready(())
    }));
    let endpoint = JobWebhook::new(credentials(), jobs)
        .with_background(background.clone())
        .on_error(move |failure| failed.push(failure.error().kind().name()));
    server.block_on(async {
        tokio::spawn(endpoint.oneshot(delivery(SAMPLE)));
        tokio::time::sleep(Duration::from_millis(10)).await;
    });
    drop(server);
    let answers = slow.claims.clone();
    second.block_on(async {
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            answers.notify_one(); // well within five seconds
        });
        assert_eq!(background.drain(pending::<()>()).await, 0);
    });
    assert_eq!(log.entries(), ["ran"]);
}

/// A claim that is being released is handed over too.
#[test]
fn a_releases_deadline_works_after_a_hand_over_to_another_runtime() {
    let (server, second) = (runtime(), runtime());
    let handle = second.handle().clone();
    let background = Background::new().with_spawn(move |task| drop(handle.spawn(task)));
    let slow = Slow {
        ledger: MemoryLedger::new(),
        claims: Arc::default(),
        releases: Arc::default(),
    };
    slow.claims.notify_one();
    let jobs =
        DedupeLayer::new(slow.clone()).layer(JobRouter::new().on_completed(|_| pending::<()>()));
    server.block_on(async {
        // Like a queue's worker, which ends with its runtime.
        tokio::spawn(within(&background, jobs.oneshot(event())));
        tokio::time::sleep(Duration::from_millis(10)).await;
    });
    assert_eq!(slow.ledger.in_flight(), 1);
    drop(server);
    let answers = slow.releases.clone();
    second.block_on(async {
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            answers.notify_one();
        });
        assert_eq!(background.drain(pending::<()>()).await, 0);
    });
    assert_eq!(slow.ledger.in_flight(), 0, "the claim was not released");
}

/// "With `None` the read timeout alone bounds it. Where there is no timer, only what has already
/// arrived is discarded."
#[test]
fn discarding_stops_at_once_without_a_timer_and_a_discard_timeout() {
    let endpoint = JobWebhook::new(credentials(), JobRouter::new()).with_discard_timeout(None);
    let body = Body::from(Frames::of_data([&b"x"[..]]).then_pending());
    let request = Request::post(PATH).body(body).unwrap();
    let mut answer = Box::pin(endpoint.oneshot(request));
    match poll_once(&mut answer) {
        Poll::Ready(Ok(answer)) => {
            assert_eq!(answer.status(), 401);
            assert_eq!(answer.headers()["connection"], "close");
        }
        _ => panic!("an unauthenticated sender can hold the request forever"),
    }
}

/// The timeout has to pass even if the body is always ready.
#[test]
fn discarding_has_a_time_limit_even_if_the_body_is_always_ready() {
    struct Always(Instant);
    impl http_body::Body for Always {
        type Data = axum::body::Bytes;
        type Error = BoxError;
        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Self::Data>, BoxError>>> {
            std::thread::sleep(Duration::from_millis(1));
            if self.0.elapsed() > Duration::from_secs(20) {
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Ok(http_body::Frame::data("x".into()))))
        }
    }
    let endpoint = JobWebhook::new(credentials(), JobRouter::new());
    let started = Instant::now();
    let request = Request::post(PATH)
        .body(Body::new(Always(started)))
        .unwrap();
    let answer = runtime().block_on(endpoint.oneshot(request)).unwrap();
    assert_eq!(answer.status(), 401);
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "{:?}",
        started.elapsed()
    );
}

// --- 2. panics ------------------------------------------------------------------------------

fn with_bomb() -> JobEvent {
    let mut event = event();
    event.extensions_mut().insert(Bomb);
    event
}

fn quietly<T>(code: impl FnOnce() -> T) -> bool {
    match catch_unwind(AssertUnwindSafe(code)) {
        Ok(value) => {
            // The test does not cover the drops in the harness.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
            true
        }
        Err(_) => false,
    }
}

#[test]
fn an_unhandled_events_extension_may_panic_when_dropped() {
    let event = with_bomb();
    let ran = quietly(move || {
        let background = Background::new();
        let mut run = Box::pin(background.run(JobRouter::new(), event));
        poll_once(&mut run).map(|outcome| outcome.is_ok())
    });
    assert!(ran, "`Background::run` panicked");
}

#[test]
fn a_refused_events_extension_may_panic_when_dropped() {
    let event = with_bomb();
    let ran = quietly(move || {
        let background = Background::new().with_capacity(0);
        let mut run = Box::pin(background.run(JobRouter::new(), event));
        poll_once(&mut run).map(|outcome| outcome.is_err())
    });
    assert!(ran, "`Background::run` panicked");
}

/// The copy is stored for `on_dead_letter`.
#[test]
fn the_dead_letter_hooks_copy_may_panic_when_dropped() {
    let jobs = JobRouter::new()
        .on_completed(|_| async {})
        .on_dead_letter(|_| async {});
    let mut event = event();
    event
        .extensions_mut()
        .insert(Nth(Arc::new(AtomicUsize::new(1)), false));
    let ran = quietly(move || {
        let mut call = Box::pin(run(&jobs, event));
        poll_once(&mut call).map(|outcome| outcome.is_ok())
    });
    assert!(ran, "the copy's panic escaped `RunOn`");
}

#[test]
fn a_duplicates_extension_may_panic_when_dropped() {
    let jobs =
        DedupeLayer::new(MemoryLedger::new()).layer(JobRouter::new().on_completed(|_| async {}));
    let mut first = Box::pin(jobs.clone().oneshot(event()));
    assert!(matches!(
        poll_once(&mut first),
        Poll::Ready(Ok(Receipt::Handled))
    ));
    let event = with_bomb();
    let ran = quietly(move || {
        let mut again = Box::pin(jobs.oneshot(event));
        poll_once(&mut again).map(|outcome| outcome.is_ok())
    });
    assert!(ran, "the delivery's worker panicked");
}

/// An escaped panic would end the handler's task, and with it the connection.
#[tokio::test]
async fn a_panicking_extension_does_not_end_the_connection_of_an_extractor_handler() {
    use std::net::TcpStream;
    async fn webhook(event: JobEvent) -> Result<Receipt, Error> {
        run(&JobRouter::new(), event).await
    }
    let app = Router::new()
        .route(PATH, axum::routing::post(webhook))
        .with_state(JobWebhook::new(Credentials::unauthenticated(), JobRouter::new()).boxed());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app.layer(axum::middleware::from_fn(
        |mut request: axum::extract::Request, next: axum::middleware::Next| async move {
            request.extensions_mut().insert(Bomb);
            next.run(request).await
        },
    ));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let answer = tokio::task::spawn_blocking(move || {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let body = r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#;
        write!(
            client,
            "POST {PATH} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer);
        answer
    })
    .await
    .unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 "),
        "the connection broke: {answer:?}"
    );
}

/// A hook's captures are dropped with the last clone of its mount, possibly by a delivery.
#[test]
fn a_hooks_capture_may_panic_when_dropped() {
    let bomb = Bomb;
    let endpoint =
        JobWebhook::new(Credentials::unauthenticated(), JobRouter::new()).on_error(move |_| {
            let _ = &bomb;
        });
    let request = Request::post("/").body(Body::empty()).unwrap();
    let mut call = Box::pin({
        let mut endpoint = endpoint;
        let call = Service::call(&mut endpoint, request);
        drop(endpoint);
        call
    });
    let _ = poll_once(&mut call);
    assert!(quietly(move || drop(call)), "the delivery's drop panicked");
}

/// Two closures whose errors both panic when dropped, in a separate process.
#[test]
fn two_panicking_verify_errors_fail_one_delivery() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "attacks::callbacks::child_answers_500_to_two_panicking_verify_errors",
        ])
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", child.status);
}

#[test]
#[ignore = "run by `two_panicking_verify_errors_fail_one_delivery`"]
fn child_answers_500_to_two_panicking_verify_errors() {
    #[derive(Debug)]
    struct Fails;
    impl Drop for Fails {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new(()));
        }
    }
    impl std::fmt::Display for Fails {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            Ok(())
        }
    }
    impl std::error::Error for Fails {}
    let verify = || Credentials::verify(|_| async { Err::<bool, _>(Fails) });
    let endpoint = JobWebhook::new(verify().or(verify()), JobRouter::new());
    let answer = runtime()
        .block_on(endpoint.oneshot(delivery(SAMPLE)))
        .unwrap();
    assert!(answer.status().is_server_error());
}

#[test]
fn an_extension_may_panic_when_acknowledge_first_refuses_its_event() {
    let layer = AcknowledgeFirstLayer::new(|_| {});
    let mut jobs = layer.layer(JobRouter::new());
    let event = with_bomb();
    assert!(quietly(move || Service::call(&mut jobs, event)));
}

#[test]
fn an_extension_may_panic_when_a_worker_has_no_callback_for_its_event() {
    let mut jobs = JobRouter::new();
    let event = with_bomb();
    assert!(quietly(move || Service::call(&mut jobs, event)));
}

/// The worker drops an unfinished future that contains the copy.
#[test]
fn the_dead_letter_hooks_copy_may_panic_when_the_future_is_dropped() {
    let mut jobs = JobRouter::new()
        .on_completed(|_| pending::<()>())
        .on_dead_letter(|_| async {});
    let mut event = event();
    event
        .extensions_mut()
        .insert(Nth(Arc::new(AtomicUsize::new(1)), false));
    let mut call = Box::pin(Service::call(&mut jobs, event));
    assert!(poll_once(&mut call).is_pending());
    assert!(quietly(move || drop(call)));
}

/// A body that panics when it is dropped.
struct DropsBadly(Option<&'static str>, Bomb);

impl http_body::Body for DropsBadly {
    type Data = axum::body::Bytes;
    type Error = BoxError;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Self::Data>, BoxError>>> {
        Poll::Ready(
            self.0
                .take()
                .map(|body| Ok(http_body::Frame::data(body.into()))),
        )
    }
}

/// One panic fails one delivery and is reported once.
#[test]
fn a_panicking_body_is_reported_once() {
    for on_tokio in [true, false] {
        let (log, ran) = (Log::default(), Log::default());
        let (told, runs) = (log.clone(), ran.clone());
        let background = Background::new();
        let jobs = JobRouter::new().on_completed(move |_| {
            let runs = runs.clone();
            async move { runs.push("ran") }
        });
        let endpoint = JobWebhook::new(credentials(), jobs)
            .with_background(background.clone())
            .on_error(move |failure| told.push(failure.error().kind().name()));
        let mut request = delivery(Body::empty()).map(|_| DropsBadly(Some(SAMPLE), Bomb));
        request.extensions_mut().clear();
        let mut answer = Box::pin(endpoint.oneshot(request));
        let runtime = on_tokio.then(runtime);
        let entered = runtime.as_ref().map(tokio::runtime::Runtime::enter);
        let Poll::Ready(Ok(answer)) = poll_once(&mut answer) else {
            panic!("the delivery waits")
        };
        drop(entered);
        if let Some(runtime) = runtime {
            runtime.block_on(background.drain(pending::<()>()));
        }
        assert_eq!(background.running(), 0);
        assert_eq!(log.entries().len(), usize::from(answer.status() != 204));
    }
}

// --- 3. Permanent ---------------------------------------------------------------------------

#[tokio::test]
async fn a_wrapped_permanent_error_stays_permanent() {
    use std::io;
    #[derive(Debug)]
    struct Transparent(BoxError);
    impl std::fmt::Display for Transparent {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            Ok(())
        }
    }
    impl std::error::Error for Transparent {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            self.0.source()
        }
    }
    let permanent = || Permanent::new("no");
    let cases: Vec<(&str, BoxError)> = vec![
        ("anyhow", anyhow::Error::new(permanent()).into()),
        (
            "anyhow, context",
            anyhow::Error::new(permanent())
                .context("a")
                .context("b")
                .into(),
        ),
        (
            "anyhow within anyhow",
            anyhow::Error::from_boxed(anyhow::Error::new(permanent()).into()).into(),
        ),
        ("io", io::Error::other(permanent()).into()),
        (
            "io within io",
            io::Error::other(io::Error::other(permanent())).into(),
        ),
        (
            "io within io within io",
            io::Error::other(io::Error::other(io::Error::other(permanent()))).into(),
        ),
        (
            "anyhow of io",
            anyhow::Error::new(io::Error::other(permanent())).into(),
        ),
        (
            "io of anyhow",
            io::Error::other(anyhow::Error::new(permanent())).into(),
        ),
        ("arc", Arc::new(permanent()).into()),
        ("transparent", Transparent(permanent().into()).into()),
        (
            "transparent of anyhow",
            Transparent(anyhow::Error::new(permanent()).into()).into(),
        ),
        (
            "transparent of transparent",
            Transparent(Transparent(permanent().into()).into()).into(),
        ),
        ("ours", Error::from(BoxError::from(permanent())).into()),
        (
            "anyhow of ours",
            anyhow::Error::new(Error::from(BoxError::from(permanent()))).into(),
        ),
        (
            "permanent of ours",
            Permanent::new(Error::from(BoxError::from("x"))).into(),
        ),
    ];
    for (name, error) in cases {
        let error = Mutex::new(Some(error));
        let jobs = JobRouter::new()
            .on_completed(move |_| ready(Err::<(), _>(error.lock().unwrap().take().unwrap())))
            .on_dead_letter(|_| async {});
        assert_eq!(
            run(&jobs, event()).await.ok(),
            Some(Receipt::DeadLettered),
            "{name}"
        );
    }
}

// --- 4. refusals, on sockets ----------------------------------------------------------------

async fn exchange(address: std::net::SocketAddr, sent: Vec<u8>) -> String {
    tokio::task::spawn_blocking(move || {
        let mut client = std::net::TcpStream::connect(address).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(4)))
            .unwrap();
        client.write_all(&sent).unwrap();
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    })
    .await
    .unwrap()
}

fn valid() -> String {
    let body = SAMPLE;
    format!(
        "POST {PATH} HTTP/1.1\r\nhost: a\r\nauthorization: Basic bXg6c2VjcmV0\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A refusal, then a valid delivery on the same connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipelined_delivery_after_a_refusal_is_answered() {
    let auth = "authorization: Basic bXg6c2VjcmV0\r\n";
    let json = "content-type: application/json\r\n";
    let chunk = |size: usize| format!("{size:x}\r\n{}\r\n", "x".repeat(size));
    let refusals: Vec<(&str, String, &str)> = vec![
        (
            "401 empty",
            format!("POST {PATH} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"),
            "401",
        ),
        (
            "401 length",
            format!(
                "POST {PATH} HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\n{}",
                "x".repeat(900_000)
            ),
            "401",
        ),
        (
            "401 8 MiB",
            format!(
                "POST {PATH} HTTP/1.1\r\nhost: a\r\ncontent-length: 8388608\r\n\r\n{}",
                "x".repeat(8 << 20)
            ),
            "401",
        ),
        (
            "401 chunked, trailers",
            format!(
                "POST {PATH} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{}{}0\r\nx: y\r\n\r\n",
                chunk(5),
                chunk(70_000)
            ),
            "401",
        ),
        (
            "401 chunks of a byte",
            format!(
                "POST {PATH} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
                chunk(1).repeat(20_000)
            ),
            "401",
        ),
        (
            "415",
            format!(
                "POST {PATH} HTTP/1.1\r\nhost: a\r\n{auth}content-length: 300000\r\n\r\n{}",
                "x".repeat(300_000)
            ),
            "415",
        ),
        (
            "415 gzip",
            format!(
                "POST {PATH} HTTP/1.1\r\nhost: a\r\n{auth}{json}content-encoding: gzip\r\ncontent-length: 30\r\n\r\n{}",
                "x".repeat(30)
            ),
            "415",
        ),
        (
            "422, trailers",
            format!(
                "POST {PATH} HTTP/1.1\r\nhost: a\r\n{auth}{json}transfer-encoding: chunked\r\n\r\n{}0\r\nx: y\r\n\r\n",
                chunk(5)
            ),
            "422",
        ),
    ];
    for (mount, app) in apps() {
        let address = serve(app).await;
        for (name, refusal, status) in &refusals {
            let answer = exchange(address, format!("{refusal}{}", valid()).into_bytes()).await;
            let codes: Vec<_> = answer.split("HTTP/1.1 ").skip(1).map(|a| &a[..3]).collect();
            assert_eq!(codes, [*status, "204"], "{mount}: {name}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipelined_delivery_after_a_413_of_the_layer_is_answered() {
    let chunk = |size: usize| format!("{size:x}\r\n{}\r\n", "x".repeat(size));
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: a\r\nauthorization: Basic bXg6c2VjcmV0\r\ncontent-type: application/json\r\n"
    );
    for (mount, app) in apps().into_iter().take(2) {
        let address = serve(app).await;
        for refusal in [
            format!("{head}content-length: 70000\r\n\r\n{}", "x".repeat(70_000)),
            format!(
                "{head}transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
                chunk(70_000)
            ),
            format!(
                "{head}transfer-encoding: chunked\r\n\r\n{}0\r\na: b\r\n\r\n",
                chunk(7_000).repeat(100)
            ),
        ] {
            let answer = exchange(address, format!("{refusal}{}", valid()).into_bytes()).await;
            let codes: Vec<_> = answer.split("HTTP/1.1 ").skip(1).map(|a| &a[..3]).collect();
            assert_eq!(codes, ["413", "204"], "{mount}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipelined_delivery_after_a_413_of_the_extractor_is_answered() {
    async fn webhook(_: JobEvent) -> Receipt {
        Receipt::Handled
    }
    let app = Router::new()
        .route(PATH, axum::routing::post(webhook))
        .layer(axum::extract::DefaultBodyLimit::max(1_000))
        .with_state(JobWebhook::new(credentials(), JobRouter::new()).boxed());
    let address = serve(app).await;
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: a\r\nauthorization: Basic bXg6c2VjcmV0\r\ncontent-type: application/json\r\n"
    );
    for refusal in [
        format!("{head}content-length: 70000\r\n\r\n{}", "x".repeat(70_000)),
        format!(
            "{head}transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
            format!("64\r\n{}\r\n", "x".repeat(100)).repeat(500)
        ),
    ] {
        let answer = exchange(address, format!("{refusal}{}", valid()).into_bytes()).await;
        let codes: Vec<_> = answer.split("HTTP/1.1 ").skip(1).map(|a| &a[..3]).collect();
        assert_eq!(codes, ["413", "204"], "{answer}");
    }
}

/// A sender of `Expect: 100-continue`, in either of two headers, is not asked for its body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_sender_that_expects_100_continue_is_not_asked() {
    for (mount, app) in apps() {
        let address = serve(app).await;
        for expect in [
            "expect: 100-continue\r\n",
            "Expect:  100-Continue \r\n",
            "expect: x\r\nexpect: 100-continue\r\n",
        ] {
            let sent =
                format!("POST {PATH} HTTP/1.1\r\nhost: a\r\n{expect}content-length: 10\r\n\r\n");
            let started = Instant::now();
            let answer = exchange(address, sent.into_bytes()).await;
            assert!(
                answer.starts_with("HTTP/1.1 401"),
                "{mount} {expect:?}: {answer}"
            );
            assert!(
                answer.to_lowercase().contains("connection: close"),
                "{mount}: {answer}"
            );
            // Bodies of refused deliveries are waited for for 2 s.
            assert!(started.elapsed() < Duration::from_secs(2), "{mount}");
        }
    }
}

/// An unauthenticated sender that sends a byte now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it waits for seconds by the clock"]
async fn slow_unauthenticated_senders_are_answered_in_time() {
    for (mount, app) in apps() {
        let address = serve(app).await;
        let answer = tokio::task::spawn_blocking(move || {
            let mut client = std::net::TcpStream::connect(address).unwrap();
            client
                .set_read_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            write!(
                client,
                "POST {PATH} HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n"
            )
            .unwrap();
            let started = Instant::now();
            let mut answer = Vec::new();
            while started.elapsed() < Duration::from_secs(4) {
                let _ = client.write_all(b"x");
                let mut part = [0; 1024];
                match client.read(&mut part) {
                    Ok(0) => break,
                    Ok(read) => answer.extend_from_slice(&part[..read]),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => break,
                }
            }
            (
                String::from_utf8_lossy(&answer).into_owned(),
                started.elapsed(),
            )
        })
        .await
        .unwrap();
        assert!(answer.0.starts_with("HTTP/1.1 401"), "{mount}: {answer:?}");
        assert!(
            answer.0.to_lowercase().contains("connection: close"),
            "{mount}: {answer:?}"
        );
        assert!(answer.1 < Duration::from_secs(3), "{mount}: {answer:?}");
    }
}

/// A request refused because of its head is not asked for its body, whatever the reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_by_the_head_does_not_ask_for_the_body() {
    let auth = "authorization: Basic bXg6c2VjcmV0\r\n";
    let heads = [
        (format!("{auth}content-length: 10\r\n"), "415"),
        (
            format!(
                "{auth}content-type: application/json\r\ncontent-encoding: br\r\ncontent-length: 10\r\n"
            ),
            "415",
        ),
        (
            format!("{auth}content-type: application/json\r\ncontent-length: 100000\r\n"),
            "413",
        ),
    ];
    for (mount, app) in apps().into_iter().take(2) {
        let address = serve(app).await;
        for (head, status) in &heads {
            let sent =
                format!("POST {PATH} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n{head}\r\n");
            let answer = exchange(address, sent.into_bytes()).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{mount}: {answer}"
            );
            assert!(answer.contains("connection: close"), "{mount}: {answer}");
        }
    }
}

/// HTTP/1.0 has no `100 Continue`: the body arrives and ends within the limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_0_with_keep_alive_gets_both_answers() {
    let valid = valid().replace("HTTP/1.1", "HTTP/1.0");
    for (mount, app) in apps() {
        let address = serve(app).await;
        for expect in ["", "expect: 100-continue\r\n"] {
            let sent = format!(
                "POST {PATH} HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n{expect}content-length: 10\r\n\r\n0123456789{valid}"
            );
            let answer = exchange(address, sent.into_bytes()).await;
            let codes: Vec<_> = answer.split("HTTP/1.").skip(1).map(|a| &a[2..5]).collect();
            assert_eq!(codes, ["401", "204"], "{mount} {expect:?}: {answer}");
        }
    }
}

// --- 5. todo --------------------------------------------------------------------------------

#[test]
fn todo_compiles_in_every_callback() {
    let jobs = JobRouter::new()
        .on_completed(|_| async { panic!("yet to be written") })
        .on_unhandled(|_| async { panic!("yet to be written") })
        .on_status(Status::from(42), |_| async { panic!("yet to be written") })
        .on_dead_letter(|_| async { panic!("yet to be written") });
    let _ = JobRouter::with_state(1)
        .on_completed(|_, _| async { panic!("yet to be written") })
        .on_unhandled(|_, _| async { panic!("yet to be written") })
        .on_dead_letter(|_, _| async { panic!("yet to be written") })
        .build();
    let jobs = DedupeLayer::new(MemoryLedger::new())
        .on_stale(|_| async { panic!("yet to be written") })
        .layer(jobs);
    let credentials = Credentials::verify(|_| async { panic!("yet to be written") });
    let _ = JobWebhook::new(credentials, jobs)
        .on_undecodable(|_| async { panic!("yet to be written") });
}
