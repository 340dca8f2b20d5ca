//! A panic in any application code ends one delivery with 500 and has no other effect.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body::Frame;
use mx_job_webhook::background::BackgroundTask;
use mx_job_webhook::event::FencingToken;
use mx_job_webhook::ledger::{Claim, Commit, EventName, Ledger, MemoryLedger};
use mx_job_webhook::{
    Background, Credentials, DedupeLayer, Error, ErrorKind, JobEvent, JobRouter, JobWebhook,
    Permanent, Receipt,
};
use tower::{BoxError, Layer as _, Service, ServiceExt as _};

use crate::support::{
    Jobs, Log, RunIn as _, SAMPLE, Settings, credentials, delivery, jobs, mounts, panic_quietly,
    run, send,
};

/// Panics when dropped, except during another panic: a second panic would abort the process and
/// cannot be caught.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic_quietly();
        }
    }
}

/// A payload that panics when dropped, with another such payload.
struct Payload(u32);

impl Drop for Payload {
    fn drop(&mut self) {
        if self.0 > 0 {
            std::panic::resume_unwind(Box::new(Payload(self.0 - 1)));
        }
    }
}

/// A future that panics in the configured ways.
struct Scripted {
    panics_when_polled: bool,
    _guard: Guard,
    polled: Arc<AtomicU32>,
}

impl Future for Scripted {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        self.polled.fetch_add(1, Ordering::SeqCst);
        if self.panics_when_polled {
            panic_quietly();
        }
        Poll::Ready(())
    }
}

/// An error whose methods panic.
struct PanickingError(&'static str);

impl fmt::Debug for PanickingError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic_quietly();
        Ok(())
    }
}

impl fmt::Display for PanickingError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic_quietly();
        Ok(())
    }
}

impl std::error::Error for PanickingError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if self.0 == "source" {
            panic_quietly();
        }
        None
    }
}

impl Drop for PanickingError {
    fn drop(&mut self) {
        if self.0 == "drop" && !std::thread::panicking() {
            panic_quietly();
        }
    }
}

/// A value whose conversion into an error panics.
struct Unconvertible;

impl From<Unconvertible> for BoxError {
    fn from(_: Unconvertible) -> Self {
        panic_quietly();
        "unreachable".into()
    }
}

fn scripted(panics_when_polled: bool, polled: &Arc<AtomicU32>) -> Jobs {
    let polled = polled.clone();
    jobs(JobRouter::new().on_completed(move |_| Scripted {
        panics_when_polled,
        _guard: Guard,
        polled: polled.clone(),
    }))
}

/// An application's service that panics when an instance is dropped.
#[derive(Clone)]
struct DropsBadly;

impl Drop for DropsBadly {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic_quietly();
        }
    }
}

impl Service<JobEvent> for DropsBadly {
    type Response = ();
    type Error = BoxError;
    type Future = Ready<Result<(), BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: JobEvent) -> Self::Future {
        ready(Ok(()))
    }
}

fn callback<F, Fut>(callback: F) -> Jobs
where
    F: mx_job_webhook::callback::Callback<JobEvent, Fut>,
    Fut: mx_job_webhook::callback::CallbackFuture,
{
    jobs(JobRouter::new().on_completed(callback))
}

