//! Every deadline passes on time, even if the bounded future uses up its task's budget.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use http::Request;
use http_body::Frame;
use mx_job_webhook::callback::JobService;
use mx_job_webhook::event::FencingToken;
use mx_job_webhook::ledger::{Claim, Commit, EventName, Ledger, MemoryLedger};
use mx_job_webhook::{
    Credentials, DedupeLayer, ErrorKind, JobEvent, JobRouter, JobWebhook, Receipt,
};
use tokio::sync::Notify;
use tokio::task::{consume_budget, yield_now};
use tower::{BoxError, Layer as _, Service, ServiceBuilder, ServiceExt as _};

use crate::support::{SAMPLE, Settings, credentials, delivery, jobs, mounts, send};

/// Much shorter than the bounded work, so that a slow machine still shows which ended first.
const LIMIT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(5);

/// Uses up its task's budget each time it is polled.
async fn eat_budget() {
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        consume_budget().await;
    }
}

type Eating = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A body that arrives after the budget is used up.
struct HungryBody(Eating);

impl http_body::Body for HungryBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        ready!(self.0.as_mut().poll(context));
        Poll::Ready(None)
    }
}

/// A service of events that uses up the budget before it is ready.
struct HungryReadiness(Mutex<Eating>);

impl Clone for HungryReadiness {
    fn clone(&self) -> Self {
        Self(Mutex::new(Box::pin(eat_budget())))
    }
}

impl Service<JobEvent> for HungryReadiness {
    type Response = Receipt;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Receipt, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let eating = self.0.get_mut().unwrap();
        eating.as_mut().poll(context).map(Ok)
    }

    fn call(&mut self, _: JobEvent) -> Self::Future {
        std::future::ready(Ok(Receipt::Handled))
    }
}

/// A ledger that uses up the budget in the call of this name.
#[derive(Clone)]
struct HungryLedger(&'static str, MemoryLedger);

impl Ledger for HungryLedger {
    type Error = Infallible;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, Infallible> {
        if self.0 == "claim" {
            eat_budget().await;
        }
        self.1.claim(event, lease).await
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, Infallible> {
        if self.0 == "commit" {
            eat_budget().await;
        }
        self.1.commit(event, token).await
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), Infallible> {
        if self.0 == "release" {
            eat_budget().await;
        }
        self.1.release(event, token).await
    }
}

fn endpoint<J: JobService>(jobs: J) -> JobWebhook<J> {
    JobWebhook::new(credentials(), jobs)
        .with_answer_deadline(LIMIT)
        .with_read_timeout(LIMIT)
        .with_discard_timeout(None)
}

async fn status<S>(service: S, request: Request<Body>) -> u16
where
    S: Service<Request<Body>, Error = Infallible> + 'static,
    S::Response: Into<http::Response<http_body_util::Empty<Bytes>>>,
{
    let response: http::Response<_> = service.oneshot(request).await.unwrap().into();
    response.status().as_u16()
}

#[tokio::test]
async fn the_answer_deadline_passes_on_time() {
    let hungry = JobRouter::new().on_completed(|_| eat_budget());
    assert_eq!(status(endpoint(hungry), delivery(SAMPLE)).await, 503);
    let unready = HungryReadiness(Mutex::new(Box::pin(eat_budget())));
    assert_eq!(status(endpoint(unready), delivery(SAMPLE)).await, 503);
    let hook = endpoint(JobRouter::new()).on_undecodable(|_| eat_budget());
    assert_eq!(status(hook, delivery("[]")).await, 503);
}

#[tokio::test]
async fn the_read_timeout_passes_on_time() {
    let hungry = || Body::new(HungryBody(Box::pin(eat_budget())));
    let within = endpoint(JobRouter::new());
    assert_eq!(status(within.clone(), delivery(hungry())).await, 408);
    // A discarded body has no more time than one that is read.
    let stranger = Request::post("/").body(hungry()).unwrap();
    assert_eq!(status(within, stranger).await, 401);
    let verify = Credentials::verify(|_| async {
        eat_budget().await;
        true
    });
    let verified = JobWebhook::new(verify, JobRouter::new()).with_read_timeout(LIMIT);
    assert_eq!(status(verified, delivery(SAMPLE)).await, 503);
}

#[tokio::test]
async fn the_discard_timeout_passes_on_time() {
    let within = JobWebhook::new(credentials(), JobRouter::new())
        .with_discard_timeout(LIMIT)
        .with_read_timeout(None);
    let body = Body::new(HungryBody(Box::pin(eat_budget())));
    let stranger = Request::post("/").body(body).unwrap();
    let answer = within.oneshot(stranger).await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(
        answer.headers()["connection"],
        "close",
        "discarding has stopped"
    );
}

#[tokio::test]
async fn the_ledgers_timeout_passes_on_time() {
    for call in ["claim", "commit"] {
        let ledger = HungryLedger(call, MemoryLedger::new());
        let once = DedupeLayer::new(ledger)
            .with_ledger_timeout(LIMIT)
            .layer(JobRouter::new().on_completed(|_| async {}));
        let error = once.oneshot(JobEvent::decode(SAMPLE).unwrap()).await;
        assert_eq!(
            error.unwrap_err().kind(),
            ErrorKind::LedgerUnavailable,
            "{call}"
        );
    }
    let start = Instant::now();
    let ledger = HungryLedger("release", MemoryLedger::new());
    let once = DedupeLayer::new(ledger)
        .with_ledger_timeout(LIMIT)
        .layer(JobRouter::new().on_completed(|_| async { Err("no") }));
    let error = once.oneshot(JobEvent::decode(SAMPLE).unwrap()).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::CallbackFailed);
    assert!(start.elapsed() < LONG, "a release has a timeout");
}

#[test]
fn without_a_timer_every_deadline_is_disabled() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let router = JobRouter::new().on_completed(|_| yield_now());
    let once = DedupeLayer::new(Yields(MemoryLedger::new())).layer(router);
    let verify = Credentials::verify(|_| async {
        yield_now().await;
        true
    });
    let mut settings = Settings::new(jobs(once));
    settings.credentials = verify;
    settings.answer_deadline = Some(1);
    for (mount, app) in mounts(&settings) {
        // Each guid is used once: the ledger would know a second delivery.
        let guid = mount.replace(' ', "-");
        let body = SAMPLE.replace("JOB-", &guid);
        let body = Body::new(YieldingBody(Some(body.into()), false));
        let answer = runtime.block_on(send(app, delivery(body)));
        assert_eq!(answer.0.status, 204, "{mount}");
    }
    // The body of a refusal is not awaited either.
    let stalls = Body::new(crate::support::Frames::new([]).then_pending());
    let stranger = Request::post("/").body(stalls).unwrap();
    let refusing = JobWebhook::new(credentials(), JobRouter::new());
    let answer = runtime.block_on(refusing.oneshot(stranger)).unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.headers()["connection"], "close");
}