#[tokio::test]
async fn every_mount_answers_500_however_a_callback_panics() {
    let polled = Arc::new(AtomicU32::new(0));
    let nasty = |what| move |_| ready(Err::<(), _>(PanickingError(what)));
    let cases: Vec<(&str, Jobs, ErrorKind)> = vec![
        (
            "a payload that panics when it is dropped, three deep",
            callback(|_| async { std::panic::resume_unwind(Box::new(Payload(3))) }),
            ErrorKind::CallbackPanicked,
        ),
        (
            "a future that panics when it is dropped after its own panic",
            scripted(true, &polled),
            ErrorKind::CallbackPanicked,
        ),
        (
            "a future that panics when it is dropped after it has ended well",
            scripted(false, &polled),
            ErrorKind::CallbackPanicked,
        ),
        (
            "a guard that panics at the end of a callback",
            callback(|_| async { drop(Guard) }),
            ErrorKind::CallbackPanicked,
        ),
        (
            "an error whose source panics",
            callback(nasty("source")),
            ErrorKind::CallbackFailed,
        ),
        (
            "an error that panics when it is dropped",
            callback(nasty("drop")),
            ErrorKind::CallbackFailed,
        ),
        (
            "an error that panics when it is converted",
            callback(|_| ready(Err::<(), _>(Unconvertible))),
            ErrorKind::CallbackPanicked,
        ),
        (
            "the same within a ledger's claim",
            jobs(
                DedupeLayer::new(MemoryLedger::new())
                    .layer(JobRouter::new().on_completed(nasty("source"))),
            ),
            ErrorKind::CallbackFailed,
        ),
        (
            "a dead letter's hook",
            jobs(
                JobRouter::new()
                    .on_completed(|_| ready(Err(Permanent::new("no"))))
                    .on_dead_letter(|_| async { drop(Guard) }),
            ),
            ErrorKind::CallbackPanicked,
        ),
        (
            "the hook for the unhandled",
            jobs(JobRouter::new().on_unhandled(|_| async { drop(Guard) })),
            ErrorKind::CallbackPanicked,
        ),
    ];
    for (case, jobs, kind) in cases {
        let mut settings = Settings::new(jobs);
        settings.background = Background::new();
        for (mount, app) in mounts(&settings) {
            for _ in 0..2 {
                let (head, _) = send(app.clone(), delivery(SAMPLE)).await;
                assert_eq!(head.status, 500, "{case}, {mount}");
                let error = head.extensions.get::<Error>().unwrap();
                assert_eq!(error.kind(), kind, "{case}, {mount}");
                assert!(!error.is_permanent(), "{case}, {mount}");
            }
        }
        assert_eq!(settings.background.running(), 0, "{case}");
    }
    let mounts = if cfg!(feature = "axum") { 4 } else { 3 };
    assert_eq!(polled.load(Ordering::SeqCst), 4 * mounts, "each once");
}

#[tokio::test]
async fn a_service_instance_that_panics_when_dropped_fails_no_delivery() {
    let endpoint = JobWebhook::new(credentials(), DropsBadly);
    let answer = endpoint.clone().oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(answer.status(), 204);
    // The last instance is dropped with its owner.
    drop(endpoint);
}

#[tokio::test]
async fn every_panic_of_a_credentials_closure_is_caught() {
    let polled = Arc::new(AtomicU32::new(0));
    let seen = polled.clone();
    let cases = [
        (
            "a guard",
            Credentials::verify(|_| async {
                drop(Guard);
                true
            }),
            503,
        ),
        (
            "a payload",
            Credentials::verify(|_| async { std::panic::resume_unwind(Box::new(Payload(2))) }),
            503,
        ),
        (
            "an error that is dropped",
            Credentials::verify(|_| ready(Err::<bool, _>(PanickingError("drop")))),
            503,
        ),
        (
            "a future that is dropped",
            Credentials::verify(move |_| {
                let scripted = Scripted {
                    panics_when_polled: false,
                    _guard: Guard,
                    polled: seen.clone(),
                };
                async move {
                    scripted.await;
                    true
                }
            }),
            503,
        ),
    ];
    for (case, credentials, status) in cases {
        let mut settings = Settings::new(jobs(JobRouter::new()));
        settings.credentials = credentials;
        for (mount, app) in mounts(&settings) {
            let (head, _) = send(app, delivery(SAMPLE)).await;
            assert_eq!(head.status, status, "{case}, {mount}");
        }
    }
    let mounts = if cfg!(feature = "axum") { 4 } else { 3 };
    assert_eq!(polled.load(Ordering::SeqCst), mounts, "each once");
}

#[tokio::test]
async fn every_panic_of_on_undecodable_is_caught() {
    let log = Log::default();
    let seen = log.clone();
    let endpoint = JobWebhook::new(credentials(), JobRouter::new())
        .on_undecodable(|_| async { drop(Guard) })
        .on_error(move |failure| seen.push(failure.error().kind().name()));
    let answer = endpoint.oneshot(delivery("[]")).await.unwrap();
    assert_eq!(answer.status(), 500);
    assert_eq!(log.entries(), ["callback_panicked"]);
}

/// The request's extensions are application code too.
#[tokio::test]
async fn a_request_extension_may_panic_when_it_is_dropped() {
    #[derive(Clone)]
    struct Last(#[expect(dead_code, reason = "held")] Arc<Guard>);

    let cases = [
        ("a stranger's", SAMPLE, false),
        ("one that cannot be decoded", "[]", true),
        ("one for which there is no callback", SAMPLE, true),
    ];
    for (case, body, known) in cases {
        for (mount, app) in mounts(&Settings::new(jobs(JobRouter::new()))) {
            let mut request = delivery(body);
            if !known {
                request.headers_mut().remove("authorization");
            }
            request.extensions_mut().insert(Last(Arc::new(Guard)));
            // axum drops the head before or after; in both cases no panic escapes from here.
            let answer = tokio::spawn(send(app, request)).await;
            assert!(answer.is_ok(), "{case}, {mount}");
        }
    }
}

/// A body from middleware can panic like any other code.
struct PanickingBody;

impl http_body::Body for PanickingBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        panic_quietly();
        Poll::Ready(None)
    }
}

#[tokio::test]
async fn a_panicking_body_fails_one_delivery() {
    for (mount, app) in mounts(&Settings::new(jobs(JobRouter::new()))) {
        let (head, _) = send(app.clone(), delivery(Body::new(PanickingBody))).await;
        assert_eq!(head.status, 500, "{mount}");
        assert_eq!(
            head.headers["connection"], "close",
            "{mount}: it was not read"
        );
        let mut stranger = delivery(Body::new(PanickingBody));
        stranger.headers_mut().remove("authorization");
        let (head, _) = send(app, stranger).await;
        assert_eq!(head.status, 401, "{mount}");
        assert_eq!(
            head.headers["connection"], "close",
            "{mount}: it was not read"
        );
    }
}

/// A body that ends at once and panics when dropped.
struct PanicsOnDrop(Guard);

impl http_body::Body for PanicsOnDrop {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }
}

#[tokio::test]
async fn a_refusal_is_answered_even_if_the_body_panics_when_dropped() {
    for (mount, app) in mounts(&Settings::new(jobs(JobRouter::new()))) {
        let mut stranger = delivery(Body::new(PanicsOnDrop(Guard)));
        stranger.headers_mut().remove("authorization");
        let (head, _) = send(app, stranger).await;
        assert_eq!(head.status, 401, "{mount}");
    }
}

/// An extension that panics when it is cloned for the dead-letter hook.
#[derive(Debug)]
struct PanicsWhenCloned;

impl Clone for PanicsWhenCloned {
    fn clone(&self) -> Self {
        panic_quietly();
        Self
    }
}

#[tokio::test]
async fn an_extension_that_panics_when_cloned_fails_one_event() {
    let jobs = JobRouter::new()
        .on_completed(|_| async {})
        .on_dead_letter(|_| async {});
    let mut event = JobEvent::decode(SAMPLE).unwrap();
    event.extensions_mut().insert(PanicsWhenCloned);
    let error = run(&jobs, event).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CallbackPanicked);
}

/// Pends once, then panics when it is polled again or dropped.
struct PanicsLater(bool, Arc<AtomicU32>, Guard);