/// A ledger whose calls all pend at first.
struct Yields(MemoryLedger);

impl Ledger for Yields {
    type Error = Infallible;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, Infallible> {
        yield_now().await;
        self.0.claim(event, lease).await
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, Infallible> {
        yield_now().await;
        self.0.commit(event, token).await
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), Infallible> {
        yield_now().await;
        self.0.release(event, token).await
    }
}

/// A body that pends once.
struct YieldingBody(Option<Bytes>, bool);

impl http_body::Body for YieldingBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !std::mem::replace(&mut self.1, true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// The callback does not see the deadline, and its success counts.
#[tokio::test]
async fn past_the_answer_deadline_a_hungry_callback_still_finishes() {
    let done = Arc::new(Notify::new());
    let told = done.clone();
    let hungry = JobRouter::new().on_completed(move |_| {
        let told = told.clone();
        async move {
            let end = Instant::now() + 10 * LIMIT;
            while Instant::now() < end {
                consume_budget().await;
            }
            told.notify_one();
        }
    });
    assert_eq!(status(endpoint(hungry), delivery(SAMPLE)).await, 503);
    done.notified().await;
}

/// `with_answer_deadline`: it "counts from when the delivery first has to wait for the callback or its service".
#[tokio::test(start_paused = true)]
async fn one_answer_deadline_is_for_the_readiness_and_the_callback() {
    let callback = |_| tokio::time::sleep(Duration::from_secs(8));
    let jobs = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(JobRouter::new().on_completed(callback));
    let webhooks =
        JobWebhook::new(credentials(), jobs).with_answer_deadline(Duration::from_secs(10));
    let first = tokio::spawn(webhooks.clone().oneshot(delivery(SAMPLE)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = tokio::time::Instant::now();
    let second = webhooks.oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(second.status(), 503);
    assert_eq!(start.elapsed().as_secs(), 10);
    assert_eq!(first.await.unwrap().unwrap().status(), 204);
}