impl Future for PanicsLater {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.1.fetch_add(1, Ordering::SeqCst);
        if std::mem::replace(&mut self.0, true) {
            panic_quietly();
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

fn later(polled: &Arc<AtomicU32>) -> JobRouter {
    let polled = polled.clone();
    JobRouter::new().on_completed(move |_| PanicsLater(false, polled.clone(), Guard))
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_background_task_contains_panics_of_its_poll_and_its_drop() {
    let polled = Arc::new(AtomicU32::new(0));
    let (executor, tasks) = std::sync::mpsc::channel::<BackgroundTask>();
    let background = Background::new().with_spawn(move |task| executor.send(task).unwrap());
    let endpoint =
        JobWebhook::new(credentials(), later(&polled)).with_background(background.clone());
    for _ in 0..2 {
        let mut answer = Box::pin(endpoint.clone().oneshot(delivery(SAMPLE)));
        assert!(poll_once(answer.as_mut()).is_pending());
    }
    let mut task = tasks.try_recv().unwrap();
    assert!(
        poll_once(Pin::new(&mut task)).is_ready(),
        "the task ends after its panic"
    );
    assert_eq!(polled.load(Ordering::SeqCst), 3);
    assert!(
        poll_once(Pin::new(&mut task)).is_ready(),
        "the task is not polled again"
    );
    assert_eq!(polled.load(Ordering::SeqCst), 3);
    drop(tasks.try_recv().unwrap());
    assert_eq!(background.running(), 0);
}

#[test]
fn a_panic_of_the_spawn_function_is_contained() {
    let polled = Arc::new(AtomicU32::new(0));
    let background = Background::new().with_spawn(|_task| panic_quietly());
    let endpoint =
        JobWebhook::new(credentials(), later(&polled)).with_background(background.clone());
    let mut answer = Box::pin(endpoint.oneshot(delivery(SAMPLE)));
    assert!(poll_once(answer.as_mut()).is_pending());
    drop(answer);
    assert_eq!(background.running(), 0);
}

#[tokio::test]
async fn a_callback_that_is_dropped_while_running_may_panic() {
    let polled = Arc::new(AtomicU32::new(0));
    for (mount, app) in mounts(&Settings::new(jobs(later(&polled)))) {
        // It is dropped without a runtime, so the callback is cancelled.
        let mut answer = Box::pin(app.oneshot(delivery(SAMPLE)));
        assert!(poll_once(answer.as_mut()).is_pending(), "{mount}");
        std::thread::spawn(move || drop(answer)).join().unwrap();
    }
}

/// A service of events whose future is polled outside of the code that catches panics here.
#[tokio::test]
async fn a_future_that_unwound_is_not_polled_again_in_the_background() {
    let polled = Arc::new(AtomicU32::new(0));
    let background = Background::new();
    let jobs = later(&polled).run_in(&background);
    let event = JobEvent::decode(SAMPLE).unwrap();
    let call = jobs.call(event);
    let error = call.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CallbackPanicked);
    assert_eq!(background.drain(std::future::pending::<()>()).await, 0);
    assert_eq!(polled.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_event_service_that_panics_anywhere_fails_one_event() {
    let once = || DedupeLayer::new(MemoryLedger::new());
    let event = || JobEvent::decode(SAMPLE).unwrap();
    let polled = Arc::new(AtomicU32::new(0));
    let run = |jobs: Jobs| async move { Background::new().run(jobs, event()).await };
    let error = run(jobs(once().layer(later(&polled)))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CallbackPanicked);
    let outcome = Background::new().run(DropsBadly, event()).await;
    assert_eq!(outcome.unwrap(), Receipt::Handled);
}

/// A ledger whose futures panic when they are dropped after completion.
#[derive(Clone)]
struct PanicsAfterAnswers(MemoryLedger);

struct Answers<T>(Option<T>, Guard);

impl<T: Unpin> Future for Answers<T> {
    type Output = Result<T, Infallible>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(self.0.take().unwrap()))
    }
}

fn answered<T>(answer: impl Future<Output = Result<T, Infallible>>) -> Answers<T> {
    let mut answer = Box::pin(answer);
    let Poll::Ready(Ok(answer)) = poll_once(answer.as_mut()) else {
        unreachable!("a ledger in memory answers at once");
    };
    Answers(Some(answer), Guard)
}

impl Ledger for PanicsAfterAnswers {
    type Error = Infallible;

    fn claim(
        &self,
        event: &EventName,
        lease: Duration,
    ) -> impl Future<Output = Result<Claim, Infallible>> + Send {
        answered(self.0.claim(event, lease))
    }

    fn commit(
        &self,
        event: &EventName,
        token: FencingToken,
    ) -> impl Future<Output = Result<Commit, Infallible>> + Send {
        answered(self.0.commit(event, token))
    }

    fn release(
        &self,
        event: &EventName,
        token: FencingToken,
    ) -> impl Future<Output = Result<(), Infallible>> + Send {
        answered(self.0.release(event, token))
    }
}

#[tokio::test]
async fn a_ledger_that_panics_after_its_answer_is_unavailable() {
    let jobs = jobs(
        DedupeLayer::new(PanicsAfterAnswers(MemoryLedger::new()))
            .layer(JobRouter::new().on_completed(|_| async {})),
    );
    for (mount, app) in mounts(&Settings::new(jobs)) {
        let (head, _) = send(app, delivery(SAMPLE)).await;
        assert_eq!(head.status, 503, "{mount}");
    }
}
